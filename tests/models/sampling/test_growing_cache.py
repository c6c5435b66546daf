"""Policies without a key-value cache: sampled by full passes, trained and saved like others."""

import pytest
import torch
from fixtures.distribution import sampling_probabilities

from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_policy
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt("a", "the dog"), Prompt("b", "a red bird sings"), Prompt("c", "two"), Prompt("d", "two")]
SIZES = {
    "openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "mamba": {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
}


@pytest.fixture(params=SIZES)
def policy(request, make_tokenizer):
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, vocab_size=len(tokenizer), eos_token_id=1, **SIZES[request.param])
    model = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(model, tokenizer, request.param)


def test_it_is_sampled_and_says_so(policy):
    """Every token against the probabilities of the bare model on the bare text; rows leave as they end."""
    assert policy.notes == (
        f"{policy.name}: it keeps no key-value cache, so every token that it samples takes a full pass",
    )
    together = policy.generate(PROMPTS, Decoding(9), 6, (0,))
    assert {c.finish_reason for c in together} == {"eos", "length"}
    policy.batch_size = 1
    assert policy.generate(PROMPTS, Decoding(9), 6, (0,)) == together
    repeated = [prompt for prompt in PROMPTS for _ in range(6)]
    for prompt, one, found in zip(repeated, together, policy.token_logprobs(repeated, together), strict=True):
        ids = policy.encode_prompt(prompt.text)
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*ids, *one.token_ids]])).logits[0, len(ids) - 1 : -1]
        expected = sampling_probabilities(logits, Decoding(9)).log()[range(len(found)), list(one.token_ids)]
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_ppo_starts_at_its_reference_and_saves(policy, tmp_path):
    config = {"batch_size": 8, "mini_batch_size": 8, "completion_tokens": (3, 6), "ppo_epochs": 1, "kl_target": None}
    trainer = PPOTrainer(policy, lambda _, texts: [float(len(t)) for t in texts], PROMPTS, PPOConfig(**config))
    metrics = trainer.train_step()
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-6)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert again.generate(PROMPTS, Decoding(5), 1, (0,)) == policy.generate(PROMPTS, Decoding(5), 1, (0,))
