"""PPO with a KL penalty to a frozen reference, as one explicit loop.

    maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x))

Papers: Schulman et al. 2017 (arXiv:1707.06347); Ziegler et al. 2019 (arXiv:1909.08593).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.errors import TrainingError
from alignbench.generation import completion_forward, token_logprobs
from alignbench.language_model import LanguageModel
from alignbench.models import has_finite_weights, n_trainable_parameters
from alignbench.ppo import checkpoint
from alignbench.ppo.advantages import generalised_advantages
from alignbench.ppo.config import PPOConfig
from alignbench.ppo.kl import KLController, k1, k3
from alignbench.ppo.losses import policy_loss, value_loss
from alignbench.ppo.rewards import masked_mean, token_rewards, whiten
from alignbench.ppo.rollout import RewardFunction, Rollout, collect_rewards, policy_pass, reference_pass
from alignbench.records import Completion, Cost, Decoding, Prompt
from alignbench.runtime import generator

Metrics = dict[str, float]
Log = Callable[[int, Mapping[str, float]], None]


class PPOTrainer:
    """Trains a policy against any reward function.

    The reference is the policy as it stands when the trainer is built: with a LoRA adapter the same network with
    the adapter off, otherwise a frozen copy. Attach an adapter only when it is fresh.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reward: RewardFunction,
        prompts: Sequence[Prompt],
        config: PPOConfig,
        *,
        seed: int = 0,
    ) -> None:
        if not prompts:
            raise TrainingError("PPO got no training prompts")
        self.policy, self.reward, self.prompts, self.config, self.seed = policy, reward, prompts, config, seed
        self.model: nn.Module = policy.model.eval()  # no layer may behave otherwise in training than in sampling
        self.reference: nn.Module = self.model if policy.has_adapter else policy.frozen_copy().model
        self.reference_context: Callable[[], AbstractContextManager[None]] = (
            policy.adapter_off if policy.has_adapter else nullcontext
        )
        self.value_head = _value_head(self.model).to(policy.device)
        self.parameters = checkpoint.trainable({"policy": self.model, "value_head": self.value_head})
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.controller = KLController(config.kl_coef, config.kl_target, config.kl_horizon)
        self.step = 0
        self.cost = Cost(
            trainable_parameters=n_trainable_parameters(self.model) + n_trainable_parameters(self.value_head)
        )

    def train(self, n_steps: int, *, log: Log | None = None, checkpoints: Path | None = None) -> None:
        """Runs PPO steps until `n_steps` are done in all; resumes from `checkpoints` where it holds a state.

        Args:
            n_steps: PPO steps in all, each on `batch_size` fresh completions.
            log: Called after every step with its number and its metrics.
            checkpoints: Where the state is kept every `checkpoint_every` steps.

        Raises:
            TrainingError: a reward, loss or gradient that is not finite, a reward that leaves more than 1 % unscored,
                or a first step at which policy and reference differ. The last checkpoint stays.
        """
        if checkpoints is not None:
            self._resume(checkpoints)
        while self.step < n_steps:
            metrics = self.train_step()
            if log is not None:
                log(self.step, metrics)
            if checkpoints is not None and (self.step % self.config.checkpoint_every == 0 or self.step == n_steps):
                self._save(checkpoints)

    def train_step(self) -> Metrics:
        """One PPO step on one batch of fresh completions; returns its metrics, defined in docs/metrics.md."""
        seconds: Metrics = {}
        # 1. Sample a completion for every prompt of the batch.
        with _timed(seconds, "rollout"):
            prompts, completions = self._sample()
        # 2. Score the completions.
        with _timed(seconds, "reward"):
            scores = collect_rewards(self.reward, prompts, completions)
        # 3. Log-probabilities under policy and reference, and values, all by the same full pass.
        with _timed(seconds, "forward"):
            rollout = self._measure(prompts, completions, scores)
        if self.step == 0:
            self._check_reference(rollout)
        # 4. Token rewards: the KL penalty on every token, the reward on the last one.
        kl = k1(rollout.logprobs, rollout.reference_logprobs)
        rewards = token_rewards(rollout.rewards, kl, rollout.batch.completion_mask, self.controller.coef)
        if self.config.whiten_rewards:
            rewards = whiten(rewards, rollout.mask, center=False)
        # 5. Advantages and returns.
        advantages, returns = generalised_advantages(
            rewards, rollout.values, rollout.batch.completion_mask, self.config.gamma, self.config.gae_lambda
        )
        if self.config.whiten_advantages:
            advantages = whiten(advantages, rollout.mask, center=True)
        # 6. Several epochs of clipped updates.
        with _timed(seconds, "update"):
            update = self._update(rollout, advantages, returns)
        # 7. Adapt the weight of the KL penalty.
        metrics = self._summary(rollout, kl, returns) | update
        self.controller.update(metrics["objective/kl"], len(completions))
        if not has_finite_weights(self.model):
            raise TrainingError(f"weights are not finite after PPO step {self.step + 1}: lower method.learning_rate")
        self.step += 1
        self._count(completions)
        tokens = sum(len(completion.token_ids) for completion in completions)
        metrics["time/tokens_per_second"] = tokens / sum(seconds.values())
        return metrics | {f"time/{stage}_seconds": value for stage, value in seconds.items()}

    def _sample(self) -> tuple[list[Prompt], list[Completion]]:
        """The step's prompts, a function of seed and step alone, and one completion of each."""
        size = self.config.batch_size
        places = [divmod(i, len(self.prompts)) for i in range(self.step * size, (self.step + 1) * size)]
        orders = {epoch: self._order(epoch) for epoch, _ in places}
        prompts = [self.prompts[orders[epoch][index]] for epoch, index in places]
        shortest, longest = self.config.completion_tokens
        limits = generator(self.seed, "limits", self.step).integers(shortest, longest + 1, size=size).tolist()
        decoding = Decoding(max_new_tokens=longest, temperature=self.config.temperature)
        epochs = [epoch for epoch, _ in places]
        return prompts, self.policy.complete(prompts, epochs, limits, decoding, (self.seed, "rollout"))

    def _order(self, epoch: int) -> list[int]:
        return generator(self.seed, "order", epoch).permutation(len(self.prompts)).tolist()  # type: ignore[no-any-return]

    def _measure(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], scores: Sequence[float | None]
    ) -> Rollout:
        batch = self.policy.batch(prompts, completions)
        rows, temperature = self._micro_batch_size, self.config.temperature
        logprobs, values, entropies = policy_pass(self.model, self.value_head, batch, temperature, rows)
        reference = reference_pass(self.reference, self.reference_context, batch, temperature, rows)
        scored = torch.tensor([score is not None for score in scores], device=self.policy.device)
        return Rollout(
            completions=completions,
            batch=batch,
            mask=batch.completion_mask & scored.unsqueeze(1),
            rewards=torch.tensor([score or 0.0 for score in scores], device=self.policy.device),
            logprobs=logprobs,
            reference_logprobs=reference,
            values=values,
            entropy=entropies,
        )

    @property
    def _micro_batch_size(self) -> int:
        return self.config.micro_batch_size or self.config.mini_batch_size

    def _check_reference(self, rollout: Rollout) -> None:
        """Before any update policy and reference are the same model, so KL must be 0."""
        difference = masked_mean((rollout.logprobs - rollout.reference_logprobs).abs(), rollout.mask).item()
        if not difference <= 1e-4:
            raise TrainingError(
                f"before the first update policy and reference differ by {difference:.2e} nats per token on average, "
                "expected at most 1e-4: the policy's weights were changed after the trainer was built, dropout is "
                "on, or the adapter is not fresh (merge a trained adapter into its base first)"
            )

    def _update(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> Metrics:
        steps = []
        for epoch in range(self.config.ppo_epochs):
            order = generator(self.seed, "mini-batches", self.step, epoch).permutation(len(rollout.batch))
            for rows in torch.split(torch.from_numpy(order), self.config.mini_batch_size):
                steps.append(self._mini_batch(rollout, advantages, returns, rows.to(self.policy.device)))
                if len(steps) == 1 and self.step == 0:
                    self._check_ratio(steps[0])
        averages = {key: math.fsum(step[key] for step in steps) / len(steps) for key in steps[0]}
        averages["policy/ratio_max"] = max(step["policy/ratio_max"] for step in steps)
        return averages

    def _mini_batch(self, rollout: Rollout, advantages: Tensor, returns: Tensor, rows: Tensor) -> Metrics:
        """One optimizer step; losses are means over the tokens of the mini-batch, however it is cut into passes."""
        n_tokens = rollout.mask[rows].sum().clamp(min=1)
        totals: Metrics = {}
        self.optimizer.zero_grad()
        for part in torch.split(rows, self._micro_batch_size):
            loss, sums, largest_ratio = self._losses(rollout, advantages, returns, part)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss.item()} at PPO step {self.step + 1}: lower method.learning_rate"
                )
            (loss / n_tokens).backward()  # type: ignore[no-untyped-call]
            for key, value in sums.items():
                totals[key] = totals.get(key, 0.0) + value.item() / n_tokens.item()
            totals["policy/ratio_max"] = max(totals.get("policy/ratio_max", 0.0), largest_ratio.item())
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm} at PPO step {self.step + 1}: lower method.learning_rate")
        self.optimizer.step()
        self.cost.optimizer_steps += 1
        return totals | {"policy/gradient_norm": norm}

    def _losses(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, rows: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss summed over the tokens of some rows, sums over the same tokens for the log, the largest ratio."""
        batch, mask, config = rollout.batch.rows(rows), rollout.mask[rows], self.config
        logits, hidden = completion_forward(self.model, batch, hidden=True)
        assert hidden is not None
        logprobs = token_logprobs(logits, batch.completion_ids, config.temperature)
        values = self.value_head(hidden.float()).squeeze(-1)
        old = rollout.logprobs[rows]
        policy, policy_clipped = policy_loss(logprobs, old, advantages[rows], config.clip_range)
        value, value_clipped = value_loss(values, rollout.values[rows], returns[rows], config.value_clip_range)
        policy_sum, value_sum = (policy * mask).sum(), (value * mask).sum()
        with torch.no_grad():
            ratio = torch.exp(logprobs - old)
            sums = {
                "policy/loss": policy_sum.detach(),
                "policy/ratio_mean": (ratio * mask).sum(),
                "policy/clip_fraction": (policy_clipped & mask).sum(),
                "policy/approximate_kl": (k3(old, logprobs) * mask).sum(),
                "value/loss": value_sum.detach(),
                "value/clip_fraction": (value_clipped & mask).sum(),
            }
        return policy_sum + config.value_coef * value_sum, sums, ratio.masked_fill(~mask, 0.0).max()

    def _check_ratio(self, first: Metrics) -> None:
        """At the first mini-batch nothing has moved, so the probability ratio must be 1."""
        tolerance = 1e-3 if next(self.model.parameters()).dtype == torch.float32 else 5e-2
        if abs(first["policy/ratio_mean"] - 1) > tolerance:
            raise TrainingError(
                f"the first probability ratio is {first['policy/ratio_mean']:.6f} on average, expected 1"
            )

    def _summary(self, rollout: Rollout, kl: Tensor, returns: Tensor) -> Metrics:
        mask, scored = rollout.mask, rollout.mask.any(dim=1)
        per_completion = (kl * mask).sum(dim=1)[scored]
        rewards = rollout.rewards[scored]
        mean_return = masked_mean(returns, mask)
        variance = masked_mean((returns - mean_return) ** 2, mask).item()
        residual = masked_mean((returns - rollout.values) ** 2, mask).item()
        n_tokens = rollout.batch.completion_mask.sum(dim=1).float()
        return {
            "objective/reward": rewards.mean().item(),
            "objective/reward_std": rewards.std(correction=0).item(),
            "objective/kl": per_completion.mean().item(),
            "objective/kl_k3": (k3(rollout.logprobs, rollout.reference_logprobs) * mask)
            .sum(dim=1)[scored]
            .mean()
            .item(),
            "objective/penalised_reward": (rewards - self.controller.coef * per_completion).mean().item(),
            "objective/entropy": masked_mean(rollout.entropy, mask).item(),
            "objective/kl_coef": self.controller.coef,
            "objective/n_unscored": float((~scored).sum().item()),
            "value/explained_variance": 1 - residual / variance if variance > 0 else 0.0,
            "tokens/completion_mean": n_tokens.mean().item(),
            "tokens/eos_rate": sum(c.finish_reason == "eos" for c in rollout.completions) / len(rollout.completions),
        }

    def _count(self, completions: Sequence[Completion]) -> None:
        self.cost.training_completions += len(completions)
        self.cost.reward_calls += len(completions)
        self.cost.generated_tokens += sum(len(completion.token_ids) for completion in completions)

    def _save(self, directory: Path) -> None:
        counters = {key: getattr(self.cost, key) for key in _COUNTERS}
        state = {"step": self.step, "seed": self.seed, "kl_coef": self.controller.coef, "cost": counters}
        checkpoint.save(directory, self.parameters, self.optimizer, state)

    def _resume(self, directory: Path) -> None:
        state = checkpoint.load(directory, self.parameters, self.optimizer)
        if state is None:
            return
        if state["seed"] != self.seed:
            raise TrainingError(f"{directory}: the checkpoint is of seed {state['seed']}, this run of seed {self.seed}")
        self.step, self.controller.coef = state["step"], state["kl_coef"]
        for key, value in state["cost"].items():
            setattr(self.cost, key, value)


_COUNTERS = ("training_completions", "generated_tokens", "reward_calls", "optimizer_steps")


def _value_head(model: nn.Module) -> nn.Linear:
    """A linear head on the last hidden state, started at 0 so that the first values say nothing."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    head = nn.Linear(inner.get_output_embeddings().weight.shape[1], 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@contextmanager
def _timed(seconds: Metrics, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
