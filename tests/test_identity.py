"""Which settings are a run's identity: one declaration, read by hashes, checkpoints, comparisons and documentation."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from alignbench.errors import TrainingError
from alignbench.identity import (
    NotIdentity,
    OnlyIfChanged,
    PartOfIdentity,
    identity_values,
    not_identity,
    require_same,
)
from alignbench.methods.base import Facts
from alignbench.methods.registry import known_methods, method_class
from alignbench.recipe.blocks import RecipeSettings
from alignbench.recipe.identity import identity_settings, run_hash
from alignbench.recipe.loading import load
from alignbench.records import Settings

PAGE = Path(__file__).parents[1] / "docs" / "identity.md"


class Inner(Settings):
    kept: int = 1
    left_out: Annotated[int, NotIdentity("speed")] = 2


@dataclasses.dataclass(frozen=True)
class Outer:
    block: Inner
    several: tuple[Inner | str, ...] = ()
    file: Annotated[str | None, PartOfIdentity(lambda text: text.rpartition("/")[2], "its place")] = None
    added_later: tuple[float, float] = (1, 2)
    beside: Annotated[bool, NotIdentity("memory")] = False


def settings_beside_identity():
    """Every key of a recipe that does not belong to the identity, and what it changes instead."""
    found = not_identity(RecipeSettings)
    for name in known_methods():
        found |= {f"{key} ({name})": effect for key, effect in not_identity(method_class(name), "method.").items()}
    return found


def test_what_is_declared_is_left_out_at_every_depth():
    values = {
        "block": {"kept": 3, "left_out": 4},
        "several": ["word", {"kept": 5, "left_out": 6}],
        "file": "some/where.py",
        "beside": True,
        "of a later release": 7,
    }
    assert identity_values(Outer, values) == {
        "block": {"kept": 3},
        "several": ["word", {"kept": 5}],
        "file": "where.py",
        "added_later": [1.0, 2.0],  # what a run from before the field had
        "of a later release": 7,
    }
    assert identity_values(Outer, {"block": {}}) == {
        "block": {"kept": 1}, "several": [], "file": None, "added_later": [1.0, 2.0],
    }  # fmt: skip
    beside = {"block.left_out": "speed", "several.left_out": "speed", "file": "its place", "beside": "memory"}
    assert not_identity(Outer) == beside


@dataclasses.dataclass(frozen=True)
class Extended:
    came_later: Annotated[tuple[str, ...], OnlyIfChanged()] = ("as before",)


def test_a_setting_that_came_later_counts_where_it_is_changed():
    assert identity_values(Extended, {}) == identity_values(Extended, {"came_later": ["as before"]}) == {}
    assert identity_values(Extended, {"came_later": ("new",)}) == {"came_later": ["new"]}
    assert not_identity(Extended) == {}


def test_another_identity_is_refused_by_its_keys():
    require_same("x", {"a": [1], "b": 2, "old": 3}, {"a": (1,), "b": 2}, frozenset({"old"}))
    with pytest.raises(TrainingError, match=r"x: the checkpoint is of b 2 \(this run: 3\), c 4 \(this run: None\)"):
        require_same("x", {"a": [1], "b": 2, "c": 4}, {"a": (1,), "b": 3}, frozenset())


BESIDE = [
    "name=other",
    "description=words",
    "evaluation.batch_size=7",
    "evaluation.evaluate_every=3",
    "reward.batch_size=3",
    "reward.may_oppose_judges=true",
    "hardware.device=auto",
    "hardware.threads=3",
    "tracking=[tensorboard]",
    "method.micro_batch_size=2",
    "method.gradient_checkpointing=true",
    "method.sharding=full",
    "method.execution=plain",
    "method.checkpoint_every=2",
    "method.log_completions_every=3",
]


@pytest.mark.parametrize("change", BESIDE)
def test_what_decides_no_number_is_no_part_of_the_hash(recipe_folder, change):
    [plain], [changed] = load(["ppo.yaml"]), load(["ppo.yaml"], [change])
    assert changed.recipe.resolved() != plain.recipe.resolved()
    assert changed.run_hash == plain.run_hash


OF_ASKED_MODELS = ["key_from=OTHER", "timeout_seconds=7.0", "attempts=2", "at_once=2", "price=[1.0, 2.0]"]
BESIDE_FEEDBACK = [
    *(f"rlaif feedback.{change}" for change in [*OF_ASKED_MODELS, "may_be_at_chance=true"]),
    *(f"constitutional revisions.{change}" for change in OF_ASKED_MODELS),
]


@pytest.mark.parametrize("change", BESIDE_FEEDBACK)
def test_how_a_model_is_asked_is_no_part_of_the_hash(change):
    recipe, setting = change.split(" ", 1)
    [plain], [changed] = load([recipe]), load([recipe], [setting])
    assert changed.recipe.resolved() != plain.recipe.resolved()
    assert changed.run_hash == plain.run_hash


def test_every_declared_key_is_tried():
    """In `BESIDE`, or here: terms that are added to a reward, and the places of functions, lists, rubrics, scripts."""
    tried = {change.split(" ", 1)[-1].partition("=")[0] for change in (*BESIDE, *BESIDE_FEEDBACK)}
    files = {"reward.function", "reward.also.function", "evaluation.scorers.function", "evaluation.scorers.lexicon"}
    files |= {"feedback.llm_judge", "feedback.rubric", "revisions.llm_judge", "revisions.principles"}
    declared = {key.partition(" (")[0] for key in settings_beside_identity()}
    assert declared == tried | files | {"reward.also.batch_size"}


def test_added_terms_and_files_count_by_content(recipe_folder):
    for place in ("here", "there"):
        Path(place).mkdir()
        Path(place, "f.py").write_text("def f(prompts, completions):\n    return [0.5] * len(completions)\n")
        Path(place, "words.txt").write_text("stupid\n")

    def recipe(place, batch_size, word="stupid"):
        Path(place, "words.txt").write_text(f"{word}\n")
        term = {"name": "more", "function": f"{place}/f.py:f"}
        classifier = {"name": "second", "classifier": "some/model", "label": "x", "batch_size": batch_size}
        judges = [{"name": "list", "lexicon": f"{place}/words.txt"}, {"name": "own", "function": f"{place}/f.py:f"}]
        sets = [f"reward.also={json.dumps([term, classifier])}", f"evaluation.scorers={json.dumps(judges)}"]
        [one] = load(["ppo.yaml"], sets)
        return one.run_hash

    assert recipe("here", 4) == recipe("there", 8)
    assert recipe("here", 4) != recipe("here", 4, word="rude")


@dataclasses.dataclass(frozen=True)
class ThirdParty:
    facts: ClassVar[Facts] = Facts(architectures=frozenset())
    batch_size: int = 4
    faster: Annotated[bool, NotIdentity("speed")] = False

    def train(self, data: object, run: object) -> object:
        """Trains."""


def test_a_method_of_another_package_counts_whole_but_for_what_it_declares(monkeypatch):
    values = {"method": {"name": "third", "batch_size": 8, "faster": True}}
    assert identity_settings(values)["method"] == values["method"]  # not installed
    monkeypatch.setattr("alignbench.recipe.identity.is_usable", lambda name: name == "third")
    monkeypatch.setattr("alignbench.recipe.identity.method_class", lambda name: ThirdParty)
    assert identity_settings(values)["method"] == {"name": "third", "batch_size": 8}


def test_a_resolved_recipe_read_back_has_the_same_identity(recipe_folder, tmp_path):
    from alignbench.results.layout import RECIPE_FILE
    from alignbench.results.reader import read_recipe

    [loaded] = load(["ppo.yaml"], ["method.learning_rate=3.3e-7", "chat.system='2026-01-01'"])
    (tmp_path / RECIPE_FILE).write_text(loaded.recipe.to_yaml())
    assert run_hash(read_recipe(tmp_path), {}) == loaded.run_hash
    assert read_recipe(tmp_path) == loaded.recipe.resolved()  # what the status of a run is given


def test_the_documentation_lists_what_is_declared():
    rows = re.findall(
        r"^\| `([\w.]+)`(?: \((\w+(?:, \w+)*)\))? \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {
        f"{key} ({method})" if method else key: effect
        for key, methods, effect in rows
        for method in methods.split(", ")
    }
    assert listed == settings_beside_identity()


def test_the_tests_that_the_documentation_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    files = {file: (PAGE.parents[1] / file).read_text(encoding="utf-8") for file, _ in named}
    assert [(file, test) for file, test in named if f"def {test}(" not in files[file]] == []
