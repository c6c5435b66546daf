"""The reward of a recipe as JSON, for a policy that asks it when it answers, and is saved with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alignbench.embedded import resolve
from alignbench.errors import ScorerError
from alignbench.plugins import SCORERS
from alignbench.records import Scorer
from alignbench.scorers.base import BesideRecipe, Place, SourceSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


def load_reward(kept: Sequence[Mapping[str, Any]], policy: LanguageModel) -> Scorer:
    """Makes a reward again.

    Args:
        kept: What `RunContext.kept_reward` was.
        policy: Whose completions it is to score; it computes on the same device.

    Raises:
        UsageError: The package that brings a scorer of it is not installed.
        ScorerError, ModelError: A file or a model that it names has gone or changed.
    """
    from alignbench.scorers.reading import joint_of
    from alignbench.scorers.weighted_sum import Term, WeightedSum

    terms = []
    for term in kept:
        scorer = _settings(term).load(Place("reward", term["name"], policy.device, resolve, joint_of(policy)))
        terms.append(Term(term["name"], scorer, term["weight"]))
    return terms[0].scorer if len(terms) == 1 and terms[0].weight == 1.0 else WeightedSum(terms, name="reward")


def moved_reward(kept: Sequence[Mapping[str, Any]], move: Callable[[str], str]) -> list[dict[str, Any]]:
    """Returns a kept reward with every model and file that it names as `move` says; raises as `load_reward` does."""
    moved = []
    for term in kept:
        settings, values = _settings(term), dict(term["settings"])
        values |= {model.key: move(model.name) for model in settings.models() if values.get(model.key) == model.name}
        for key, field in type(settings).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, BesideRecipe) and isinstance(values.get(key), str):
                    values[key] = mark.located(values[key], move)
        moved.append({**term, "settings": values})
    return moved


def _settings(term: Mapping[str, Any]) -> SourceSettings:
    """The settings of one scorer of a kept reward."""
    kind = SCORERS.load(term["kind"], "reward")
    try:
        return kind.reward.model_validate_json(json.dumps(term["settings"]))  # type: ignore[no-any-return]
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ScorerError(f"the {term['kind']} that scored when this was saved cannot be had again: {said}") from error
