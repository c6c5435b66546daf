"""What a recipe names and needs no model to be opened: data files, folders of models, their configurations and labels.

`alignbench check` and the start of `alignbench run` share it, so that what is wrong with a file is said once, for all
recipes, before any of them runs. Nothing is looked up on the hub, and no library of models is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignbench import plugins
from alignbench.embedded import resolve
from alignbench.errors import DataError, InputsError, did_you_mean
from alignbench.methods.base import learned_kinds
from alignbench.scorers.labels import label_hint
from datasets_prep.settings import DemonstrationSettings, PromptSettings, named_source

if TYPE_CHECKING:
    from alignbench.recipe.loading import LoadedRecipe
    from alignbench.recipe.recipe import Recipe
    from alignbench.records import Prompt
    from datasets_prep.splits import Split

Use = Literal["policy", "classifier", "start"]
"""What a checkpoint is to be: a language model, a classifier with its head, or the start of a reward model."""

_OTHER_HEADS = {
    "policy": ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    "classifier": ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "ForQuestionAnswering"),
    "start": (),
}
"""Endings of architectures that are no such thing: their checkpoints lack its head, or were trained for another use."""
_WANTED = {"policy": "a language model", "classifier": "a text classifier", "start": "a model"}
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")


@dataclass
class InputChecks:
    """Opens what recipes name, each file and folder once."""

    problems: dict[str, list[str]] = field(default_factory=dict)
    """Each problem, and the recipes that have it."""
    on_hub: dict[str, None] = field(default_factory=dict)
    """What was not looked up: `policy.model EleutherAI/gpt-neo-125m`."""
    _found: dict[str, str | None] = field(default_factory=dict)
    _splits: dict[str, dict[Split, list[Prompt]]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def add(self, loaded: LoadedRecipe) -> None:
        """Checks a recipe, and what it builds on."""
        recipe = loaded.recipe
        key = str(recipe.resolved())
        if key in self._seen:
            return
        self._seen.add(key)
        for problem in (*self._models(recipe), *self._data(recipe)):
            names = self.problems.setdefault(problem, [])
            if recipe.name not in names:
                names.append(recipe.name)
        for other in loaded.upstream.values():
            self.add(other)

    def _models(self, recipe: Recipe) -> Iterator[str]:
        reward = recipe.reward
        yield from self._model("policy.model", recipe.policy.model, "policy")
        start = recipe.method.facts.own_start(recipe.method)
        if start is not None and start.model is not None:
            yield from self._model("method.model", start.model, "start")
        for setting, name in recipe.method.facts.reads(recipe.method).items():
            if not Path(name).is_file() and not (Path(name) / "policy.json").is_file():
                yield from self._model(f"method.{setting}", name, "policy")
        blocks: list[tuple[str, Any]] = [] if reward is None else [("reward", reward)]
        blocks += [(f"reward.also.{i}", term) for i, term in enumerate(reward.also if reward else ())]
        judges = (entry for entry in recipe.evaluation.scorers if not isinstance(entry, str))
        for where, block in (*blocks, *((f"evaluation.scorers: {judge.name}", judge) for judge in judges)):
            for suffix, model in block.named_models():
                key = f"{where}.{model.key}" if where.startswith("reward") else f"{where}{suffix}"
                yield from self._model(key, model.name, model.use, (f"{where}.{model.label_key}", model.label))
        for where, asked in recipe.asked_models():
            for model in asked.models():
                yield from self._model(f"{where}.{model.key}", model.name, model.use)

    def _model(self, key: str, name: str, use: Use, label: tuple[str, str | None] = ("", None)) -> Iterator[str]:
        if name.startswith("embedded/"):
            return
        path = Path(name).expanduser()
        if not (path.is_absolute() or name.startswith((".", "~")) or path.exists()):
            self.on_hub[f"{key} {name}"] = None
            return
        problem = self._once(f"{use} {path}", lambda: _folder_problem(path, name, use))
        if problem is not None:
            yield f"{key}: {problem}"
        elif label[1] is not None:
            problem = _label_problem(path, label[1])
            if problem is not None:
                yield f"{label[0]}: {problem}"

    def _data(self, recipe: Recipe) -> Iterator[str]:
        from datasets_prep import sources
        from datasets_prep.neutral_texts import read_texts
        from datasets_prep.prepare import evaluation_settings

        evaluation = recipe.evaluation
        is_chat = recipe.chat is not None
        yield from self._prompts(recipe.data, "", is_chat)
        if evaluation.prompts is not None and evaluation.split == "heldout":
            yield from self._prompts(evaluation_settings(evaluation.prompts), "evaluation.prompts: ", is_chat)
        if "demonstrations" in learned_kinds(recipe.method):
            yield from self._demonstrations(recipe)
        if "preference_pairs" in learned_kinds(recipe.method) and recipe.pairs.source is not None:
            yield from self._stored_pairs(recipe, recipe.pairs.source)
        yield from self._leaks(recipe)
        yield from self._held_out(recipe)
        neutral = evaluation.neutral
        known = None if neutral is None else sources.find(neutral, "texts")
        if known is not None and known.hub_id is not None:
            self.on_hub[f"evaluation.neutral {neutral}"] = None
        elif neutral is not None and neutral != "embedded":
            problem = self._once(f"neutral {neutral}", lambda: _said(lambda: read_texts(neutral)))
            yield from () if problem is None else (problem,)

    def _demonstrations(self, recipe: Recipe) -> Iterator[str]:
        """Reads the completions that the rows of a file hold, where the recipe imitates these."""
        from datasets_prep.demonstrations import read_demonstrations

        own, is_chat = recipe.demonstrations or DemonstrationSettings(), recipe.chat is not None
        settings = recipe.data if own.source is None else named_source(own.source)
        key = "data.prompts" if own.source is None else "demonstrations.source"
        if own.take == "data":
            yield from self._rows(settings, key, partial(_answered, read_demonstrations, settings, own, key, is_chat))

    def _stored_pairs(self, recipe: Recipe, source: str | PromptSettings) -> Iterator[str]:
        """Reads both sides of the pairs that the rows of a file hold."""
        from datasets_prep.stored_pairs import read_stored_pairs

        settings, key, is_chat = named_source(source), "pairs.source", recipe.chat is not None
        yield from self._rows(
            settings, key, partial(_answered, read_stored_pairs, settings, recipe.pairs, key, is_chat)
        )

    def _leaks(self, recipe: Recipe) -> Iterator[str]:
        """Looks for prompts that are trained on and measured on, where the recipe does not leave them out.

        By whole texts: which of them are cut to equal ones, only a run with its tokenizer finds.
        """
        from datasets_prep.answers import prompts_to_answer
        from datasets_prep.prepare import evaluation_settings, is_local, read_pool
        from datasets_prep.splits import check_no_leak

        is_chat, kinds, other = recipe.chat is not None, learned_kinds(recipe.method), recipe.evaluation.prompts
        shown = recipe.demonstrations.source if recipe.demonstrations and "demonstrations" in kinds else None
        sources = {
            "pairs.source": recipe.pairs.source if "preference_pairs" in kinds else None,
            "demonstrations.source": shown,
        }
        taken = {key: named_source(source) for key, source in sources.items() if source is not None}
        measured = None if other is None or recipe.evaluation.split != "heldout" else evaluation_settings(other)
        settings = (recipe.data, *taken.values(), *(() if measured is None else (measured,)))
        named = [name for one in settings for name in (one.prompts, one.heldout) if name is not None]
        if recipe.data.on_leak == "drop" or not (taken or measured) or not all(map(is_local, named)):
            return

        def look() -> None:
            splits = self._uncut(recipe.data, is_chat)
            other = [] if measured is None else read_pool(measured, "prompts", conversations=is_chat)
            check_no_leak({"data.prompts": splits["train"] + splits["validation"], "evaluation.prompts": other})
            held = splits["validation"] + splits["heldout"] + other
            for key, one in taken.items():
                trained = prompts_to_answer(one, key=key, conversations=is_chat)
                check_no_leak({key: trained, "what is measured on": held})

        problem = self._once(f"leaks {is_chat} {taken} {recipe.data} {measured}", lambda: _said(look))
        yield from () if problem is None else (problem,)

    def _held_out(self, recipe: Recipe) -> Iterator[str]:
        """Counts the prompts that are held out, where a recipe wants a number of them; a tokenizer may leave fewer."""
        from datasets_prep.prepare import evaluation_settings, is_local

        evaluation = recipe.evaluation
        wanted, other = evaluation.n_prompts, evaluation.prompts
        settings = recipe.data if other is None else evaluation_settings(other)
        if settings.prompts == "embedded":
            settings = settings.model_copy(update={"prompts": resolve("embedded/prompts")})
        named = filter(None, (settings.prompts, settings.heldout))
        if wanted is None or evaluation.split != "heldout" or not all(map(is_local, named)):
            return

        def look() -> None:
            n = len(self._uncut(settings, recipe.chat is not None)["heldout"])
            if n < wanted:
                raise DataError(f"evaluation.n_prompts: got {wanted}, expected at most {n}, the held-out prompts")

        problem = self._once(f"held out {wanted} {recipe.chat is not None} {settings}", lambda: _said(look))
        if problem is not None and problem.startswith("evaluation.n_prompts"):  # what else there is has been said
            yield problem

    def _rows(self, settings: PromptSettings, key: str, read: partial[Any]) -> Iterator[str]:
        """Reads what a source holds beside prompts; what is on the hub is noted down."""
        from datasets_prep.prepare import is_local

        source = settings.prompts
        if source == "embedded":
            return
        if not is_local(source):
            self.on_hub[f"{key} {source}"] = None
            return
        problem = self._once(f"{key} {read.args}", lambda: _said(read))
        yield from () if problem is None else (problem,)

    def _prompts(self, settings: PromptSettings, prefix: str, is_chat: bool) -> Iterator[str]:
        """Reads the files of a `data` block; where one of its two sources is on the hub, only the other."""
        from datasets_prep.prepare import is_local, read_pool

        sources = {"prompts": settings.prompts} | ({"heldout": settings.heldout} if settings.heldout else {})
        local = [name for name, source in sources.items() if is_local(source)]
        for name, source in sources.items():
            if name not in local and source != "embedded":
                self.on_hub[f"{prefix.rstrip(': ') or f'data.{name}'} {source}"] = None
        if not local:
            return
        whole = len(local) == len(sources)
        one = partial(read_pool, settings, local[0], conversations=is_chat)
        read = partial(self._uncut, settings, is_chat) if whole else one
        problem = self._once(f"{is_chat} {settings}", lambda: _said(read))
        if problem is not None:
            yield prefix + problem

    def _uncut(self, settings: PromptSettings, is_chat: bool) -> dict[Split, list[Prompt]]:
        """The prompts of a `data` block by their split, read once for all recipes."""
        from datasets_prep.prepare import uncut_splits

        key = f"{is_chat} {settings}"
        if key not in self._splits:
            self._splits[key] = uncut_splits(settings, conversations=is_chat)
        return self._splits[key]

    def _once(self, key: str, find: Callable[[], str | None]) -> str | None:
        if key not in self._found:
            self._found[key] = find()
        return self._found[key]


def check_inputs(recipes: Iterable[LoadedRecipe]) -> list[str]:
    """Opens what recipes and those they build on name; returns what was not looked up, as it is on the hub.

    Raises:
        InputsError: with every problem of every recipe.
        UsageError: An installed package adds a metric, which every run measures, that is none or cannot be imported.
    """
    if plugins.entries_of(plugins.METRICS.group):
        plugins.metrics(plugins.METRICS)
    checks = InputChecks()
    for loaded in recipes:
        checks.add(loaded)
    if checks.problems:
        raise InputsError([f"{_named(names)}: {problem}" for problem, names in checks.problems.items()])
    return list(checks.on_hub)


def _answered(
    read: Callable[..., object], settings: PromptSettings, own: object, key: str, conversations: bool
) -> None:
    """Reads what goes on with the prompts of a source; DataError where nothing does, or it cannot be read."""
    from datasets_prep.answers import prompts_to_answer

    prompts = prompts_to_answer(settings, key=key, conversations=conversations)
    read(settings, own, prompts, key=key, conversations=conversations)


def _said(read: Callable[[], object]) -> str | None:
    """Returns the message of a DataError, None where there is none."""
    try:
        read()
    except DataError as error:
        return str(error)
    return None


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _folder_problem(path: Path, name: str, use: Use) -> str | None:
    """Returns what is wrong with the folder of a checkpoint, without its weights being read."""
    if not path.is_dir():
        what = "that is a file" if path.exists() else "there is none at that path"
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings)
        return f"got {name!r}, expected a directory with a saved model; {what}{hint}"
    is_adapter = (path / "adapter_config.json").is_file()
    if not (path / "config.json").is_file():
        if is_adapter:
            return _adapter_problem(path, name)
        inside = sorted(entry.parent.name for entry in path.glob("*/config.json"))
        hint = f"; perhaps {Path(name) / inside[0]}" if inside else ""
        return f"got {name!r}, expected a directory with a saved model; it has no config.json{hint}"
    config = _json_object(path / "config.json")
    if not isinstance(config, dict):
        return f"got {name!r}, whose config.json is not a JSON object{config and f' ({config})'}"
    heads = [head for head in config.get("architectures") or () if isinstance(head, str)]
    if heads and all(head.endswith(_OTHER_HEADS[use]) for head in heads):
        return f"got {name!r}, expected {_WANTED[use]}; its config.json says {', '.join(heads)}"
    if not is_adapter and not any(True for pattern in _WEIGHTS for _ in path.glob(pattern)):
        return f"got {name!r}, expected a directory with a saved model; it has a config.json and no weights"
    return None


def _adapter_problem(path: Path, name: str) -> str | None:
    """Returns what is wrong with a folder that holds an adapter alone."""
    config = _json_object(path / "adapter_config.json")
    if not isinstance(config, dict):
        return f"got {name!r}, whose adapter_config.json is not a JSON object{config and f' ({config})'}"
    base = config.get("base_model_name_or_path")
    if isinstance(base, str) and base.startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir():
        return f"got {name!r}, an adapter of {base!r}; there is no directory of that name"
    return None


def _json_object(path: Path) -> dict[str, Any] | str:
    """Returns what a file holds, or why that is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return str(error)
    return values if isinstance(values, dict) else ""


def _label_problem(path: Path, label: str) -> str | None:
    """Returns what is wrong with the name of a class of a local classifier; None where its configuration has it."""
    config = _json_object(path / "config.json")
    if not isinstance(config, dict):
        return None
    names = config.get("id2label")
    n_labels = config.get("num_labels", 2)
    known = [str(name) for name in names.values()] if names else [f"LABEL_{i}" for i in range(n_labels)]
    if label in known or sum(name.casefold() == label.casefold() for name in known) == 1:
        return None
    return f"got {label!r}, expected one of {known}{label_hint(label, known)}"
