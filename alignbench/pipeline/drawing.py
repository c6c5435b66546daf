"""Draws completions for training from a policy and scores them: what pairs, labels and demonstrations are made from.

They are kept on disk, under a key of all that decides them: the code that loads the policy, draws and scores, and the
versions of the libraries that it uses, are part of that. All that is made of the same draws has them drawn once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from alignbench.code_hash import code_hash
from alignbench.models.fast.layers import choice
from alignbench.models.language_model import LanguageModel
from alignbench.pipeline.model_identity import identity_of, reading_of
from alignbench.records import Completion, Cost, Decoding, Prompt, Scorer
from alignbench.runtime.clock import measured
from alignbench.runtime.device import hardware_class
from alignbench.runtime.ledger import spending
from alignbench.runtime.progress import progress_bar
from alignbench.runtime.randomness import Key, generator
from alignbench.scorers.base import cut_prompts, parts_of
from datasets_prep.cache import Drawn, cached_draws
from datasets_prep.settings import PairSettings


def kept_draws(
    policy: LanguageModel,
    labeller: Scorer,
    prompts: Sequence[Prompt],
    settings: PairSettings,
    draw_key: Key,
    chat: BaseModel | None,
    directory: Path | None,
) -> Drawn:
    """Returns what `draw` draws of these prompts, from disk where the same was drawn before.

    Args:
        policy: Draws the completions.
        labeller: Scores them.
        prompts: All of them are drawn for.
        settings: The `pairs:` block; only how completions are drawn counts.
        draw_key: Fixes every draw.
        chat: The `chat:` block of the recipe.
        directory: Where draws are kept; None keeps nothing.
    """
    temperature = settings.temperature if settings.temperatures is None else settings.temperatures
    key = {
        "prompts": [[*prompt.identity, policy.encode_prompt(prompt)] for prompt in prompts],
        "policy": identity_of(policy),
        "labeller": [labeller.fingerprint, *map(reading_of, parts_of(labeller))],
        "settings": [settings.completions_per_prompt, settings.completion_tokens, temperature],
        "chat": chat,
        "draws": draw_key,
        "hardware": hardware_class(policy.device),
        "kernels": choice.rule(),
        "code": code_of_drawing(policy, labeller),
    }
    return cached_draws(directory, key, lambda: draw(policy, labeller, prompts, settings, draw_key))


def code_of_drawing(policy: object, labeller: object) -> str:
    """Hash of the code that draws from a policy, and labels with a scorer, which may be a sum of others."""
    parts = (policy, labeller, *parts_of(labeller))
    return code_hash(__name__, *sorted({type(one).__module__ for one in parts}))


def draw(policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt], settings: PairSettings, key: Key) -> Drawn:
    """Samples `completions_per_prompt` completions of every prompt, and scores them."""
    k = settings.completions_per_prompt
    shortest, longest = settings.completion_tokens
    limits = generator(*key, "limits").integers(shortest, longest + 1, size=len(prompts) * k).tolist()
    per_call = max(1, policy.batch_size // k)
    completions: list[Completion] = []
    texts = {prompt.id: prompt.text for prompt in prompts}
    cost = Cost()
    with (
        measured(cost, policy.device),
        spending(policy, labeller) as spent,
        progress_bar("drawing completions", -(-len(prompts) // per_call)) as advance,
    ):
        for start in range(0, len(prompts), per_call):
            repeated = [prompt for prompt in prompts[start : start + per_call] for _ in range(k)]
            samples = list(range(k)) * (len(repeated) // k)
            rows = slice(start * k, start * k + len(repeated))
            completions += _complete(policy, repeated, samples, limits[rows], settings, key)
            advance()
        asked = [texts[c.prompt_id] for c in completions], [c.text for c in completions]
        rewards = labeller.score(*asked)
    n = len(completions)
    cost.charge(replace(spent, prompts_seen=len(prompts), training_completions=n, reward_calls=n))
    return Drawn(tuple(completions), tuple(rewards), sum(cut_prompts(labeller, *asked)), cost)


def _complete(
    policy: LanguageModel,
    prompts: Sequence[Prompt],
    samples: Sequence[int],
    limits: Sequence[int],
    settings: PairSettings,
    key: Key,
) -> list[Completion]:
    """One completion per row; the samples of a prompt take the temperatures in turn, where there are several."""
    temperatures = settings.temperatures or (settings.temperature,)
    drawn: dict[int, Completion] = {}
    for i, temperature in enumerate(temperatures):
        rows = [row for row, sample in enumerate(samples) if sample % len(temperatures) == i]
        decoding = Decoding(max_new_tokens=settings.completion_tokens[1], temperature=temperature)
        asked = [prompts[row] for row in rows], [samples[row] for row in rows], [limits[row] for row in rows]
        drawn.update(zip(rows, policy.complete(*asked, decoding, key), strict=True))
    return [drawn[row] for row in range(len(samples))]
