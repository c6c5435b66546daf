"""The reward of a recipe as JSON, for a policy that asks it when it answers, and is saved with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alignbench.embedded import resolve
from alignbench.errors import ScorerError
from alignbench.plugins import SCORERS
from alignbench.records import Scorer
from alignbench.scorers.base import Place

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
        kind = SCORERS.load(term["kind"], "reward")
        try:
            settings = kind.reward.model_validate_json(json.dumps(term["settings"]))
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ScorerError(
                f"the {term['kind']} that scored when this was saved cannot be had again: {said}"
            ) from error
        scorer = settings.load(Place("reward", term["name"], policy.device, resolve, joint_of(policy)))
        terms.append(Term(term["name"], scorer, term["weight"]))
    return terms[0].scorer if len(terms) == 1 and terms[0].weight == 1.0 else WeightedSum(terms, name="reward")
