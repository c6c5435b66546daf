"""The layers of a language model from within: what they give, and what is added to it.

Shapes: n texts of t completion tokens, h hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignbench.errors import ModelError
from alignbench.models.flops import tokens_of, weights_of
from alignbench.models.forward import base_model, completion_forward
from alignbench.models.sampling.side_by_side import SideBySide
from alignbench.records import Completion, Cost, Prompt

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


class Hooked(SideBySide):
    """One network, in the place of several: sampled by its own steps, in no recorded graph, so that hooks act."""

    def combined(self, logits: Sequence[Tensor]) -> Tensor:
        """Its logits."""
        return logits[0]


def blocks_of(model: Any) -> list[nn.Module]:
    """The layers of a causal model, from the embeddings up: its longest list of modules, as many as it says it has."""
    inner = base_model(model)
    n = inner.config.get_text_config().num_hidden_layers
    lists = [one for one in inner.modules() if isinstance(one, nn.ModuleList) and len(one) == n]
    if not lists:
        raise ModelError(f"{type(inner).__name__} has no list of its {n} layers, which are to be looked into")
    return list(lists[0])


@torch.no_grad()
def mean_states(
    policy: LanguageModel, prompts: Sequence[Prompt], completions: Sequence[Completion], layers: Sequence[int]
) -> dict[int, Tensor]:
    """What layers give for each completion, (n, h) float64 on the CPU, mean over its tokens; by layer.

    The passes are counted in what the policy has spent.
    """
    blocks = blocks_of(policy.model)
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, len(completions), policy.batch_size):
        rows = slice(start, start + policy.batch_size)
        batch = policy.batch(prompts[rows], completions[rows])
        t = batch.completion_mask.shape[1]
        with _outputs({layer: blocks[layer] for layer in layers}) as outputs:
            completion_forward(policy.model, batch)
        policy.spent.charge(Cost(forward_flops=weights_of(policy.model).flops(tokens_of(batch))))
        # The last token is not read: the state after it predicts nothing. One that stands alone has that before it.
        read = batch.completion_mask.clone()
        read[:, 0] = False
        first = batch.completion_mask.sum(dim=1) == 1
        read[first, 0] = True
        weights = read.double() / read.sum(dim=1, keepdim=True)
        for layer, states in outputs.items():
            found[layer].append(torch.einsum("nt,nth->nh", weights, states[:, -t:].double()).cpu())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


@contextmanager
def _outputs(blocks: dict[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Within the block the yielded mapping gets what each of some layers has last given, (b, s, h)."""
    given: dict[int, Tensor] = {}

    def keeping(layer: int) -> Any:
        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            given[layer] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [block.register_forward_hook(keeping(layer)) for layer, block in blocks.items()]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def added(block: nn.Module, vector: Tensor) -> Iterator[None]:
    """Within the block a vector (h,) is added to what a layer gives, at every position; after it there is no trace."""

    def add(_module: nn.Module, _inputs: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
