"""What a method learns from, by the kinds that it asks for; prompts come with all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignbench.methods.base import TrainData, learned_kinds
from alignbench.pipeline.demonstrations import demonstrations
from alignbench.pipeline.labelled_completions import labelled_completions
from alignbench.pipeline.pairs import Pairs, training_pairs
from alignbench.pipeline.ranked_completions import ranked_completions
from alignbench.pipeline.training_draws import name_of
from alignbench.records import Cost, Prompt, Scorer
from datasets_prep.cache import Drawn
from datasets_prep.prepared import PreparedData

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class BuiltTrainData:
    """The training data of a run, and what they have cost."""

    data: TrainData
    pieces: Mapping[str, Cost]
    """What was drawn for them, to be charged; the same draws once, whatever was made of them."""
    pairs: Pairs | None
    """The pairs among them, with their statistics."""
    told: Mapping[str, Sequence[Mapping[str, object]]]
    """Rows for people to read, by the name of their file in the run's directory."""

    @property
    def prompts(self) -> Iterator[Prompt]:
        """Every prompt that is trained on, of sources beside `data.prompts` as well."""
        yield from self.data.prompts
        for items in (self.data.pairs, self.data.demonstrations):
            yield from (one.prompt for one in items)


def build_training_data(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer | None, data: PreparedData, heldout: Sequence[Prompt]
) -> BuiltTrainData:
    """Builds every kind of data that the method of a recipe learns from.

    Args:
        recipe: The recipe.
        policy: The policy that training starts from.
        labeller: Scores completions; None where `recipe.scores_for_training` is false.
        data: The prompts of the recipe.
        heldout: The prompts of the evaluation.
    """
    kinds = learned_kinds(recipe.method)
    pairs = labelled = ranked = shown = None
    if "preference_pairs" in kinds:
        pairs = training_pairs(recipe, policy, labeller, data, heldout)
    if "labelled_completions" in kinds:
        assert labeller is not None
        labelled = labelled_completions(recipe, policy, labeller, data.train)
    if "ranked_completions" in kinds:
        assert labeller is not None
        ranked = ranked_completions(recipe, policy, labeller, data.train)
    if "demonstrations" in kinds:
        shown = demonstrations(recipe, policy, labeller, data, heldout)
    made = [built for built in (pairs, labelled, ranked, shown) if built is not None]
    drawn: dict[str, Drawn] = {name_of(built.drawn): built.drawn for built in made if built.drawn}
    return BuiltTrainData(
        TrainData(
            data.train,
            data.validation,
            pairs=pairs.items if pairs else (),
            labelled_completions=labelled.items if labelled else (),
            ranked_completions=ranked.items if ranked else (),
            demonstrations=shown.items if shown else (),
            drawn_completions=sum(one.cost.training_completions for one in drawn.values()),
        ),
        {name: one.cost for name, one in drawn.items()}
        | {name: cost for one in made for name, cost in one.further.items()},
        pairs,
        {name: rows for one in made for name, rows in one.told.items()},
    )
