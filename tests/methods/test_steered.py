"""Steering against a slow form of it, and that nothing of it is left behind."""

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.steered import ByVector, Steered
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_policy, weights_fingerprint
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat runs", "one red bird sings", "two"))]
FAMILIES = ["gpt2", "gpt_neo", "llama", "bloom"]


def slow_states(policy, prompt, completion, layer):
    """The mean state after a layer over a completion's tokens but the last, one text at a time, by transformers."""
    ids = [*policy.encode_prompt(prompt), *completion.token_ids]
    n_prompt = len(ids) - len(completion.token_ids)
    with torch.no_grad():
        states = policy.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0]
    read = states[n_prompt:-1] if len(completion.token_ids) > 1 else states[n_prompt - 1 : n_prompt]
    return read.double().mean(dim=0)


def test_the_vector_is_the_mean_difference_of_states(pairs, tiny_policy, run_context):
    run, _ = run_context(tiny_policy())
    policy = Steered(layer=0).train(TrainData([], [], pairs=pairs), run)
    own = tiny_policy()
    expected = torch.stack(
        [
            slow_states(own, pair.prompt, pair.chosen, 0) - slow_states(own, pair.prompt, pair.rejected, 0)
            for pair in pairs
        ]
    ).mean(dim=0)
    assert torch.allclose(policy.vector.double(), expected, atol=1e-5)
    assert expected.norm() > 0.01
    assert run.cost.forward_flops > 0
    assert (run.cost.optimizer_steps, run.cost.generated_tokens, run.cost.backward_flops) == (0, 0, 0)
    run, _ = run_context(tiny_policy())
    assert Steered().train(TrainData([], [], pairs=pairs), run).layer == 1  # of two


def test_identical_sides_have_no_vector(pairs, tiny_policy, run_context):
    from dataclasses import replace

    run, _ = run_context(tiny_policy())
    same = [replace(pair, rejected=pair.chosen) for pair in pairs]
    assert Steered().train(TrainData([], [], pairs=same), run).vector.tolist() == [0.0] * 32


@pytest.mark.parametrize("name", FAMILIES)
def test_every_token_is_that_of_whole_passes_with_the_vector_added(family, name):
    policy = LanguageModel(*family(name), name)
    torch.manual_seed(0)
    vector = torch.randn(16)
    steered = ByVector(policy, 0, vector, 0.8)
    drawn = steered.generate(PROMPTS, Decoding(6), 2, (0,))
    owners = [prompt for prompt in PROMPTS for _ in range(2)]
    found = steered.token_logprobs(owners, drawn)
    slow = slow_logprobs(policy, owners, drawn, 0.8 * vector)
    assert all(torch.allclose(mine, other, atol=1e-4) for mine, other in zip(found, slow, strict=True))
    plain = policy.token_logprobs(owners, drawn)
    assert not any(torch.allclose(mine, other, atol=1e-3) for mine, other in zip(found, plain, strict=True))
    # What was drawn token by token is likely by the pass over the whole: the same policy twice.
    greedy = steered.generate(PROMPTS, Decoding(6, top_k=1), 1, (0,))
    whole = steered.next_token_logprobs(PROMPTS, greedy)
    assert all(one.argmax(dim=-1).tolist() == list(c.token_ids) for one, c in zip(whole, greedy, strict=True))


def slow_logprobs(policy, prompts, completions, vector):
    """One text at a time, with the layer's weights asked by a class of its own in the layer's place."""
    blocks = next(one for one in policy.model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == 2)
    first = blocks[0]

    class Shifted(torch.nn.Module):
        def forward(self, *args, **kwargs):
            given = first(*args, **kwargs)
            return (given[0] + vector, *given[1:]) if isinstance(given, tuple) else given + vector

        def __getattr__(self, name):
            return getattr(first, name)

    found = []
    blocks[0] = Shifted()
    try:
        for prompt, one in zip(prompts, completions, strict=True):
            ids = [*policy.encode_prompt(prompt), *one.token_ids]
            with torch.no_grad():
                logits = policy.model(torch.tensor([ids]), use_cache=False).logits[0, -len(one.token_ids) - 1 : -1]
            found.append(logits.log_softmax(dim=-1)[range(len(one.token_ids)), list(one.token_ids)])
    finally:
        blocks[0] = first
    return found


def test_a_coefficient_of_0_is_the_policy_and_hooks_leave_no_trace(tiny_policy):
    expected = tiny_policy().generate(PROMPTS, Decoding(8), 3, (0,))
    policy = tiny_policy()
    hooks = [list(module._forward_hooks) for module in policy.model.modules()]
    vector = torch.linspace(-1, 1, 32)  # one of ones would be undone by the norm after it
    assert ByVector(policy, 0, vector, 0.0).generate(PROMPTS, Decoding(8), 3, (0,)) == expected
    steered = ByVector(policy, 1, vector, 5.0)
    drawn = steered.generate(PROMPTS, Decoding(8), 3, (0,))
    assert drawn != expected
    steered.token_logprobs(PROMPTS, drawn[::3])
    steered.text_logprobs(["the dog runs"], 20)
    assert [list(module._forward_hooks) for module in policy.model.modules()] == hooks
    assert policy.generate(PROMPTS, Decoding(8), 3, (0,)) == expected
    assert weights_fingerprint(policy.model) == weights_fingerprint(tiny_policy().model)
    with pytest.raises(RuntimeError):
        ByVector(policy, 1, torch.ones(7), 1.0).generate(PROMPTS, Decoding(8), 1, (0,))
    assert [list(module._forward_hooks) for module in policy.model.modules()] == hooks


def test_it_is_saved_with_its_vector(tiny_policy, tmp_path):
    policy = ByVector(tiny_policy(), 1, torch.linspace(-1, 1, 32), 3.0)
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert (type(again), again.layer, again.coefficient) == (ByVector, 1, 3.0)
    assert again.generate(PROMPTS, Decoding(8), 2, (0,)) == policy.generate(PROMPTS, Decoding(8), 2, (0,))


def test_a_layer_that_is_not_there(pairs, tiny_policy, run_context):
    run, _ = run_context(tiny_policy())
    with pytest.raises(TrainingError, match=r"method.layer: got 2, expected 0 to 1"):
        Steered(layer=2).train(TrainData([], [], pairs=pairs), run)
