"""Curves: where their points lie, what they hold, that training does not notice, and that a kill leaves no trace."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.cases import few_of

import alignbench
from alignbench.comparison.compare import compare
from alignbench.methods.base import Facts
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.pipeline import curve as curve_module
from alignbench.pipeline import execute
from alignbench.pipeline.curve import AlongTraining, undisturbed
from alignbench.pipeline.scorers import training_reward
from alignbench.recipe.loading import load
from alignbench.results.reader import find_runs, read_run
from alignbench.results.writer import RunDirectory
from alignbench.runtime.randomness import seed_everything

ODD = "evaluation.evaluate_every=12"
"""Budget 32 in steps of 8: the steps behind 12 and 24 completions are 2 and 3, and the last one is no point."""
OWN_JUDGE = "evaluation.scorers=[{name: own, classifier: '{judge}', label: toxic}]"
LORA = "policy.lora={r: 4, target_modules: [q_proj, v_proj]}"
SECONDS = ("time/", "memory/")
DENSE = ("evaluation.evaluate_every=null",)
"""A point behind every step."""


def run(*names, results="results", sets=(), **options):
    sets = [*DENSE, *sets]
    outcomes = execute.run(load([f"{name}.yaml" for name in names], sets), Path(results), **options)
    assert {outcome.state for outcome in outcomes} == {"done"}, [outcome.error for outcome in outcomes]
    return outcomes


def points(recipe, results="results"):
    curve = alignbench.load_curves(f"{results}/{recipe}")
    return list(curve[["step", "completions"]].drop_duplicates().itertuples(index=False, name=None))


def training_log(recipe, results):
    lines = Path(f"{results}/{recipe}/seed0/train_log.jsonl").read_text().splitlines()
    return [{key: v for key, v in json.loads(line).items() if not key.startswith(SECONDS)} for line in lines]


EACH_STEP = [(0, 0), (1, 8), (2, 16), (3, 24), (4, 32)]


@pytest.mark.slow
def test_points_of_a_learned_reward_are_those_of_its_policy_alone(recipe_folder):
    run("ppo_learned_reward", sets=["evaluation.n_validation_prompts=5"])
    assert points("ppo_learned_reward") == EACH_STEP
    assert points("reward_model") == []


def test_points_lie_at_equal_shares_of_the_budget(recipe_folder):
    run("base", "ppo", "dpo", sets=["evaluation.n_validation_prompts=5"])
    assert points("base") == [(0, 0)]
    assert points("ppo") == EACH_STEP
    dpo = points("dpo")
    assert dpo[0] == (0, 0)
    n_steps = len(training_log("dpo", "results"))
    assert dpo[-1] == (n_steps, 32)  # what its pairs have cost, though it draws nothing itself
    assert all(completions == 32 * step // n_steps for step, completions in dpo)
    folder = Path("results/ppo/seed0/evaluations/quickstart-v1")
    assert {path.name for path in folder.glob("step*")} == {f"step{step}" for step in range(5)}
    record = json.loads((folder / "step2" / "metrics.json").read_text())
    assert (record["step"], record["completions"], record["n_prompts"]) == (2, 16, 5)
    assert record["comparability"]["protocol"] == "quickstart-v1*"  # not the protocol's own prompts
    [final] = Path("results/ppo/seed0/evaluations").glob("*/metrics.json")
    assert json.loads(final.read_text())["step"] is None


def test_a_point_holds_all_metrics_and_the_training_reward(recipe_folder, finished):
    finished("base", "ppo", "dpo", sets=[*DENSE, ODD])
    curve, metrics = alignbench.load_curves("results"), alignbench.load_metrics("results")
    measured = set(metrics["metric"])
    for recipe, extra in (("base", set()), ("ppo", {"reward_mean"}), ("dpo", {"reward_mean"})):
        for step, rows in curve[curve["recipe"] == recipe].groupby("step"):
            assert set(rows["metric"]) == measured | extra, (recipe, step)
    start = curve[(curve["step"] == 0) & (curve["metric"] == "kl")]["value"]
    assert start.to_list() == pytest.approx([0.0] * 3, abs=1e-5)
    # By hand: the reward of the point's own completions, each prompt once.
    folder = Path("results/ppo/seed0/evaluations/quickstart-v1/step2")
    texts, values = pd.read_parquet(folder / "completions.parquet"), pd.read_parquet(folder / "prompt_values.parquet")
    by_prompt = texts.groupby("prompt_id")["reward"].mean()
    assert values.set_index("prompt_id")["reward_mean"].to_dict() == pytest.approx(by_prompt.to_dict())
    own = curve[(curve["recipe"] == "ppo") & (curve["step"] == 2) & (curve["metric"] == "reward_mean")]
    assert own["value"].item() == pytest.approx(by_prompt.mean())
    assert own["direction"].item() == "none"
    # As training is given it: a logit, where the scorer `reward` has probabilities.
    [loaded] = load(["ppo.yaml"])
    reward = training_reward(loaded.recipe, {}, "", torch.device("cpu"))
    assert texts["reward"].to_list() == pytest.approx(reward.score(texts["prompt"], list(texts["completion"])))
    assert texts["toxicity@reward"].to_list() != pytest.approx(texts["reward"].to_list())


def test_points_are_on_validation_prompts_with_the_same_draws(recipe_folder):
    """A policy that does not learn writes the same texts at every point, and none of the final evaluation's."""
    run("ppo", sets=["method.learning_rate=1e-30"])
    folder = Path("results/ppo/seed0/evaluations/quickstart-v1")
    texts = [pd.read_parquet(folder / f"step{step}" / "completions.parquet") for step in range(5)]
    for other in texts[1:]:
        assert other[["prompt_id", "completion"]].equals(texts[0][["prompt_id", "completion"]])
    final = alignbench.load_completions("results/ppo")
    assert set(final["prompt_id"]).isdisjoint(texts[0]["prompt_id"])


def test_draws_for_another_purpose_are_others(tiny_policy):
    from alignbench.evaluation.evaluator import evaluate
    from alignbench.evaluation.protocols import get_protocol
    from alignbench.records import Prompt

    prompts = [Prompt(f"p{i}", "the dog") for i in range(4)]
    rest = (prompts, get_protocol("quickstart-v1"), {})
    plain, other = (
        evaluate(tiny_policy(), tiny_policy(), *rest, seed=0, purpose=purpose, batch_prompts=4).completions
        for purpose in (None, "along training")
    )
    assert not plain["completion"].equals(other["completion"])


@pytest.mark.parametrize("name", ["ppo", "dpo"])
def test_training_does_not_notice(recipe_folder, name):
    """A reward and a judge that draw from every global generator, an adapter: log and weights bit for bit."""
    Path("noise.py").write_text(
        "import random, numpy, torch\n"
        "def noise(prompts, completions):\n"
        "    return [(random.random() + numpy.random.rand() + torch.rand(1).item()) / 3 for _ in completions]\n"
    )
    noisy = '[reward, {name: judge, function: "noise.py:noise"}]'
    sets = [f"evaluation.scorers={noisy}", LORA]
    sets += ["method.learning_rate=0.01", "evaluation.evaluate_every=16"]
    if name == "ppo":
        sets += ["reward.also=[{name: noise, function: 'noise.py:noise'}]"]
    run(name, results="with", sets=sets)
    run(name, results="without", sets=[*sets, "evaluation.evaluate_every=0"])
    assert len(points(name, "with")) > 2
    assert points(name, "without") == []
    assert training_log(name, "with") == training_log(name, "without")
    weights = [
        Path(f"{root}/{name}/seed0/artifact/adapter_model.safetensors").read_bytes() for root in ("with", "without")
    ]
    assert weights[0] == weights[1]
    assert alignbench.load_metrics("with")["metric"].equals(alignbench.load_metrics("without")["metric"])


@pytest.mark.parametrize(
    ("name", "sets"), [("ppo", [LORA]), ("dpo", [LORA]), pytest.param("dpo", [], marks=pytest.mark.slow)]
)
def test_the_policy_is_the_same_within_training_and_after_it(recipe_folder, name, sets):
    """The last point, made by the method's last step in one run, and by the pipeline in the other."""
    sets = [*sets, "method.learning_rate=0.01", "evaluation.evaluate_every=16"]
    run(name, results="dense", sets=sets)
    run(name, results="sparse", sets=[*sets, "evaluation.evaluate_every=1000"])
    assert len(points(name, "sparse")) == 2
    dense, sparse = (alignbench.load_curves(root).query("step > 0") for root in ("dense", "sparse"))
    last = dense[dense["step"] == dense["step"].max()].reset_index(drop=True)
    assert last.equals(sparse.reset_index(drop=True))
    kl = dense[dense["metric"] == "kl"]["value"]
    assert (kl.abs() > 1e-4).all()  # the adapter counts at every point


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - what libraries draw from


def test_modes_and_random_states_come_back(tiny_policy):
    policy = tiny_policy()
    policy.model.train()
    next(policy.model.children()).eval()
    modes = [module.training for module in policy.model.modules()]
    seed_everything(1)
    expected = draws()
    seed_everything(1)

    def fails_within():
        with undisturbed(policy):
            assert not any(module.training for module in policy.model.modules())
            assert not torch.is_grad_enabled()
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fails_within()
    assert draws() == expected
    assert [module.training for module in policy.model.modules()] == modes


@pytest.mark.parametrize("dies_before", few_of([1, 2, 3], [3]))
def test_a_killed_run_has_the_curve_of_an_uninterrupted_one(recipe_folder, finished, monkeypatch, dies_before):
    """Checkpoints lie two steps apart, so points are made anew too."""
    sets = [ODD, "method.checkpoint_every=2", "method.learning_rate=0.01"]
    finished("ppo", results="straight", sets=[*DENSE, *sets])
    plain_step, killed = PPOTrainer.take_step, []

    def dies(self, n_steps):
        if self.step == dies_before and not killed:
            killed.append(self.step)
            raise KeyboardInterrupt
        return plain_step(self, n_steps)

    monkeypatch.setattr(PPOTrainer, "take_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run("ppo", sets=sets)
    run("ppo", sets=sets)
    assert points("ppo") == points("ppo", "straight") == [(0, 0), (2, 16), (3, 24), (4, 32)]
    assert alignbench.load_curves("results").equals(alignbench.load_curves("straight"))


@pytest.mark.parametrize(("recipe", "end"), few_of([("ppo", (3, 24)), ("dpo", (3, 28))], [("ppo", (3, 24))]))
def test_a_run_killed_behind_its_last_step_still_gets_its_last_point(recipe_folder, monkeypatch, recipe, end):
    """It is resumed with no step left, and the point says what it has drawn: of PPO not all of a budget of 28."""
    sets = [ODD, "budget.completions=28"] + ["method.checkpoint_every=1"] * (recipe == "ppo")
    run(recipe, results="straight", sets=sets)
    last, killed = AlongTraining.last, []

    def dies(self, *arguments):
        if not killed:
            killed.append(True)
            raise KeyboardInterrupt
        last(self, *arguments)

    monkeypatch.setattr(AlongTraining, "last", dies)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, sets=sets)
    run(recipe, sets=sets)
    assert points(recipe) == points(recipe, "straight")
    assert points(recipe)[-1] == end
    assert alignbench.load_curves("results").equals(alignbench.load_curves("straight"))


def test_a_curve_that_is_switched_off_halfway_is_not_diagnosed(recipe_folder, monkeypatch):
    """A run may go on without points; half a curve says nothing about what became of it."""
    plain_step, killed = PPOTrainer.take_step, []

    def dies(self, n_steps):
        if self.step == 3 and not killed:
            killed.append(self.step)
            raise KeyboardInterrupt
        return plain_step(self, n_steps)

    monkeypatch.setattr(PPOTrainer, "take_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run("ppo", sets=[ODD])
    run("ppo", sets=["evaluation.evaluate_every=0"])
    assert points("ppo") == [(0, 0), (2, 16), (3, 24)]
    status = read_run(Path("results/ppo/seed0")).status
    assert status.reward_hacking is None
    assert "switched off" in status.reward_hacking_reason


@pytest.fixture
def timed(clock, monkeypatch):
    """By the clock of the test a step takes 2 seconds, a point half of one, and all else none."""
    point, step = curve_module.with_reward, PPOTrainer.take_step
    monkeypatch.setattr(curve_module, "with_reward", lambda *arguments: (clock.work(0.5), point(*arguments))[1])
    monkeypatch.setattr(PPOTrainer, "take_step", lambda *arguments: (clock.work(2.0), step(*arguments))[1])


def test_points_are_charged_to_the_evaluation(recipe_folder, timed, monkeypatch):
    """Seconds that are logged while training, which a killed run is charged when it goes on, leave them out."""
    seen = []
    monkeypatch.setattr(RunDirectory, "record_cost", lambda self, cost: seen.append(cost.wall_seconds))
    run("ppo")
    assert seen == [2.0, 4.0, 6.0, 8.0]
    status = json.loads(Path("results/ppo/seed0/status.json").read_text())
    assert status["evaluation_cost"]["wall_seconds"] == status["evaluation_cost"]["device_seconds"] == 5 * 0.5
    assert status["cost"]["wall_seconds"] == status["cost"]["device_seconds"] == 4 * 2.0
    assert status["cost"]["reward_calls"] == 32


def test_points_are_no_evaluations_and_no_runs(recipe_folder, finished):
    finished("base", "ppo", "dpo", sets=[*DENSE, ODD])
    runs, skipped = find_runs("results")
    assert (len(runs), skipped) == (3, [])
    assert [len(one.evaluations) for one in runs] == [1, 1, 1]
    assert len(alignbench.load_results("results")) == 3
    assert {record["n_seeds"] for record in compare("results").records()} == {1}
    assert "reward_mean" not in {record["metric"] for record in compare("results").records()}
    assert len(alignbench.load_completions("results/base")) == 12 * 4


def test_a_torn_point_is_left_out(recipe_folder, finished):
    finished("base", "ppo", "dpo", sets=[*DENSE, ODD])
    folder = Path("results/ppo/seed0/evaluations/quickstart-v1")
    (folder / "step2" / "metrics.json").write_text("{")
    (folder / "step3" / "metrics.json").unlink()
    assert [point.step for point in read_run(Path("results/ppo/seed0")).points] == [0, 4]


def test_without_validation_prompts_there_is_no_curve_and_a_reason(recipe_folder, caplog):
    run("ppo", sets=["data.validation_fraction=0.0"])
    assert "no evaluation along training: there are no validation prompts" in caplog.text
    assert points("ppo") == []
    assert list(alignbench.load_curves("results").columns)[:6] == [
        "recipe", "method", "seed", "protocol", "step", "completions",
    ]  # fmt: skip


@dataclass(frozen=True)
class Silent:
    """A method that learns from prompts and never says how far it is."""

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal"}), learns_from=frozenset({"prompts"}))

    def train(self, data, run):
        for parameter in run.policy.model.parameters():
            parameter.data.mul_(0.9)
        return run.policy


def test_a_method_that_never_calls_gets_its_first_and_last_point(recipe_folder, monkeypatch):
    from alignbench.methods.untrained import Untrained

    for name in ("facts", "train"):
        monkeypatch.setattr(Untrained, name, getattr(Silent, name))
    run("base")
    assert points("base") == [(0, 0), (1, 32)]
    kl = alignbench.load_curves("results").query("metric == 'kl_exact'")["value"].to_list()
    assert kl[0] == 0
    assert kl[1] > 1e-4


def hacking(recipe):
    status = json.loads(Path(f"results/{recipe}/seed0/status.json").read_text())
    return status["reward_hacking"], status["reward_hacking_reason"]


def test_a_run_ends_with_a_diagnosis_or_the_reason_why_there_is_none(recipe_folder, finished):
    finished("base", "ppo", "dpo", sets=[*DENSE, ODD])
    run("reward_model", sets=[ODD])
    assert points("reward_model") == []
    assert hacking("base") == (None, "there are not two evaluations along training")
    assert hacking("reward_model") == (None, "a reward model is no policy")
    for recipe in ("ppo", "dpo"):
        found, reason = hacking(recipe)
        assert reason is None
        assert found["word"] in ("none", "suspected", "evident")
        assert found["evidence"][0].startswith("The training reward")
        assert read_run(Path(f"results/{recipe}/seed0")).status.reward_hacking.word == found["word"]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["evaluation.evaluate_every=0"], "there are not two evaluations along training"),
        (["evaluation.scorers=[reward]"], "no held-out judge"),
        (["reward.classifier={judge}", "reward.label=neutral", OWN_JUDGE], "no held-out judge"),
    ],
)
def test_what_trains_is_no_held_out_judge(recipe_folder, checkpoints, sets, said):
    sets = [one.replace("{judge}", str(checkpoints / "judge")) for one in sets]
    run("ppo", sets=["evaluation.evaluate_every=32", *sets])
    found, reason = hacking("ppo")
    assert found is None
    assert said in reason
