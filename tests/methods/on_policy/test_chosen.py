"""Online DPO and RAFT: which completions of a prompt are trained on, and what that comes to."""

import copy

import pytest
import torch

from alignbench.methods.on_policy.trainer import OnPolicyTrainer
from alignbench.methods.online_dpo import OnlineDPO
from alignbench.methods.raft import RAFT
from alignbench.models.forward import completion_forward, token_logprobs

COMMON = {"batch_size": 12, "learning_rate": 1e-3, "completion_tokens": (3, 6), "kl_target": None}


def one_step(policy, prompts, method, reward):
    """Trains for a step; returns what the update was given, and the policy's weights."""
    trainer, given = OnPolicyTrainer(policy, reward, prompts, method, method), []
    run = trainer.updater.run
    trainer.updater.run = lambda rollout, *rest, **named: given.append(rollout) or run(rollout, *rest, **named)
    trainer.train(1)
    return given[0], {name: p.detach().clone() for name, p in policy.model.named_parameters()}


def by_place(values):
    """A reward that is known beforehand, whatever is drawn; None stays None."""
    return lambda prompts, completions: values


def lengths(rollout):
    return [tuple(ids[mask].tolist()) for ids, mask in zip(rollout.batch.completion_ids, rollout.mask, strict=True)]


def test_the_winner_is_the_best_by_the_reward_and_the_loser_the_worst(tiny_policy, prompts):
    """With the true reward as judge the pair is the argmax and the argmin of its group."""
    method = OnlineDPO(completions_per_prompt=4, mini_batch_size=6, **COMMON)
    rewards = [0.1, 0.9, 0.3, -2.0, 5.0, 1.0, 1.5, 0.0, 0.2, 0.4, 0.3, 0.35]
    policy = tiny_policy()
    drawn = OnPolicyTrainer(policy, by_place(rewards), prompts, method, method).sample(1)[1]
    given, _ = one_step(policy, prompts, method, by_place(rewards))
    expected = [1, 3, 4, 7, 9, 8]
    assert lengths(given) == [tuple(drawn[i].token_ids) for i in expected]
    assert given.rewards.tolist() == pytest.approx([rewards[i] for i in expected])


def test_a_tie_trains_nothing_and_leaves_the_other_pairs_as_they_are(tiny_policy, prompts):
    """The weights after a step with a tie are those after a step in which its prompt was not scored at all."""
    method = OnlineDPO(completions_per_prompt=2, mini_batch_size=12, **COMMON)
    rewards = [1.0, 0.0, 0.0, 1.0, 0.5, 0.7, 0.3, 0.2, 0.1, 0.9, 0.4, 0.6]
    with_tie = [*rewards[:4], 0.5, 0.5, *rewards[6:]]
    given, after = one_step(tiny_policy(), prompts, method, by_place(with_tie))
    assert given.mask.any(dim=1).view(-1, 2).tolist() == [[True, True]] * 2 + [[False, False]] + [[True, True]] * 3
    _, other = one_step(tiny_policy(), prompts, method, by_place([*rewards[:4], -3.0, -3.0, *rewards[6:]]))
    assert all(value.equal(other[name]) for name, value in after.items()), "however high the equal rewards are"
    _, without = one_step(tiny_policy(), prompts, method, by_place(rewards))
    assert any(not value.equal(without[name]) for name, value in after.items())


def test_pairs_that_are_all_ties_train_nothing(tiny_policy, prompts):
    method = OnlineDPO(completions_per_prompt=2, mini_batch_size=4, **COMMON)
    policy = tiny_policy()
    before = copy.deepcopy(policy.model.state_dict())
    one_step(policy, prompts, method, by_place([0.5, 0.5, 1.0, 1.0, -2.0, -2.0, 0.1, 0.1, 0.2, 0.2, 3.0, 3.0]))
    assert all(value.equal(before[name]) for name, value in policy.model.state_dict().items())


def test_raft_of_one_is_fine_tuning_on_the_policys_own_samples(tiny_policy, prompts):
    """Every sample is trained on whatever its reward, by the mean of -log p over all their tokens."""
    method = RAFT(completions_per_prompt=1, mini_batch_size=12, max_grad_norm=None, **COMMON)
    policy, start = tiny_policy(), tiny_policy().model
    given, after = one_step(policy, prompts, method, by_place([float(i % 5) for i in range(12)]))
    _, other = one_step(tiny_policy(), prompts, method, by_place([-1.0] * 12))
    assert all(value.equal(other[name]) for name, value in after.items())

    logprobs = token_logprobs(completion_forward(start, given.batch)[0], given.batch.completion_ids)
    optimizer = torch.optim.AdamW(start.parameters(), lr=method.learning_rate, weight_decay=0.0)
    (-logprobs[given.batch.completion_mask].mean()).backward()
    optimizer.step()
    for name, value in start.named_parameters():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5, msg=name)
