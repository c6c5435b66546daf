"""Whole PPO runs on Python rewards and weighted sums: what training is given, resume, what the user is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import alignbench
from alignbench.cli import main
from alignbench.errors import RunExistsError, TrainingError
from alignbench.methods.dpo import DPO
from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.results.writer import RunDirectory
from alignbench.scorers.reward_model import load_reward_scorer
from alignbench.scorers.text_classifier import ClassifierScorer

SOURCE = """\
def length(prompts, completions):
    return [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
"""
CPU = torch.device("cpu")


@pytest.fixture
def folder(recipe_folder, checkpoints):
    """Recipes in a folder of their own, `mine`, with a file of rewards beside them."""
    mine = recipe_folder / "mine"
    mine.mkdir()
    (mine / "rewards.py").write_text(SOURCE)
    length = {"name": "length", "function": "rewards.py:length", "weight": -0.25}
    judge = {
        "name": "judge", "classifier": str(checkpoints / "judge"), "label": "toxic", "transform": "logprob",
        "text": "prompt_and_completion", "weight": -3,
    }  # fmt: skip
    rewards = {
        "function": {"function": "rewards.py:length", "weight": 0.5},
        "sum": {"weight": 2, "also": [length, judge]},
        "learned_sum": {"run": "reward_model", "also": [length]},
    }
    ppo = json.loads((recipe_folder / "ppo.yaml").read_text())["method"]
    for name, reward in rewards.items():
        recipe = {"extends": "../shared.yaml", "name": name, "method": ppo, "reward": reward}
        (mine / f"{name}.yaml").write_text(json.dumps(recipe))
    shutil.copy(recipe_folder / "reward_model.yaml", mine)
    shutil.copy(recipe_folder / "shared.yaml", mine)
    return recipe_folder


@pytest.fixture
def seen(monkeypatch):
    """What the trainer asked its reward for: (prompt, completion, reward)."""
    from alignbench.methods.on_policy.trainer import PPOTrainer

    asked = []
    plain = PPOTrainer.__init__

    def spy(self, policy, reward, *args, **options):
        def recorded(prompts, completions):
            rewards = reward(prompts, completions)
            asked.extend(zip(prompts, completions, rewards, strict=True))
            return rewards

        recorded.__self__ = getattr(reward, "__self__", None)  # whose terms are logged
        plain(self, policy, recorded, *args, **options)

    monkeypatch.setattr(PPOTrainer, "__init__", spy)
    return asked


def run(*arguments, results="results", **options):
    return execute.run(load(arguments), Path(results), **options)


def test_a_function_is_what_training_maximises(folder, seen):
    [outcome] = run("mine/function.yaml")
    assert outcome.state == "done", outcome.error
    assert len(seen) == 32
    assert [reward for _, _, reward in seen] == [0.5 * (len(p) + len(c)) for p, c, _ in seen]
    # The classifier of the extended block is still what is evaluated.
    metrics = alignbench.load_metrics("results/function")
    assert {"reward", "judge"} <= set(metrics["scorer"].dropna())


def test_a_sum_is_what_training_maximises(folder, seen, checkpoints):
    """Oracle: every term computed here, and added by hand."""
    [outcome] = run("mine/sum.yaml")
    assert outcome.state == "done", outcome.error
    assert len(seen) == 32
    prompts, completions, rewards = (list(part) for part in zip(*seen, strict=True))

    def classifier(name, **options):
        scorer = ClassifierScorer.load(
            str(checkpoints / name), where="x", revision=None, device=CPU, name="x", **options
        )
        return scorer.score(prompts, completions)

    harmless = classifier("classifier", label="nothate", transform="logit")
    toxic = classifier("judge", label="toxic", transform="logprob", text="prompt_and_completion")
    expected = [
        2 * a - 0.25 * (len(p) + len(c)) - 3 * b
        for p, c, a, b in zip(prompts, completions, harmless, toxic, strict=True)
    ]
    assert rewards == pytest.approx(expected, rel=1e-5)
    log = alignbench.load_train_log("results/sum")
    # Equal batches, so the mean over steps is the mean over all completions.
    for name, values in {"main": harmless, "judge": toxic}.items():
        assert log[f"objective/reward/{name}"].mean() == pytest.approx(sum(values) / 32, rel=1e-5)


def test_a_reward_model_with_something_added(folder, seen):
    outcomes = run("mine/learned_sum.yaml")
    assert [(o.recipe, o.state) for o in outcomes] == [("reward_model", "done"), ("learned_sum", "done")], outcomes
    prompts, completions, rewards = (list(part) for part in zip(*seen, strict=True))
    artifact = Path("results/reward_model/seed0/artifact")
    learned = load_reward_scorer(artifact, name="x", text="completion", device=CPU).score(prompts, completions)
    expected = [r - 0.25 * (len(p) + len(c)) for p, c, r in zip(prompts, completions, learned, strict=True)]
    assert rewards == pytest.approx(expected, rel=1e-5)


def test_the_resolved_recipe_gives_the_same_numbers(folder):
    assert run("mine/sum.yaml")[0].state == "done"
    resolved = "results/sum/seed0/recipe.resolved.yaml"
    assert str(folder) not in Path(resolved).read_text()
    [outcome] = run(resolved, results="other")
    assert outcome.state == "done", outcome.error
    assert alignbench.load_metrics("results").equals(alignbench.load_metrics("other"))
    assert [outcome.state for outcome in run(resolved)] == ["kept"]


def test_a_cut_off_run_goes_on_only_with_the_same_file(folder, monkeypatch):
    assert run("mine/sum.yaml", results="straight")[0].state == "done"
    plain = RunDirectory.log_step

    def fails(self, step, metrics):
        if step == 3:
            raise TrainingError("cut off")
        plain(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "log_step", fails)
        assert run("mine/sum.yaml")[0].state == "failed"
    Path("mine/rewards.py").write_text(SOURCE + "# edited\n")
    [outcome] = run("mine/sum.yaml")
    assert isinstance(outcome.error, RunExistsError)
    Path("mine/rewards.py").write_text(SOURCE)
    assert run("mine/sum.yaml")[0].state == "done"
    assert list(alignbench.load_train_log("results")["step"]) == [1, 2, 3, 4]
    assert alignbench.load_metrics("results").equals(alignbench.load_metrics("straight"))


def test_pairs_are_labelled_by_the_function_where_there_is_no_classifier(folder, checkpoints, monkeypatch):
    judge = {"classifier": str(checkpoints / "judge"), "label": "toxic"}
    changes = {
        "name": "dpo_function",
        "reward": {"classifier": None, "function": "rewards.py:length", "weight": -1},
        "evaluation": {"scorers": [judge]},
    }
    recipe = json.loads(Path("dpo.yaml").read_text()) | changes | {"extends": "../shared.yaml"}
    Path("mine/dpo.yaml").write_text(json.dumps(recipe))
    seen, plain = [], DPO.train
    monkeypatch.setattr(DPO, "train", lambda self, data, run: seen.extend(data.pairs) or plain(self, data, run))
    [outcome] = run("mine/dpo.yaml")
    assert outcome.state == "done", outcome.error
    assert seen
    for pair in seen:
        assert len(pair.chosen.text) < len(pair.rejected.text)
        assert pair.chosen_reward == -(len(pair.prompt.text) + len(pair.chosen.text))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def length(prompts, completions):\n    return [1 / 0]\n",
            "division by zero (mine/rewards.py:2: return [1 / 0])",
        ),
        ("def length(prompts, completions):\n    return [float('nan')] * len(prompts)\n", "got nan for "),
        ("def length(prompts, completions):\n    return [1.0]\n", "got 1 values, expected a list of 4 numbers"),
        ("import no_such_module\ndef length(prompts, completions): ...\n", "No module named 'no_such_module'"),
    ],
)
def test_a_function_that_fails_ends_the_run_with_one_message(folder, source, message):
    Path("mine/rewards.py").write_text(source)
    result = CliRunner().invoke(main, ["run", "mine/function.yaml"])  # the first call is the check at the start
    assert result.exit_code == 1
    assert "reward.function: mine/rewards.py:length: " in result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(Path("results").glob("[!.]*"))


def test_seeds_run_on_different_files_are_not_one_recipe(folder):
    """An average over seeds of two rewards would mean nothing, so `compare` refuses it."""
    for seed in (0, 1):
        Path("mine/rewards.py").write_text(SOURCE + f"# {seed}\n")
        result = CliRunner().invoke(main, ["run", "mine/function.yaml", "--seed", str(seed)])
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["compare", "results"])
    assert result.exit_code == 1
    assert "settings of function, reward.function_sha256" in result.output
