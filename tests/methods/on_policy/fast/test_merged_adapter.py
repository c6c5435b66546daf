"""Sampling with the adapter as part of the weights: the same function, and the same weights behind it."""

import pytest
import torch

from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.fast.merged_adapter import adapter_merged, can_merge
from alignbench.methods.on_policy.networks import Networks
from alignbench.records import Decoding


@pytest.mark.parametrize("family", ["gpt_neo", "llama"])
def test_the_same_function_and_no_product_beside_it(sure_policy, prompts, family):
    policy = sure_policy(family, "trained")
    start = {name: value.clone() for name, value in policy.model.state_dict().items()}
    completions = policy.generate(prompts, Decoding(6), 1, (0,))
    expected = torch.cat(policy.token_logprobs(prompts, completions))
    with policy.adapter_off():
        without = torch.cat(policy.token_logprobs(prompts, completions))
    products = []
    for name, module in policy.model.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda *_: products.append(1))
    assert can_merge(policy.model)
    with adapter_merged(policy.model):
        merged = torch.cat(policy.token_logprobs(prompts, completions))
    assert products == []
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-5)
    assert (merged - without).abs().max() > 1e-3
    for name, value in policy.model.state_dict().items():
        assert torch.equal(value, start[name]), name
    assert torch.equal(torch.cat(policy.token_logprobs(prompts, completions)), expected)


def test_an_error_within_leaves_the_weights_as_they_were(sure_policy):
    policy = sure_policy("llama", "trained")
    start = {name: value.clone() for name, value in policy.model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), adapter_merged(policy.model):
        raise KeyboardInterrupt
    assert all(torch.equal(value, start[name]) for name, value in policy.model.state_dict().items())


def test_what_cannot_be_merged(sure_policy):
    assert not can_merge(sure_policy().model)
    half = sure_policy("llama", "trained")
    half.model.to(torch.bfloat16)
    assert not can_merge(half.model)


@pytest.mark.parametrize("execution", ["fast", "plain"])
def test_where_it_is_at_work(sure_policy, execution):
    networks = Networks(sure_policy("llama", "trained"), PPOConfig(execution=execution), 0)
    weight = networks.model.get_base_model().model.layers[0].self_attn.q_proj.get_base_layer().weight
    before = weight.clone()
    with networks.sampling():
        assert torch.equal(weight, before) is (execution == "plain")
    assert torch.equal(weight, before)
