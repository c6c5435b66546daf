"""Values of another type than their key takes, wherever they stand: one problem that names the key, never a traceback.

Every key of a recipe, a suite and a sweep, against text, numbers, null, lists and mappings.
"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.errors import RecipeError, UsageError
from alignbench.recipe.loading import load

RECIPE = {
    "name": "ppo",
    "description": "words",
    "method": {"name": "ppo", "kl_coef": 0.1},
    "policy": {"model": "some/model"},
    "reward": {"classifier": "some/classifier", "label": "nothate"},
    "data": {"prompts": "real_toxicity_prompts"},
    "pairs": {"completions_per_prompt": 2},
    "budget": {"completions": 64},
    "evaluation": {"protocol": "rtp-v1", "scorers": ["reward", {"classifier": "some/judge", "label": "toxic"}]},
    "chat": {"system": "words"},
    "hardware": {"threads": 1},
    "seed": 1,
}
OTHERS = {
    "dpo": {**RECIPE, "name": "dpo", "method": {"name": "dpo"}},
    "rm": {**RECIPE, "name": "rm", "method": {"name": "reward_model"}},
    # What it is built on is loaded with the same overrides.
    "learned": {**RECIPE, "name": "learned", "reward": {**RECIPE["reward"], "run": "rm"}},
}
SUITE = {
    "name": "s",
    "description": "words",
    "recipes": ["ppo.yaml", {"recipe": "dpo.yaml", "overrides": {"budget": {"completions": 32}}}, "learned.yaml"],
    "overrides": {"budget": {"completions": 64}},
    "seeds": [0, 1],
}
TUNED = {
    **SUITE,
    "recipes": ["ppo.yaml", "dpo.yaml"],
    "sweep": {
        "trials": 2,
        "criterion": {"metric": "toxicity_mean", "scorer": "judge", "at_most": {"kl": 20}},
        "grids": {"ppo": {"method.kl_coef": [0.1, 0.2]}, "dpo": {"method.beta": [0.1, 0.2]}},
    },
}
VALUES = ["word", "", None, 3, True, [], ["word"], [{}], {}, {"word": {"word": 1}}, {"name": None}]
TAKES = {
    "name": ("word",),
    "description": ("word", ""),
    "seed": (3,),
    "chat": (None, {}),
    "pairs": ({},),
    "budget": ({},),
    "hardware": ({},),
}
"""Values of a key that make a recipe."""
BLOCKS = tuple(key for key, value in RECIPE.items() if isinstance(value, dict))
PLACES = ("file", "extended file", "--set", "--set on a suite", "suite", "entry of a suite")


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Loads a recipe in which one key has a value that stands in one place; returns the problems, None for none."""
    monkeypatch.chdir(tmp_path)
    for name, recipe in {"ppo": RECIPE, **OTHERS}.items():
        Path(f"{name}.yaml").write_text(json.dumps(recipe))
    Path("suite.yaml").write_text(json.dumps(SUITE))
    return _refuse


def arguments(place, key, value):
    """What the command line is given where a key has a value in some place; files are written for it."""
    setting = f"{key}={json.dumps(value)}"
    if place == "--set":
        return ["ppo.yaml"], [setting]
    if place == "--set on a suite":
        return ["suite.yaml"], [setting]
    without = {name: item for name, item in RECIPE.items() if name != key}
    entry = {"recipe": "ppo.yaml", "overrides": {key: value}}
    files = {
        "file": RECIPE | {key: value},
        "extended file": without | {"extends": "block.yaml"},
        "suite": SUITE | {"overrides": {key: value}},
        "entry of a suite": SUITE | {"recipes": [entry, "dpo.yaml", "learned.yaml"]},
    }
    Path("block.yaml").write_text(json.dumps({key: value}))
    Path("it.yaml").write_text(json.dumps(files[place]))
    return ["it.yaml"], []


def _refuse(recipes, sets=()):
    try:
        load(recipes, sets)
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    except UsageError as error:
        return [str(error)]
    return None


def is_taken(place, key, value):
    if key in {"suite": ("name", "seed", "method"), "entry of a suite": ("name", "seed")}.get(place, ()):
        return False  # wherever it is said, it is not said there
    if key == "name" and place == "--set on a suite":
        return False  # one name for several recipes
    if value == {} and key in BLOCKS and place not in ("file", "extended file"):
        return True  # laid over a block, an empty mapping changes nothing
    return any(value == one and type(value) is type(one) for one in TAKES.get(key, ()))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", RECIPE)
def test_top_level_keys(refuse, place, key):
    for value in VALUES:
        found = refuse(*arguments(place, key, value))
        assert (found is None) == is_taken(place, key, value), (value, found)
        for problem in found or ():
            assert ": got " in problem
            assert ", expected " in problem
        assert found is None or any(key in problem for problem in found), found


@pytest.mark.parametrize("value", ["ppo", None, [], 3, True, ["ppo"]])
def test_a_method_that_is_no_mapping(refuse, value):
    shown = json.dumps(value)
    expected = "expected a mapping with the method's name, such as {name: ppo}"
    assert refuse(*arguments("file", "method", value)) == [f"it.yaml: method: got {shown}, {expected}"]
    for place in ("--set", "--set on a suite"):
        assert refuse(*arguments(place, "method", value)) == [f"--set: method: got {shown}, {expected}"]
    found = refuse(*arguments("entry of a suite", "method", value))
    assert found == [f"it.yaml: recipes.0.overrides: method: got {shown}, {expected}"]


def test_a_method_by_its_name_alone(refuse):
    (problem,) = refuse(["ppo.yaml"], ["method=dpo"])
    assert problem.endswith("such as {name: dpo}")


def test_a_seed_taken_away_from_a_suite(refuse):
    (problem,) = refuse(["suite.yaml"], ["seed=null"])
    assert problem == "--set: seed: got null, expected a whole number"


def places_of(values, path=()):
    """The path of every key and list item."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_of(value, (*path, key))


def changed(values, path, value):
    """A copy in which what stands at the path is another value."""
    if not path:
        return value
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    copy = {key: changed(item, path[1:], value) if key == path[0] else item for key, item in pairs}
    return copy if isinstance(values, dict) else list(copy.values())


@pytest.mark.parametrize(
    ("values", "path"),
    [
        pytest.param(values, path, id=f"{values['name']} {'.'.join(map(str, path))}")
        for values in (RECIPE, TUNED)
        for path in places_of(values)
        if values is TUNED or len(path) > 1
    ],
)
def test_nested_keys(refuse, values, path):
    """Most values are refused, with a message."""
    n_refused, values_tried = 0, ("word", None, 3, [], {"word": {"word": 1}})
    for value in values_tried:
        Path("it.yaml").write_text(json.dumps(changed(values, path, value)))
        found = refuse(["it.yaml"])
        n_refused += found is not None
        assert found is None or all("it.yaml" in problem or "recipe" in problem for problem in found), found
    assert n_refused > len(values_tried) / 2


@pytest.mark.parametrize("key", RECIPE)
def test_a_grid_of_values(refuse, key):
    """Of whole blocks: no grid varies these. Of a block's keys: every point of the grid is checked."""
    for value in VALUES:
        grids = {"ppo": {key: [value, value]}, "dpo": {"method.beta": [value, 0.2]}}
        Path("it.yaml").write_text(json.dumps(TUNED | {"sweep": TUNED["sweep"] | {"grids": grids}}))
        (problem, *_) = refuse(["it.yaml"])
        assert problem.startswith("it.yaml: sweep.grids")
        if value != 3:
            grids = TUNED["sweep"]["grids"] | {"dpo": {"method.beta": [value, 0.2]}}
            Path("it.yaml").write_text(json.dumps(TUNED | {"sweep": TUNED["sweep"] | {"grids": grids}}))
            (problem, *_) = refuse(["it.yaml"])
            assert problem.startswith("it.yaml: sweep.grids.dpo: method.beta")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", ["method", "evaluation"])
def test_on_the_command_line(refuse, place, key):
    """Exit code 2 and the problems, for `check` and for a dry run alike."""
    for value in ("word", []):
        recipes, sets = arguments(place, key, value)
        options = [part for setting in sets for part in ("--set", setting)]
        for command in (["check"], ["run", "--dry-run"]):
            result = CliRunner().invoke(main, [*command, *recipes, *options])
            assert result.exit_code == 2, result.output
            assert isinstance(result.exception, SystemExit)
            assert "Traceback" not in result.output
            assert key in result.output
