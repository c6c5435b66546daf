"""Scorers that a command names: a classifier, a run, or the settings of any kind of scorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from alignbench.embedded import resolve
from alignbench.errors import UsageError, did_you_mean
from alignbench.pipeline.stored import recipe_of_run
from alignbench.recipe.scorers import ScorerSettings
from alignbench.recipe.yaml import read_yaml
from alignbench.records import Scorer, TextWindow
from alignbench.results.layout import STATUS_FILE
from alignbench.results.reader import StoredRun, read_run
from alignbench.scorers.base import Place
from alignbench.scorers.presets import PRESETS
from alignbench.scorers.reward_model import REWARD_LABEL, load_classifier_scorer, load_reward_scorer

if TYPE_CHECKING:
    import torch


def judge_settings(text: str, option: str) -> ScorerSettings:
    """Reads a judge, as it stands among `evaluation.scorers`: `{classifier: PATH, label: toxic}`, or a preset's name.

    UsageError, which begins with the option, where it is none.
    """
    values = read_yaml(text, option)
    values = {"name": values, **PRESETS[values]} if isinstance(values, str) and values in PRESETS else values
    if not isinstance(values, dict):
        raise UsageError(
            f"{option}: got {text!r}, expected settings such as {{classifier: PATH, label: toxic}}, or one of the "
            f"presets {', '.join(PRESETS)}{did_you_mean(text, [*PRESETS])}"
        )
    try:
        found = ScorerSettings.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = str(first["msg"]).removeprefix("Value error, ")
        raise UsageError(f"{option}: {place + ': ' if place else ''}expected {said}") from error
    found.check_names()
    return found


def judge_scorer(settings: ScorerSettings, device: torch.device, joint: str = "", option: str = "--scorer") -> Scorer:
    """Makes a judge; `option` is what errors begin with."""
    place = Place(f"{option}: {settings.name}", settings.name, device, resolve, joint, settings.text)
    return settings.scorer(place)


def named_scorer(
    name: str,
    device: torch.device,
    *,
    label: str | None = None,
    judge: str | None = None,
    text: TextWindow = "completion",
) -> Scorer:
    """Returns the scorer of a name.

    Args:
        name: Hub id or folder of a classifier, the directory of a run, a preset, or settings in braces.
        device: Where it computes.
        label: The class whose probability is the score; of a classifier with one output its raw number.
        judge: Of a run of a policy, which of its judges.
        text: What a classifier reads; presets and settings say so themselves.

    Raises:
        UsageError: It cannot be told which scorer is meant.
        ModelError: It cannot be loaded.
    """
    if name in PRESETS or name.lstrip().startswith("{"):
        if label is not None or text != "completion":
            option = "--text" if label is None else "--label"
            raise UsageError(
                f"{option}: got one beside {name}, expected none: a preset, and settings such as "
                "{classifier: MODEL, label: toxic, text: chat}, say so themselves"
            )
        return judge_scorer(judge_settings(name, "SCORER"), device, option="SCORER")
    if (Path(name) / STATUS_FILE).is_file():
        return _of_run(read_run(Path(name)), device, judge)
    where = {"where": "SCORER", "revision": None, "device": device, "name": "score", "text": text}
    if label is not None:
        return load_classifier_scorer(
            resolve(name), label=label, transform="probability", trust_remote_code=False, **where
        )
    labels = _labels(name)
    if labels is not None and len(labels) != 1:
        raise UsageError(f"{name}: got no --label, expected one of {', '.join(labels)}: the class that is scored")
    only = labels[0] if labels else REWARD_LABEL
    return load_classifier_scorer(resolve(name), label=only, transform="logit", trust_remote_code=False, **where)


def _labels(name: str) -> list[str] | None:
    """The labels of a classifier; None of several reward models in one folder."""
    from alignbench.models.loading import load_classifier

    if Path(name).is_dir() and not any(
        (Path(name) / file).is_file() for file in ("config.json", "adapter_config.json")
    ):
        return None
    model, _ = load_classifier(resolve(name), where="SCORER")
    return [str(label) for label in model.config.id2label.values()]


def _of_run(run: StoredRun, device: torch.device, judge: str | None) -> Scorer:
    """The reward model that a run has trained, or a judge of its policy."""
    recipe = recipe_of_run(run)
    if run.status.kind == "reward_model":
        text = recipe.reward.text if recipe.reward else "completion"
        return load_reward_scorer(run.artifact, text=text, device=device, trust_remote_code=False)
    from alignbench.pipeline.scorers import judges

    known = [one if isinstance(one, str) else one.name for one in recipe.evaluation.scorers]
    if judge not in known:
        got = "nothing" if judge is None else repr(judge)
        hint = did_you_mean(judge, known) if judge else ""
        raise UsageError(
            f"{run.path}: a run of a policy: got {got} for --judge, expected one of its judges, "
            f"{', '.join(known)}{hint}"
        )
    return judges(recipe, "", device)[judge]
