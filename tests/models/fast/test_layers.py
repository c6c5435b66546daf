"""Faster layers compute what the layers in whose place they stand compute, gradients included."""

import copy

import pytest
import torch
from torch import nn

from alignbench.models.fast import layers
from alignbench.models.fast.kernel_choice import KERNELS
from alignbench.models.fast.layers import FastEmbedding, FastLinear, with_fast_layers

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")


@pytest.fixture
def always(take_kernel):
    take_kernel("onednn")


def results(layer, x):
    """Output, and the gradients of a sum in which every output has a weight of its own."""
    x = x.clone().requires_grad_()
    out = layer(x)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    trained = [p for p in layer.parameters() if p.requires_grad]
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *trained])]


@needs_onednn
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shape", [(5, 24), (3, 7, 24), (2, 1, 24)])
@pytest.mark.parametrize("training", [False, True])
def test_linear(take_kernel, kernel, bias, frozen, shape, training):
    take_kernel(kernel)
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias).requires_grad_(not frozen)
    fast = with_fast_layers(nn.Sequential(copy.deepcopy(plain))).train(training)[0]
    assert type(fast) is FastLinear
    x = torch.randn(shape)
    for ours, theirs in zip(results(fast, x), results(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_strided_input(take_kernel, kernel):
    take_kernel(kernel)
    layer, x = nn.Linear(24, 8), torch.randn(24, 5).t()
    expected = layer(x)
    found = with_fast_layers(nn.Sequential(layer))(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@needs_onednn
def test_where_there_is_a_choice(take_kernel, monkeypatch):
    """By size on a CPU in float32; elsewhere the plain layer is at work."""
    take_kernel("onednn", layers.SMALLEST)
    calls = []
    to_mkldnn = torch.Tensor.to_mkldnn
    monkeypatch.setattr(torch.Tensor, "to_mkldnn", lambda x: calls.append(1) or to_mkldnn(x))
    layer = with_fast_layers(nn.Sequential(nn.Linear(200, 200, bias=False)))
    layer(torch.randn(99, 200))
    layer.double()(torch.randn(100, 200, dtype=torch.float64))
    layer.to(torch.bfloat16)(torch.randn(100, 200, dtype=torch.bfloat16))
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(100, 200))
    assert calls == []
    layer(torch.randn(100, 200))
    assert calls == [1]


@needs_onednn
@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_kept_for_the_backward_pass(always, monkeypatch, frozen):
    """Of an input that several layers read one copy where their weights are trained, and none where they are frozen."""
    packed = []
    hooks = FastLinear.kept_once

    def spying(self, x):
        pack, unpack = hooks(self, x)
        return (lambda saved: packed.append(pack(saved)) or packed[-1]), unpack

    monkeypatch.setattr(FastLinear, "kept_once", spying)
    model = with_fast_layers(nn.Sequential(nn.Linear(24, 40), nn.Linear(24, 40))).eval().requires_grad_(not frozen)
    x = torch.randn(5, 24, requires_grad=True)
    (model[0](x).sum() + model[1](x).sum()).backward()
    inputs = [one for one in packed if not (isinstance(one, torch.Tensor) and one.shape == model[0].weight.shape)]
    if frozen:
        assert [shape for shape, _ in inputs] == [x.shape, x.shape]
    else:
        assert [one.data_ptr() for one in inputs] == [x.data_ptr()] * 2


def test_gelu():
    """Against the definition (Hendrycks and Gimpel 2016) in float64."""
    from transformers.activations import NewGELUActivation

    (fast,) = with_fast_layers(nn.Sequential(NewGELUActivation()))
    x = torch.linspace(-6, 6, 601, dtype=torch.float64)
    expected = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(fast(x), expected)
    torch.testing.assert_close(fast(x.float()), NewGELUActivation()(x.float()), rtol=1e-5, atol=1e-6)


def test_other_layers_and_names_stay(tiny_policy):
    class Own(nn.Linear):
        pass

    model = with_fast_layers(nn.Sequential(Own(2, 2), nn.LayerNorm(2)))
    assert [type(layer) for layer in model] == [Own, nn.LayerNorm]
    policy = tiny_policy()
    assert type(policy.model.lm_head) is FastLinear
    assert policy.model.lm_head.weight is policy.model.get_input_embeddings().weight  # still tied
    assert all("fast" not in name.lower() for name, _ in policy.model.named_parameters())


@needs_onednn
@pytest.mark.parametrize("adapter", [None, "trained"])
def test_whole_models(always, monkeypatch, tiny_policy, adapter):
    """Log-probabilities of a policy with and without them; peft wraps them as it wraps plain layers."""
    from alignbench.models.adapters import Lora
    from alignbench.records import Decoding, Prompt

    policy = tiny_policy()
    if adapter:
        policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    prompts = [Prompt("a", "the dog"), Prompt("b", "a red bird sings")]
    completions = policy.generate(prompts, Decoding(6), 1, (0,))
    fast = torch.cat(policy.token_logprobs(prompts, completions))
    monkeypatch.setattr(layers, "SMALLEST", float("inf"))
    plain = torch.cat(policy.token_logprobs(prompts, completions))
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_an_input_that_is_changed_in_place_is_noticed(always):
    layer = with_fast_layers(nn.Sequential(nn.Linear(24, 8))).eval()
    x = torch.randn(5, 24)
    loss = layer(x).sum()
    x.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


class Words(nn.Module):
    def __init__(self, tied, **options):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4, **options), nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def get_output_embeddings(self):
        return self.head

    def forward(self, ids):
        return self.head(self.embedding(ids).tanh())


IDS = torch.tensor([[0, 3, 3], [6, 2, 0]])


@pytest.mark.parametrize("tied", [True, False])
def test_embedding(monkeypatch, tied):
    """The same gradients, matrices all, of words that are read once, twice and never, over two backward passes."""
    monkeypatch.setattr(layers, "SMALLEST_EMBEDDING", 0)
    torch.manual_seed(0)
    plain, weights = Words(tied, padding_idx=2), torch.linspace(-1, 1, 42).view(2, 3, 7)
    fast = with_fast_layers(copy.deepcopy(plain))
    assert (type(fast.embedding) is FastEmbedding) == tied
    models = [plain, fast, copy.deepcopy(fast)]
    for model in models:
        for _ in range(2):
            (model(IDS) * weights).sum().backward()
    for other in models[1:]:
        for ours, theirs in zip(other.parameters(), plain.parameters(), strict=True):
            assert not ours.grad.is_sparse
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


def test_an_embedding_whose_output_layer_is_not_read_or_gone(monkeypatch):
    monkeypatch.setattr(layers, "SMALLEST_EMBEDDING", 0)
    fast = with_fast_layers(Words(tied=True))
    headless = copy.deepcopy(fast)
    headless.head = nn.Identity()
    for model in (fast, headless):
        model.embedding(IDS).sum().backward()
        assert not model.embedding.weight.grad.is_sparse
        assert model.embedding.weight.grad[:, 0].tolist() == [2, 0, 1, 2, 0, 0, 1]


def test_an_embedding_that_is_frozen_at_first(monkeypatch):
    monkeypatch.setattr(layers, "SMALLEST_EMBEDDING", 0)
    fast = with_fast_layers(Words(tied=True).requires_grad_(False))
    assert not fast(IDS).requires_grad
    fast.requires_grad_(True).embedding(IDS).sum().backward()
    assert fast.embedding.weight.grad[:, 0].tolist() == [2, 0, 1, 2, 0, 0, 1]


def test_an_embedding_that_changes_as_it_is_read_stays_plain(monkeypatch):
    monkeypatch.setattr(layers, "SMALLEST_EMBEDDING", 0)
    fast = with_fast_layers(Words(tied=True, max_norm=0.5))
    assert fast.embedding(torch.tensor([1])).norm() <= 0.5 + 1e-6
