"""PPO on a quantized base, and with an optimizer in 8 bits."""

import dataclasses
from importlib.util import find_spec

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models import quantization
from alignbench.models.adapters import Lora
from alignbench.models.loading import load_language_model

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
CONFIG = PPOConfig(
    batch_size=8, mini_batch_size=4, ppo_epochs=2, completion_tokens=(3, 5), learning_rate=1e-2, checkpoint_every=1
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def quantized_policy(checkpoints):
    """The tiny policy with a quantized base and a fresh adapter."""

    def make(bits, device="cpu"):
        policy = load_language_model(str(checkpoints / "policy"), quantization=bits, device=torch.device(device))
        policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
        return policy

    return make


def build(policy, reward, prompts, **changes):
    return PPOTrainer(policy, reward, prompts, dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("changes", [{}, {"value_model": "separate"}, {"gradient_checkpointing": True}])
def test_training_starts_at_the_reference_and_moves_the_adapter_alone(
    quantized_policy, reward, prompts, device, bits, changes
):
    policy, logged = quantized_policy(bits, device), {}
    trainer = build(policy, reward, prompts, **changes)
    frozen = {name: p.clone() for name, p in policy.model.named_parameters() if "lora_" not in name}
    adapter = {name: p.clone() for name, p in policy.model.named_parameters() if "lora_B" in name}
    trainer.train(2, log=logged.__setitem__)
    assert logged[1]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert logged[2]["objective/kl"] != 0
    now = dict(policy.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    assert all(not torch.equal(value, now[name]) for name, value in adapter.items())
    assert trainer.value_head.weight.dtype == torch.float32
    assert trainer.captures is False  # sampling and full passes round differently


@pytest.mark.parametrize("device", DEVICES)
def test_an_optimizer_in_8_bits_steps_nearly_as_in_32(wide_policy, reward, prompts, device):
    def moved(optimizer):
        policy = wide_policy()
        policy.model.to(device)
        before = [p.detach().clone() for p in policy.model.parameters()]
        trainer = build(policy, reward, prompts, optimizer=optimizer, learning_rate=1e-4, ppo_epochs=1)
        trainer.train(1)
        pairs = zip(policy.model.parameters(), before, strict=True)
        return torch.cat([(p.detach() - start).flatten() for p, start in pairs])

    expected, found = moved("adamw"), moved("adamw_8bit")
    assert torch.cosine_similarity(found, expected, dim=0) > 0.95
    assert found.norm() == pytest.approx(expected.norm().item(), rel=0.1)


def test_a_killed_run_with_an_optimizer_in_8_bits_goes_on_bit_for_bit(wide_policy, reward, prompts, tmp_path):
    straight, logged, resumed = build(wide_policy(), reward, prompts, optimizer="adamw_8bit"), {}, {}
    straight.train(3, log=logged.__setitem__)
    states = [state for state in straight.optimizer.state.values() if state["state1"].dtype == torch.uint8]
    assert states  # some matrices are large enough
    build(wide_policy(), reward, prompts, optimizer="adamw_8bit").train(2, checkpoints=tmp_path)
    build(wide_policy(), reward, prompts, optimizer="adamw_8bit").train(
        3, log=resumed.__setitem__, checkpoints=tmp_path
    )
    assert {k: v for k, v in resumed[3].items() if not k.startswith(("time/", "memory/"))} == {
        k: v for k, v in logged[3].items() if not k.startswith(("time/", "memory/"))
    }


@pytest.fixture
def wide_policy(checkpoints):
    """A random GPT-Neo with matrices of more than 4096 numbers, the fewest that the optimizer keeps in 8 bits."""
    from transformers import AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

    from alignbench.models.language_model import LanguageModel

    def make():
        tokenizer = AutoTokenizer.from_pretrained(checkpoints / "policy")
        torch.manual_seed(0)
        config = GPTNeoConfig(
            vocab_size=len(tokenizer), hidden_size=64, num_layers=2, num_heads=2, max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        return LanguageModel(GPTNeoForCausalLM(config), tokenizer, "wide")

    return make


def test_without_bitsandbytes_it_says_what_to_install(sure_policy, reward, prompts, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"method.optimizer: got adamw_8bit, .*pip install 'alignbench\[quantized\]'"):
        build(sure_policy(), reward, prompts, optimizer="adamw_8bit")
