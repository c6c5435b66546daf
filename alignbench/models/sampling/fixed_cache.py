"""Decoding with a key-value cache of fixed shape, so that one step can be a CUDA graph.

A step that a program launches kernel by kernel costs a GPU some hundred launches a token, each longer than the work
of a small model. Here everything that a step reads or writes lies in buffers that never move: the step is recorded
once as a CUDA graph and replayed for every token, without a look at the device in between. Without a GPU, or where
recording fails, the same step runs kernel by kernel and gives the same numbers.

A fixed shape has its price: the attention of a step always reads the whole cache, and rows that have ended stay in
the batch until all have. Both should be small on a GPU, where a step of few rows takes as long as reading the weights.

Not yet run on a GPU: there the graph, pinned memory and `AllEnded` are untested (docs/ppo.md).

Shapes: b sequences, p prompt positions, t completion positions, V words, w columns of the cache, h hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from alignbench.models.forward import SequenceBatch, base_model, forward, position_ids
from alignbench.models.sampling.side_by_side import networks_of
from alignbench.models.sampling.token_draw import NEVER, at_temperature, draw, logprob_and_entropy

if TYPE_CHECKING:
    from alignbench.models.sampling.capture import Capture
    from alignbench.records import Decoding

logger = logging.getLogger(__name__)

FAMILIES = frozenset({"gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3"})
"""Model types that are tested to give the same numbers with a cache of fixed shape. Bloom is none of them: it derives
positions from a mask that grows; nor are encoder-decoder models, whose decoder reads two caches."""
_ROUND_TO = 64
"""Caches are as wide as the next multiple, so that batches of other prompts use the same graph."""
CHECK_EVERY = 8
"""Steps between looks at whether every completion has ended."""
MAX_KEPT_BYTES = 2**30
"""Decoders are kept for the next batch up to this size together; a larger one is recorded anew for every batch."""


def cache_width(model: nn.Module, n_tokens: int) -> int | None:
    """Columns of the cache for sequences of this many tokens; None where the model needs a cache that grows.

    That is several networks side by side, a family not in `FAMILIES`, attention that takes no mask of scores (flash
    attention), weights that are spread over processes, and sequences longer than the window of a layer with local
    attention: the window of GPT-Neo's layers is at the end of the cache, whether that is filled or not.
    """
    if networks_of(model):
        return None
    config = base_model(model).config
    if config.model_type not in FAMILIES or config._attn_implementation not in ("sdpa", "eager"):
        return None
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        return None
    shortest = min(_windows(config), default=n_tokens)
    if n_tokens > shortest:
        return None
    rounded = -(-n_tokens // _ROUND_TO) * _ROUND_TO
    return rounded if rounded <= min((config.max_position_embeddings, *_windows(config))) else n_tokens


def _windows(config: Any) -> Iterable[int]:
    """The windows of layers with local attention, in tokens."""
    if "local" in getattr(config, "attention_layers", ()):
        yield config.window_size
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if window is not None and (kinds is None or "sliding_attention" in kinds):
        yield window


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fixed in a decoder's buffers and in its graph."""

    n: int
    """Sequences."""
    width: int
    """Columns of the cache."""
    longest: int
    """Tokens that there is room for in a completion."""
    decoding: Decoding
    ends: tuple[int, ...]
    """The tokens that end a completion."""
    pad_id: int
    captures: bool
    """True where log-probabilities, entropies and hidden states are wanted."""


@torch.no_grad()
def decode(
    model: nn.Module,
    batch: SequenceBatch,
    owners: Tensor,
    longest: int,
    limits: Tensor,
    u: Tensor,
    plan: Plan,
    capture: Capture | None,
) -> tuple[list[list[int]], bool]:
    """Samples completions for the prompts of a batch, whose completions are empty.

    Args:
        model: A causal model that `cache_width` has a width for.
        batch: The prompts, each one once.
        owners: The prompt of every row, (b,).
        longest: The largest of the limits.
        limits: The most tokens of each completion, (b,).
        u: Uniform numbers, (b, >= t).
        plan: Shapes and rules.
        capture: Takes in what sampling sees.

    Returns:
        Tokens (b, t), `pad_id` after the end; whether all probabilities were finite.
    """
    prompts, mask = batch.input_ids[:, :-1], batch.attention_mask[:, :-1]  # without the column for no completion
    output = forward(model, prompts, mask, position_ids(mask), 1, use_cache=True, output_hidden_states=plan.captures)
    past, logits = output.past_key_values, output.logits[:, -1][owners]
    hidden = output.hidden_states[-1][:, -1][owners] if plan.captures else None
    del output
    if len(batch) < plan.n:  # equal prompts are read once
        past.batch_select_indices(owners)
        mask = mask[owners]
    key = (plan, past.layers[0].keys.dtype, _state_of(model))
    decoder = kept_decoders(model).pop(key, None) or Decoder(plan, past, hidden, model)
    decoder.begin(past, mask, limits, u)
    decoder.take(logits, hidden)
    del past
    ended = AllEnded(decoder.finished)
    for step in range(1, longest):
        if step % CHECK_EVERY == 0 and ended.look():
            break
        decoder.advance(model)
    if capture is not None:
        decoder.fill(capture)
    outcome = decoder.drawn.tolist(), bool(decoder.is_finite)  # the device is done, so the graph may go
    _keep(model, key, decoder)
    return outcome


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is captured of every token, unread where `is_drawn` is False."""

    logprobs: Tensor
    """(b, t)."""
    entropy: Tensor
    """(b, t)."""
    hidden: Tensor
    """(b, t, h)."""


class Decoder:
    """Buffers of fixed shape for one batch after another, and the graph of a step over them."""

    def __init__(self, plan: Plan, past: Any, hidden: Tensor | None, model: nn.Module) -> None:
        from alignbench.models.sampling.static_cache import static_cache

        keys = past.layers[0].keys
        device, shape = keys.device, (plan.n, plan.longest)
        self.plan = plan
        self.cache = static_cache(past, plan.width)
        self.hides = torch.finfo(keys.dtype).min
        self.mask = torch.zeros((plan.n, 1, 1, plan.width), dtype=keys.dtype, device=device)
        """Added to the scores of attention: 0 on columns that are read."""
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        """The column of the cache that is written next."""
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        """The position of the completion that is drawn next."""
        self.position = torch.zeros((plan.n, 1), dtype=torch.long, device=device)
        self.token = torch.zeros((plan.n, 1), dtype=torch.long, device=device)
        """The last one, with its position in the sequence."""
        self.limits = torch.zeros(plan.n, dtype=torch.long, device=device)
        self.u = torch.zeros(shape, dtype=torch.float64, device=device)
        self.finished = torch.zeros(plan.n, dtype=torch.bool, device=device)
        self.is_finite = torch.ones((), dtype=torch.bool, device=device)
        self.drawn = torch.zeros(shape, dtype=torch.long, device=device)
        self.is_drawn = torch.zeros(shape, dtype=torch.bool, device=device)
        self.seen: _Seen | None = None
        if hidden is not None:
            states = torch.zeros((*shape, hidden.shape[-1]), dtype=hidden.dtype, device=device)
            self.seen = _Seen(torch.zeros(shape, device=device), torch.zeros(shape, device=device), states)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records_steps = device.type == "cuda" and model not in NOT_RECORDABLE
        self._is_warm = False

    def begin(self, past: Any, prompt_mask: Tensor, limits: Tensor, u: Tensor) -> None:
        """Takes over the keys and values of prompts (b, p), and forgets the batch before."""
        from alignbench.models.sampling.static_cache import refill

        refill(self.cache, past)
        p = prompt_mask.shape[1]
        self.mask.fill_(self.hides)
        self.mask[:, 0, 0, :p].masked_fill_(prompt_mask.bool(), 0.0)
        self.column.fill_(p)
        self.step.zero_()
        self.position.copy_(prompt_mask.sum(dim=1, keepdim=True) - 1)
        self.limits.copy_(limits)
        self.u[:, : u.shape[1]].copy_(u[:, : self.plan.longest])
        self.drawn.fill_(self.plan.pad_id)
        self.is_finite.fill_(True)
        self.finished.zero_()
        self.is_drawn.zero_()

    def advance(self, model: nn.Module) -> None:
        """Reads the last token and draws the next one of every row.

        The first time it is run kernel by kernel, so that libraries are ready; then it is recorded.
        """
        if self.graph is None and self.records_steps and self._is_warm:
            self.graph = _record(lambda: self.step_once(model))
            if self.graph is None:
                self.records_steps = False
                NOT_RECORDABLE.add(model)
        if self.graph is not None:
            self.graph.replay()
        else:
            self.step_once(model)
            self._is_warm = True

    def step_once(self, model: nn.Module) -> None:
        """Takes a step outside of any graph."""
        self.mask.index_fill_(3, self.column, 0.0)
        self.position += 1
        output = forward(
            model, self.token, self.mask, self.position, 1,
            past_key_values=self.cache, use_cache=True, output_hidden_states=self.plan.captures,
        )  # fmt: skip
        self.column += 1
        self.take(output.logits[:, -1], output.hidden_states[-1][:, -1] if self.plan.captures else None)

    def take(self, logits: Tensor, hidden: Tensor | None) -> None:
        """Draws a token of every row that has not ended from logits (b, V), and keeps what is wanted of it."""
        plan, ended = self.plan, self.finished
        scaled = at_temperature(logits, plan.decoding)
        for end in plan.ends if plan.decoding.min_new_tokens else ():
            scaled[:, end].masked_fill_(self.step < plan.decoding.min_new_tokens, NEVER)
        token, probabilities = draw(scaled, self.u.index_select(1, self.step).squeeze(1), plan.decoding)
        self.is_finite &= probabilities.sum().isfinite()
        columns = [(self.drawn, token.masked_fill(ended, plan.pad_id)), (self.is_drawn, ~ended)]
        if self.seen is not None:
            assert hidden is not None
            logprob, entropy = logprob_and_entropy(token, scaled, probabilities)
            columns += [(self.seen.logprobs, logprob), (self.seen.entropy, entropy), (self.seen.hidden, hidden)]
        for buffer, value in columns:
            buffer.index_copy_(1, self.step, value.unsqueeze(1))
        self.token.copy_(token.unsqueeze(1))
        self.step += 1
        self.finished |= self.limits == self.step
        for end in plan.ends:
            self.finished |= token == end

    def fill(self, capture: Capture) -> None:
        """Gives away copies of what was captured; values are computed here, of all positions at once."""
        assert self.seen is not None
        seen = self.seen
        values = torch.zeros_like(seen.entropy) if capture.values_of is None else capture.values_of(seen.hidden)
        lists = (capture.logprobs, capture.entropy, capture.values)
        for kept, found in zip(lists, (seen.logprobs, seen.entropy, values), strict=True):
            kept.append(found.masked_fill(~self.is_drawn, 0.0))

    @property
    def n_bytes(self) -> int:
        """Size of the buffers; the memory of the graph's own comes on top."""
        layers = chain.from_iterable((layer.keys, layer.values) for layer in self.cache.layers)
        own = (self.mask, self.u, self.drawn, *((self.seen.hidden,) if self.seen is not None else ()))
        return sum(tensor.numel() * tensor.element_size() for tensor in chain(layers, own))


def _record(step: Any) -> torch.cuda.CUDAGraph | None:
    """The CUDA graph of a step that has run before; None, with a warning, where it cannot be recorded.

    Under autocast the graph converts the weights itself: a converted copy from outside would be of old weights.
    """
    dtype, is_mixed = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    try:
        graph = torch.cuda.CUDAGraph()
        with (
            torch.autocast("cuda", dtype, enabled=is_mixed, cache_enabled=False),
            # Other threads may go on working, a reward function say.
            torch.cuda.graph(graph, capture_error_mode="thread_local"),
        ):
            step()
    except RuntimeError as error:
        logger.warning("decoding goes without a CUDA graph: %s", str(error).partition("\n")[0])
        return None
    return graph


class AllEnded:
    """Tells whether all rows have ended, without letting the device run out of work.

    A look at a GPU answers for the moment of the look before: the steps since then keep it busy while the host waits.
    """

    def __init__(self, finished: Tensor) -> None:
        self._finished = finished
        self._asked: tuple[Tensor, torch.cuda.Event] | None = None

    def look(self) -> bool:
        """Returns the answer, and asks for the next one."""
        if self._finished.device.type != "cuda":
            return bool(self._finished.all())
        before = self._asked
        answer = torch.empty((), dtype=torch.bool, pin_memory=True)
        answer.copy_(self._finished.all(), non_blocking=True)
        self._asked = answer, torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._asked[1].record()
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])


_Kept = dict[Any, Decoder]
_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
NOT_RECORDABLE: WeakSet[nn.Module] = WeakSet()


def kept_decoders(model: nn.Module) -> _Kept:
    """The decoders of a model, the last used one last."""
    return _KEPT.setdefault(model, {})


def _keep(model: nn.Module, key: Any, decoder: Decoder) -> None:
    kept = kept_decoders(model)
    kept[key] = decoder
    while sum(one.n_bytes for one in kept.values()) > MAX_KEPT_BYTES:
        kept.pop(next(iter(kept)))


def _state_of(model: nn.Module) -> tuple[Any, ...]:
    """What else a graph is good for alone: where the weights are, which adapters are at work, mode and precision.

    Weights that are updated in place stay where they are. Those of a reference in the policy's place do not.
    """
    places = tuple(tensor.data_ptr() for tensor in chain(model.parameters(), model.buffers()))
    layers: Iterable[Any] = (module for module in model.modules() if hasattr(module, "merged_adapters"))
    adapters = tuple(
        (layer.disable_adapters, tuple(layer.active_adapters), tuple(layer.merged_adapters)) for layer in layers
    )
    device = next(model.parameters()).device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return places, adapters, model.training, precision
