"""Draws completions from a policy and turns them into preference pairs, best against worst by a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from alignbench.language_model import LanguageModel
from alignbench.ledger import spending
from alignbench.records import Cost, Decoding, PreferencePair, Prompt, Scorer
from alignbench.runtime import Key, generator, progress_bar
from datasets_prep.preference_pairs import build_pairs
from datasets_prep.settings import PairSettings


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
        rewards = reward.score([texts[c.prompt_id] for c in completions], [c.text for c in completions])
    n = len(completions)
    cost.charge(replace(spent, prompts_seen=len(prompts), training_completions=n, reward_calls=n))
    return build_pairs(prompts, completions, rewards, settings)
