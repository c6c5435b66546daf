"""Quark: completions are imitated behind a token that says how good they are, and the best token is asked for.

Paper: Lu et al. 2022 (arXiv:2205.13636).

Objective: minimise -log pi(y | x, q) + kl_coef * KL(pi(. | x, q) || ref(. | x)) over all completions sampled so far,
each behind the token of its reward's quantile q. A step samples behind the token of the best quantile, adds to the
pool, sorts it anew, and trains on as many completions, equally many of each quantile.

Aggregation: mean over the tokens of a mini-batch. No ratio, no standard deviation. KL: exact, in the loss, weight 0.05,
in the direction of the authors' code; their text has the other one. Differences from the paper: no entropy term; the
tokens have embeddings alone, so that none can be written; a step trains on `batch_size` completions, `epochs` times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.methods.on_policy.config import GroupConfig, NonNegative
from alignbench.methods.on_policy.objective import Objective
from alignbench.methods.on_policy_run import FACTS, prepare, spend
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.rollout import Rollout
    from alignbench.models.control_tokens import ControlledModel


class AsksForTheBest:
    """A language model that reads the token of the best quantile before every prompt. Implements `records.Policy`."""

    def __init__(self, model: ControlledModel) -> None:
        self.model, self.best = model, len(model.embedding.controls) - 1

    def _asked(self) -> ControlledModel:
        self.model.control = self.best
        return self.model

    @property
    def spent(self) -> Cost:
        """What the model within has spent."""
        return self.model.spent

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples completions of prompts; the token is no part of them."""
        return self._asked().generate(prompts, decoding, n_samples, key)

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats, one float32 CPU tensor (len(token_ids),) per completion."""
        return self._asked().token_logprobs(prompts, completions)

    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of every word before each token: a float64 CPU tensor (len(token_ids), V) each."""
        return self._asked().next_token_logprobs(prompts, completions)

    def text_logprobs(self, texts: Sequence[str], max_tokens: int) -> list[Tensor] | None:
        """Log-probabilities in nats of texts that answer no prompt, and stand behind no token."""
        return self.model.text_logprobs(texts, max_tokens)

    def save(self, directory: Path) -> None:
        """Writes the model within, and the embeddings of the tokens."""
        from safetensors.torch import save_file

        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "quark")
        save_file({"controls": self.model.embedding.controls.detach().cpu()}, directory / "controls.safetensors")
        with self.model.words_alone():
            self.model.save(directory / "base")


def load_asking(directory: Path, load_part: Callable[[Path], Policy]) -> AsksForTheBest:
    """Reads what `AsksForTheBest.save` wrote."""
    from safetensors.torch import load_file

    from alignbench.models.control_tokens import ControlledModel
    from alignbench.models.language_model import LanguageModel

    base = load_part(directory / "base")
    assert isinstance(base, LanguageModel)
    controls = load_file(directory / "controls.safetensors")["controls"]
    return AsksForTheBest(ControlledModel(base, controls.to(base.device)))


@dataclass(frozen=True)
class Quark(GroupConfig, Objective):
    """Reward conditioning by tokens, step after step; the reference is the policy before training."""

    quantiles: Annotated[int, Field(ge=2)] = 5
    """Parts of equal size that the pool is sorted into by reward, each with a token of its own."""
    kl_coef: NonNegative = 0.05
    """Weight of the KL term of the loss."""
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = "exact"
    """Per-token estimator of the KL that is penalised; `exact` sums over the vocabulary."""
    kl_placement: Literal["reward", "loss"] = "loss"
    """As a term of the loss; there is no other place for it here."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes in each step over the completions that were drawn from the pool."""

    facts: ClassVar[Facts] = replace(
        FACTS,
        gives="policy",
        load_policy=load_asking,
        beside_its_models="In front of every prompt stands an embedding that is no word's, the last row of "
        "controls.safetensors.",
        longest_completion=lambda quark: quark.completion_tokens[1] + 1,
        tokens_before_a_prompt=lambda _quark, _policy: 1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        own_token = "the policy reads a token that ref does not"
        for name, got, expected, why in (
            ("kl_placement", self.kl_placement, "loss", own_token),
            ("shared_layers", self.shared_layers, 0, own_token),
            ("sharding", self.sharding, "none", "the embeddings of its tokens are no layer that can be sharded"),
        ):
            if got != expected:
                raise ValueError(f"{name}: got {got}, expected {expected}: {why}")
        self.require_whole_distributions("what is imitated was drawn by earlier policies, from other tokens than now")
        if self.reward_scaling != "none":
            raise ValueError(
                f"reward_scaling: got {self.reward_scaling}, expected none: the pool orders rewards of all steps, "
                "which running moments would scale differently from step to step"
            )

    def targets(self, rollout: Rollout, kl_coef: float) -> Targets:
        """All tokens weigh the same."""
        from alignbench.methods.on_policy.advantages import Targets

        return Targets(rollout.mask.float())

    def policy_loss(self, logprobs: Tensor, rollout: Rollout, targets: Targets) -> tuple[Tensor, Tensor]:
        """-log pi of each token."""
        return -logprobs, rollout.mask.new_zeros(rollout.mask.shape)

    def train(self, data: TrainData, run: RunContext) -> AsksForTheBest:
        """Spends the budget in steps of `batch_size` completions."""
        from alignbench.methods.on_policy.pool import PoolTrainer
        from alignbench.models.control_tokens import ControlledModel, new_controls

        n_steps = prepare(self, data, run)
        assert run.reward is not None
        policy = ControlledModel(run.policy, new_controls(run.policy, self.quantiles, run.seed))
        trainer = PoolTrainer(
            policy, run.reward.score, data.prompts, self, self, seed=run.seed, demonstrations=data.demonstrations
        )
        answers = AsksForTheBest(policy)
        spend(trainer, n_steps, run, "Quark", answers)
        return answers


plugin = Quark
