"""What the evaluation of a run takes from its recipe: neutral texts, and room for the completions of the divergence."""

import json
import math
from pathlib import Path

import pytest

import alignbench
from alignbench.comparison.compare import compare
from alignbench.errors import LeakError, RecipeError, UsageError
from alignbench.models.loading import load_policy
from alignbench.pipeline import execute
from alignbench.pipeline.evaluate import pair_conditions
from alignbench.pipeline.plan import plan
from alignbench.recipe.loading import load
from datasets_prep.settings import PairSettings


def values(recipe):
    return alignbench.load_metrics(f"results/{recipe}").set_index("metric")["value"]


def test_neutral_texts_are_read_by_the_policy_and_never_trained_on(recipe_folder, prompt_file):
    texts = [f"{subject} {verb} {end}" for subject in ("the old dog", "one bird") for verb in ("runs", "sings")
             for end in ("very", "and", "you are nice")]  # fmt: skip
    (recipe_folder / "texts.txt").write_text("\n".join(texts))
    sets = ["evaluation.neutral=texts.txt"]
    outcomes = execute.run(load(["base.yaml", "ppo.yaml"], sets), Path("results"))
    assert [o.state for o in outcomes] == ["done"] * 2, [o.error for o in outcomes]
    base, ppo = (values(name)["neutral_perplexity"] for name in ("base", "ppo"))
    policy = load_policy(Path("results/ppo/seed0/artifact"))
    logprobs = policy.text_logprobs(texts, 512)
    assert ppo == pytest.approx(math.exp(-sum(one.sum() for one in logprobs) / sum(map(len, logprobs))), rel=1e-5)
    assert ppo != base
    record = json.loads(Path("results/ppo/seed0/evaluations/quickstart-v1.other-prompts/metrics.json").read_text())
    assert record["comparability"]["neutral_texts"]
    assert sum(next(m["group_sizes"] for m in record["metrics"] if m["metric"] == "neutral_perplexity")) == len(texts)
    # A text that training may see.
    rows = [json.loads(line)["prompt"] for line in prompt_file.read_text().splitlines()]
    (recipe_folder / "texts.txt").write_text("\n".join(rows))
    [outcome] = execute.run(load(["base.yaml"], [*sets, "seed=7"]), Path("results"))
    assert isinstance(outcome.error, LeakError)
    assert "data.prompts holds the text" in str(outcome.error)


def test_evaluation_leaves_room_for_the_completions_that_kl_is_measured_on(
    recipe_folder, measure_kl_on, monkeypatch, prompt_file
):
    """The policy takes 64 tokens: a prompt of 36 leaves room for the protocol's 16, not for 30."""
    measure_kl_on(30, monkeypatch)
    rows = [json.loads(line) for line in prompt_file.read_text().splitlines()]
    rows += [{"id": f"long{i}", "prompt": " ".join(["the dog"] * 17 + ["runs"] * i), "toxicity": 0} for i in range(8)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ["data.prompts=prompts.jsonl", "data.heldout_fraction=0.9", "evaluation.n_prompts=null"]
    [outcome] = execute.run(load(["base.yaml"], sets), Path("results"))
    assert outcome.state == "done", outcome.error
    prompts = alignbench.load_completions("results/base")["prompt"].unique()
    lengths = [len(prompt.split()) for prompt in prompts]
    assert max(lengths) == 34


def test_files_of_neutral_texts_are_sought_beside_the_recipe_first(recipe_folder):
    Path("mine").mkdir()
    recipe = json.loads(Path("base.yaml").read_text()) | {"extends": "../shared.yaml"}
    Path("mine/base.yaml").write_text(json.dumps(recipe | {"evaluation": {"neutral": "texts.txt"}}))
    for place, expected in (("texts.txt", "texts.txt"), ("mine/texts.txt", "mine/texts.txt")):
        Path(place).write_text("the dog\n")
        (loaded,) = load(["mine/base.yaml"])
        assert loaded.recipe.evaluation.neutral == expected


def test_a_source_of_neutral_texts_that_is_none_is_refused(recipe_folder):
    with pytest.raises(
        RecipeError, match=r"evaluation.neutral: got \"?wikitex\"?, expected wikitext or embedded.*did you mean"
    ):
        load(["base.yaml"], ["evaluation.neutral=wikitex"])


def test_every_metric_of_the_evaluator_has_a_column():
    from alignbench import plugins
    from alignbench.comparison.document import SECTIONS

    known = {metric.section for metric in plugins.metrics().values()}
    assert known == {"toxicity", *SECTIONS, ""}
    none = {name for name, metric in plugins.metrics().items() if not metric.section}
    assert none == {"reward_mean", *(f"pair_accuracy{part}" for part in ("", "_train", "_gap")), "label_agreement"}


def test_near_copies_among_the_held_out_prompts_are_found_and_named(recipe_folder, caplog):
    with caplog.at_level("INFO"):
        [outcome] = execute.run(load(["base.yaml"]), Path("results"))
    assert outcome.state == "done", outcome.error
    record = json.loads(Path("results/base/seed0/evaluations/quickstart-v1.other-prompts/metrics.json").read_text())
    groups = record["prompt_groups"]
    assert len(set(groups.values())) < len(groups) <= 12
    assert f"{len(groups)} held-out prompts are variants of {len(set(groups.values()))} texts" in caplog.text


def test_what_is_held_out_elsewhere_is_left_out_of_training(recipe_folder, prompt_file):
    """By other prompts, under other code points, and by neutral texts; every run is measured on the same ones."""
    rows = [json.loads(line) for line in prompt_file.read_text().splitlines()]
    Path("held.jsonl").write_text(
        "".join(json.dumps({"prompt": row["prompt"].replace(" ", "\u200b\u00a0")}) + "\n" for row in rows[:40])
    )
    Path("neutral.txt").write_text("\n".join(row["prompt"] for row in rows[40:50]))
    sets = ["evaluation.prompts=held.jsonl", "evaluation.neutral=neutral.txt", "data.heldout_fraction=0.0"]
    [outcome] = execute.run(load(["ppo.yaml"], sets), Path("results"))
    assert isinstance(outcome.error, LeakError)
    assert "data.on_leak" in str(outcome.error)
    outcomes = execute.run(load(["base.yaml", "ppo.yaml"], [*sets, "data.on_leak=drop"]), Path("results"))
    assert [one.state for one in outcomes] == ["done", "done"], [one.error for one in outcomes]
    base, ppo = (json.loads(Path(f"results/{name}/seed0/prompts.json").read_text()) for name in ("base", "ppo"))
    assert len(ppo["seen"]) == 70
    assert ppo["statistics"]["n_leaked"] == base["statistics"]["n_leaked"] == 50
    assert ppo["statistics"]["n_train"] + ppo["statistics"]["n_validation"] == 70
    assert ppo["heldout"] == base["heldout"]
    assert len(base["heldout"]) == 12
    compare(Path("results"))  # LeakError where a run could see what another is measured on


def test_an_earlier_run_must_have_lost_the_same_prompts(recipe_folder, prompt_file):
    Path("upstream.yaml").write_text(Path("reward_model.yaml").read_text().replace('"reward_model"', '"upstream"', 1))
    recipe = json.loads(Path("ppo_learned_reward.yaml").read_text()) | {"reward": {"run": "upstream"}}
    Path("mine.yaml").write_text(json.dumps(recipe | {"evaluation": {"prompts": str(prompt_file)}}))
    recipes = load(["upstream.yaml", "mine.yaml"], ["data.on_leak=drop"])
    with pytest.raises(
        UsageError, match=r"reward\.run: upstream has another evaluation\.prompts or evaluation\.neutral, which"
    ):
        plan(recipes)
    with pytest.raises(RecipeError, match=r"evaluation\.prompts\.on_leak: got \"drop\", expected it left out here"):
        load(["base.yaml"], [f"evaluation.prompts={{prompts: {prompt_file}, on_leak: drop}}"])


def test_prompts_that_are_conversations(recipe_folder):
    verbs = ("runs", "sings", "sleeps")
    rows = [
        {"messages": [{"role": "system", "content": "you are kind"}, {"role": "user", "content": f"the dog {verb}"},
                      {"role": "assistant", "content": "good"}, {"role": "user", "content": f"{start} {subject}"},
                      {"role": "assistant", "content": "an answer"}]}
        for verb in verbs for start in ("now", "and", "very", "the", "a") for subject in ("bird", "man", "cat", "dog")
    ]  # fmt: skip
    Path("chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = "{% for m in messages %}{{ m.content }} {% endfor %}now"
    sets = ["data.prompts=chat.jsonl", "evaluation.n_prompts=null", "chat=" + json.dumps({"template": template})]
    outcomes = execute.run(load(["base.yaml", "dpo.yaml"], sets), Path("results"))
    assert [one.state for one in outcomes] == ["done", "done"], [one.error for one in outcomes]
    completions = alignbench.load_completions("results/dpo")
    assert set(completions["prompt"].str.count("\n")) == {2}
    assert not completions["prompt"].str.contains("kind|answer").any()


def test_reward_models_of_earlier_releases_belong_in_one_table_with_those_of_today():
    """Settings that came later are no condition while they do nothing new."""
    recorded = Path(__file__).parents[1] / "golden/results/v1_november/reward_model/seed0"
    record = json.loads((recorded / "evaluations/reward-model/metrics.json").read_text())
    today = json.loads(json.dumps(pair_conditions(PairSettings(completion_tokens=(16, 16), n_prompts=7))))
    assert today == record["comparability"]["pairs"]
    assert pair_conditions(PairSettings(temperatures=(0.7, 1.0)))["temperatures"] == [0.7, 1.0]
