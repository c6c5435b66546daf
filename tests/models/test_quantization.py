"""Quantized policies: what they compute, what they take, what is refused."""

from importlib.util import find_spec

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models import quantization
from alignbench.models.adapters import Lora
from alignbench.models.flops import Tokens, weights_of
from alignbench.models.forward import completion_forward
from alignbench.models.loading import load_language_model, weights_fingerprint
from alignbench.records import Decoding, Prompt

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
BITS = ["8bit", "4bit"]
PROMPTS = [Prompt("a", "the dog"), Prompt("b", "a red bird sings")]


@pytest.fixture(scope="session")
def directory(tmp_path_factory, checkpoints):
    """A GPT-Neo with matrices of 64 x 64 and more, and embeddings that are tied to the output layer."""
    from transformers import AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "policy")
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_layers=2, num_heads=2, max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    root = tmp_path_factory.mktemp("quantization") / "policy"
    GPTNeoForCausalLM(config).save_pretrained(root)
    tokenizer.save_pretrained(root)
    return str(root)


def logits(policy, completions):
    with torch.no_grad():
        return completion_forward(policy.model, policy.batch(PROMPTS, completions))[0]


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "bytes_per_weight", "tolerance"), [("8bit", 1, 0.03), ("4bit", 0.5, 0.2)])
def test_layers_are_small_and_compute_nearly_the_same(directory, bits, bytes_per_weight, tolerance):
    whole, small = load_language_model(directory), load_language_model(directory, quantization=bits)
    layers = [p for p in small.model.parameters() if not p.is_floating_point()]
    assert len(layers) == 2 * 6
    assert sum(p.numel() * p.element_size() for p in layers) == 2 * 12 * 64 * 64 * bytes_per_weight
    assert all(p.dtype == torch.float32 for p in small.model.parameters() if p.is_floating_point())
    completions = whole.generate(PROMPTS, Decoding(6), 1, (0,))
    expected, found = logits(whole, completions), logits(small, completions)
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < tolerance


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_every_adapter_gets_a_gradient_after_sampling(directory, bits):
    """The lowest ones too: passes without gradients must not change the weights' layout."""
    policy = load_language_model(directory, quantization=bits)
    policy.add_adapter(Lora(r=2, target_modules=("q_proj", "v_proj")))
    completions = policy.generate(PROMPTS, Decoding(6), 1, (0,))
    completion_forward(policy.model, policy.batch(PROMPTS, completions))[0].logsumexp(-1).sum().backward()
    adapters = {name: p.grad for name, p in policy.model.named_parameters() if "lora_B" in name}
    assert len(adapters) == 4
    assert all(gradient.abs().sum() > 0 for gradient in adapters.values())


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_flops_and_identity(directory, bits):
    """As many multiplications as with whole weights, packed or not; a fingerprint of its own, the same every time."""
    whole, small = load_language_model(directory), load_language_model(directory, quantization=bits)
    assert weights_of(small.model) == weights_of(whole.model)
    assert weights_of(small.model).flops(Tokens(1, 0, 0)) == 2 * 2 * 12 * 64 * 64
    again = load_language_model(directory, quantization=bits)
    assert weights_fingerprint(small.model) == weights_fingerprint(again.model) != weights_fingerprint(whole.model)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_only_the_adapter_is_saved(directory, tmp_path, bits):
    policy = load_language_model(directory, quantization=bits)
    policy.add_adapter(Lora(r=2, target_modules=("q_proj",)))
    policy.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    with pytest.raises(ModelError, match=r"an adapter, expected a whole model beside policy\.quantization"):
        load_language_model(str(tmp_path), quantization=bits)


@pytest.mark.parametrize("bits", BITS)
def test_without_bitsandbytes_it_says_what_to_install(directory, monkeypatch, bits):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"policy.quantization: got {bits}, .*pip install 'alignbench\[quantized\]'"):
        load_language_model(directory, quantization=bits)


@needs_bitsandbytes
def test_an_encoder_decoder_is_refused():
    with pytest.raises(ModelError, match=r"policy\.quantization: got 4bit, expected none for an encoder-decoder"):
        quantization.quantized("4bit", "float32", torch.device("cpu"), is_encoder_decoder=True)
