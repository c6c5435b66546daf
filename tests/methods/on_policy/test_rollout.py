"""Training on rollouts that are decoded with a cache of fixed shape, as on a GPU: the same weights."""

import pytest
import torch

from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.adapters import Lora
from alignbench.models.language_model import LanguageModel
from alignbench.models.sampling import fixed_cache
from alignbench.models.sampling.sampler import sample

CONFIG = PPOConfig(
    learning_rate=1e-3, batch_size=8, mini_batch_size=4, completion_tokens=(3, 9), min_completion_tokens=2,
    ppo_epochs=2, value_init="normal",
)  # fmt: skip


@pytest.fixture
def statically(monkeypatch):
    """Has every draw go through a cache of fixed shape."""

    def choose(model, *args, static=None, **kwargs):
        return sample(model, *args, static=True, **kwargs)

    return lambda: monkeypatch.setattr("alignbench.models.language_model.sample", choose)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_training_gives_the_same_weights(family, reward, prompts, statically, monkeypatch, name, lora):
    def trained():
        model, tokenizer = family(name)
        policy = LanguageModel(model, tokenizer, name)
        if lora:
            policy.add_adapter(Lora(r=4))
        trainer, steps = PPOTrainer(policy, reward, prompts, CONFIG), []
        trainer.train(3, log=lambda _, metrics: steps.append(metrics))
        return trainer, steps

    monkeypatch.setattr("alignbench.methods.on_policy.networks.can_merge", lambda _model: False)  # as it is on a GPU
    plain, expected = trained()
    statically()
    static, found = trained()
    assert len(fixed_cache.kept_decoders(static.model)) == 1  # one graph for prompts of all lengths
    assert not fixed_cache.kept_decoders(plain.model)
    for one, other in zip(found, expected, strict=True):
        numbers = [{k: v for k, v in m.items() if not k.startswith(("time/", "memory/"))} for m in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-5)
    for key, value in static.parameters.items():
        torch.testing.assert_close(value, plain.parameters[key], rtol=1e-4, atol=1e-4)  # of steps of 1e-3
