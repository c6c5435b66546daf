"""One whole PPO step against an oracle: a slow float64 loop, one sequence at a time, with AdamW written out.

The oracle shares no code with the trainer but the sampling, and the order of the mini-batches: it takes the model's
own logits and hidden states of the bare sequence, without padding, masks or given positions.
"""

import copy
import math

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.ppo.config import PPOConfig
from alignbench.ppo.trainer import PPOTrainer
from alignbench.runtime import generator

# Every option away from its default and from values that would hide it.
CONFIG = PPOConfig(
    learning_rate=2e-3,
    batch_size=8,
    mini_batch_size=4,
    micro_batch_size=2,
    ppo_epochs=3,
    completion_tokens=(2, 7),
    temperature=0.7,
    kl_coef=0.3,
    kl_target=None,
    gamma=0.9,
    gae_lambda=0.5,
    clip_range=0.05,
    value_clip_range=0.03,
    value_coef=0.3,
    whiten_rewards=True,
    max_grad_norm=0.5,
    weight_decay=0.1,
    adam_epsilon=1e-6,
)
SEED = 3


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


class Oracle:
    """The trainer's state in float64, and its next step written out."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.model, self.reference, self.head = (
            copy.deepcopy(module).double() for module in (trainer.model, trainer.reference, trainer.value_head)
        )
        named = {f"policy.{name}": p for name, p in self.model.named_parameters()}
        named |= {f"value_head.{name}": p for name, p in self.head.named_parameters()}
        self.parameters = {name: named[name] for name in trainer.parameters}
        self.moments = {
            name: {key: value.double().clone() for key, value in trainer.optimizer.state[p].items()}
            for name, p in trainer.parameters.items()
        }

    def sequence(self, model, prompt, completion, *, with_values):
        prompt_ids = self.trainer.policy.encode_prompt(prompt.text)
        output = model(torch.tensor([prompt_ids + list(completion.token_ids)]), output_hidden_states=True)
        before = slice(len(prompt_ids) - 1, -1)
        logprobs = (output.logits[0, before] / CONFIG.temperature).log_softmax(-1)
        chosen = logprobs[torch.arange(len(completion.token_ids)), list(completion.token_ids)]
        return chosen, self.head(output.hidden_states[-1][0, before])[:, 0] if with_values else None

    def step(self, prompts, completions):
        rows = list(zip(prompts, completions, strict=True))
        with torch.no_grad():
            old = [self.sequence(self.model, *row, with_values=True) for row in rows]
            reference = [self.sequence(self.reference, *row, with_values=False)[0] for row in rows]
        rewards = []
        for (logprobs, _), other, value in zip(old, reference, score(None, [c.text for c in completions]), strict=True):
            tokens = -CONFIG.kl_coef * (logprobs - other)
            tokens[-1] += value
            rewards.append(tokens)
        rewards = [(r - self.mean(rewards)) / self.deviation(rewards) + self.mean(rewards) for r in rewards]
        advantages = [self.advantages(r, values) for r, (_, values) in zip(rewards, old, strict=True)]
        returns = [a + values for a, (_, values) in zip(advantages, old, strict=True)]
        advantages = [(a - self.mean(advantages)) / self.deviation(advantages) for a in advantages]
        for epoch in range(CONFIG.ppo_epochs):
            order = generator(SEED, "mini-batches", 1, epoch).permutation(CONFIG.batch_size)
            for start in range(0, CONFIG.batch_size, CONFIG.mini_batch_size):
                chosen = order[start : start + CONFIG.mini_batch_size]
                self.adamw(self.loss([(rows[i], old[i], advantages[i], returns[i]) for i in chosen]))

    @staticmethod
    def mean(parts):
        return torch.cat(parts).mean()

    @staticmethod
    def deviation(parts):
        return torch.sqrt(((torch.cat(parts) - torch.cat(parts).mean()) ** 2).mean() + 1e-8)

    @staticmethod
    def advantages(rewards, values):
        n, found, following = len(rewards), [], 0.0
        for t in reversed(range(n)):
            delta = rewards[t] + CONFIG.gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t]
            following = delta + CONFIG.gamma * CONFIG.gae_lambda * following
            found.append(following)
        return torch.stack(found[::-1])

    def loss(self, batch):
        total, n_tokens = 0.0, 0
        for row, (old_logprobs, old_values), advantages, returns in batch:
            logprobs, values = self.sequence(self.model, *row, with_values=True)
            ratio = (logprobs - old_logprobs).exp()
            low, high = 1 - CONFIG.clip_range, 1 + CONFIG.clip_range
            total = total - torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages).sum()
            near = old_values + (values - old_values).clamp(-CONFIG.value_clip_range, CONFIG.value_clip_range)
            worse = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
            total = total + CONFIG.value_coef * 0.5 * worse.sum()
            n_tokens += len(row[1].token_ids)
        return total / n_tokens

    def adamw(self, loss):
        """Loshchilov and Hutter 2019, with the gradient cut to its longest norm."""
        gradients = dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))
        norm = math.sqrt(sum((g**2).sum().item() for g in gradients.values()))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                gradient = gradients[name] * min(1.0, CONFIG.max_grad_norm / (norm + 1e-6))
                state = self.moments[name]
                state["step"] += 1
                state["exp_avg"].mul_(0.9).add_(0.1 * gradient)
                state["exp_avg_sq"].mul_(0.999).add_(0.001 * gradient**2)
                first = state["exp_avg"] / (1 - 0.9 ** state["step"])
                second = state["exp_avg_sq"] / (1 - 0.999 ** state["step"])
                parameter.mul_(1 - CONFIG.learning_rate * CONFIG.weight_decay)
                parameter.sub_(CONFIG.learning_rate * first / (second.sqrt() + CONFIG.adam_epsilon))


def test_second_step_against_the_oracle(tiny_policy, prompts):
    """The second step: by then policy and reference differ, values are not 0 and the optimizer has moments."""
    trainer = PPOTrainer(tiny_policy(), score, prompts[:4], CONFIG, seed=SEED)
    trainer.train_step()
    oracle = Oracle(trainer)
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    drawn = trainer._sample()
    assert len({len(completion.token_ids) for completion in drawn[1]}) > 1  # padding is at work
    oracle.step(*drawn)
    metrics = trainer.train_step()
    assert metrics["policy/clip_fraction"] > 0
    assert metrics["value/clip_fraction"] > 0
    assert metrics["objective/kl"] != pytest.approx(0, abs=1e-3)
    for name, parameter in trainer.parameters.items():
        moved = (parameter - before[name]).abs().max().item()
        assert (parameter.double() - oracle.parameters[name]).abs().max().item() < 1e-3 * max(moved, 1e-3), name


def test_limits_are_drawn_from_the_whole_range(tiny_policy, prompts):
    trainer = PPOTrainer(tiny_policy(), score, prompts, CONFIG, seed=SEED)
    lengths = set()
    for step in range(12):
        trainer.step = step
        lengths |= {len(c.token_ids) for c in trainer._sample()[1] if c.finish_reason == "length"}
    assert lengths == {2, 3, 4, 5, 6, 7}


def test_a_first_ratio_that_is_not_1_stops(tiny_policy, prompts, monkeypatch):
    """Old log-probabilities that are all off by 0.2, under policy and reference alike: KL is 0, the ratio exp(-0.2)."""
    from alignbench.ppo import trainer as module

    policy_pass, reference_pass = module.policy_pass, module.reference_pass
    monkeypatch.setattr(module, "policy_pass", lambda *a: (policy_pass(*a)[0] + 0.2, *policy_pass(*a)[1:]))
    monkeypatch.setattr(module, "reference_pass", lambda *a: reference_pass(*a) + 0.2)
    trainer = PPOTrainer(tiny_policy(), score, prompts, CONFIG, seed=SEED)
    with pytest.raises(TrainingError, match=r"first probability ratio is 0\.8187"):
        trainer.train_step()


def test_resume_with_a_classifier_is_exact_though_texts_repeat(tiny_policy, checkpoints, prompts, tmp_path):
    """A score moves in its last digits with its batch, so what was scored before must not be remembered."""
    from alignbench.scorers.classifier import ClassifierScorer

    def build():
        scorer = ClassifierScorer.load(
            str(checkpoints / "classifier"), where="reward", revision=None, device=torch.device("cpu"),
            name="reward", label="nothate", transform="logit",
        )  # fmt: skip
        config = PPOConfig(
            learning_rate=1e-3, batch_size=32, mini_batch_size=8, completion_tokens=(1, 3), kl_target=None
        )
        return PPOTrainer(tiny_policy(), scorer.score, prompts, config, seed=SEED)

    straight = build()
    straight.train(8)
    build().train(4, checkpoints=tmp_path)
    resumed = build()
    resumed.train(8, checkpoints=tmp_path)
    for name, parameter in straight.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
