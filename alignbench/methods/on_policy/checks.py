"""What must hold before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from alignbench.errors import TrainingError
from alignbench.methods.on_policy.rewards import masked_mean
from alignbench.records import Prompt
from alignbench.runtime import distributed

if TYPE_CHECKING:
    from alignbench.methods.on_policy.rollout import Rollout
    from alignbench.models.language_model import LanguageModel


def check_reference(rollout: Rollout) -> None:
    """Before any update policy and reference are the same model, so KL must be 0."""
    difference = masked_mean((rollout.policy_logprobs - rollout.reference_logprobs).abs(), rollout.mask).item()
    if not difference <= 1e-4:
        raise TrainingError(
            f"before the first update policy and reference differ by {difference:.2e} nats per token on average, "
            "expected at most 1e-4: the policy's weights were changed after the trainer was built, or two passes "
            "over the same tokens differ (dropout or other noise in the model)"
        )


def check_equal(identity: Mapping[str, object]) -> None:
    """TrainingError where processes were given different work."""
    first, *others = distributed.gather(identity)
    for number, other in enumerate(others, start=1):
        differing = [key for key in first if first[key] != other[key]]
        if differing:
            raise TrainingError(f"process {number} has other {', '.join(differing)} than process 0: give all the same")


def check_prompts(policy: LanguageModel, prompts: Sequence[Prompt], n_new_tokens: int) -> None:
    """TrainingError where prompts cannot be told apart, ModelError where one leaves no room for its completion."""
    if not prompts:
        raise TrainingError("the trainer got no training prompts")
    for prompt in prompts:
        if not isinstance(prompt, Prompt):
            raise TrainingError(f"prompts: got {prompt!r}, expected alignbench.records.Prompt(id=..., text=...)")
    ids = Counter(prompt.id for prompt in prompts)
    twice, n = ids.most_common(1)[0]
    if n > 1:
        raise TrainingError(
            f"prompts: {n} have the id {twice!r}; expected different ids, because draws are keyed by them"
        )
    policy.check_context(prompts, [n_new_tokens])
