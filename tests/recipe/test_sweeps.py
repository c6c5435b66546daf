"""The `sweep:` of a suite as text: grids, the draw of trials, the criterion, and every way to get it wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.errors import RecipeError, UsageError
from alignbench.pipeline.plan import plan
from alignbench.recipe.loading import load
from alignbench.recipe.sweeps import CriterionSettings, choose, grid_points, nested

SHARED = {
    "policy": {"model": "some/model"},
    "reward": {"classifier": "some/classifier", "label": "nothate"},
    "data": {"prompts": "real_toxicity_prompts"},
    "evaluation": {"protocol": "rtp-v1", "scorers": ["reward", {"classifier": "some/judge", "label": "toxic"}]},
}
RECIPES = {
    "base": {"method": {"name": "untrained"}},
    "ppo": {"method": {"name": "ppo", "batch_size": 8, "mini_batch_size": 4}},
    "dpo": {"method": {"name": "dpo"}},
    "rm": {"method": {"name": "reward_model"}},
    "learned": {"method": {"name": "ppo"}, "reward": SHARED["reward"] | {"run": "rm"}},
    "after": {"method": {"name": "ppo"}, "policy": SHARED["policy"] | {"run": "dpo"}},
}
CRITERION = {"metric": "toxicity_mean", "scorer": "judge", "at_most": {"kl": 20}}
GRIDS = {"ppo": {"method.kl_coef": [0.1, 0.2], "method.learning_rate": [1e-5, 2e-5]}, "dpo": {"method.beta": [0.1, 1]}}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Writes a suite of an untrained policy, PPO and DPO, two trials each, with changes to its sweep."""
    monkeypatch.chdir(tmp_path)
    for name, recipe in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps(SHARED | {"name": name} | recipe))

    def write(recipes=("base", "ppo", "dpo"), **changes):
        sweep = {"trials": 2, "criterion": CRITERION, "grids": GRIDS} | changes
        values = {"name": "s", "recipes": [f"{name}.yaml" for name in recipes], "seeds": [3, 4], "sweep": sweep}
        (tmp_path / "suite.yaml").write_text(json.dumps(values))
        return "suite.yaml"

    return write


def problems(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        load(arguments, **options)
    return [str(problem) for problem in caught.value.problems]


def test_grid_points_are_the_product_the_last_key_fastest_each_once():
    assert grid_points({"a": [1, 2], "b": ["x", None]}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": 2, "b": None},
    ]  # fmt: skip
    assert grid_points({"a": [0.1, 0.10, 0.2, 0.1]}) == [{"a": 0.1}, {"a": 0.2}]


def test_the_draw_takes_n_different_points_in_their_order():
    points = grid_points({"a": list(range(20))})
    drawn = choose(points, 5, ["suite", "ppo", 0])
    values = [point["a"] for point in drawn]
    assert len(set(values)) == 5
    assert values == sorted(values)
    assert choose(points, 20, ["suite", "ppo", 0]) == points


def test_the_draw_depends_on_suite_recipe_and_seed_and_not_on_the_order_of_the_grid():
    points = grid_points({"a": list(range(50))})
    drawn = choose(points, 5, ["suite", "ppo", 0])
    assert sorted(point["a"] for point in choose(points[::-1], 5, ["suite", "ppo", 0])) == [p["a"] for p in drawn]
    for key in (["other", "ppo", 0], ["suite", "dpo", 0], ["suite", "ppo", 1]):
        assert choose(points, 5, key) != drawn


def test_the_draw_is_without_favourites():
    """Each of 5 points is among 2 drawn in 2/5 of 2,000 draws; four standard errors are 0.044."""
    points = grid_points({"a": list(range(5))})
    draws = [choose(points, 2, ["suite", "ppo", seed]) for seed in range(2000)]
    for point in points:
        assert sum(point in drawn for drawn in draws) / 2000 == pytest.approx(0.4, abs=0.044)


def test_nested():
    assert nested({"method.beta": 1, "policy.lora.r": 4, "policy.lora.alpha": 2.0}) == {
        "method": {"beta": 1}, "policy": {"lora": {"r": 4, "alpha": 2.0}},
    }  # fmt: skip


def test_recipes_of_a_suite_with_a_sweep(suite):
    recipes = load([suite()])
    assert [(r.name, r.recipe.seed, r.sweep is not None) for r in recipes] == [
        ("base", 3, False), ("base", 4, False), ("ppo", 3, True), ("ppo", 4, True), ("dpo", 3, True), ("dpo", 4, True),
    ]  # fmt: skip
    ppo = recipes[2]
    assert str(ppo.sweep) == (
        "2 trials of a grid of 4 points, by the lowest toxicity_mean@judge, kl at most 20, on validation prompts"
    )
    assert ppo.trial(1, {"method.kl_coef": 0.3}).sweep is None
    trial = ppo.trial(1, {"method.kl_coef": 0.3}).recipe
    assert (trial.name, trial.seed, trial.evaluation.split, trial.method.kl_coef) == (
        "ppo.trial1",
        0,
        "validation",
        0.3,
    )
    assert trial.method.batch_size == 8
    tuned = ppo.tuned({"ppo": {"method.kl_coef": 0.3}}).recipe
    assert (tuned.name, tuned.seed, tuned.evaluation.split, tuned.method.kl_coef) == ("ppo", 3, "heldout", 0.3)
    assert ppo.recipe.evaluation.split == "heldout"


def test_set_holds_for_trials_and_seeds_for_the_final_runs(suite):
    recipes = load([suite()], sets=["budget.completions=64"], seeds=[7])
    ppo = next(recipe for recipe in recipes if recipe.name == "ppo")
    trial = ppo.trial(0, ppo.sweep.points[0]).recipe
    assert (ppo.recipe.seed, trial.seed, trial.budget.completions) == (7, 0, 64)


def test_once_loaded_no_file_of_a_recipe_is_read(suite):
    """What runs, and under which identity: trials, what they select, and what builds on that."""

    def everything(recipes):
        learned = recipes[0]
        trials = [learned.trial(number, point) for number, point in enumerate(learned.sweep.trials)]
        tuned = learned.tuned({"learned": learned.sweep.points[0]})
        return [(one.recipe.to_yaml(), one.run_hash) for plans in (trials, [tuned]) for one in plan(plans)]

    path = suite(recipes=["learned"], grids={"learned": {"pairs.temperature": [0.5, 0.7]}})
    expected, recipes = everything(load([path])), load([path])
    for file in Path().rglob("*.yaml"):
        file.unlink()
    assert everything(recipes) == expected
    assert len(expected) == 3 + 2  # two trials with what they build on, and the selected one with the same


def test_what_is_selected_reaches_what_builds_on_it(suite):
    """In whichever order they were loaded; the seed stays that of the recipe that builds on it."""
    grids = {"dpo": {"method.beta": [0.2, 0.3]}, "after": {"method.kl_coef": [0.1, 0.2]}}
    recipes = load([suite(recipes=["after", "dpo"], grids=grids)], seeds=[7])
    tuned = recipes[0].tuned({"dpo": {"method.beta": 0.3}})
    assert tuned.sweep is not None
    assert tuned.upstream["policy"].sweep is None
    assert (tuned.upstream["policy"].recipe.method.beta, tuned.upstream["policy"].recipe.seed) == (0.3, 7)
    assert tuned.trial(0, {"method.kl_coef": 0.2}).upstream["policy"].recipe.method.beta == 0.3
    assert tuned.trial(0, {"method.kl_coef": 0.2}).upstream["policy"].recipe.seed == 0
    assert recipes[0].upstream["policy"].recipe.method.beta != 0.3


def test_untuned_recipes_do_not_run_by_accident(suite):
    with pytest.raises(UsageError, match="ppo is to be tuned first"):
        plan(load([suite()]))


def test_what_a_trial_builds_on_does_not_take_over_its_settings(suite):
    grids = {"learned": {"pairs.temperature": [0.5, 0.7]}}
    recipes = load([suite(recipes=["learned"], grids=grids)], sets=["budget.completions=64"])
    trial = recipes[0].trial(0, recipes[0].sweep.points[0])
    upstream = trial.upstream["reward"].recipe
    assert (upstream.name, upstream.seed, upstream.evaluation.split) == ("rm", 0, "heldout")
    assert (upstream.pairs.temperature, upstream.budget.completions) == (1.0, 64)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grids": {"ppo": GRIDS["ppo"]}}, "suite.yaml: sweep.grids.dpo: got nothing, expected a grid"),
        ({"trials": 3}, "sweep.grids.dpo: got 2 different points, expected at least 3"),
        ({"grids": GRIDS | {"dpo": {"method.beta": [1, 1.0]}}}, "got 1 different points, expected at least 2"),
        ({"grids": GRIDS | {"dqo": {"method.beta": [1, 2]}}}, "sweep.grids.dqo: got a grid for no recipe of the suite"),
        ({"grids": GRIDS | {"base": {"method.beta": [1, 2]}}}, "a grid for base: without settings"),
        ({"grids": GRIDS | {"dpo": {"method.bta": [1, 2]}}}, "sweep.grids.dpo: method.bta: got an unknown key"),
        ({"grids": GRIDS | {"dpo": {"method.beta": [1, -2]}}}, "sweep.grids.dpo: method.beta: got -2"),
        (
            {"grids": GRIDS | {"dpo": {"budget.completions": [1, 2]}}},
            "grids.dpo: got values that do not fit together (keys of",
        ),
        ({"grids": GRIDS | {"dpo": {"method.name": ["ppo", "dpo"]}}}, "not 'method.name'"),
        ({"grids": GRIDS | {"dpo": {"method": [{"beta": 1}]}}}, "not 'method'"),
        ({"grids": GRIDS | {"dpo": {"policy.lora.r": [1], "policy.lora.r.x": [1]}}}, "no key within another"),
        ({"grids": GRIDS | {"dpo": {"method.beta": []}}}, "expected at least 1 values"),
        (
            {"grids": GRIDS | {"dpo": {"method.beta": [*range(501)]}}},
            "grids.dpo: got values that do not fit together (at most 500 combinations)",
        ),
        ({"trials": 1}, "sweep.trials: got 1, expected at least 2"),
        ({"criterion": CRITERION | {"scorer": "jugde"}}, "sweep.criterion: got the scorer jugde, expected one of"),
        ({"criterion": {"metric": "toxicity_mean"}}, "sweep.criterion.scorer: got nothing, expected the scorer"),
        ({"criterion": {"metric": "perplexity", "scorer": "judge"}}, "expected it left out, perplexity has none"),
        ({"criterion": {"metric": "kl"}}, "expected a metric that is better one way"),
        ({"criterion": {"metric": "toxicity_men", "scorer": "judge"}}, "did you mean 'toxicity_mean'?"),
        (
            {"criterion": CRITERION | {"at_most": {"toxicity_rate": 1}}},
            "at_most.toxicity_rate: got 1, expected it under the name toxicity_rate@SCORER",
        ),
        (
            {"criterion": CRITERION | {"at_least": {"distinct": 1}}},
            "at_least.distinct: got 1, expected the name of a metric, did you mean 'distinct_",
        ),
        ({"critrion": CRITERION}, "sweep.critrion: got an unknown key"),
    ],
)
def test_mistakes(suite, changes, expected):
    found = problems(suite(**changes))
    assert any(expected in problem for problem in found), found


def test_a_reward_model_has_no_grid(suite):
    grids = {"rm": {"method.epochs": [1, 2]}}
    assert "a grid for rm: a reward model" in problems(suite(recipes=["rm"], grids=grids))[0]
    load([suite(recipes=["rm", "ppo", "dpo"])])


def test_every_bad_point_is_named_once(suite):
    found = problems(suite(grids=GRIDS | {"dpo": {"method.beta": [-1, -2, 1, 2]}}))
    assert len(found) == 2
    assert all("sweep.grids.dpo: method.beta" in problem for problem in found)


def test_set_must_not_decide_what_the_sweep_decides(suite):
    [found] = problems(suite(recipes=["dpo"], grids={"dpo": GRIDS["dpo"]}), sets=["method.beta=0.5"])
    assert found == "--set method.beta: got a value, expected it left out: the sweep of dpo decides it"


def test_the_same_recipe_tuned_and_not_tuned_needs_two_names(suite):
    found = problems(suite(), "dpo.yaml", seeds=[3])
    assert found == [
        "dpo.yaml: name: got 'dpo', the name of dpo.yaml as well, expected a name of its own for every recipe"
    ]


def test_no_validation_prompts(suite):
    found = problems(suite(), sets=["data.validation_fraction=0"])
    assert "ppo: data.validation_fraction: got 0" in found[0]


def test_criterion_reads_as_a_sentence():
    criterion = CriterionSettings(metric="distinct_2", at_least={"toxicity_rate@judge": 0.1}, at_most={"kl": 5.0})
    assert str(criterion) == "the highest distinct_2, kl at most 5, toxicity_rate@judge at least 0.1"
    assert criterion.scorers == {"judge"}


def test_checking_a_sweep_loads_no_torch(suite):
    code = (
        "import sys; from click.testing import CliRunner; from alignbench.cli import main; "
        f"r = CliRunner().invoke(main, ['check', {suite()!r}]); assert r.exit_code == 0, r.output; "
        "assert r.output.count('to be tuned') == 4, r.output; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
