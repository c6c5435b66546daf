"""What training learns from a source of its own: its prompts, apart from all that is measured on, and its texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.errors import DataError
from alignbench.pipeline.prompts import data_settings, prepare
from alignbench.records import Completion, Prompt
from datasets_prep.answers import under_key
from datasets_prep.prepared import PreparedData
from datasets_prep.settings import PromptSettings, named_source
from datasets_prep.splits import apart_from, check_no_leak

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


def source_of(recipe: Recipe, source: str | PromptSettings) -> PromptSettings:
    """Returns the settings of a source that is taken whole for training, in the recipe's template."""
    whole = {"validation_fraction": 0.0, "heldout_fraction": 0.0, "heldout": None, "template": recipe.data.template}
    return data_settings(named_source(source).model_copy(update=whole))


def prompts_of_source(
    recipe: Recipe,
    settings: PromptSettings,
    policy: LanguageModel,
    data: PreparedData,
    heldout: Sequence[Prompt],
    *,
    key: str,
) -> tuple[Prompt, ...]:
    """Returns the prompts of another source, for training.

    Args:
        recipe: Its `data.on_leak` says what becomes of prompts that are held out, by `data` or for the evaluation.
        settings: Those of `source_of`.
        policy: Whose context they have to fit.
        data: The prompts of the recipe.
        heldout: The prompts of the evaluation. No prompt may be one, nor any other that the data hold out: what builds
            on this run may be measured on more of them.
        key: The recipe's key of the source.

    Raises:
        LeakError: One is, and is not to be dropped.
        DataError: No prompt is left, or the source cannot be read.
    """
    held = (*data.validation, *data.heldout, *heldout)
    try:
        prompts = prepare(recipe, settings, policy).train
    except DataError as error:
        raise under_key(error, key) from error
    kept = tuple(apart_from(prompts, held)) if recipe.data.on_leak == "drop" else prompts
    if not kept:
        raise DataError(f"{key}: every one of its {len(prompts)} prompts is held out or measured on")
    check_no_leak({key: kept, "what is measured on": held})
    return kept


def as_drawn(prompt: Prompt, text: str, sample: int, policy: LanguageModel, most: int | None) -> Completion:
    """A text as if the policy had drawn it: cut after `most` tokens, or else ended by the token that says so.

    A text that spells such a token, as data sets do that were written for one model, ends there.
    """
    token_ids = policy.text_tokenizer.encode(text)
    end = next((i for i, token in enumerate(token_ids) if token in policy.eos_ids), 0)
    if end:
        token_ids = token_ids[:end]
        text = policy.text_tokenizer.decode(token_ids)
    if most is not None and len(token_ids) > most:
        cut = token_ids[:most]
        return Completion(prompt.id, sample, policy.text_tokenizer.decode(cut), tuple(cut), "length")
    if policy.end_of_answer is None:
        return Completion(prompt.id, sample, text, tuple(token_ids), "length")
    return Completion(prompt.id, sample, text, (*token_ids, policy.end_of_answer), "eos")


def fits(prompt: Prompt, completion: Completion, policy: LanguageModel) -> bool:
    """True where a prompt and its completion have room in the policy's context."""
    return len(policy.encode_prompt(prompt)) <= policy.longest_prompt(len(completion.token_ids))
