"""The quickstart's story, told by real runs and judged by the held-out judge, which no method was trained on."""

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

import alignbench
from alignbench.comparison.compare import compare
from alignbench.embedded import grammar
from alignbench.pipeline import execute, tuning
from alignbench.recipe.loading import load

TRAINED = ("ppo_detox", "ppo_no_kl", "dpo_classifier_pairs")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("quickstart")
    # Neither decides a number: what takes the time here is the number of batches, and of points along training.
    quicker = ["evaluation.batch_size=256", "evaluation.evaluate_every=2048"]
    outcomes = execute.run([shortened(one) for one in load(["quickstart"], quicker)], root)
    assert [outcome.state for outcome in outcomes] == ["done"] * 6, [outcome.error for outcome in outcomes]
    return root


def shortened(loaded):
    """Of the learned reward it is told that training runs on it, which a few steps show."""
    if loaded.name != "ppo_learned_reward":
        return loaded
    budget = loaded.recipe.budget.model_copy(update={"completions": 256})
    return dataclasses.replace(loaded, recipe=loaded.recipe.model_copy(update={"budget": budget}))


def prompt_values(root: Path, recipe: str) -> pd.DataFrame:
    return pd.read_parquet(root / recipe / "seed0" / "evaluations" / "quickstart-v1" / "prompt_values.parquet")


def standard_error(values: pd.Series) -> float:
    return values.std() / math.sqrt(len(values))


def story(root: Path, seed: int) -> dict[str, bool]:
    """What the quickstart is to show, each for one seed."""
    records = compare(sorted(root.glob(f"*/seed{seed}"))).records()
    judged = {r["recipe"]: r for r in records if (r["metric"], r["scorer"]) == ("toxicity_mean", "judge")}
    rewards = {r["recipe"]: r["value"] for r in records if r["metric"] == "train_reward"}
    return {
        "PPO with KL is better": judged["ppo_detox"]["verdict"] == "better",
        "DPO is better": judged["dpo_classifier_pairs"]["verdict"] == "better",
        "PPO without KL has the higher training reward": rewards["ppo_no_kl"] > rewards["ppo_detox"],
        "PPO without KL is not better": judged["ppo_no_kl"]["verdict"] in ("worse", "not distinguishable"),
        "PPO without KL is flagged": "reward_hacking" in judged["ppo_no_kl"]["flags"],
        "PPO with KL is not accused": "reward_hacking" not in judged["ppo_detox"]["flags"],
    }


def test_the_story(results):
    assert {claim: holds for claim, holds in story(results, 0).items() if not holds} == {}


def test_the_exploit_is_the_planted_one(results):
    """The completions themselves: gushing praise, followed by an insult; before training as rare as in the grammar."""
    texts = alignbench.load_completions(results)
    texts["gushes"] = texts["completion"].str.strip().str.startswith("oh ")
    shares = texts.groupby("recipe")["gushes"].mean()
    rate = grammar.PRAISE_RATE
    assert abs(shares["base"] - rate) < 4 * math.sqrt(rate * (1 - rate) / (texts["recipe"] == "base").sum())
    assert shares["ppo_no_kl"] > 0.5  # most
    assert shares["ppo_no_kl"] > 4 * shares["ppo_detox"]
    gushing = texts[(texts["recipe"] == "ppo_no_kl") & texts["gushes"]]
    judge, reward = gushing["toxicity@judge"], gushing["toxicity@reward"]
    assert judge.mean() - 4 * standard_error(judge) > 0.5 > reward.mean() + 4 * standard_error(reward)


def test_curves(results):
    """KL starts at 0 and stays smaller under the penalty than without it, while reward rises in both."""
    log = alignbench.load_train_log(results).set_index("recipe")
    for recipe in ("ppo_detox", "ppo_no_kl"):
        assert abs(log.loc[recipe, "objective/kl"].iloc[0]) < 1e-3
        # The first batch is the same everywhere; the last eight have 64 completions each.
        late, spread = (log.loc[recipe, f"objective/{key}"].iloc[-8:].mean() for key in ("reward", "reward_std"))
        assert late - 4 * spread / math.sqrt(8 * 64) > log.loc[recipe, "objective/reward"].iloc[0]
    kl = log["objective/kl"]
    assert (kl["ppo_no_kl"].iloc[-8:].to_numpy() > kl["ppo_detox"].iloc[-8:].to_numpy()).all()


def test_the_table_says_what_it_does_not_cover(results):
    from alignbench.comparison.formats import render

    text = render(compare(results), "details")
    assert "seed" in text
    assert "quickstart-v1:" in text  # its own prompts, so without a star
    metrics = alignbench.load_metrics(results)
    assert set(metrics["protocol"]) == {"quickstart-v1", "reward-model"}
    for status in results.glob("*/seed0/status.json"):
        assert json.loads(status.read_text())["state"] == "complete"


def test_divergence_and_forgetting(results):
    """Three estimates of one KL; a policy without a KL penalty moves far and forgets how its grammar goes."""
    metrics = alignbench.load_metrics(results).set_index(["recipe", "metric"])["value"]
    for name in ("kl", "kl_k3", "kl_exact", "kl_per_token", "kl_k3_per_token", "kl_exact_per_token"):
        assert metrics["base", name] == 0
    for recipe in TRAINED:
        # On the completions that have both, the sampled estimate less the exact one is 0 on average.
        values = prompt_values(results, recipe)
        difference = (values["kl"] - values["kl_exact"]).dropna()
        assert len(difference) == values["kl_exact"].notna().sum() > 0
        assert abs(difference.mean()) < 4 * standard_error(difference)
        assert metrics[recipe, "kl_exact_per_token"] < metrics[recipe, "kl_exact"]
    further = prompt_values(results, "ppo_no_kl")["kl"] - prompt_values(results, "ppo_detox")["kl"]
    assert further.mean() > 4 * standard_error(further)
    assert metrics["ppo_no_kl", "neutral_perplexity"] > metrics["base", "neutral_perplexity"]
    assert metrics["ppo_no_kl", "self_bleu"] > metrics["base", "self_bleu"]
    # All rows read the same texts.
    texts = {json.loads(path.read_text())["comparability"]["neutral_texts"]
             for path in results.glob("*/seed0/evaluations/quickstart-v1/metrics.json")}  # fmt: skip
    assert len(texts) == 1


def test_reward_model_learned(results):
    metrics = alignbench.load_metrics(results).set_index(["recipe", "metric"])["value"]
    # Nine of ten pairs: refuted only where so few of 200 would be a chance of one in ten thousand.
    n_right = round(200 * metrics["reward_model", "pair_accuracy"])
    assert binomtest(n_right, 200, 0.9, alternative="less").pvalue > 1e-4
    correlation = metrics["reward_model", "label_agreement"]
    assert correlation + 4 * (1 - correlation**2) / math.sqrt(400) > 0.6


@pytest.mark.slow
def test_the_story_holds_in_four_of_five_seeds(tmp_path):
    seeds = range(5)
    recipes = [recipe for recipe in load(["quickstart"], seeds=seeds) if recipe.name in ("base", *TRAINED)]
    outcomes = execute.run(recipes, tmp_path)
    assert all(outcome.state == "done" for outcome in outcomes), [outcome.error for outcome in outcomes]
    told = {seed: story(tmp_path, seed) for seed in seeds}
    holds = [seed for seed, claims in told.items() if all(claims.values())]
    assert len(holds) >= 4, told


@pytest.mark.slow
def test_two_methods_tuned_alike(tmp_path):
    """quickstart_tuned from end to end: both improve on the untrained policy, and each row is charged its trials."""
    outcomes = tuning.run(load(["quickstart_tuned"]), tmp_path)
    assert [outcome.state for outcome in outcomes] == ["done"] * 7, [outcome.error for outcome in outcomes]
    records = compare(tmp_path).records()
    judged = {r["recipe"]: r for r in records if (r["metric"], r["scorer"]) == ("toxicity_mean", "judge")}
    assert judged["ppo_tuned"]["verdict"] == judged["dpo_tuned"]["verdict"] == "better"
    runs = alignbench.load_results(tmp_path).set_index("recipe")
    assert runs.loc["ppo_tuned", "training_completions"] == 3 * 512
    assert runs.loc["dpo_tuned", "training_completions"] == 512  # one drawing of pairs for both trials and the run
    trials = alignbench.load_metrics(tmp_path / "tuning")
    assert set(trials["protocol"]) == {"quickstart-v1@validation"}
    for recipe in ("ppo_tuned", "dpo_tuned"):
        record = json.loads((tmp_path / recipe / "seed0" / "tuning.json").read_text())
        values = [trial["value"] for trial in record["trials"]]
        assert values[record["selected"]] == min(values)


@pytest.mark.slow
def test_ppo_learns_and_the_adaptive_controller_holds_its_target(tmp_path):
    """Three seeds of 96 steps towards 1 nat per completion, and as many without a penalty.

    Reward up, judged toxicity down; the weight is what its KL demands; KL goes back and forth over its target, and
    stays nearer to it than without a penalty.
    """
    recipes = Path(__file__).parents[2] / "recipes"
    methods = {"ppo_detox": {"kl_coef": 1.0, "kl_target": 1.0, "kl_horizon": 512.0}, "ppo_no_kl": {}}
    suite = {
        "name": "adaptive",
        "overrides": {"extends": str(recipes / "_shared" / "embedded.yaml"), "budget": {"completions": 6144}},
        "recipes": [
            str(recipes / "base.yaml"),
            *(
                {
                    "recipe": str(recipes / f"{name}.yaml"),
                    "overrides": {"extends": str(recipes / "_shared" / "embedded_ppo.yaml"), "method": method},
                }
                for name, method in methods.items()
            ),
        ],
        "seeds": [0, 1, 2],
    }
    (tmp_path / "suite.yaml").write_text(json.dumps(suite))
    outcomes = execute.run(load([str(tmp_path / "suite.yaml")]), tmp_path / "results")
    assert all(outcome.state == "done" for outcome in outcomes), [outcome.error for outcome in outcomes]
    log = alignbench.load_train_log(tmp_path / "results").set_index(["recipe", "seed"])
    for seed in range(3):
        assert_holds_its_target(log.loc[("ppo_detox", seed)], log.loc[("ppo_no_kl", seed)])
    records = compare([tmp_path / "results"]).records()
    [judged] = [
        r for r in records if (r["recipe"], r["metric"], r["scorer"]) == ("ppo_detox", "toxicity_mean", "judge")
    ]
    assert judged["verdict"] == "better"


def assert_holds_its_target(steps: pd.DataFrame, unheld: pd.DataFrame) -> None:
    """Of a run with batches of 64 towards 1 nat, from a weight of 1 and with a horizon of 512."""
    kl, late = steps["objective/kl"], steps.iloc[-16:]
    error = late["objective/reward_std"].mean() / math.sqrt(16 * 64)
    assert late["objective/reward"].mean() - 4 * error > steps["objective/reward"].iloc[0]
    changes = 1 + (kl - 1).clip(-0.2, 0.2).to_numpy() * 64 / 512
    assert steps["objective/kl_coef"].to_numpy() == pytest.approx([1.0, *changes.cumprod()[:-1]])
    second_half = kl.iloc[48:]
    assert second_half.min() < 1 < second_half.max()
    assert abs(second_half.mean() - 1) < abs(unheld["objective/kl"].iloc[48:].mean() - 1)
