"""docs/migrating_from_trl.md against our options, and TRL's as recorded/record_trl_config_fields.py found them."""

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from alignbench import plugins
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.recipe.recipe import Recipe

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "migrating_from_trl.md").read_text(encoding="utf-8")
TRL = json.loads((Path(__file__).parent / "recorded" / "trl_config_fields.json").read_text(encoding="utf-8"))
OPTIONS = {field.name: str(field.default) for field in fields(PPOConfig)}
ARGUMENTS = {**inspect.signature(PPOTrainer).parameters, **inspect.signature(PPOTrainer.train).parameters}
TABLES = {"TRL 0.11.4": TRL["0.11.4"]["own"], "TRL 1.12.0": TRL["1.12.0"]["own"]}
TABLES["TrainingArguments"] = TRL["1.12.0"]["inherited"]


def rows(heading):
    """The rows of the table whose first column is called so, as lists of cells."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} | default |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def recipe_field(name):
    """The field of a recipe that `block` or `block.key` names, or None."""
    block, _, key = name.partition(".")
    field = Recipe.model_fields.get(block)
    if field is None or not key:
        return field
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((kind.model_fields[key] for kind in kinds if key in getattr(kind, "model_fields", {})), None)


def our_default(name):
    """As text; of an option, an argument of the trainer, or a key of a recipe."""
    if name in OPTIONS:
        return OPTIONS[name]
    return str(ARGUMENTS[name].default if name in ARGUMENTS else recipe_field(name).default)


@pytest.mark.parametrize("heading", TABLES)
def test_trl_fields_and_defaults(heading):
    named = [names(row[0])[0] for row in rows(heading)]
    assert len(named) == len(set(named))
    assert [name for name in named if name not in TABLES[heading]] == []
    if heading != "TrainingArguments":  # of which only those that matter are named
        assert [name for name in TABLES[heading] if name not in named] == []
    wrong = [(row[0], row[1]) for row in rows(heading) if row[1] != TABLES[heading][names(row[0])[0]]]
    assert wrong == []


@pytest.mark.parametrize("heading", TABLES)
def test_our_options_and_defaults(heading):
    for theirs, _, ours, default, _ in rows(heading):
        named = names(ours)
        assert named or ours == "-", theirs
        for name in named:
            assert name in OPTIONS or name in ARGUMENTS or recipe_field(name) is not None, f"{theirs}: {name}"
        if default == "-":
            assert not OPTIONS.keys() & set(named), theirs
        else:
            assert default.strip("*") == ", ".join(map(our_default, named)), theirs


def test_bold_defaults_differ():
    for heading in TABLES:
        for theirs, their_default, ours, default, _ in rows(heading):
            same_name = len(names(ours)) == 1 and names(ours)[0] in OPTIONS
            if default.startswith("**"):
                assert default.strip("*") != their_default, theirs
            elif same_name and re.fullmatch(r"[\d.e-]+", their_default) and re.fullmatch(r"[\d.e-]+", default):
                assert float(default) == float(their_default), theirs


def test_options_named_elsewhere_exist():
    rest = PAGE[PAGE.index("## What became of the rest") :]
    ours = [cell for line in rest.splitlines() if line.startswith("|") for cell in line.split("|")[2:3]]
    code = {"load_language_model", "generate", "generation_kwargs"}
    settings = [name.split(":")[0] for cell in ours for name in names(cell) if re.fullmatch(r"[a-z_]+(: .*)?", name)]
    assert [name for name in settings if name not in {*OPTIONS, *ARGUMENTS, *code}] == []
    keys = [name for cell in ours for name in names(cell) if re.fullmatch(r"(policy|reward|data)\.[a-z_]+", name)]
    kinds = {f"reward.{name}" for name in plugins.SCORERS.names() if plugins.SCORERS.load(name).reward is not None}
    assert [name for name in keys if name not in kinds and recipe_field(name) is None] == []
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    logged = [name for cell in ours for name in names(cell) if "/" in name]
    assert len(logged) > 8
    assert [name for name in logged if f"`{name}`" not in metrics] == []


def test_the_loop_runs(checkpoints, monkeypatch, tmp_path, capsys):
    """With the tiny checkpoints in place of the hub's."""
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for theirs, ours in (
        ("EleutherAI/gpt-neo-125m", str(checkpoints / "policy")),
        ("facebook/roberta-hate-speech-dynabench-r4-target", str(checkpoints / "classifier")),
        ("n_steps=10", "n_steps=2"),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/migrating_from_trl.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert (tmp_path / "my_policy" / "model.safetensors").is_file()
