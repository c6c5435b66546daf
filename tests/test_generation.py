"""The sampler: decoding against full passes, draws that depend on their key alone, the distribution it draws from."""

import math

import pytest
import torch

from alignbench.generation import (
    collate,
    completion_forward,
    inverse_cdf,
    position_ids,
    sampling_probabilities,
    token_logprobs,
    uniforms,
)
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt("a", "the dog"), Prompt("b", "a red bird sings"), Prompt("c", "two")]


def test_collate_by_hand():
    batch = collate([[5, 6], [7]], [[1, 2, 3], [4]], pad_id=9, device=torch.device("cpu"))
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 3], [9, 7, 4, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]
    assert batch.completion_mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.completion_ids.tolist() == [[1, 2, 3], [4, 9, 9]]


def test_positions_count_real_tokens():
    assert position_ids(torch.tensor([[0, 0, 1, 1, 1]])).tolist() == [[0, 0, 0, 1, 2]]


def test_token_logprobs_by_hand():
    logits = torch.tensor([[[1.0, 2.0, 3.0]]])
    expected = 2.0 - math.log(math.exp(1) + math.exp(2) + math.exp(3))
    assert token_logprobs(logits, torch.tensor([[1]])).item() == pytest.approx(expected)
    # Temperature 2 halves the logits.
    expected = 1.0 - math.log(math.exp(0.5) + math.exp(1) + math.exp(1.5))
    assert token_logprobs(logits, torch.tensor([[1]]), temperature=2.0).item() == pytest.approx(expected)


def test_padding_never_matters(tiny_policy):
    policy = tiny_policy()
    prompts = [policy.encode_prompt(prompt.text) for prompt in PROMPTS]
    completions = [[3, 4, 5], [6], [7, 8]]
    padded = collate(prompts, completions, pad_id=1, device=policy.device)
    with torch.no_grad():
        together, _ = completion_forward(policy.model, padded)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            # Oracle: the bare model on the bare sequence, no mask, no positions given.
            logits = policy.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            torch.testing.assert_close(together[row, : len(completion)], logits, rtol=1e-5, atol=1e-5)


def test_decoding_follows_the_full_pass(tiny_policy):
    """Every sampled token is the one that inverse-CDF sampling gives on the full pass with the same uniform number."""
    policy = tiny_policy()
    completions = policy.generate(PROMPTS, Decoding(6), 2, (0, "x"))
    repeated = [prompt for prompt in PROMPTS for _ in range(2)]
    batch = policy.batch(repeated, completions)
    with torch.no_grad():
        logits, _ = completion_forward(policy.model, batch)
    u = uniforms((0, "x"), [(c.prompt_id, c.sample) for c in completions], 6)
    for row, completion in enumerate(completions):
        for position, token in enumerate(completion.token_ids):
            probabilities = logits[row, position].double().softmax(-1).unsqueeze(0)
            assert inverse_cdf(probabilities, u[row, position].reshape(1)).item() == token


def test_draws_depend_on_the_key_alone(tiny_policy):
    decoding = Decoding(8)
    whole = tiny_policy().generate(PROMPTS, decoding, 3, (0, "x"))
    in_parts = tiny_policy(batch_size=2).generate(PROMPTS, decoding, 3, (0, "x"))
    backwards = tiny_policy().generate(PROMPTS[::-1], decoding, 3, (0, "x"))
    assert whole == in_parts
    assert sorted(whole, key=lambda c: (c.prompt_id, c.sample)) == sorted(
        backwards, key=lambda c: (c.prompt_id, c.sample)
    )
    assert whole != tiny_policy().generate(PROMPTS, decoding, 3, (1, "x"))
    # More samples leave the first ones as they were; a longer limit only adds to the end.
    assert [c for c in tiny_policy().generate(PROMPTS, decoding, 5, (0, "x")) if c.sample < 3] == whole
    longer = tiny_policy().generate(PROMPTS, Decoding(12), 3, (0, "x"))
    assert all(a.token_ids == b.token_ids[: len(a.token_ids)] for a, b in zip(whole, longer, strict=True))


def test_completions_end_at_eos_or_at_their_limit(tiny_policy):
    policy = tiny_policy()
    prompts = [Prompt(f"p{i}", "the") for i in range(200)]
    completions = policy.complete(prompts, [0] * 200, [3] * 100 + [7] * 100, Decoding(7), (0,))
    assert {c.finish_reason for c in completions} == {"eos", "length"}
    for completion, limit in zip(completions, [3] * 100 + [7] * 100, strict=True):
        if completion.finish_reason == "eos":
            assert completion.token_ids[-1] == policy.eos_id
            assert policy.eos_id not in completion.token_ids[:-1]
            assert completion.n_tokens == len(completion.token_ids) - 1
        else:
            assert completion.n_tokens == len(completion.token_ids) == limit
    longer = policy.generate(prompts, Decoding(7, min_new_tokens=4), 1, (0,))
    assert min(c.n_tokens for c in longer) >= 4


def test_inverse_cdf_by_hand():
    probabilities = torch.tensor([[0.2, 0.0, 0.5, 0.3]], dtype=torch.float64)
    drawn = [inverse_cdf(probabilities, torch.tensor([u])).item() for u in (0.0, 0.19, 0.2, 0.69, 0.71, 0.9999999)]
    assert drawn == [0, 0, 2, 2, 3, 3]


def test_sampling_frequencies():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    u = uniforms((0,), [("p", sample) for sample in range(20_000)], 1)[:, 0]
    counts = inverse_cdf(probabilities.expand(20_000, 4), u).bincount(minlength=4) / 20_000
    torch.testing.assert_close(counts.double(), probabilities, atol=0.012, rtol=0)  # four standard errors


def test_truncation_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    assert sampling_probabilities(logits, Decoding(1)).tolist()[0] == pytest.approx([0.5, 0.25, 0.15, 0.1])
    # top-k 2 keeps 0.5 and 0.25; top-p 0.7 needs both of them, top-p 0.5 only the first.
    assert sampling_probabilities(logits, Decoding(1, top_k=2)).tolist()[0] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert sampling_probabilities(logits, Decoding(1, top_p=0.7)).tolist()[0] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert sampling_probabilities(logits, Decoding(1, top_p=0.5)).tolist()[0] == pytest.approx([1, 0, 0, 0])
    # Temperature 1/2 squares the probabilities: 0.25, 0.0625, 0.0225, 0.01 over their sum 0.345.
    sharp = sampling_probabilities(logits, Decoding(1, temperature=0.5)).tolist()[0]
    assert sharp == pytest.approx([p / 0.345 for p in (0.25, 0.0625, 0.0225, 0.01)])
