"""Log-probabilities from the states under an output layer, against those of whole logits."""

import functools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alignbench.models import output_layer as module
from alignbench.models.adapters import Lora
from alignbench.models.forward import collate, completion_forward, token_logprobs
from alignbench.models.language_model import LanguageModel
from alignbench.models.output_layer import (
    Compared,
    OutputLayer,
    States,
    batch_logprobs,
    compare,
    output_layer,
    rows_that_fit,
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few words, and no logits at all are small enough to be made whole."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 0)
    monkeypatch.setattr(module, "LEAST_WORDS", 7)
    monkeypatch.setattr(module, "MOST_BYTES", 0)


def linear(n_words, size, *, bias=False, dtype=torch.float64):
    torch.manual_seed(0)
    found = torch.nn.Linear(size, n_words, bias=bias).to(dtype).requires_grad_(False)
    found.weight.mul_(3)
    return found


def test_by_hand():
    """Odds 1 : 2 : 5, then the third word is banned at the first position, and temperature 1/2 squares the odds.

    The state is 1 and the weights are the logits, so d log p(y) / d state = w_y - sum_v p(v) w_v.
    """
    layer = linear(3, 1)
    layer.weight.copy_(torch.tensor([[1.0], [2.0], [5.0]]).log())
    states = States(torch.ones(1, 2, 1, dtype=torch.float64, requires_grad=True), OutputLayer(layer))
    tokens = torch.tensor([[1, 2]])
    found = states.logprobs(tokens)
    assert found.exp().flatten().tolist() == pytest.approx([2 / 8, 5 / 8])
    mean = (2 * math.log(2) + 5 * math.log(5)) / 8
    (gradient,) = torch.autograd.grad(found.sum(), states.values)
    assert gradient.flatten().tolist() == pytest.approx([math.log(2) - mean, math.log(5) - mean])
    assert states.logprobs(tokens, banned=2, n_banned=1).exp().flatten().tolist() == pytest.approx([2 / 3, 5 / 8])
    assert states.logprobs(tokens, 0.5).exp().flatten().tolist() == pytest.approx([4 / 30, 25 / 30])


@pytest.mark.parametrize(("scale", "cap", "bias"), [(1.0, None, False), (0.3, None, True), (1.0, 4.0, True)])
@pytest.mark.parametrize(("temperature", "n_banned"), [(1.0, 0), (0.7, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_values_and_gradients(small_blocks, scale, cap, bias, temperature, n_banned, dtype, tolerance):
    """Against log-softmax of whole logits in float64."""
    exact = linear(50, 8, bias=bias)
    states = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    tokens, weights = torch.randint(50, (3, 4)), torch.randn(3, 4, dtype=torch.float64)
    logits = (exact(states) * scale if cap is None else cap * torch.tanh(exact(states) / cap)) / temperature
    never = torch.zeros(4, 50, dtype=torch.bool)
    never[:n_banned, [3, 45]] = True
    expected = logits.masked_fill(never, -1e9).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), states)
    own = states.detach().to(dtype).requires_grad_()
    layer = OutputLayer(linear(50, 8, bias=bias).to(dtype), scale, cap)
    found = States(own, layer).logprobs(tokens, temperature, [3, 45], n_banned)
    (gradient,) = torch.autograd.grad((found * weights).sum(), own)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(States(own, layer).logits() / temperature, logits.to(dtype), rtol=1e-4, atol=1e-4)


def test_gradients_by_finite_differences(small_blocks):
    layer, tokens = OutputLayer(linear(20, 5), cap=3.0), torch.tensor([[4, 19]])
    states = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: States(values, layer).logprobs(tokens, 0.8, 2, 1), states)


@pytest.mark.parametrize(("temperature", "n_banned"), [(1.0, 0), (0.7, 2)])
def test_two_distributions(small_blocks, temperature, n_banned):
    """KL and entropy against sums over whole distributions; of equal states the KL is 0, not a rounding error."""
    layer = OutputLayer(linear(50, 8, dtype=torch.float32))
    states, reference = (States(torch.randn(3, 4, 8), layer) for _ in range(2))
    tokens = torch.randint(50, (3, 4))
    found = compare(states, reference, tokens, temperature, [3, 45], n_banned)
    never = torch.zeros(4, 50, dtype=torch.bool)
    never[:n_banned, [3, 45]] = True
    p, q = (
        (one.logits().double() / temperature).masked_fill(never, -1e9).log_softmax(-1) for one in (states, reference)
    )
    expected = Compared(
        p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1),
        q.gather(-1, tokens.unsqueeze(-1)).squeeze(-1),
        (p.exp() * (p - q)).sum(-1),
        -(p.exp() * p).sum(-1),
    )
    for name in ("logprobs", "reference_logprobs", "kl", "entropy"):
        torch.testing.assert_close(getattr(found, name).double(), getattr(expected, name), rtol=1e-5, atol=1e-5)
    assert not compare(states, states, tokens, temperature, [3, 45], n_banned).kl.any()


def test_far_logits_stay_finite(small_blocks):
    """The largest logit comes in the last block, 600 nats above the first."""
    layer = OutputLayer(torch.nn.Linear(1, 30, bias=False).requires_grad_(False))
    layer.linear.weight.copy_(torch.linspace(-300, 300, 30).unsqueeze(1))
    states = torch.ones(1, 2, 1, requires_grad=True)
    found = States(states, layer).logprobs(torch.tensor([[0, 29]]))
    assert found.flatten().tolist() == pytest.approx([-600, 0], abs=1e-3)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    assert gradient.isfinite().all()


def test_half_precision_comes_back_in_half_precision(small_blocks):
    layer = OutputLayer(linear(40, 8, dtype=torch.bfloat16))
    states = torch.randn(2, 3, 8).bfloat16().requires_grad_()
    tokens = torch.randint(40, (2, 3))
    found = States(states, layer).logprobs(tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, token_logprobs(States(states, layer).logits(), tokens), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    assert gradient.dtype == torch.bfloat16


def test_a_trained_layer_is_refused():
    states = States(torch.ones(1, 1, 2, requires_grad=True), OutputLayer(torch.nn.Linear(2, 3)))
    with pytest.raises(ValueError, match="output layer is trained"):
        states.logprobs(torch.tensor([[0]]))


class Largest(TorchDispatchMode):
    """The most numbers that any new tensor has had."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        if isinstance(found, torch.Tensor) and not found._is_view():
            self.numbers = max(self.numbers, found.numel())
        return found


def test_no_tensor_of_the_size_of_the_logits_is_made(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 2**14)
    layer, tokens = OutputLayer(linear(4096, 4, dtype=torch.float32)), torch.randint(4096, (4, 8))
    states = torch.randn(4, 8, 4, requires_grad=True)
    with Largest() as largest:
        States(states, layer).logprobs(tokens).sum().backward()
    assert largest.numbers <= layer.linear.weight.numel()  # an eighth of 32 * 4096
    with Largest() as largest:
        token_logprobs(States(states, layer).logits(), tokens)
    assert largest.numbers == 32 * 4096  # or it would have seen nothing


def causal(name):
    """A small random model whose logits are not merely the product of its output layer."""
    import transformers

    sizes = {
        "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 1,
        "pad_token_id": 0,
    }  # fmt: skip
    own = {
        "Gemma2": {"final_logit_softcapping": 2.0},
        "Gemma3Text": {},
        "Cohere": {"logit_scale": 0.25},
        "Granite": {"logits_scaling": 3.0},
        "Llama": {},
    }[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes, **own, initializer_range=0.5)
    return getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config).eval()


BATCH = [[5, 6, 7], [8]], [[9, 10], [11, 12, 13, 1]]


@pytest.mark.parametrize(
    ("name", "scale", "cap"),
    [("Gemma2", 1.0, 2.0), ("Gemma3Text", 1.0, None), ("Cohere", 0.25, None), ("Granite", 1 / 3, None)],
)
def test_what_families_make_of_the_output(small_blocks, name, scale, cap):
    """Soft caps and scales are found, tied layers too, and both ways agree."""
    model = causal(name)
    found = output_layer(model)
    assert found.linear is model.get_output_embeddings()
    assert found.scale == pytest.approx(scale)
    assert found.cap == cap
    batch = collate(*BATCH, 0, torch.device("cpu"))
    with torch.no_grad():
        expected = token_logprobs(completion_forward(model, batch)[0], batch.completion_ids)
    assert expected[batch.completion_mask].std() > 0.3
    torch.testing.assert_close(batch_logprobs(model, batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "flan_t5", "bart"])
def test_encoder_decoder_models(small_blocks, family, name):
    """T5 scales what its tied layer is given; BART adds a bias for each word behind the layer, which runs as it is."""
    model, tokenizer = family(name)
    policy = LanguageModel(model, tokenizer, name)
    batch = collate(*BATCH, policy.pad_id, policy.device, for_encoder=True)
    if name == "bart":
        model.final_logits_bias.normal_()
    assert (output_layer(model) is None) == (name == "bart")
    with torch.no_grad():
        expected = token_logprobs(completion_forward(model, batch)[0], batch.completion_ids)
    torch.testing.assert_close(batch_logprobs(model, batch), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_must_run_as_they_are(tiny_policy):
    policy = tiny_policy()
    assert output_layer(policy.model).linear is policy.model.lm_head
    policy.add_adapter(Lora(r=2, target_modules=("lm_head", "q_proj")))
    assert output_layer(policy.model) is None
    beside = tiny_policy()
    beside.add_adapter(Lora(r=2, target_modules=("q_proj",)))
    layer = output_layer(beside.model)
    assert layer.linear is beside.model.get_base_model().lm_head
    assert layer.is_frozen
    with layer.passed_by():
        assert output_layer(beside.model) is None  # somebody else has put something in its place
    assert "forward" not in vars(layer.linear)


def test_a_layer_of_another_kind_runs_as_it_is(small_blocks, tiny_policy):
    """Some models scale the rows of their output layer to unit length, others round them."""

    class UnitRows(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.linear(x, torch.nn.functional.normalize(self.weight))

    policy = tiny_policy()
    policy.model.lm_head.__class__ = UnitRows
    assert output_layer(policy.model) is None
    batch = collate(*BATCH, policy.pad_id, policy.device)
    with torch.no_grad():
        expected = token_logprobs(completion_forward(policy.model, batch)[0], batch.completion_ids)
    torch.testing.assert_close(batch_logprobs(policy.model, batch), expected, rtol=1e-5, atol=1e-5)


def masked(logits):
    return torch.cat((logits[..., :20], torch.full_like(logits[..., 20:], -1e9)), dim=-1)


@pytest.mark.parametrize("change", [masked, lambda logits: logits[..., :20]], ids=["masked", "cut"])
@pytest.mark.parametrize("by", ["the model", "a hook of the layer"])
def test_words_that_only_fill_up_the_vocabulary(small_blocks, change, by):
    """A model that knows 20 words and has rows for more: the others have no part in the sum."""
    model = causal("Llama")
    if by == "the model":
        plain = model.forward

        @functools.wraps(plain)
        def forward(*args, **options):
            output = plain(*args, **options)
            output.logits = change(output.logits)
            return output

        model.forward = forward
    else:
        model.lm_head.register_forward_hook(lambda module, given, logits: change(logits))
    assert output_layer(model) is None
    batch = collate(*BATCH, 0, torch.device("cpu"))
    with torch.no_grad():
        expected = token_logprobs(completion_forward(model, batch)[0], batch.completion_ids)
    torch.testing.assert_close(batch_logprobs(model, batch), expected, rtol=1e-5, atol=1e-5)


def test_rows_that_fit(tiny_policy, monkeypatch):
    """30 words of 4 bytes, 5 positions: 600 bytes a row."""
    model = tiny_policy().model
    row = 4 * model.lm_head.out_features * 5
    monkeypatch.setattr(module, "MOST_BYTES", 3 * row + 1)
    assert rows_that_fit(model, 5) == 3
    monkeypatch.setattr(module, "MOST_BYTES", row - 1)
    assert rows_that_fit(model, 5) == 0


def test_a_policy_measures_the_same(tiny_policy, monkeypatch):
    """Completions and plain texts, with an adapter on the output layer (rows in turn) and without (by blocks)."""
    from alignbench.records import Completion, Prompt

    prompts = [Prompt("a", "the dog runs"), Prompt("b", "a cat")]
    completions = [Completion("a", 0, "", (5, 6, 1), "eos"), Completion("b", 0, "", (7,), "length")]
    for target in ("q_proj", "lm_head"):
        policy = tiny_policy()
        policy.add_adapter(Lora(r=2, target_modules=(target,)))
        expected = policy.token_logprobs(prompts, completions) + policy.text_logprobs(["the dog runs"], 9)
        spent = policy.spent.forward_flops
        monkeypatch.setattr(module, "MOST_BYTES", 0)
        found = policy.token_logprobs(prompts, completions) + policy.text_logprobs(["the dog runs"], 9)
        monkeypatch.undo()
        assert policy.spent.forward_flops == 2 * spent
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
