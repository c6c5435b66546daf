"""Kinds of scorers that plug in: one from elsewhere goes the way of the built-in ones, and nothing names these."""

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Annotated, ClassVar, Literal

import pytest
import torch
from click.testing import CliRunner
from pydantic import Field

import alignbench
from alignbench import plugins
from alignbench.cli import main
from alignbench.errors import RecipeError, UsageError
from alignbench.identity import NotIdentity
from alignbench.pipeline import execute
from alignbench.pipeline.inputs import inputs_of
from alignbench.recipe.identity import identity_settings
from alignbench.recipe.loading import load
from alignbench.records import fingerprint
from alignbench.scorers.base import (
    BesideRecipe,
    NamedModel,
    Place,
    ScorerKind,
    SourceSettings,
    Text,
    checked,
    hash_of,
)

ROOT = Path(__file__).parents[2]


class Length:
    """The share of so many words that a text has."""

    def __init__(self, settings, place):
        self.name, self.most = place.name, settings.length
        self.fingerprint = fingerprint(["length", self.most, settings.length_file_sha256])

    def score(self, prompts, completions):
        return [min(1.0, len(text.split()) / self.most) for text in completions]


def not_empty(file):
    if not Path(file).is_file() or not Path(file).read_text():
        raise ValueError("a file that is not empty")


class LengthSettings(SourceSettings):
    takes: ClassVar[str] = "a number of words"
    knows_context: ClassVar[bool] = False

    length: Annotated[int | None, Field(ge=1)] = None
    length_chunk: Annotated[int, NotIdentity("memory")] = 8
    length_range: tuple[float, float] = (0.0, 1.0)
    length_file: Annotated[Text | None, NotIdentity("its place"), BesideRecipe(), checked(not_empty)] = None
    length_file_sha256: Annotated[Text | None, hash_of("length_file")] = Field(default=None, validate_default=True)
    length_model: str | None = None

    def models(self):
        if self.length_model is not None:
            yield NamedModel("length_model", self.length_model)

    def check_words(self, where):
        if self.length == 13:
            raise UsageError(f"{where}.length: got 13")

    def load(self, place: Place):
        return Length(self, place)


class JudgeAlone(SourceSettings):
    takes: ClassVar[str] = "a word"
    verdict: Literal["yes"] | None = None


class WithTakenSetting(SourceSettings):
    clash: int | None = None
    label: str | None = None


length = ScorerKind(reward=LengthSettings, judge=LengthSettings)
verdict = ScorerKind(judge=JudgeAlone)
clash = ScorerKind(judge=WithTakenSetting)
lacking = ScorerKind(judge=JudgeAlone)
no_kind = object()


def place(name="judge"):
    return Place(name, name, torch.device("cpu"), str, "")


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Installs this file's kinds as an installed package would."""
    monkeypatch.setitem(sys.modules, "elsewhere", sys.modules[__name__])
    names = ("length", "verdict", "clash", "lacking", "no_kind")
    entries = [EntryPoint(name, f"elsewhere:{name}", "alignbench.scorers") for name in names]
    entries.append(EntryPoint("broken", "not_there:kind", "alignbench.scorers"))
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "alignbench.scorers" else [])
    plugins.entries_of.cache_clear()
    yield
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


def judges(*entries):
    return f"evaluation.scorers={json.dumps(entries)}"


def one(name, *sets):
    [loaded] = load([name], sets)
    return loaded.recipe


def problem(recipe, *sets):
    with pytest.raises(RecipeError) as caught:
        load([recipe], sets)
    found = list(map(str, caught.value.problems))
    assert len(found) == 1, found
    return found[0]


def test_one_from_elsewhere_rewards_and_judges(recipe_folder):
    reward = {"may_oppose_judges": True, "length": 6, "also": [{"name": "short", "length": 20, "weight": -0.5}]}
    sets = [f"reward={json.dumps(reward)}", judges("reward", {"name": "long", "length": 4}), "budget.completions=8"]
    [loaded] = load(["ppo.yaml"], sets)
    recipe = loaded.recipe
    resolved = recipe.resolved()
    assert resolved["reward"]["length"] == 6
    assert resolved["reward"]["also"][0]["length_range"] == [0.0, 1.0]
    assert "length" not in one("ppo.yaml").resolved()["reward"]
    Path("again.yaml").write_text(recipe.to_yaml())
    assert one("again.yaml") == recipe
    [outcome] = execute.run([loaded], Path("results"))
    assert outcome.state == "done", outcome.error
    file = "results/ppo/seed0/evaluations/quickstart-v1.other-prompts/metrics.json"
    record = json.loads(Path(file).read_text())
    assert record["comparability"]["scorers"]["long"] == fingerprint(["length", 4, None])
    texts = alignbench.load_completions("results").query("recipe == 'ppo'")["completion"]
    shares = [min(1.0, len(text.split()) / 4) for text in texts]
    metrics = alignbench.load_metrics("results").set_index(["metric", "scorer"])
    assert metrics.loc["toxicity_mean", "long"]["value"] == pytest.approx(sum(shares) / len(shares))


def test_settings_are_identity_as_they_are_declared(recipe_folder):
    def identity(**settings):
        return one("base.yaml", judges({"name": "long", "length": 4} | settings)).run_hash({})

    assert identity() == identity(length_chunk=2) == identity(length=4)
    assert len({identity(), identity(length=5), identity(length_range=[0, 2])}) == 3
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("a")
    with_file = identity(length_file="a.txt")
    assert with_file == identity(length_file="b.txt") != identity()
    Path("b.txt").write_text("b")
    assert identity(length_file="b.txt") != with_file


def test_what_is_installed_changes_no_other_recipe(recipe_folder, monkeypatch):
    with_it = one("base.yaml")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    plugins.entries_of.cache_clear()
    without = one("base.yaml")
    assert with_it.to_yaml() == without.to_yaml()
    assert with_it.run_hash({}) == without.run_hash({})


def test_all_settings_count_of_one_that_is_not_there(recipe_folder):
    resolved = one("base.yaml", judges({"length": 4, "length_chunk": 2})).resolved()
    assert "length_chunk" not in identity_settings(resolved)["evaluation"]["scorers"][0]
    [judge] = resolved["evaluation"]["scorers"]
    judge["gone"], judge["gone_chunk"] = judge.pop("length"), 2
    assert identity_settings(resolved)["evaluation"]["scorers"][0]["gone_chunk"] == 2


def test_files_are_sought_beside_the_recipe(recipe_folder):
    Path("mine").mkdir()
    Path("mine/words.txt").write_text("a")
    values = json.loads(Path("base.yaml").read_text()) | {"extends": "../shared.yaml"}
    values["evaluation"] = {"scorers": [{"length": 4, "length_file": "words.txt"}]}
    Path("mine/x.yaml").write_text(json.dumps(values))
    assert one("mine/x.yaml").evaluation.scorers[0].length_file == "mine/words.txt"


def test_models_that_it_names_are_checked_and_hashed(recipe_folder, checkpoints):
    recipe = one("base.yaml", judges({"name": "long", "length": 4, "length_model": str(checkpoints / "judge")}))
    assert "evaluation.scorers.long.length_model" in inputs_of(recipe, {})
    result = CliRunner().invoke(main, ["check", "base.yaml", "--set", judges({"length": 4, "length_model": "./no"})])
    assert result.exit_code == 1
    assert "evaluation.scorers: judge.length_model: got './no', expected a directory" in result.output


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({"length": 0}, "scorers.1.length: got 0, expected at least 1"),
        ({"lenght": 3}, "did you mean 'length'?"),
        ({"length": 3, "length_chunks": 3}, "did you mean 'length_chunk'?"),
        ({"length": 3, "label": "x"}, 'scorers.1.label: got "x", expected it left out, a length has none'),
        ({"length": 3, "lexicon_score": "share"}, "scorers.1.lexicon_score: "),
        ({"length": 3, "verdict": "yes"}, 'verdict: got "yes", expected it left out beside `length`; a second judge'),
        ({"length": 3, "text": "chat"}, 'text: got "chat", expected completion or prompt_and_completion, a length'),
        ({"length": 3, "length_file": "no"}, 'length_file: got "no", expected a file that is not empty'),
        ({}, "a `lacking:`, a `length:`, a `llm_judge:`, a `next_token:`, a `no_kind:` or a `verdict:`"),
    ],
)
def test_problems_of_a_judge_name_the_key(recipe_folder, judge, expected):
    assert expected in problem("base.yaml", judges("reward", judge))


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ({"length": 3, "function": "f.py:f"}, "reward.length: got 3, expected it left out beside `function`"),
        ({"length": 3, "run": "reward_model"}, "reward.length: got 3, expected nothing beside `run`"),
        ({"verdict": "yes"}, 'reward.verdict: got "yes", expected it left out, a verdict serves as no reward'),
        ({"lexicon": "words.txt"}, 'reward.lexicon: got "words.txt", expected it left out, a lexicon serves as no'),
        ({"length": 3, "also": [{"name": "x", "length": 3, "label": "y"}]}, 'also.0.label: got "y", expected it left'),
    ],
)
def test_problems_of_a_reward_name_the_key(recipe_folder, reward, expected):
    Path("f.py").write_text("def f(prompts, completions): ...\n")
    reward = {"classifier": None, "label": None} | reward
    assert expected in problem("ppo.yaml", f"reward={json.dumps(reward)}", judges({"length": 4}))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("broken", "scorer 'broken' of the entry point 'not_there:kind' cannot be imported"),
        ("no_kind", "scorer 'no_kind' of the entry point 'elsewhere:no_kind' is <object"),
        ("clash", "its setting 'label' is one of classifier already; rename it"),
        ("lacking", "it lacks the setting 'lacking', which chooses it"),
    ],
)
def test_a_kind_that_cannot_be_used_is_told_who_names_it(recipe_folder, key, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        load(["base.yaml"], [judges({key: 1})])


def test_a_judge_may_refuse_its_own_words(recipe_folder):
    result = CliRunner().invoke(main, ["check", "base.yaml", "--set", judges({"length": 13})])
    assert (result.exit_code, "evaluation.scorers: judge.length: got 13" in result.output) == (2, True)


def test_a_classifier_beside_it_stays_the_notion_of_harm(recipe_folder):
    recipe = one("ppo.yaml", "reward.length=5", judges("reward"))
    assert recipe.reward.source == "length"
    assert recipe.reward.sources == ("classifier", "length")
    assert recipe.reward.scorer(place()).score([""], ["one two"]) == [0.4]


def test_the_one_of_the_documentation_works(recipe_folder, monkeypatch):
    page = (ROOT / "docs" / "extending.md").read_text().partition("## A scorer\n")[2]
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    exec(page.partition("```python\n")[2].partition("```")[0], module.__dict__)
    entries = [EntryPoint("address", "documented:plugin", "alignbench.scorers")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    plugins.entries_of.cache_clear()
    named = [{"name": "one", "address": ["one"]}, {"name": "both", "address": ["one", "two"]}]
    one_of, both = one("base.yaml", judges(*named)).evaluation.scorers
    assert [judge.scorer(place()).score([""], ["one two"]) for judge in (one_of, both)] == [[0.5], [1.0]]
    assert one_of.scorer(place()).fingerprint != both.scorer(place()).fingerprint


def test_no_other_file_names_a_kind():
    """But the classifier, which is the notion of harm of every reward."""
    spoken = re.compile(
        r"\b(lexicon|python_function|PythonFunction|lexicon_\w+|function_sha256)\b|(?<!autograd)[.\"']function[\"']?\b(?!s)"
    )
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in (*(ROOT / "alignbench").rglob("*.py"), *(ROOT / "datasets_prep").rglob("*.py"))
        if file.parent.name != "scorers"
        for line in file.read_text().splitlines()
        if spoken.search(line)
    ]
    assert found == []
