"""Activation steering: a vector from unwanted to wanted text is added to what a layer gives.

Papers: Rimsky et al. 2023, "Steering Llama 2 via Contrastive Activation Addition" (arXiv:2312.06681); Turner et al.
2023 (arXiv:2308.10248).

Objective: h' = h + coefficient v at one layer, v the mean of h over preferred completions less that over rejected ones.
No step is taken and no weight changes: the vector is added by a hook, which is there while the policy answers and at no
other time.

Differences from the papers: v is the mean over the tokens of free completions, not the state at the letter of a
choice; it is added at every position, those of the prompt included, so that a token at a time and a pass over the whole
text are one policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.language_model import LanguageModel


class ByVector:
    """A language model with a vector added at one of its layers. Implements `records.Policy`."""

    def __init__(self, base: LanguageModel, layer: int, vector: Tensor, coefficient: float) -> None:
        """`vector` is (h,); `layer` counts from 0."""
        from alignbench.models.hidden_states import Hooked

        self.base, self.layer, self.vector, self.coefficient = base, layer, vector, coefficient
        self._sampled = base.with_model(Hooked([base.model]))  # no CUDA graph may keep the hook

    @contextmanager
    def _steering(self) -> Iterator[None]:
        from alignbench.models.hidden_states import added, blocks_of

        with added(blocks_of(self.base.model)[self.layer], self.coefficient * self.vector):
            yield

    @property
    def spent(self) -> Cost:
        """What the model within has spent; an addition is not counted."""
        return self.base.spent

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples completions of prompts, steered."""
        with self._steering():
            return self._sampled.generate(prompts, decoding, n_samples, key)

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats, one float32 CPU tensor (len(token_ids),) per completion."""
        with self._steering():
            return self.base.token_logprobs(prompts, completions)

    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of every word before each token: a float64 CPU tensor (len(token_ids), V) each."""
        with self._steering():
            return self.base.next_token_logprobs(prompts, completions)

    def text_logprobs(self, texts: Sequence[str], max_tokens: int) -> list[Tensor] | None:
        """Log-probabilities in nats of texts that answer no prompt, steered."""
        with self._steering():
            return self.base.text_logprobs(texts, max_tokens)

    def save(self, directory: Path) -> None:
        """Writes the model within, which is as it was, and the vector."""
        from safetensors.torch import save_file

        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "steered", layer=self.layer, coefficient=self.coefficient)
        save_file({"vector": self.vector.contiguous()}, directory / "vector.safetensors")
        self.base.save(directory / "base")


def load_steered(directory: Path, load_part: Callable[[Path], Policy]) -> ByVector:
    """Reads what `ByVector.save` wrote."""
    from safetensors.torch import load_file

    from alignbench.models.language_model import LanguageModel
    from alignbench.models.policy_file import read_policy_file

    record, base = read_policy_file(directory), load_part(directory / "base")
    assert isinstance(base, LanguageModel)
    vector = load_file(directory / "vector.safetensors")["vector"]
    return ByVector(base, record["layer"], vector, record["coefficient"])


@dataclass(frozen=True)
class Steered:
    """A contrastive vector of preference pairs, added at a layer."""

    coefficient: float = 1.0
    """How much of the vector is added; 0: nothing, below 0: towards what was rejected."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """Whose output it is added to, from 0; null: the middle one."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}),
        learns_from=frozenset({"preference_pairs"}),
        takes_steps=False,
        gives="policy",
        load_policy=load_steered,
        beside_its_models="To what a layer gives a vector is added; policy.json has the layer and how much of it.",
    )

    def train(self, data: TrainData, run: RunContext) -> ByVector:
        """Reads both sides of all pairs, once."""
        from alignbench.models.hidden_states import blocks_of, mean_states
        from alignbench.runtime.ledger import spending

        n = len(blocks_of(run.policy.model))
        layer = n // 2 if self.layer is None else self.layer
        if layer >= n:
            raise TrainingError(f"method.layer: got {layer}, expected 0 to {n - 1}: the policy has {n} layers")
        prompts = [pair.prompt for pair in data.pairs]
        with spending(run.policy) as spent:
            wanted, unwanted = (
                mean_states(run.policy, prompts, side, [layer])[layer]
                for side in ([pair.chosen for pair in data.pairs], [pair.rejected for pair in data.pairs])
            )
        run.ledger.book(None, "vector", spent)
        return ByVector(run.policy, layer, (wanted - unwanted).mean(dim=0).float(), self.coefficient)


plugin = Steered
