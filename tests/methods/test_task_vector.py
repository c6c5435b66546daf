"""Sums of weights: a task vector taken away, its scale chosen, and the way between two models."""

import math

import pytest
import torch

from alignbench.errors import ModelError, TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.interpolated import Interpolated
from alignbench.methods.task_vector import TaskVector, Trial, chosen
from alignbench.models.adapters import Lora
from alignbench.models.loading import load_policy, weights_fingerprint
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat runs", "two", "one red bird"))]


@pytest.fixture
def toxic(tiny_policy):
    """The tiny policy after a training of sorts."""
    policy = tiny_policy()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return policy


@pytest.fixture
def edited(tiny_policy, toxic, run_context):
    def edit(method, start=None, other=None, data=None, **changes):
        run, _ = run_context(start or tiny_policy(), load_upstream=lambda role: other or toxic, **changes)
        return method.train(data or TrainData([], []), run), run

    return edit


def weights(policy):
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}


def test_the_vector_is_taken_away_weight_by_weight(edited, tiny_policy, toxic):
    base, other = weights(tiny_policy()), weights(toxic)
    for scale in (0.25, 1.0, 3.0):
        got, _ = edited(TaskVector(scale=scale))
        for name, weight in weights(got).items():
            assert torch.allclose(weight, base[name] - scale * (other[name] - base[name]), atol=1e-6)


def test_no_scale_is_the_policy_bit_for_bit_and_what_was_taken_away_comes_back(edited, tiny_policy, toxic):
    same, _ = edited(TaskVector(scale=0.0))
    assert weights_fingerprint(same.model) == weights_fingerprint(tiny_policy().model)
    base, other = weights(tiny_policy()), weights(toxic)
    less, _ = edited(TaskVector(scale=0.7))
    for name, weight in weights(less).items():
        assert torch.allclose(weight + 0.7 * (other[name] - base[name]), base[name], atol=1e-6)


def test_it_is_linear_in_the_scale(edited, tiny_policy):
    base = weights(tiny_policy())
    moved = [weights(edited(TaskVector(scale=scale))[0]) for scale in (0.3, 0.5, 0.8)]
    for name, start in base.items():
        a, b, both = (one[name] - start for one in moved)
        assert torch.allclose(a + b, both, atol=1e-6)


def test_an_adapter_is_taken_away_by_its_scale(edited, tiny_policy, tmp_path):
    """A run that trained an adapter: the policy less a multiple of it is the adapter at minus that scale."""
    adapted = tiny_policy()
    adapted.add_adapter(Lora(r=2))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    adapted.save(tmp_path / "toxic")
    upstream = load_policy(tmp_path / "toxic")
    less, _ = edited(TaskVector(scale=0.5), other=upstream)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.mul_(-0.5)
    drawn = less.generate(PROMPTS, Decoding(5), 1, (0,))
    for mine, other in zip(less.token_logprobs(PROMPTS, drawn), adapted.token_logprobs(PROMPTS, drawn), strict=True):
        assert torch.allclose(mine, other, atol=1e-4)
    less.save(tmp_path / "less")
    again = load_policy(tmp_path / "less")
    assert again.generate(PROMPTS, Decoding(5), 1, (0,)) == drawn


def test_tied_weights_move_once(edited, tiny_policy):
    policy, _ = edited(TaskVector(scale=1.0))
    head, embeddings = policy.model.get_output_embeddings().weight, policy.model.get_input_embeddings().weight
    assert head.data_ptr() == embeddings.data_ptr()


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([Trial(0.5, 1.0, 2.0), Trial(1.0, 3.0, 2.02)], 1.0),
        ([Trial(0.5, 1.0, 2.0), Trial(1.0, 3.0, 2.20)], 0.5),  # too perplexing, however well liked
        ([Trial(0.5, 3.0, 2.0), Trial(1.0, 3.0, 2.0)], 0.5),
        ([Trial(0.5, 1.0, 3.0), Trial(1.0, 3.0, 2.5)], 1.0),  # all are: the least so
    ],
)
def test_the_scale_that_is_chosen(trials, expected):
    assert chosen(trials, 2.0 + math.log(1.05)).scale == expected


def test_the_scale_is_chosen_on_validation_prompts_and_paid_for(edited, tiny_policy):
    """Of the prompts that the budget allows: 11 completions are three prompts for each of two scales, and for none."""
    data = TrainData([], PROMPTS)
    method = TaskVector(scales=(0.5, 2.0), completion_tokens=5, max_perplexity=1e9)
    got, run = edited(method, data=data, budget_completions=11)
    worth = {}
    for scale in (0.5, 2.0):
        policy, _ = edited(TaskVector(scale=scale))
        drawn = policy.generate(PROMPTS[:3], Decoding(5), 1, (0, "scales of a task vector"))
        worth[scale] = sum(run.reward.score([one.text for one in PROMPTS[:3]], [one.text for one in drawn]))
    best, _ = edited(TaskVector(scale=max(worth, key=worth.__getitem__)))
    assert weights_fingerprint(got.model) == weights_fingerprint(best.model)
    assert (run.cost.training_completions, run.cost.reward_calls, run.cost.optimizer_steps) == (9, 9, 0)
    assert run.cost.generated_tokens > 0
    with pytest.raises(TrainingError, match=r"method.scale: got null, .* there are 0 and 16"):
        edited(method)


def test_the_ends_of_the_way_are_the_two_models(edited, tiny_policy, toxic):
    ends = [edited(Interpolated(weight=weight))[0] for weight in (0.0, 1.0)]
    expected = [tiny_policy(), toxic]
    assert [weights_fingerprint(one.model) for one in ends] == [weights_fingerprint(one.model) for one in expected]
    half, _ = edited(Interpolated(weight=0.5))
    base, other = weights(tiny_policy()), weights(toxic)
    for name, weight in weights(half).items():
        assert torch.allclose(weight, (base[name] + other[name]) / 2, atol=1e-7)


@pytest.mark.parametrize(("method", "role"), [(TaskVector(scale=1.0), "toxic"), (Interpolated(), "other")])
def test_a_run_of_another_shape_is_refused(edited, family, method, role):
    from alignbench.models.language_model import LanguageModel

    other = LanguageModel(*family("gpt2"), "another")
    with pytest.raises(ModelError, match=rf"builds_on.{role}: got 'another', whose weight .* trained from the same"):
        edited(method, other=other)
