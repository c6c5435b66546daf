"""Completions that a recipe has drawn and scored before training, and what is made of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from alignbench.errors import UsageError
from alignbench.pipeline.drawing import kept_draws
from alignbench.records import Cost, Prompt, Scorer, fingerprint
from alignbench.runtime.device import cache_directory
from alignbench.scorers.room import without_room
from datasets_prep.cache import Drawn

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Built(Generic[T]):
    """Training data of one kind, with what is known about them."""

    items: tuple[T, ...]
    statistics: Mapping[str, int | float]
    drawn: Drawn | None
    """The completions that they were made from; None where none were drawn."""
    further: Mapping[str, Cost] = field(default_factory=dict)
    """What was spent on them besides, by the names of its pieces."""
    told: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    """Rows for people to read, by the name of their file in the run's directory."""

    @property
    def cost(self) -> Cost:
        """What these completions have cost; whoever trains on the data is charged, cached or not."""
        return self.drawn.cost if self.drawn else Cost()

    def said_as(self, what: str) -> Built[T]:
        """Logs the statistics, and returns the data."""
        counts = ", ".join(f"{name} {value:.4g}" for name, value in self.statistics.items() if value)
        logger.info("%s: %s", what, counts)
        return self


def paid_prompts(recipe: Recipe, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """Returns as many prompts to draw for as are wanted, or as the budget pays for."""
    settings = recipe.pairs
    most = recipe.budget.completions // settings.completions_per_prompt
    if not 1 <= (settings.n_prompts or most) <= most:
        raise UsageError(
            f"budget.completions: got {recipe.budget.completions}, expected at least "
            f"{(settings.n_prompts or 1) * settings.completions_per_prompt}: pairs.completions_per_prompt times "
            "pairs.n_prompts, or times one prompt"
        )
    return prompts[: settings.n_prompts or most]


def draws_of(recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt], purpose: str) -> Drawn:
    """Returns completions of some prompts, drawn once and kept for all that learns from the same ones."""
    for lacking in without_room(labeller, policy, prompts, recipe.pairs.completion_tokens[1]):
        logger.warning("pairs.completion_tokens: %s and take no part", lacking)
    key, directory = (recipe.seed, "pairs", purpose), cache_directory() / "data"
    return kept_draws(policy, labeller, prompts, recipe.pairs, key, recipe.chat, directory)


def name_of(drawn: Drawn) -> str:
    """What draws are called among the pieces of upstream cost: one name for what was drawn once and used again.

    `pairs` whatever was made of them, so that a run on labelled completions and one on pairs share the piece.
    """
    content = [[one.prompt_id, one.text] for one in drawn.completions]
    cost = {key: amount for key, amount in dataclasses.asdict(drawn.cost).items() if amount or key not in _NAMED_LATER}
    return f"pairs {fingerprint([content, cost])}"


_NAMED_LATER = frozenset({"judge_tokens", "money"})
"""Amounts that costs had not when the first names were given: at 0 they change none."""
