"""DExperts: at every token an expert is heard for, and an anti-expert against, what the policy would write.

Paper: Liu et al. 2021 (arXiv:2105.03023); settings and the order of steps as in the authors' code.

Objective: sample y_t from softmax(z + alpha (z_expert - z_anti)) over the tokens that nucleus sampling of the policy
itself would keep. The experts are runs of other recipes, such as `sft` on non-toxic and on toxic text. Nothing is
trained here; every token costs a pass of three models.

Differences from the paper: none in what is sampled. Log-probabilities are those of this distribution, so KL and
perplexity of the policy are measured, not bounded. The nucleus is the method's own: a protocol that samples from a
nucleus does not cut a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.logit_ensemble import LogitEnsemble

PARTS = ("base", "expert", "anti_expert")


class Contrast:
    """A language model between an expert and an anti-expert. Implements `records.Policy`."""

    def __init__(self, ensemble: LogitEnsemble) -> None:
        self.ensemble = ensemble

    @property
    def spent(self) -> Cost:
        """What the three models have spent."""
        return self.ensemble.spent

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples completions of prompts from the distribution of all three."""
        return self.ensemble.generate(prompts, decoding, n_samples, key)

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats, one float32 CPU tensor (len(token_ids),) per completion."""
        return self.ensemble.token_logprobs(prompts, completions)

    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of every word before each token: a float64 CPU tensor (len(token_ids), V) each."""
        return self.ensemble.next_token_logprobs(prompts, completions)

    def save(self, directory: Path) -> None:
        """Writes the three models, and how they are put together."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "dexperts", alpha=self.ensemble.alpha, top_p=self.ensemble.top_p)
        for name, part in zip(PARTS, self.ensemble.parts, strict=True):
            part.save(directory / name)


def load_contrast(directory: Path, load_part: Callable[[Path], Policy]) -> Contrast:
    """Reads what `Contrast.save` wrote."""
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.logit_ensemble import LogitEnsemble
    from alignbench.models.policy_file import read_policy_file

    record, parts = read_policy_file(directory), [load_part(directory / name) for name in PARTS]
    base, expert, anti_expert = (part for part in parts if isinstance(part, LanguageModel))
    return Contrast(LogitEnsemble(base, expert, anti_expert, record["alpha"], record["top_p"]))


@dataclass(frozen=True)
class DExperts:
    """The policy between the runs that `builds_on` names as `expert` and `anti_expert`."""

    alpha: Annotated[float, Field(ge=0)] = 2.0
    """How strongly the experts are heard; 0: not at all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The most likely tokens of the policy that together have this probability can be drawn; 1: all, and what the
    protocol cuts off is cut off of the whole."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        gives="policy",
        roles=frozenset({"policy", "expert", "anti_expert"}),
        load_policy=load_contrast,
        beside_its_models="The logits of the base are moved by alpha times the difference of expert and anti-expert, "
        "within the base's top-p; policy.json has both numbers.",
    )

    def train(self, data: TrainData, run: RunContext) -> Contrast:
        """Returns the three policies within another one."""
        from alignbench.models.logit_ensemble import LogitEnsemble

        expert, anti_expert = (run.load_language_model(role) for role in ("expert", "anti_expert"))
        return Contrast(LogitEnsemble(run.policy, expert, anti_expert, self.alpha, self.top_p))


plugin = DExperts
