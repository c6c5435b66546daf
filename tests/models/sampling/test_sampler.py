"""The sampler: decoding against full passes, draws that depend on their key alone, the distribution it draws from."""

import math

import pytest
import torch
from fixtures.distribution import sampling_probabilities

from alignbench.errors import ModelError
from alignbench.models.forward import collate, completion_forward, forward, position_ids, token_logprobs
from alignbench.models.sampling.capture import Sampled
from alignbench.models.sampling.growing_cache import has_plain_cache
from alignbench.models.sampling.sampler import sample
from alignbench.models.sampling.token_draw import inverse_cdf, sampling_support, uniforms
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


def test_minimum_length_bans_eos_before_truncation_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    decoding = Decoding(4, min_new_tokens=2, top_k=2)
    # Token 0 is the end: without it top-k 2 keeps 0.25 and 0.15, of which 0.625 and 0.375 are the shares.
    assert sampling_probabilities(logits, decoding, 0, 1).tolist()[0] == pytest.approx([0, 0.625, 0.375, 0])
    assert sampling_probabilities(logits, decoding, 0, 2).tolist()[0] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert sampling_probabilities(logits, decoding, None, 0).tolist()[0] == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_support_by_hand():
    logits = torch.tensor([[[0.5, 0.25, 0.15, 0.1]] * 2, [[0.1, 0.2, 0.3, 0.4]] * 2]).log()  # two rows, two positions
    assert sampling_support(logits, Decoding(2), 0) is None
    assert sampling_support(logits, Decoding(2, temperature=0.5, top_k=4), 0) is None  # four words are all there are
    assert sampling_support(logits, Decoding(2, min_new_tokens=1), None) is None  # there is no end to ban
    only_eos = sampling_support(logits, Decoding(2, min_new_tokens=1), 0)
    assert only_eos.tolist() == [[[False, True, True, True], [True] * 4]]
    assert sampling_support(logits, Decoding(9, min_new_tokens=9), 3).tolist() == [[[True, True, True, False]] * 2]
    top_k = sampling_support(logits, Decoding(2, top_k=1, min_new_tokens=1), 0).tolist()
    assert top_k == [
        [[False, True, False, False], [True, False, False, False]],
        [[False, False, False, True], [False, False, False, True]],
    ]
    # 0.5 + 0.25 reach 0.7, and so do 0.4 + 0.3. At temperature 1/2 the shares of 0.5 and 0.25 are 0.25 / 0.345 = 0.72
    # and 0.18, those of 0.4 and 0.3 are 0.16 / 0.3 = 0.53 and 0.3: the first row needs one token, the second two.
    top_p = sampling_support(logits, Decoding(2, top_p=0.7), 0)[:, 0].tolist()
    assert top_p == [[True, True, False, False], [False, False, True, True]]
    sharp = sampling_support(logits, Decoding(2, top_p=0.7, temperature=0.5), 0)[:, 0].tolist()
    assert sharp == [[True, False, False, False], [False, False, True, True]]
    # Two of four equal tokens reach 0.5 exactly, and no third one is needed.
    assert sampling_support(torch.zeros(1, 1, 4), Decoding(1, top_p=0.5), None).sum().item() == 2
    # Top-p looks at what top-k left: 0.4 is 0.4 / 0.7 = 0.57 of the two best, and enough for 0.55.
    both = sampling_support(logits, Decoding(2, top_p=0.55, top_k=2), 0)[1, 0].tolist()
    assert both == [False, False, False, True]


@pytest.mark.parametrize("decimals", [6, 1])  # with one decimal many words tie
@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 0.9999])
def test_top_p_against_counting_one_by_one(decimals, p):
    torch.manual_seed(0)
    logits = torch.randn(3, 700).mul(torch.tensor([[0.1], [1.0], [8.0]])).round(decimals=decimals)
    for row, kept in zip(logits, sampling_support(logits.unsqueeze(1), Decoding(1, top_p=p), None), strict=True):
        probabilities = row.double().softmax(dim=-1).tolist()
        expected, mass = set(), 0.0
        for word in sorted(range(700), key=lambda word: (-probabilities[word], word)):
            if mass < p:
                expected.add(word)
            mass += probabilities[word]
        assert set(kept[0].nonzero().squeeze(-1).tolist()) == expected


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_logits_that_are_not_finite_are_an_error(tiny_policy, top_p):
    policy = tiny_policy()
    policy.model.resize_token_embeddings(512)  # two whole blocks: the last word is the last of a block
    policy.model.get_output_embeddings().weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="logits are not finite"):
        policy.generate(PROMPTS, Decoding(3, top_p=top_p), 2, (0, "x"))


def test_equal_prompts_are_read_once(tiny_policy, monkeypatch):
    policy, n_rows = tiny_policy(), []

    def spied(model, tokens, *args, **options):
        n_rows.append(len(tokens))
        return forward(model, tokens, *args, **options)

    monkeypatch.setattr("alignbench.models.sampling.growing_cache.forward", spied)
    together = policy.generate(PROMPTS, Decoding(5), 4, (0, "x"))
    assert n_rows[:2] == [3, 12]
    alone = tiny_policy(batch_size=1).generate(PROMPTS, Decoding(5), 4, (0, "x"))
    assert together == alone


def test_logprobs_are_renormalised_over_the_support():
    logits = torch.tensor([[[0.5, 0.25, 0.15, 0.1]]]).log() + 3.0
    support = torch.tensor([[[True, True, False, False]]])
    assert token_logprobs(logits, torch.tensor([[1]]), support=support).item() == pytest.approx(math.log(1 / 3))
    # Temperature 1/2 squares: 0.0625 / (0.25 + 0.0625) = 0.2.
    sharp = token_logprobs(logits, torch.tensor([[1]]), temperature=0.5, support=support)
    assert sharp.item() == pytest.approx(math.log(0.2))
    # A token outside counts as inside, so that it stays finite: 0.1 / (0.5 + 0.25 + 0.1).
    outside = token_logprobs(logits, torch.tensor([[3]]), support=support)
    assert outside.item() == pytest.approx(math.log(0.1 / 0.85))


def test_logprobs_over_the_support_are_those_of_the_draw(tiny_policy):
    """Two ways to the same number: the draw works in float64 step by step, training in float32 on the whole."""
    policy, decoding = tiny_policy(), Decoding(6, min_new_tokens=2, temperature=0.8, top_k=9, top_p=0.8)
    completions = policy.generate(PROMPTS, decoding, 4, (0, "x"))
    batch = policy.batch([prompt for prompt in PROMPTS for _ in range(4)], completions)
    with torch.no_grad():
        logits, _ = completion_forward(policy.model, batch)
    support = sampling_support(logits, decoding, policy.eos_id)
    logprobs = token_logprobs(logits, batch.completion_ids, decoding.temperature, support)
    for row, completion in enumerate(completions):
        for position, token in enumerate(completion.token_ids):
            assert support[row, position, token]
            one = sampling_probabilities(logits[row : row + 1, position], decoding, policy.eos_id, position)
            assert logprobs[row, position].item() == pytest.approx(one[0, token].log().item(), abs=1e-5)
    assert support.any(-1).all()
    assert 0 < support.sum(-1).max() <= 9


# The policy below gives each position one certain token, so that what is sampled is known beforehand.


@pytest.fixture
def scripted(tiny_policy, monkeypatch):
    """Makes a policy that answers every prompt with the given words, and with `dog` after them."""

    def make(text):
        policy = tiny_policy()
        ids = tuple(policy.tokenizer.convert_tokens_to_ids([*text.split(), *["dog"] * 9]))

        def drawn(model, prompt_ids, lengths, u, decoding, *, eos_id, pad_id, capture):
            [end] = eos_id
            if end in ids:
                return [Sampled(ids[: ids.index(end) + 1], "eos") for _ in lengths]
            return [Sampled(ids[:n], "length") for n in lengths]

        monkeypatch.setattr("alignbench.models.language_model.sample", drawn)
        return policy

    return make


@pytest.mark.parametrize(
    ("said", "stops", "at_least", "kept", "reason"),
    [
        ("a red bird sings now", ("bird",), 0, " a red bird", "stop"),
        ("a red bird sings now", ("red b",), 0, " a red bird", "stop"),  # spans two tokens
        ("a red bird sings now", ("sings", "red"), 0, " a red", "stop"),  # whichever comes first
        ("a red bird sings now", ("rude",), 0, " a red bird sings now dog dog dog", "length"),
        ("red a red bird sings", ("red",), 2, " red a red", "stop"),  # the first one comes too early
        ("a red bird sings now", ("red",), 3, " a red bird sings now dog dog dog", "length"),
        ("a red bird sings now", ("red b",), 3, " a red bird", "stop"),  # begins early, is complete in time
        ("a red <eos> bird", ("bird",), 0, " a red", "eos"),  # what comes after the end does not count
        ("a red <eos> bird", ("red",), 0, " a red", "stop"),
        ("a a a a a a a dog", ("dog",), 0, " a a a a a a a dog", "stop"),  # at the limit
        ("a <unk> bird", ("<unk>",), 0, " a", "stop"),  # a special token
        ("a red <eos> bird", ("<eos>",), 0, " a red", "eos"),  # the end is an end, whatever its name
    ],
)
def test_stop_strings(scripted, said, stops, at_least, kept, reason):
    [completion] = scripted(said).generate([PROMPTS[0]], Decoding(8, at_least, stop_strings=stops), 1, (0,))
    assert (completion.text, completion.finish_reason) == (kept, reason)
    if reason != "eos" and "<unk>" not in said:
        assert completion.n_tokens == len(completion.token_ids) == len(kept.split())


def test_overlapping_stop_strings_end_with_their_last_token(scripted):
    """`a a` is complete with the second `a`, too early, and again with the third."""
    [completion] = scripted("a a a red").generate([PROMPTS[0]], Decoding(8, 3, stop_strings=("a a",)), 1, (0,))
    assert completion.n_tokens == 3


def test_stop_strings_leave_the_draws_as_they_are(tiny_policy):
    policy = tiny_policy()
    without = policy.generate(PROMPTS, Decoding(12), 20, (0, "x"))
    stopped = policy.generate(PROMPTS, Decoding(12, stop_strings=("good", "bad")), 20, (0, "x"))
    assert {c.finish_reason for c in stopped} == {"eos", "stop", "length"}
    for free, cut in zip(without, stopped, strict=True):
        assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
        words = cut.text.split()
        if cut.finish_reason == "stop":
            assert words[-1] in ("good", "bad")
            assert not {"good", "bad"} & set(words[:-1])
            assert cut.n_tokens == len(cut.token_ids)
        else:
            assert cut == free
            assert not {"good", "bad"} & set(words)


SMALL = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
MIXED = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("family", MIXED)
def test_rows_stay_where_a_cache_holds_more_than_keys_and_values(family):
    """Completions of different lengths, equal prompts: a batch gives what each prompt gives alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL, **MIXED[family])).eval()
    prompts, lengths = [(5, 6, 7), (5, 6, 7), (9, 8, 7), (11, 12, 13)], [3, 4, 5, 12]
    u = uniforms((0,), [(str(i), 0) for i in range(4)], 12)
    rest = {"decoding": Decoding(12), "eos_id": None, "pad_id": 0}
    together = sample(model, prompts, lengths, u, **rest)
    alone = [sample(model, [prompts[i]], [lengths[i]], u[i : i + 1], **rest)[0] for i in range(4)]
    assert together == alone
    assert has_plain_cache(model) is (family == "gemma3_text")
