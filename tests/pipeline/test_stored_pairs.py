"""Pairs of a source take the place of drawn ones: nothing is drawn, nothing leaks, and compare knows of them."""

import json
from pathlib import Path

import pytest

from alignbench.errors import DataError, InputsError, LeakError, RecipeError, UsageError
from alignbench.pipeline import execute
from alignbench.pipeline.input_checks import check_inputs
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.pairs import training_pairs
from alignbench.pipeline.plan import plan
from alignbench.pipeline.prompts import heldout_prompts, prepared_prompts, prompts_source
from alignbench.recipe.loading import load
from alignbench.records import Prompt
from datasets_prep.splits import whole_text_hash

ROWS = [
    {"prompt": f"a rude bird sings {end}", "chosen": " the dog runs", "rejected": " you are stupid and rude"}
    for end in ("red", "old", "nice", "bad")
]
SOURCE = ["pairs.source=stored.jsonl", "evaluation.n_prompts=5", "evaluation.evaluate_every=0"]


@pytest.fixture
def folder(recipe_folder):
    write("stored.jsonl", ROWS)
    return recipe_folder


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def built(policy, *sets):
    (loaded,) = load(["dpo.yaml"], [*SOURCE, *sets])
    data = prepared_prompts(loaded.recipe, policy)
    return training_pairs(loaded.recipe, policy, None, data, data.heldout), data


def test_dpo_on_stored_pairs_needs_no_reward_and_draws_nothing(folder):
    judge = json.loads(Path("shared.yaml").read_text())["evaluation"]["scorers"][1]
    sets = [*SOURCE, "reward=null", f"evaluation.scorers={json.dumps([judge])}"]
    (outcome,) = execute.run(load(["dpo.yaml"], sets), Path("results"))
    assert outcome.state == "done", outcome.error
    status = json.loads(Path("results/dpo/seed0/status.json").read_text())
    assert (status["upstream_cost"]["training_completions"], status["cost"]["optimizer_steps"]) == (0, 1)
    seen = json.loads(Path("results/dpo/seed0/prompts.json").read_text())["seen"]
    assert {whole_text_hash(Prompt("", row["prompt"])) for row in ROWS} <= set(seen)
    with pytest.raises(RecipeError, match="reward: got nothing, expected a reward block, for the method dpo"):
        load(["dpo.yaml"], ["reward=null", f"evaluation.scorers={json.dumps([judge])}"])


def test_sides_are_as_if_drawn_and_cut_on_request(folder, tiny_policy):
    policy = tiny_policy()
    found, _ = built(policy)
    assert sorted(one.prompt.text for one in found.items) == sorted(row["prompt"] for row in ROWS)
    for one in found.items:
        assert policy.text_tokenizer.decode(one.chosen.token_ids[:-1]) == "the dog runs"
        assert (one.chosen.finish_reason, one.chosen.token_ids[-1]) == ("eos", policy.eos_id)
        assert (one.chosen_reward, one.rejected_reward) == (1.0, 0.0)
        assert one.chosen.sample != one.rejected.sample
    assert found.statistics["mean_margin"] == 1.0
    cut, _ = built(policy, "pairs.max_tokens=2")
    assert {(len(one.chosen.token_ids), one.rejected.finish_reason) for one in cut.items} == {(2, "length")}
    assert len(built(policy, "pairs.n_prompts=2")[0].items) == 2
    with pytest.raises(DataError, match=r"pairs.source: none of 4 stored pairs is left: 4 had too small a margin"):
        built(policy, "pairs.min_margin=2")


def test_one_template_is_around_all_prompts(folder, tiny_policy):
    """Of training, of the evaluation by another source, and of stored pairs; then it is not the protocol's own set."""
    policy = tiny_policy()
    rows = [{"id": f"e{i}", "prompt": f"two old dogs sing {end}"} for i, end in enumerate(("red", "now"))]
    write("elsewhere.jsonl", rows)
    sets = ["data.template=now {prompt} very", "evaluation.prompts=elsewhere.jsonl", "evaluation.n_prompts=2"]
    found, data = built(policy, *sets)
    (loaded,) = load(["dpo.yaml"], [*SOURCE, *sets])
    measured = heldout_prompts(loaded.recipe, policy, data).prompts
    assert {one.text for one in measured} == {f"now {row['prompt']} very" for row in rows}
    every = [*data.train, *data.validation, *data.heldout, *(one.prompt for one in found.items)]
    assert all(one.text.startswith("now ") and one.text.endswith(" very") for one in every)
    assert prompts_source(loaded.recipe) is None
    (plain,) = load(["dpo.yaml"], [*SOURCE, *sets[1:]])
    assert prompts_source(plain.recipe) == "elsewhere.jsonl"
    assert plain.run_hash != loaded.run_hash
    write("leaky.jsonl", [*ROWS, {**ROWS[0], "prompt": rows[0]["prompt"]}])
    (leaky,) = load(["dpo.yaml"], [*SOURCE, *sets, "pairs.source=leaky.jsonl"])
    with pytest.raises(LeakError, match=r"pairs\.source"):
        training_pairs(leaky.recipe, policy, None, data, measured)


def test_a_held_out_prompt_is_refused_or_dropped(folder, tiny_policy):
    policy = tiny_policy()
    _, data = built(policy)
    leak = {**ROWS[0], "prompt": data.heldout[-1].text}
    write("leaky.jsonl", [*ROWS, leak])
    with pytest.raises(LeakError, match=r"pairs\.source"):
        built(policy, "pairs.source=leaky.jsonl")
    kept, _ = built(policy, "pairs.source=leaky.jsonl", "data.on_leak=drop")
    assert len(kept.items) == len(ROWS)


def test_what_the_pairs_are_read_from_is_an_input_of_the_run_and_its_identity(folder):
    (drawn,), (stored,) = load(["dpo.yaml"]), load(["dpo.yaml"], SOURCE[:1])
    assert drawn.run_hash != stored.run_hash
    assert "pairs.source" in inputs_of(stored.recipe, {})
    check_inputs([stored])
    assert check_inputs(load(["dpo.yaml"], ["demonstrations={source: stored.jsonl}"])) == []
    write("stored.jsonl", [{"prompt": "the dog", "chosen": " runs"}])
    with pytest.raises(InputsError, match=r"pairs.source: stored.jsonl: has no rejected column"):
        check_inputs([stored])


def test_what_builds_on_stored_pairs_is_measured_on_what_they_were_held_apart_from(folder):
    after = json.loads(Path("ppo_after_dpo.yaml").read_text())
    after["evaluation"] = {"prompts": "elsewhere.jsonl"}
    after["data"] = json.loads(Path("shared.yaml").read_text())["data"]
    Path("ppo_after_dpo.yaml").write_text(json.dumps(after))
    dpo = json.loads(Path("dpo.yaml").read_text()) | {"pairs": {"source": "stored.jsonl"}}
    Path("dpo.yaml").write_text(json.dumps(dpo))
    with pytest.raises(UsageError, match=r"policy.run: dpo has another evaluation.prompts, which its demonstrations"):
        plan(load(["ppo_after_dpo.yaml", "dpo.yaml"]))


@pytest.mark.parametrize("key", ["chosen_column=good", "max_tokens=4"])
def test_settings_of_stored_pairs_without_a_source(folder, key):
    with pytest.raises(RecipeError, match=r"null where source is null"):
        load(["dpo.yaml"], [f"pairs.{key}"])


def test_a_reward_model_on_stored_pairs_is_judged_on_drawn_ones(folder):
    sets = [*SOURCE, "method.batch_size=2", "evaluation.n_prompts=8"]
    (outcome,) = execute.run(load(["reward_model.yaml"], sets), Path("results"))
    assert outcome.state == "done", outcome.error


def test_scores_that_contradict_the_columns_are_no_tie(folder, tiny_policy):
    """Columns the wrong way round: the scores say so, pair by pair."""
    write("scored.jsonl", [{**row, "score_chosen": 1, "score_rejected": 3} for row in ROWS])
    with pytest.raises(DataError, match=r"4 had the lower score on the chosen side\. Are pairs.chosen_column and"):
        built(tiny_policy(), "pairs.source=scored.jsonl")
    write("scored.jsonl", [{**row, "score_chosen": i, "score_rejected": 2} for i, row in enumerate(ROWS)])
    found, _ = built(tiny_policy(), "pairs.source=scored.jsonl")
    assert [found.statistics[name] for name in ("n_dropped_opposed", "n_dropped_tie", "n_pairs")] == [2, 1, 1]


def test_check_finds_what_leaves_no_pair_and_names_the_key(folder, tiny_policy):
    def problem(rows, *sets):
        write("stored.jsonl", rows)
        with pytest.raises(InputsError) as caught:
            check_inputs(load(["dpo.yaml"], [*SOURCE, *sets]))
        return str(caught.value)

    assert "no pair is left (n_rows 1, n_equal 1)" in problem([{**ROWS[0], "rejected": ROWS[0]["chosen"]}])
    said = problem([{"chosen": "a", "other": "b"}])
    assert "pairs.source: stored.jsonl: has no prompt column" in said
    assert "Name one with pairs.source.columns.prompt." in said
    with pytest.raises(DataError, match=r"^pairs.source: stored.jsonl: has no prompt .* pairs.source.columns.prompt"):
        built(tiny_policy())


def test_dropping_leaks_may_leave_nothing(folder, tiny_policy):
    policy = tiny_policy()
    _, data = built(policy)
    write("leaky.jsonl", [{**ROWS[0], "prompt": prompt.text} for prompt in data.heldout])
    with pytest.raises(DataError, match=r"pairs.source: every one of its \d+ prompts is held out or measured on"):
        built(policy, "pairs.source=leaky.jsonl", "data.on_leak=drop")


def test_a_text_that_spells_the_end_of_a_completion_ends_there_once(folder, tiny_policy):
    policy = tiny_policy()
    end = policy.text_tokenizer.decode([policy.eos_id])
    write(
        "stored.jsonl",
        [{**row, "chosen": f"{row['chosen']}{end}{more}"} for row, more in zip(ROWS, ("", " a dog") * 2, strict=True)],
    )
    found, _ = built(policy)
    for one in found.items:
        assert one.chosen.token_ids.count(policy.eos_id) == 1
        assert (one.chosen.token_ids[-1], one.chosen.text.strip()) == (policy.eos_id, "the dog runs")
