"""The prompts and texts of a recipe: prepared, held out, neutral; and which of them are the protocol's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from alignbench.embedded import resolve
from alignbench.errors import DataError
from alignbench.evaluation.protocols import get_protocol
from alignbench.pipeline.prompt_limits import longest_measured, longest_trained_on
from alignbench.records import Prompt
from alignbench.runtime.device import cache_directory
from datasets_prep import splits
from datasets_prep.leaks import without_leaks
from datasets_prep.neutral_texts import check_unseen, read_texts
from datasets_prep.prepare import evaluation_settings, prepare_prompts, prompt_rows
from datasets_prep.prepared import HeldOut, PreparedData
from datasets_prep.settings import PromptSettings

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def prepared_prompts(recipe: Recipe, policy: LanguageModel) -> PreparedData:
    """Returns the prompts of the `data:` block in three splits, without what `data.on_leak` has left out."""
    data = prepare(recipe, recipe.data, policy, longest_trained_on(recipe, policy))
    if recipe.data.on_leak == "drop":
        other = _evaluation_prompts(recipe, policy)
        data = without_leaks(data, other.heldout if other else (), _neutral_texts(recipe))
    logger.info("prompts: %s", ", ".join(f"{name} {value}" for name, value in data.statistics.items() if value))
    return data


def heldout_prompts(recipe: Recipe, policy: LanguageModel, data: PreparedData) -> HeldOut:
    """Returns the prompts of the evaluation; never one that training may learn from. They ignore the method.

    Where the recipe evaluates on its validation split, these, and no held-out prompt is looked at.
    """
    evaluation, source, prompts = recipe.evaluation, data, data.heldout
    of_own_file = recipe.data.heldout is not None
    wanted = evaluation.n_prompts or get_protocol(evaluation.protocol).n_prompts
    if evaluation.split == "validation":
        if not data.validation:
            raise DataError("evaluation.split: got validation, and that split is empty; raise validation_fraction")
        prompts, of_own_file = data.validation, False
    elif (other := _evaluation_prompts(recipe, policy)) is not None:
        source, prompts, of_own_file = other, other.heldout, False
        splits.check_no_leak({"data.prompts": (*data.train, *data.validation), "evaluation.prompts": prompts})
    if evaluation.split != "validation" and evaluation.n_prompts is not None and len(prompts) < wanted:
        raise DataError(f"evaluation.n_prompts: got {wanted}, expected at most {len(prompts)}, the held-out prompts")
    rows = prompt_rows(source.statistics, longest_measured(recipe, policy), of_heldout=of_own_file)
    return HeldOut(prompts[:wanted], rows)


def neutral_texts(recipe: Recipe, data: PreparedData) -> tuple[str, ...]:
    """Returns the texts of `evaluation.neutral`; none is among the prompts that training may see."""
    texts = _neutral_texts(recipe)
    check_unseen(texts, (*data.train, *data.validation))
    return texts


def known_texts(
    recipe: Recipe, data: PreparedData, heldout: Sequence[Prompt], trained_on: Iterable[Prompt]
) -> tuple[set[str], dict[str, str]]:
    """Returns hashes of the texts that training could see, also of other sources, and of the held-out ones by id."""
    trains = recipe.method.facts.trains or bool(recipe.upstream_names())
    seen, held = splits.known_texts(data, heldout, trains=trains)
    return (seen | {splits.whole_text_hash(prompt) for prompt in trained_on}) if trains else seen, held


def prompts_source(recipe: Recipe) -> str | None:
    """Returns the name of the protocol's own prompts, where the evaluation takes these; None for any other choice."""
    evaluation = recipe.evaluation
    if evaluation.split == "validation":
        return None
    if evaluation.prompts is None:
        # Their held-out split, unless the recipe filters or cuts them.
        return "embedded" if recipe.data == PromptSettings(prompts="embedded") else None
    return evaluation.prompts if isinstance(evaluation.prompts, str) and recipe.data.template is None else None


def _evaluation_prompts(recipe: Recipe, policy: LanguageModel) -> PreparedData | None:
    """What `evaluation.prompts` names, all of it held out; None where it names nothing."""
    source = recipe.evaluation.prompts
    if source is None:
        return None
    try:
        return prepare(recipe, evaluation_settings(source), policy)
    except DataError as error:
        raise DataError(f"evaluation.prompts: {error}") from error


def _neutral_texts(recipe: Recipe) -> tuple[str, ...]:
    source = recipe.evaluation.neutral
    if source is None:
        return ()
    return read_texts(resolve("embedded/neutral") if source == "embedded" else source)


def data_settings(settings: PromptSettings) -> PromptSettings:
    """Returns settings with the path of the embedded prompts in the place of their name."""
    if settings.prompts != "embedded":
        return settings
    return settings.model_copy(update={"prompts": resolve("embedded/prompts")})


def prepare(
    recipe: Recipe, settings: PromptSettings, policy: LanguageModel, training_tokens: int | None = None
) -> PreparedData:
    """Returns prompts in the recipe's template, no longer than its evaluation leaves of the policy's context."""
    return prepare_prompts(
        data_settings(settings).model_copy(update={"template": recipe.data.template}),
        policy.text_tokenizer,
        context_tokens=longest_measured(recipe, policy),
        training_tokens=training_tokens,
        cache_directory=cache_directory() / "data",
    )
