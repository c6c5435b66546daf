"""Training data of every kind reach the method that asks for them, from one drawing, charged once."""

import json
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from alignbench import plugins
from alignbench.errors import DataError, InputsError, LeakError, RecipeError, UsageError
from alignbench.methods.base import Facts
from alignbench.models.chat import Chat
from alignbench.pipeline import execute
from alignbench.pipeline.demonstrations import demonstrations
from alignbench.pipeline.input_checks import check_inputs
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.plan import plan
from alignbench.pipeline.prompts import prepared_prompts
from alignbench.recipe.loading import load

GIVEN = []
"""Training data that the methods below were given."""


@dataclass(frozen=True)
class Everything:
    """Learns from nothing that it is given, and keeps it."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"preference_pairs", "labelled_completions", "ranked_completions", "demonstrations"}),
    )

    def train(self, data, run):
        """Keeps the data."""
        GIVEN.append(data)
        return run.policy


@dataclass(frozen=True)
class Imitates(Everything):
    """Asks for demonstrations alone."""

    facts: ClassVar[Facts] = replace(Everything.facts, learns_from=frozenset({"demonstrations"}))


@pytest.fixture
def folder(recipe_folder, prompt_file, monkeypatch):
    """The recipes of `recipe_folder`, and two for methods of an installed package; rows hold completions."""
    offered = [
        EntryPoint(name.lower(), f"{__name__}:{name}", "alignbench.methods") for name in ("Everything", "Imitates")
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: offered if group == "alignbench.methods" else [])
    plugins.entries_of.cache_clear()
    rows = [json.loads(line) for line in prompt_file.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["completion"], row["completion_toxicity"] = (" the dog runs", 0.1) if i % 2 else (" a bad bad man", 0.9)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("everything", "imitates"):
        recipe = {"extends": "shared.yaml", "name": name, "method": {"name": name}}
        Path(f"{name}.yaml").write_text(json.dumps(recipe))
    GIVEN.clear()
    yield recipe_folder
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


SMALL = ["evaluation.evaluate_every=0", "evaluation.n_prompts=5", "data.prompts=rows.jsonl"]


def test_one_drawing_for_all_kinds_charged_once(folder):
    sets = [*SMALL, "demonstrations.take=best"]
    outcomes = execute.run(load(["everything.yaml", "dpo.yaml"], sets), Path("results"))
    assert [outcome.state for outcome in outcomes] == ["done", "done"], outcomes
    (data,) = GIVEN
    assert data.drawn_completions == 32
    assert len(data.labelled_completions) > len(data.demonstrations) >= len(data.pairs) > 0
    rewards = {(one.prompt.id, one.completion.sample): one.reward for one in data.labelled_completions}
    wanted = [one.reward for one in data.labelled_completions if one.is_wanted]
    unwanted = [one.reward for one in data.labelled_completions if not one.is_wanted]
    assert min(wanted) > max(unwanted)
    best = {one.prompt.id: one.completion for one in data.demonstrations}
    for one in data.ranked_completions:
        found = [rewards[one.prompt.id, completion.sample] for completion in one.completions]
        assert found == sorted(found, reverse=True)
    assert sum(len(one.completions) for one in data.ranked_completions) <= len(data.labelled_completions)
    assert {one.prompt.id: one.completions[0] for one in data.ranked_completions}.items() <= best.items()
    for pair in data.pairs:
        assert best[pair.prompt.id] == pair.chosen
        assert rewards[pair.prompt.id, pair.chosen.sample] == pair.chosen_reward
        assert rewards[pair.prompt.id, pair.rejected.sample] == pair.rejected_reward

    assert len(list((folder / "cache" / "data").glob("completions-*"))) == 1
    stored = [json.loads(Path(f"results/{name}/seed0/status.json").read_text()) for name in ("everything", "dpo")]
    costs = [status["upstream_cost"] for status in stored]
    assert costs[0] == costs[1]
    assert costs[0]["training_completions"] == 32


def test_demonstrations_of_the_data_need_no_reward_and_cost_no_draws(folder):
    sets = [*SMALL, "demonstrations.max_toxicity=0.5", "demonstrations.max_tokens=2", "reward=null"]
    judge = json.loads(Path("shared.yaml").read_text())["evaluation"]["scorers"][1]
    (outcome,) = execute.run(
        load(["imitates.yaml"], [*sets, f"evaluation.scorers={json.dumps([judge])}"]), Path("results")
    )
    assert outcome.state == "done", outcome.error
    (data,) = GIVEN
    assert data.demonstrations
    assert {one.completion.text.strip() for one in data.demonstrations} == {"the dog"}
    assert {one.completion.finish_reason for one in data.demonstrations} == {"length"}
    assert {one.prompt.id for one in data.demonstrations} <= {prompt.id for prompt in data.prompts}
    assert (data.drawn_completions, data.pairs, data.labelled_completions) == (0, (), ())
    status = json.loads(Path("results/imitates/seed0/status.json").read_text())
    assert status["upstream_cost"]["training_completions"] == 0


def built(policy, *sets, labeller=None):
    (loaded,) = load(["imitates.yaml"], [*SMALL, *sets])
    data = prepared_prompts(loaded.recipe, policy)
    return demonstrations(loaded.recipe, policy, labeller, data, data.heldout), data


class Lengths:
    """Scores a completion by its characters; "the dog runs" it does not know."""

    def score(self, prompts, completions):
        """The number of characters of each."""
        return [None if "dog" in one else float(len(one)) for one in completions]


def test_completions_of_the_data_that_the_reward_chooses_are_charged(folder, tiny_policy):
    policy = tiny_policy()
    every, _ = built(policy)
    texts = [one.completion.text for one in every.items]
    n = texts.count(" a bad bad man")
    found, _ = built(policy, "demonstrations.min_reward=14", labeller=Lengths())
    assert [one.completion.text for one in found.items] == [" a bad bad man"] * n
    assert (found.statistics["n_unscored"], found.statistics["mean_reward"]) == (len(texts) - n, 14.0)
    assert (found.cost.reward_calls, found.cost.training_completions) == (len(texts), 0)
    with pytest.raises(DataError, match=r"none of \d+ completions of the data is left: .* theirs go from 14 to 14"):
        built(policy, "demonstrations.min_reward=15", labeller=Lengths())
    with pytest.raises(RecipeError, match=r"reward: got nothing, expected a reward block"):
        load(["imitates.yaml"], [*SMALL, "demonstrations.max_reward=1", "reward=null", "evaluation.scorers=[]"])


def test_whole_completions_end_with_the_token_that_says_so(folder, tiny_policy):
    policy = tiny_policy()
    found, data = built(policy)
    assert len(found.items) == len(data.train)
    for one in found.items:
        assert one.completion.finish_reason == "eos"
        assert one.completion.token_ids[-1] == policy.eos_id
        assert policy.text_tokenizer.decode(one.completion.token_ids[:-1]) == one.completion.text.strip()


def test_another_source_is_taken_whole_and_never_meets_what_is_measured_on(folder, tiny_policy):
    rows = [{"prompt": f"a rude bird sings {end}", "answer": " it runs"} for end in ("red", "old")]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = tiny_policy()
    found, data = built(policy, "demonstrations.source=other.jsonl")
    assert sorted(one.prompt.text for one in found.items) == sorted(row["prompt"] for row in rows)

    leak = {"prompt": data.heldout[0].text, "answer": " it runs"}
    Path("leaky.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, leak]))
    with pytest.raises(LeakError, match=r"demonstrations.source"):
        built(policy, "demonstrations.source=leaky.jsonl")
    kept, _ = built(policy, "demonstrations={source: {prompts: leaky.jsonl}}", "data.on_leak=drop")
    assert [one.prompt.text for one in kept.items] == [one.prompt.text for one in found.items]


def test_a_prompt_that_is_held_out_and_not_measured_on_is_no_demonstration(folder, tiny_policy):
    """What builds on the run may be measured on it."""
    policy = tiny_policy()
    _, data = built(policy)
    Path("leaky.jsonl").write_text(json.dumps({"prompt": data.heldout[-1].text, "answer": " it runs"}) + "\n")
    (loaded,) = load(["imitates.yaml"], [*SMALL, "demonstrations.source=leaky.jsonl"])
    with pytest.raises(LeakError, match=r"demonstrations.source"):
        demonstrations(loaded.recipe, policy, None, data, data.heldout[:1])


def test_what_builds_on_demonstrations_is_not_measured_on_prompts_that_these_may_have(folder):
    """Those of another source are held apart from the prompts that their own recipe holds out or is measured on."""
    Path("on.yaml").write_text(json.dumps(json.loads(Path("ppo.yaml").read_text()) | {"policy": {"run": "imitates"}}))

    def planned(prompts, source):
        first = json.loads(Path("imitates.yaml").read_text())
        first |= {"demonstrations": {"source": source}, "evaluation": {"prompts": prompts[0]}}
        Path("imitates.yaml").write_text(json.dumps(first))
        second = json.loads(Path("on.yaml").read_text()) | {"evaluation": {"prompts": prompts[1]}}
        Path("on.yaml").write_text(json.dumps(second))
        return len(plan(load(["imitates.yaml", "on.yaml"], [])))

    rows = {"prompts": "rows.jsonl"}
    assert planned((None, None), rows) == planned((rows, rows), rows) == planned((rows, None), rows) == 2
    assert planned((None, rows), None) == 2
    with pytest.raises(UsageError, match=r"imitates has another evaluation\.prompts, which its demonstrations"):
        planned((None, rows), rows)


def test_blocks_that_are_not_given_are_no_part_of_a_recipe(folder):
    (plain,), (given,) = load(["dpo.yaml"]), load(["dpo.yaml"], ["labelled_completions={wanted_from: 0.5}"])
    assert {"labelled_completions", "demonstrations"}.isdisjoint(plain.recipe.resolved())
    assert given.recipe.resolved()["labelled_completions"] == {"wanted_from": 0.5}
    assert given.run_hash != plain.run_hash
    Path("again.yaml").write_text(given.recipe.to_yaml())
    assert load(["again.yaml"])[0].recipe == given.recipe


@pytest.mark.parametrize(("name", "sets"), [("everything", []), ("imitates", ["demonstrations.take=worst"])])
def test_what_is_drawn_needs_a_reward(folder, name, sets):
    judge = json.loads(Path("shared.yaml").read_text())["evaluation"]["scorers"][1]
    with pytest.raises(RecipeError, match=rf"reward: got nothing, expected a reward block, for the method {name}"):
        load([f"{name}.yaml"], [*sets, "reward=null", f"evaluation.scorers={json.dumps([judge])}"])


def test_the_file_and_its_columns_are_known_before_a_run(folder):
    def checked(*sets):
        return check_inputs(load(["imitates.yaml"], [*SMALL, *sets]))

    assert checked() == checked("demonstrations.source=rows.jsonl", "data.on_leak=drop") == []
    with pytest.raises(InputsError, match=r"demonstrations\.source and what is measured on share"):
        checked("demonstrations.source=rows.jsonl")
    with pytest.raises(InputsError, match=r"data\.prompts: rows\.jsonl: has no column 'reply'"):
        checked("demonstrations.column=reply")
    Path("other.jsonl").write_text('{"prompt": "a dog"}\n')
    with pytest.raises(InputsError, match=r"demonstrations\.source: other\.jsonl: has no completion column"):
        checked("demonstrations.source=other.jsonl")
    with pytest.raises(InputsError, match=r"demonstrations\.source: gone\.jsonl: there is no such file"):
        checked("demonstrations.source=gone.jsonl")
    assert checked("demonstrations.source=some/set") == ["demonstrations.source some/set"]

    (loaded,) = load(["imitates.yaml"], ["demonstrations={source: {prompts: other.jsonl}}"])
    assert list(inputs_of(loaded.recipe, {})["demonstrations.source"]) == ["other.jsonl"]


def test_dialogues_with_role_markers_teach_a_chat_model_its_own_end(folder, tiny_policy):
    """Markers are no part of what it reads, and the answer ends with what its template puts there."""
    end = "{% if m.role == 'assistant' %}<eos>{% endif %}"
    turns = "{% for m in messages %}{{ m.role }} {{ m.content }}" + end + "{% endfor %}"
    chat = {"template": turns + "{% if add_generation_prompt %}assistant {% endif %}"}
    rows = [{"text": f"### Human: {end} dogs ### Assistant: the dog runs"} for end in ("two", "old")]
    Path("dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = tiny_policy(chat=Chat(None, chat["template"]))
    found, _ = built(policy, "demonstrations.source=dialogues.jsonl", f"chat={json.dumps(chat)}")
    assert sorted(one.prompt.text for one in found.items) == ["old dogs", "two dogs"]
    assert {one.completion.text for one in found.items} == {"the dog runs"}
    assert {one.completion.token_ids[-1] for one in found.items} == {policy.end_of_answer}
