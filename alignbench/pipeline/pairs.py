"""Draws completions from a policy and turns them into preference pairs, best against worst by a reward.

Pairs are kept on disk, under a key of all that decides them: the code that loads the policy, draws and labels, and the
versions of the libraries behind it, are part of that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from alignbench.code_hash import code_hash
from alignbench.errors import UsageError
from alignbench.evaluation.cutting import cut_prompts
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import weights_fingerprint
from alignbench.pipeline.prompt_limits import longest_trained_on
from alignbench.records import Cost, Decoding, HeldOut, PreferencePair, Prompt, Scorer
from alignbench.runtime.clock import measured
from alignbench.runtime.device import cache_directory, hardware_class
from alignbench.runtime.ledger import spending
from alignbench.runtime.progress import progress_bar
from alignbench.runtime.randomness import Key, generator
from alignbench.scorers.room import without_room
from datasets_prep.cache import BuiltPairs, cached_pairs
from datasets_prep.preference_pairs import build_pairs
from datasets_prep.prompt_lengths import prompt_length
from datasets_prep.settings import PairSettings

if TYPE_CHECKING:
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def training_pairs(recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]) -> BuiltPairs:
    """Returns preference pairs of as many prompts as are wanted, or as the budget pays for."""
    settings = recipe.pairs
    most = recipe.budget.completions // settings.completions_per_prompt
    if not 1 <= (settings.n_prompts or most) <= most:
        raise UsageError(
            f"budget.completions: got {recipe.budget.completions}, expected at least "
            f"{(settings.n_prompts or 1) * settings.completions_per_prompt}: pairs.completions_per_prompt times "
            "pairs.n_prompts, or times one prompt"
        )
    return _pairs(recipe, policy, labeller, prompts[: settings.n_prompts or most], "training")


def heldout_pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, heldout: HeldOut
) -> tuple[BuiltPairs, HeldOut]:
    """Returns pairs of all held-out prompts, whatever the budget, and the prompts that they were drawn for.

    A prompt that leaves no room for completions of pairs is left out, and counted.
    """
    longest, tokenizer = longest_trained_on(recipe, policy), policy.text_tokenizer
    prompts = tuple(prompt for prompt in heldout.prompts if prompt_length(tokenizer, prompt) <= longest)
    n_lost = len(heldout.prompts) - len(prompts)
    rows = heldout.rows
    if n_lost:
        reason = {f"longer than {longest} tokens, what completions of pairs leave of the context": n_lost}
        rows = replace(rows, left_out={**rows.left_out, **reason})
    return _pairs(recipe, policy, labeller, prompts, "held-out"), HeldOut(prompts, rows)


def _pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt], purpose: str
) -> BuiltPairs:
    """Preference pairs of some prompts, drawn once and kept for every method that wants the same ones."""
    for lacking in without_room(labeller, policy, prompts, recipe.pairs.completion_tokens[1]):
        logger.warning("pairs.completion_tokens: %s and take no part", lacking)
    key, directory = (recipe.seed, "pairs", purpose), cache_directory() / "data"
    built = kept_pairs(policy, labeller, prompts, recipe.pairs, key, recipe.chat, directory)
    counts = ", ".join(f"{name} {value:.4g}" for name, value in built.statistics.items() if value)
    logger.info("%s pairs: %s", purpose, counts)
    return built


def kept_pairs(
    policy: LanguageModel,
    labeller: Scorer,
    prompts: Sequence[Prompt],
    settings: PairSettings,
    draw_key: Key,
    chat: BaseModel | None,
    directory: Path | None,
) -> BuiltPairs:
    """Returns the pairs that `draw_pairs` draws of these prompts, from disk where the same were drawn before.

    Args:
        policy: Draws the completions.
        labeller: Scores them.
        prompts: All of them are drawn for.
        settings: The `pairs:` block; its `n_prompts` decides nothing here.
        draw_key: Fixes every draw.
        chat: The `chat:` block of the recipe.
        directory: Where pairs are kept; None keeps nothing.
    """
    key = {
        "prompts": [[*prompt.identity, policy.encode_prompt(prompt)] for prompt in prompts],
        "policy": weights_fingerprint(policy.model),
        "ends": policy.eos_ids,
        "labeller": labeller.fingerprint,
        "settings": settings.model_dump(mode="json", exclude={"n_prompts"}),
        "chat": chat,
        "draws": draw_key,
        "hardware": hardware_class(policy.device),
        "code": code_of_drawing(policy, labeller),
    }

    def build() -> BuiltPairs:
        cost = Cost()
        with measured(cost, policy.device):
            pairs, statistics = draw_pairs(policy, labeller, prompts, settings, draw_key, cost)
        return BuiltPairs(tuple(pairs), statistics, cost)

    return cached_pairs(directory, key, build)


def code_of_drawing(policy: object, labeller: object) -> str:
    """Hash of the code that draws from a policy, and labels with a scorer, which may be a sum of others."""
    parts = (policy, labeller, *(term.scorer for term in getattr(labeller, "terms", ())))
    return code_hash(__name__, *sorted({type(one).__module__ for one in parts}))


def draw_pairs(
    policy: LanguageModel, reward: Scorer, prompts: Sequence[Prompt], settings: PairSettings, key: Key, cost: Cost
) -> tuple[list[PreferencePair], Mapping[str, int | float]]:
    """Samples `completions_per_prompt` completions of every prompt, scores them, and pairs best with worst.

    Returns the pairs and the statistics of how they came about; adds the counts of the work to `cost`.
    """
    k = settings.completions_per_prompt
    shortest, longest = settings.completion_tokens
    decoding = Decoding(max_new_tokens=longest, temperature=settings.temperature)
    limits = generator(*key, "limits").integers(shortest, longest + 1, size=len(prompts) * k).tolist()
    per_call = max(1, policy.batch_size // k)
    completions = []
    texts = {prompt.id: prompt.text for prompt in prompts}
    with spending(policy, reward) as spent, progress_bar("drawing pairs", -(-len(prompts) // per_call)) as advance:
        for start in range(0, len(prompts), per_call):
            repeated = [prompt for prompt in prompts[start : start + per_call] for _ in range(k)]
            samples = list(range(k)) * (len(repeated) // k)
            rows = slice(start * k, start * k + len(repeated))
            completions += policy.complete(repeated, samples, limits[rows], decoding, key)
            advance()
        asked = [texts[c.prompt_id] for c in completions], [c.text for c in completions]
        rewards = reward.score(*asked)
    n = len(completions)
    cost.charge(replace(spent, prompts_seen=len(prompts), training_completions=n, reward_calls=n))
    pairs, statistics = build_pairs(prompts, completions, rewards, settings)
    return pairs, statistics | {"n_cut": sum(cut_prompts(reward, *asked))}
