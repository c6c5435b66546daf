"""Demonstrations of a recipe: completions that its data hold, or chosen ones among those drawn as for pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alignbench.errors import DataError
from alignbench.pipeline.prompts import data_settings
from alignbench.pipeline.revisions import revised_demonstrations
from alignbench.pipeline.stored_texts import as_drawn, fits, prompts_of_source, source_of
from alignbench.pipeline.training_draws import Built, draws_of, paid_prompts
from alignbench.records import Cost, Demonstration, Prompt, Scorer
from alignbench.runtime.clock import measured
from alignbench.runtime.ledger import spending
from alignbench.scorers.base import cut_prompts
from datasets_prep.cache import Drawn
from datasets_prep.demonstrations import choose_demonstrations, read_demonstrations
from datasets_prep.prepared import PreparedData
from datasets_prep.scored_completions import mean
from datasets_prep.settings import DemonstrationSettings

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
        labeller: Scores completions; None where none is chosen by its reward.
        data: The prompts of the recipe.
        heldout: The prompts of the evaluation. No demonstration may have one, nor any other that the data hold out:
            what builds on this run may be measured on more of them.
    """
    if recipe.revisions is not None:
        assert labeller is not None
        return revised_demonstrations(recipe, policy, labeller, paid_prompts(recipe, data.train))
    settings = recipe.demonstrations or DemonstrationSettings()
    if settings.take == "data":
        found = _of_data(recipe, settings, policy, data, heldout)
        if settings.go_by_reward:
            assert labeller is not None
            found = _by_reward(found, settings, policy, labeller)
        return found.said_as("demonstrations")
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
        own = source_of(recipe, settings.source)
        prompts = prompts_of_source(recipe, own, policy, data, heldout, key=key)
    is_chat = recipe.chat is not None
    texts, statistics = read_demonstrations(own, settings, prompts, key=key, conversations=is_chat)
    found: list[Demonstration] = []
    n_of_prompt: Counter[str] = Counter()
    n_cut = 0
    for prompt, text in texts:
        completion = as_drawn(prompt, text, n_of_prompt[prompt.id], policy, settings.max_tokens)
        n_of_prompt[prompt.id] += 1
        if fits(prompt, completion, policy):
            found.append(Demonstration(prompt, completion))
            n_cut += completion.finish_reason == "length"
    if not found:
        raise DataError(
            f"{key}: none of {len(texts)} demonstrations fits the policy's context; set demonstrations.max_tokens"
        )
    counts = {"n_too_long": len(texts) - len(found), "n_cut": n_cut, "n_demonstrations": len(found)}
    return Built(tuple(found), statistics | counts, None)


def _by_reward(
    found: Built[Demonstration], settings: DemonstrationSettings, policy: LanguageModel, labeller: Scorer
) -> Built[Demonstration]:
    """Scores completions of data, and leaves those within `min_reward` and `max_reward`."""
    asked = [one.prompt.text for one in found.items], [one.completion.text for one in found.items]
    cost = Cost()
    with measured(cost, policy.device), spending(labeller) as spent:
        rewards = labeller.score(*asked)
    cost.charge(replace(spent, reward_calls=len(rewards)))
    kept = [
        (one, reward)
        for one, reward in zip(found.items, rewards, strict=True)
        if reward is not None and settings.holds_reward(reward)
    ]
    n_unscored = sum(reward is None for reward in rewards)
    n_outside = len(rewards) - n_unscored - len(kept)
    if not kept:
        known = [reward for reward in rewards if reward is not None]
        theirs = f"; theirs go from {min(known):g} to {max(known):g}" if known else ""
        raise DataError(
            f"demonstrations: none of {len(rewards)} completions of the data is left: {n_unscored} have no score, "
            f"{n_outside} are outside of demonstrations.min_reward and max_reward{theirs}"
        )
    counts = {"n_unscored": n_unscored, "n_outside_rewards": n_outside, "n_demonstrations": len(kept)}
    means = {"mean_reward": mean(reward for _, reward in kept)}
    completions = tuple(one.completion for one in found.items)
    drawn = Drawn(completions, tuple(rewards), sum(cut_prompts(labeller, *asked)), cost)
    return Built(tuple(one for one, _ in kept), {**found.statistics, **counts, **means}, drawn)
