"""A step as a CUDA graph.

That the host exchanges nothing with the device within a step, so that it can be recorded, is shown without a GPU on the
meta device, whose tensors have no values. The graph itself needs a GPU.
"""

import itertools
import logging
from contextlib import contextmanager

import pytest
import torch
from fixtures.cases import few_of

from alignbench.models.forward import forward, position_ids
from alignbench.models.sampling import fixed_cache
from alignbench.models.sampling.fixed_cache import Plan
from alignbench.records import Decoding

FAMILIES = ("gpt2", "gpt_neo", "gptj", "pythia", "opt", "opt_350m", "llama", "mistral", "qwen2", "qwen3")
PROMPTS = ([5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19], [20])
LIMITS = (12, 3, 7, 1, 12, 9)
OPTIONS = {
    "plain": {},
    "no end before its time": {"min_new_tokens": 5},
    "truncated": {"min_new_tokens": 2, "temperature": 0.7, "top_k": 9, "top_p": 0.9},
}


# What a GPU would meet, without one.


class _Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Raises where an operation has tensors of the host and of the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        places = {t.device.type for t in (*args, *(kwargs or {}).values(), result) if isinstance(t, torch.Tensor)}
        assert len(places) < 2, f"{function} exchanges data"
        return result


class _Constants(torch.overrides.TorchFunctionMode):
    """Raises where a number of the host becomes a tensor of the device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function is not torch.tensor, "a number exchanges places"
        return function(*args, **(kwargs or {}))


@contextmanager
def watched():
    """Within the block whatever could not be part of a CUDA graph raises.

    A value that is read, or a size that depends on values, does so by itself on a device without values.
    """
    with torch.no_grad(), _Constants(), _Operations():
        yield


@pytest.fixture
def without_values(build):
    """Makes a policy and a decoder in the middle of a batch, on a device whose tensors have no values."""

    @torch.no_grad()
    def make(name, *, lora=False, **options):
        model = build(name, lora=lora).model
        tokens = torch.ones((len(PROMPTS), 5), dtype=torch.long)
        output = forward(model, tokens, tokens, position_ids(tokens), 1, use_cache=True, output_hidden_states=True)
        past, logits, hidden = output.past_key_values, output.logits[:, -1], output.hidden_states[-1][:, -1]
        for layer in past.layers:
            layer.keys, layer.values = layer.keys.to("meta"), layer.values.to("meta")
        plan = Plan(len(PROMPTS), 64, 12, Decoding(12, **options), (1, 4), 0, True)
        decoder = fixed_cache.Decoder(plan, past, hidden.to("meta"), model.to("meta"))
        u = torch.empty((len(PROMPTS), 12), dtype=torch.float64, device="meta")
        decoder.begin(past, tokens.to("meta"), torch.empty(len(PROMPTS), dtype=torch.long, device="meta"), u)
        decoder.take(logits.to("meta"), hidden.to("meta"))
        return model, decoder

    return make


CASES = list(itertools.product(FAMILIES, OPTIONS, ("full", "lora")))
FEW = [*((name, "truncated", "full") for name in FAMILIES), ("gpt2", "truncated", "lora"), ("llama", "plain", "lora")]
FEW += [("gpt2", "plain", "full"), ("gpt2", "no end before its time", "full")]


@pytest.mark.parametrize(("name", "options", "weights"), few_of(CASES, FEW))
def test_a_step_exchanges_nothing_with_the_host(without_values, name, options, weights):
    model, decoder = without_values(name, lora=weights == "lora", **OPTIONS[options])
    with watched():
        decoder.step_once(model)
    assert decoder.drawn.is_meta


@pytest.mark.parametrize(
    ("exchange", "error"),
    [
        (lambda x: torch.tensor(1.0, device=x.device), "exchanges"),
        (lambda x: x + torch.ones(3).to(x.device), "exchanges"),
        (lambda x: torch.where(x > 0, x, torch.scalar_tensor(1.0)), "exchanges"),
        (lambda x: x[x > 0], "meta"),
        (lambda x: bool(x.any()), "meta"),
    ],
)
def test_what_the_watch_sees(exchange, error):
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError), match=error), watched():
        exchange(torch.empty(3, device="meta"))


def test_the_attention_of_transformers_would_not_do(without_values):
    """Of GPT-Neo: this is why it has an attention of our own."""
    from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

    model, decoder = without_values("gpt_neo")
    for module in model.modules():
        if isinstance(module, GPTNeoSelfAttention):
            module.__class__ = GPTNeoSelfAttention
    with pytest.raises(AssertionError, match="exchanges"), watched():
        decoder.step_once(model)


def test_where_recording_fails_decoding_goes_on_and_says_so_once(build, monkeypatch, caplog, assert_same):
    """Torch without CUDA refuses a graph as torch with CUDA refuses a step that cannot be recorded."""
    policy, make = build("gpt2"), fixed_cache.Decoder.__init__

    def as_on_a_gpu(self, plan, past, hidden, model):
        make(self, plan, past, hidden, model)
        self.records_steps = model not in fixed_cache.NOT_RECORDABLE

    monkeypatch.setattr(fixed_cache.Decoder, "__init__", as_on_a_gpu)
    with caplog.at_level(logging.WARNING):
        assert_same(policy)
        assert_same(policy, prompts=PROMPTS[:3], limits=LIMITS[:3])
    assert [record.message[:36] for record in caplog.records] == ["decoding goes without a CUDA graph: "]


# With a GPU.


@pytest.fixture
def graphs(decoders):
    """Gives the CUDA graphs that are kept of a policy."""
    return lambda policy: [decoder.graph for decoder in decoders(policy).values()]


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_graph_gives_the_same_numbers(build, assert_same, graphs, name, lora, options):
    policy = build(name, lora=lora)
    policy.model.cuda()
    assert_same(policy, **options)
    assert_same(policy, prompts=[[21, 22, 23, 24, 25, 26, 27, 28]] * 6, seed=1, **options)
    [graph] = graphs(policy)
    assert graph is not None


@pytest.mark.gpu
def test_a_graph_follows_weights_adapters_and_precision(build, drawn, assert_same, graphs):
    def assert_close_in_bfloat16():
        with torch.autocast("cuda", torch.bfloat16):
            (expected, before), (found, after) = (drawn(policy, static=static) for static in (False, True))
        alike = [one.token_ids[:2] == other.token_ids[:2] for one, other in zip(expected, found, strict=True)]
        assert sum(alike) >= 5  # of 6; rounding may move one
        torch.testing.assert_close(after[0][alike, :2], before[0][alike, :2], atol=0.1, rtol=0)

    policy = build("gpt2", lora=True)
    policy.model.cuda()
    assert_same(policy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.3 * parameter.roll(1, 0))
    assert_same(policy)
    with policy.adapter_off():
        assert_same(policy)
    assert_close_in_bfloat16()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(0.7)
    assert_close_in_bfloat16()  # a converted copy of the old weights would show
    assert len(graphs(policy)) == 3
    assert all(graph is not None for graph in graphs(policy))


@pytest.mark.gpu
def test_tokens_are_drawn_without_the_host_waiting(build, drawn, graphs, monkeypatch):
    """From the first token to the last; prompts before and results behind may make it wait, once for a batch."""
    policy = build("gpt2")
    policy.model.cuda()
    drawn(policy, static=True, limits=(40,) * 6, eos_id=None)
    assert graphs(policy) != [None]
    looks = []
    begin, fill, look = (
        fixed_cache.AllEnded.__init__,
        fixed_cache.Decoder.fill,
        fixed_cache.AllEnded.look,
    )

    def begins(self, finished):
        begin(self, finished)
        torch.cuda.set_sync_debug_mode("error")

    def ends(self, capture):
        torch.cuda.set_sync_debug_mode("default")
        fill(self, capture)

    monkeypatch.setattr(fixed_cache.AllEnded, "__init__", begins)
    monkeypatch.setattr(fixed_cache.Decoder, "fill", ends)
    monkeypatch.setattr(fixed_cache.AllEnded, "look", lambda self: looks.append(look(self)) or False)
    try:
        drawn(policy, static=True, limits=(40,) * 6, eos_id=None, seed=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert looks == [False] * 4


@pytest.mark.gpu
def test_decoding_takes_no_memory_that_it_does_not_keep(build, drawn, decoders):
    policy = build("gpt2")
    policy.model.cuda()
    for seed in range(2):
        drawn(policy, static=True, seed=seed)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for seed in range(5):
        drawn(policy, static=True, seed=seed)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    [decoder] = decoders(policy).values()
    assert decoder.n_bytes < 2**20
