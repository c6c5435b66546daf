"""Decoding with a cache of fixed shape: the numbers of the cache that grows, in every case that rollouts meet."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from fixtures.cases import few_of_product

from alignbench.methods.on_policy.placement import OneProcess
from alignbench.models.forward import forward
from alignbench.models.language_model import LanguageModel
from alignbench.models.sampling import fixed_cache
from alignbench.models.sampling.capture import Capture
from alignbench.models.sampling.fixed_cache import cache_width
from alignbench.models.sampling.sampler import sample
from alignbench.models.sampling.token_draw import uniforms
from alignbench.records import Decoding, Prompt

FAMILIES = ("gpt2", "gpt_neo", "gptj", "pythia", "opt", "opt_350m", "llama", "mistral", "qwen2", "qwen3")
PROMPTS = ([5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19], [20])
LIMITS = (12, 3, 7, 1, 12, 9)
OPTIONS = {
    "plain": {},
    "no end before its time": {"min_new_tokens": 5},
    "truncated": {"min_new_tokens": 2, "temperature": 0.7, "top_k": 9, "top_p": 0.9},
}


def reasons(completions):
    return {one.finish_reason for one in completions}


def test_every_family_of_the_rule_is_tested(build):
    assert {build(name).model.config.model_type for name in FAMILIES} == fixed_cache.FAMILIES


FEW = [*((name, "truncated") for name in FAMILIES), ("gpt2", "plain"), ("gpt2", "no end before its time")]


@pytest.mark.parametrize(("name", "options"), few_of_product({name: name for name in FAMILIES}, OPTIONS, FEW))
def test_the_same_numbers_as_with_a_cache_that_grows(build, name, options, drawn, assert_same, decoders):
    policy = build(name)
    ends = next(
        i for i in range(28) if reasons(drawn(policy, static=False, eos_id=i, **options)[0]) == {"eos", "length"}
    )
    completions, (logprobs, _, _) = assert_same(policy, eos_id=ends, **options)
    assert decoders(policy)  # it was at work
    assert reasons(completions) == {"eos", "length"}
    assert logprobs.std() > 0.1  # a model that is sure of itself, or of nothing, would hide faults


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neo"])
def test_the_same_numbers_with_an_adapter_on_and_off(build, name, assert_same, decoders):
    policy = build(name, lora=True)
    _, (on, _, _) = assert_same(policy)
    with policy.adapter_off():
        _, (off, _, _) = assert_same(policy)
    assert not torch.allclose(on, off, atol=1e-2)
    assert len(decoders(policy)) == 2  # a graph has the adapter in it or not
    assert_same(policy)
    assert len(decoders(policy)) == 2


def test_a_decoder_serves_batch_after_batch_and_remembers_nothing(build, assert_same, decoders):
    policy = build("llama")
    assert_same(policy)
    assert_same(policy, prompts=[[21, 22, 23, 24, 25, 26, 27, 28]] * 6, seed=1)
    assert_same(policy, limits=(12, 12, 2, 2, 2, 2), seed=2)
    assert len(decoders(policy)) == 1
    assert_same(policy, prompts=PROMPTS[:2], limits=LIMITS[:2])  # of another shape
    assert_same(policy, captures=True, eos_id=None)  # by other rules
    assert len(decoders(policy)) == 3


def test_capture_is_left_out_where_nobody_asks(build, drawn, decoders):
    policy = build("gpt2")
    assert drawn(policy, static=True, captures=False) == drawn(policy, static=False, captures=False)
    [decoder] = decoders(policy).values()
    assert decoder.seen is None


def test_captured_numbers_are_0_behind_a_completion(build):
    capture = Capture(lambda hidden: hidden.float().sum(-1) + 1)
    u = uniforms((0,), [(str(i), 0) for i in range(6)], 12)
    completions = sample(
        build("gpt2").model, PROMPTS, LIMITS, u, Decoding(12), eos_id=1, pad_id=0, capture=capture, static=True
    )
    for row, one in enumerate(completions):
        for [kept] in (capture.logprobs, capture.values, capture.entropy):
            n = len(one.token_ids)
            assert kept[row, :n].all()
            assert not kept[row, n:].any()


def test_weights_that_move_in_place_are_followed(build, assert_same, decoders):
    policy = build("gpt2")
    _, (before, _, _) = assert_same(policy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.3 * parameter.roll(1, 0))
    _, (after, _, _) = assert_same(policy)
    assert not torch.allclose(before, after, atol=1e-2)
    assert len(decoders(policy)) == 1  # the same addresses, the same graph


def test_a_reference_that_stands_in_gets_a_graph_of_its_own(build, assert_same, decoders):
    policy = build("gpt2")
    as_reference = OneProcess(SimpleNamespace(model=policy.model)).snapshot()
    before, (reference, _, _) = assert_same(policy)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.3 * parameter.roll(1, 0))
    assert_same(policy)
    with as_reference():
        completions, (found, _, _) = assert_same(policy)
    assert completions == before
    torch.testing.assert_close(found, reference)
    assert len(decoders(policy)) == 2


def test_autocast_is_part_of_what_a_graph_is_good_for(build, drawn, assert_same, decoders):
    policy = build("llama")
    _, (plain, _, _) = assert_same(policy)
    with torch.autocast("cpu", torch.bfloat16):
        _, (mixed, _, _) = drawn(policy, static=True)
    assert not torch.equal(plain, mixed)
    assert len(decoders(policy)) == 2
    assert_same(policy)


def test_decoding_stops_when_all_have_ended(build, monkeypatch):
    policy, steps = build("gpt2"), []
    monkeypatch.setattr(fixed_cache.Decoder, "advance", lambda self, model: steps.append(self.step_once(model)))
    u = uniforms((0,), [(str(i), 0) for i in range(6)], 60)
    rows = sample(policy.model, PROMPTS, [2] * 5 + [50], u, Decoding(50), eos_id=None, pad_id=0, static=True)
    assert len(steps) == 49
    assert [len(row.token_ids) for row in rows] == [2] * 5 + [50]
    steps.clear()
    monkeypatch.setattr(fixed_cache, "NEVER", 1e4)  # now the ban makes the end certain
    rows = sample(policy.model, PROMPTS, [50] * 6, u, Decoding(50, 1), eos_id=1, pad_id=0, static=True)
    assert reasons(rows) == {"eos"}
    assert len(steps) == fixed_cache.CHECK_EVERY - 1


def test_logits_that_are_not_finite_are_reported(build, drawn):
    from alignbench.errors import ModelError

    policy = build("gpt2")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[3] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        drawn(policy, static=True)


# Which models and lengths have a cache of fixed shape.


@pytest.mark.parametrize("name", ["bloom"])
def test_families_without_proof_keep_a_cache_that_grows(build, name, assert_same, decoders):
    policy = build(name)
    assert cache_width(policy.model, 10) is None
    assert_same(policy)
    assert not decoders(policy)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoder_models_keep_caches_that_grow(build, name, assert_same, decoders):
    policy = build(name)
    assert cache_width(policy.model, 10) is None
    assert_same(policy)
    assert not decoders(policy)


def test_a_sequence_longer_than_a_local_window_keeps_a_cache_that_grows(family, drawn, assert_same, decoders):
    """GPT-Neo's local layers see 4 tokens here; the static cache has them see other ones."""
    model, tokenizer = family("gpt_neo")
    policy = LanguageModel(model.eval(), tokenizer, "gpt_neo")
    assert cache_width(model, 4) == 4
    assert cache_width(model, 5) is None
    assert_same(policy)
    assert not decoders(policy)
    model.config.window_size = 64  # a false claim: this is what the rule prevents
    expected, found = (drawn(policy, static=static) for static in (False, True))
    assert found[0] != expected[0]


def test_widths_are_rounded_within_the_model_s_positions(build):
    model = build("gpt2").model
    model.config.n_positions = 200
    assert [cache_width(model, n) for n in (1, 64, 65, 128, 129, 192, 193, 200)] == [
        64,
        64,
        128,
        128,
        192,
        192,
        193,
        200,
    ]
    model = build("mistral").model  # with a window of 64
    assert [cache_width(model, n) for n in (10, 64, 65)] == [64, 64, None]
    model.config._attn_implementation = "flash_attention_2"
    assert cache_width(model, 10) is None


def test_a_cpu_grows_its_cache_unless_told_otherwise(build, drawn, decoders):
    policy = build("gpt2")
    assert drawn(policy, static=None)[0] == drawn(policy, static=False)[0]
    assert not decoders(policy)


# Memory.


def test_large_decoders_are_not_kept(build, monkeypatch, drawn, assert_same, decoders):
    policy = build("gpt2")
    drawn(policy, static=True)
    [decoder] = decoders(policy).values()
    # Keys and values of 2 layers, 2 heads of 8, in 64 columns; 16 hidden numbers, and 16 bytes of u and token.
    assert decoder.n_bytes == 6 * (2 * 2 * 2 * 8 * 64 * 4 + 64 * 4 + 12 * (16 * 4 + 16))
    monkeypatch.setattr(fixed_cache, "MAX_KEPT_BYTES", decoder.n_bytes + 100)
    drawn(policy, static=True, top_k=5)
    assert len(decoders(policy)) == 1  # the one that was used last
    monkeypatch.setattr(fixed_cache, "MAX_KEPT_BYTES", decoder.n_bytes - 1)
    assert_same(policy)
    assert not decoders(policy)


def test_decoders_go_with_their_model(build, drawn, decoders):
    policy = build("gpt2")
    drawn(policy, static=True)
    model, decoder = weakref.ref(policy.model), weakref.ref(next(iter(decoders(policy).values())))
    assert decoder() is not None
    del policy
    gc.collect()
    assert (model(), decoder()) == (None, None)


# Through the public interface.


@pytest.fixture
def statically(monkeypatch):
    """Has every draw go through the cache of fixed shape, as on a GPU."""

    def choose(model, *args, static=None, **kwargs):
        return sample(model, *args, static=True, **kwargs)

    def apply():
        monkeypatch.setattr("alignbench.models.language_model.sample", choose)

    return apply


def test_stop_strings(build, statically, decoders):
    policy = build("llama")
    prompts = [Prompt(f"p{i}", "the dog") for i in range(30)]
    decoding = Decoding(12, 1, stop_strings=("good", "bad", "red"))
    expected = policy.generate(prompts, decoding, 1, (0,))
    statically()
    assert policy.generate(prompts, decoding, 1, (0,)) == expected
    assert reasons(expected) >= {"stop", "length"}
    assert decoders(policy)


def test_equal_prompts_are_read_once(build, assert_same, monkeypatch):
    policy, n_rows = build("llama"), []

    def spied(model, tokens, *args, **options):
        n_rows.append(len(tokens))
        return forward(model, tokens, *args, **options)

    monkeypatch.setattr(fixed_cache, "forward", spied)
    assert_same(policy, prompts=[PROMPTS[2], PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[0], PROMPTS[1]])
    assert n_rows[:2] == [3, 6]
