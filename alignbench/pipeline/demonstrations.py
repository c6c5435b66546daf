"""Demonstrations of a recipe: completions that its data hold, or chosen ones among those drawn as for pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.errors import DataError
from alignbench.pipeline.prompts import data_settings, prepare
from alignbench.pipeline.training_draws import Built, draws_of, paid_prompts
from alignbench.records import Completion, Demonstration, Prompt, Scorer
from datasets_prep.demonstrations import choose_demonstrations, read_demonstrations
from datasets_prep.prepared import PreparedData
from datasets_prep.settings import DemonstrationSettings, named_source
from datasets_prep.splits import apart_from, check_no_leak

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


def demonstrations(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer | None, data: PreparedData, heldout: Sequence[Prompt]
) -> Built[Demonstration]:
    """Returns what the policy is to imitate, as the `demonstrations:` block says.

    Args:
        recipe: The recipe.
        policy: The policy that training starts from.
        labeller: Scores the policy's own completions; None where the data hold them.
        data: The prompts of the recipe.
        heldout: The prompts of the evaluation. No demonstration may have one, nor any other that the data hold out:
            what builds on this run may be measured on more of them.
    """
    settings = recipe.demonstrations or DemonstrationSettings()
    if settings.take == "data":
        return _of_data(recipe, settings, policy, data, heldout).said_as("demonstrations")
    assert labeller is not None
    prompts = paid_prompts(recipe, data.train)
    drawn = draws_of(recipe, policy, labeller, prompts, "training")
    chosen, statistics = choose_demonstrations(prompts, drawn.completions, drawn.rewards, settings)
    return Built(tuple(chosen), statistics | {"n_cut": drawn.n_cut}, drawn).said_as("demonstrations")


def _of_data(
    recipe: Recipe,
    settings: DemonstrationSettings,
    policy: LanguageModel,
    data: PreparedData,
    heldout: Sequence[Prompt],
) -> Built[Demonstration]:
    own, prompts, key = data_settings(recipe.data), data.train, "data.prompts"
    if settings.source is not None:
        key = "demonstrations.source"
        whole = {"validation_fraction": 0.0, "heldout_fraction": 0.0, "heldout": None}
        own = data_settings(named_source(settings.source).model_copy(update=whole))
        prompts = _apart(recipe, prepare(recipe, own, policy).train, (*data.validation, *data.heldout, *heldout))
    is_chat = recipe.chat is not None
    texts, statistics = read_demonstrations(own, settings, prompts, key=key, conversations=is_chat)
    found: list[Demonstration] = []
    n_of_prompt: Counter[str] = Counter()
    n_cut = 0
    for prompt, text in texts:
        completion = _completion(prompt, text, n_of_prompt[prompt.id], policy, settings.max_tokens)
        n_of_prompt[prompt.id] += 1
        if len(policy.encode_prompt(prompt)) <= policy.longest_prompt(len(completion.token_ids)):
            found.append(Demonstration(prompt, completion))
            n_cut += completion.finish_reason == "length"
    if not found:
        raise DataError(
            f"{key}: none of {len(texts)} demonstrations fits the policy's context; set demonstrations.max_tokens"
        )
    counts = {"n_too_long": len(texts) - len(found), "n_cut": n_cut, "n_demonstrations": len(found)}
    return Built(tuple(found), statistics | counts, None)


def _apart(recipe: Recipe, prompts: Sequence[Prompt], heldout: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts without those that are measured on, or LeakError: as `data.on_leak` says."""
    kept = tuple(apart_from(prompts, heldout)) if recipe.data.on_leak == "drop" else tuple(prompts)
    check_no_leak({"demonstrations.source": kept, "what is measured on": heldout})
    return kept


def _completion(prompt: Prompt, text: str, sample: int, policy: LanguageModel, most: int | None) -> Completion:
    """A text as if the policy had drawn it: cut after `most` tokens, or else ended by the token that says so."""
    token_ids = policy.text_tokenizer.encode(text)
    if most is not None and len(token_ids) > most:
        cut = token_ids[:most]
        return Completion(prompt.id, sample, policy.text_tokenizer.decode(cut), tuple(cut), "length")
    if policy.eos_id is None:
        return Completion(prompt.id, sample, text, tuple(token_ids), "length")
    return Completion(prompt.id, sample, text, (*token_ids, policy.eos_id), "eos")
