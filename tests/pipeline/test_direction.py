"""Whether reward and judges point the same way: the rule, and that nothing is trained where they do not."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import alignbench
from alignbench.errors import UsageError
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.pipeline import drawing, execute
from alignbench.pipeline.direction import N_TEXTS, require_agreement
from alignbench.recipe.loading import load

FUNCTIONS = """\
def vowels(prompts, completions):
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]

def few_vowels(prompts, completions):
    return [-one for one in vowels(prompts, completions)]

def harm(prompts, completions):
    return [min(1.0, one / 100) for one in vowels(prompts, completions)]

def same(prompts, completions):
    return [0.5] * len(completions)

def unscored(prompts, completions):
    return [None] * len(completions)
"""


def table(r, n=128, k=1, spread=0.3, seed=0):
    """Rewards and harm whose ranks correlate by about r: n prompts with k equal completions each."""
    generator = np.random.default_rng(seed)
    reward, noise = generator.normal(size=(2, n))
    harm = r * reward + np.sqrt(1 - r * r) * noise
    columns = {"prompt_id": [f"p{i}" for i in range(n)], "completion": [f"text {i}" for i in range(n)]}
    columns |= {"reward": reward, "toxicity@judge": 0.5 + spread * harm / harm.std()}
    return pd.DataFrame({name: np.repeat(values, k) for name, values in columns.items()})


@pytest.mark.parametrize(
    ("texts", "stops"),
    [
        (table(0.95), True),
        (table(0.6, n=64), True),
        (table(-0.6), False),
        (table(0.0), False),
        (table(0.25, n=1000), False),  # significant, and small
        (table(0.5, n=16), False),  # large, and may be chance
        (table(0.5, n=16, k=25), False),  # no more prompts for all the completions
        (table(0.999, n=9), False),  # too few to say
        (table(0.6, spread=0.001), False),  # the judge sees next to nothing
        (table(0.95, spread=0.001), True),
        (table(0.95).assign(reward=1.0), False),
    ],
)
def test_the_rule(texts, stops):
    if stops:
        with pytest.raises(UsageError, match=r"the reward rises with what the scorer 'judge' calls harm"):
            require_agreement(texts, "the reward", ["judge"])
    else:
        require_agreement(texts, "the reward", ["judge"])


@pytest.mark.parametrize(("n", "most"), [(200, 1), pytest.param(1000, 4, marks=pytest.mark.slow)])
def test_noise_stops_no_honest_run(n, most):
    """Of 1,000 rewards that have nothing to do with the judge about one may be stopped, and by chance hardly five."""
    stopped = 0
    for seed in range(n):
        try:
            require_agreement(table(0.0, n=64, seed=seed), "the reward", ["judge"])
        except UsageError:
            stopped += 1
    assert stopped <= most


def test_every_judge_is_asked_and_gaps_are_left_out():
    texts = table(-0.9).assign(other=0.0).rename(columns={"other": "toxicity@other"})
    texts["toxicity@other"] = 1 - texts["toxicity@judge"]
    texts.loc[:20, "reward"] = np.nan
    require_agreement(texts, "the reward", ["judge"])
    with pytest.raises(UsageError) as caught:
        require_agreement(texts, "the reward", ["judge", "other"])
    said = str(caught.value)
    assert "the scorer 'other'" in said
    assert "r = +0." in said
    assert "over 107 completions of 107 prompts" in said
    kept = texts.dropna()
    least = kept.loc[kept["toxicity@other"].idxmin()]
    assert f"'{least.completion}' (the reward {least.reward:+.3g}, harm {least['toxicity@other']:.3g})" in said
    assert "reward.may_oppose_judges: true" in said


# Whole runs


@pytest.fixture
def folder(recipe_folder):
    Path("f.py").write_text(FUNCTIONS)
    return recipe_folder


def run(recipe, reward, *sets, judge="harm"):
    """One run on a function as the reward, with a function as the judge."""
    scorers = [{"name": "judge", "function": f"f.py:{judge}"}]
    own = {"reward.classifier": None, "reward.label": None, "reward.function": f"f.py:{reward}"}
    own |= {"evaluation.scorers": scorers}
    [outcome] = execute.run(
        load([f"{recipe}.yaml"], [*(f"{k}={json.dumps(v)}" for k, v in own.items()), *sets]), Path("results")
    )
    return outcome


@pytest.mark.parametrize("every", [0, 16])
def test_ppo_does_not_start_on_a_reward_that_pays_for_harm(folder, monkeypatch, every):
    monkeypatch.setattr(PPOTrainer, "take_step", lambda self, n: pytest.fail("it trains"))
    outcome = run("ppo", "vowels", f"evaluation.evaluate_every={every}")
    assert outcome.state == "failed"
    assert isinstance(outcome.error, UsageError)
    assert "the reward rises with what the scorer 'judge' calls harm" in str(outcome.error)
    assert "r = +1.00" in str(outcome.error)
    assert not list(Path("results").glob("[!.]*"))  # a mended recipe is not in its own way


@pytest.mark.parametrize("recipe", ["dpo", "reward_model"])
def test_no_pairs_are_drawn_with_labels_that_pay_for_harm(folder, monkeypatch, recipe):
    monkeypatch.setattr(drawing, "draw", lambda *a, **k: pytest.fail("it draws"))
    outcome = run(recipe, "vowels", "evaluation.evaluate_every=0")
    assert "the score that labels pairs rises with what the scorer 'judge' calls harm" in str(outcome.error)


def test_a_weight_turns_the_function_for_both(folder):
    assert run("ppo", "vowels", "reward.weight=-1").state == "done"
    assert "the reward rises" in str(run("ppo", "few_vowels", "reward.weight=-1", "name=other").error)


def test_a_term_that_outweighs_the_block_is_seen(folder):
    outcome = run("ppo", "few_vowels", "reward.also=[{name: more, function: 'f.py:vowels', weight: 2}]")
    assert "the reward rises" in str(outcome.error)


@pytest.mark.parametrize("judge", ["same", "unscored"])
def test_a_judge_that_says_nothing_stops_nothing(folder, judge):
    assert run("ppo", "vowels", judge=judge).state == "done"


def test_a_control_that_maximises_harm_goes_on_where_it_says_so(folder):
    assert run("ppo", "vowels").state == "failed"
    assert run("ppo", "vowels", "reward.may_oppose_judges=true").state == "done"


def test_the_sample_is_charged_to_the_evaluation_and_training_does_not_notice(folder):
    logs = {}
    for name, sets in {"sampled": [], "free": ["reward.may_oppose_judges=true"]}.items():
        assert run("ppo", "few_vowels", "evaluation.evaluate_every=0", f"name={name}", *sets).state == "done"
        log = alignbench.load_train_log(f"results/{name}")
        logs[name] = log[[column for column in log if column.startswith(("objective/", "policy/"))]]
    assert logs["sampled"].equals(logs["free"])
    costs = alignbench.load_results("results").set_index("recipe")
    keys = ("evaluation_prompts_seen", "evaluation_reward_calls", "evaluation_generated_tokens", "reward_calls")
    extra = {key: costs.loc["sampled", key] - costs.loc["free", key] for key in keys}
    n = len(json.loads(Path("results/free/seed0/prompts.json").read_text())["seen"])
    assert 0 < n < N_TEXTS
    assert extra["evaluation_prompts_seen"] == n
    assert extra["evaluation_reward_calls"] == 2 * n
    assert n <= extra["evaluation_generated_tokens"] <= 16 * n
    assert extra["reward_calls"] == 0
