"""ProFS: the directions in which toxic text differs from other text are projected out of the weights.

Paper: Uppaal et al. 2024, "Model Editing as a Robust and Denoised variant of DPO" (arXiv:2405.13967); details as in
the authors' code.

Objective: at each of the upper layers, rows of differences T = H_rejected - H_preferred (one a pair) without the first
right singular vector u of H_preferred, T (I - u u^T); V, (h, k), its first `directions` right singular vectors; the
output weights of the layer's feed-forward part become (I - V V^T) W, the bias stays. No step is taken.

u, close to the direction of the mean state, comes first because text as such points its way: with it left in, the first
direction of T is close to it, and taking that out takes fluency along.

Differences from the paper: H is the mean over the tokens of a completion after its prompt; the code reads completions
without their prompts, padding included. The layers are the upper half unless `first_layer` says otherwise; the authors
took those from 10 of GPT-2 medium's 24, and from 15 of Mistral's 32, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models.language_model import LanguageModel


def toxic_directions(rejected: Tensor, preferred: Tensor, k: int) -> Tensor:
    """The first k directions of the difference of states (n, h) and (n, h), without the way of all text: (h, k)."""
    import torch

    way_of_text = torch.linalg.svd(preferred, full_matrices=False)[2][0]
    difference = rejected - preferred
    difference = difference - torch.outer(difference @ way_of_text, way_of_text)
    _, values, directions = torch.linalg.svd(difference, full_matrices=False)
    # What is left of no difference at all is rounding, and no direction.
    n_real = int((values > 1e-9 * max(float(rejected.norm()), 1e-30)).sum())
    kept: Tensor = directions[: min(k, n_real)].T.contiguous()
    return kept


@dataclass(frozen=True)
class Projected:
    """An edit of the upper feed-forward layers, by preference pairs."""

    directions: Annotated[int, Field(ge=0)] = 2
    """How many are projected out of each layer; 0 is the policy. The paper has 2 for GPT-2 and 10 for larger models."""
    first_layer: Annotated[int, Field(ge=0)] | None = None
    """The lowest layer that is edited, from 0; null: the upper half."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}), learns_from=frozenset({"preference_pairs"}), takes_steps=False
    )

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Reads both sides of all pairs, once, and edits the weights in place."""
        from alignbench.models.hidden_states import blocks_of, mean_states
        from alignbench.models.weight_projection import project_out
        from alignbench.runtime.ledger import spending

        blocks = blocks_of(run.policy.model)
        first = len(blocks) // 2 if self.first_layer is None else self.first_layer
        if first >= len(blocks):
            n = len(blocks)
            raise TrainingError(f"method.first_layer: got {first}, expected 0 to {n - 1}: the policy has {n} layers")
        layers, prompts = range(first, len(blocks)), [pair.prompt for pair in data.pairs]
        with spending(run.policy) as spent:
            preferred = mean_states(run.policy, prompts, [pair.chosen for pair in data.pairs], layers)
            rejected = mean_states(run.policy, prompts, [pair.rejected for pair in data.pairs], layers)
        run.ledger.book(None, "directions", spent)
        for layer in layers:
            project_out(blocks[layer], toxic_directions(rejected[layer], preferred[layer], self.directions))
        run.policy.is_as_loaded = False
        return run.policy


plugin = Projected
