"""PPO with a KL penalty to a frozen reference, as one explicit loop.

    maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x))

Papers: Schulman et al. 2017 (arXiv:1707.06347); Ziegler et al. 2019 (arXiv:1909.08593). docs/ppo.md has a table of
every implementation detail with its option and its source.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignbench.errors import TrainingError
from alignbench.generation import token_logprobs
from alignbench.language_model import LanguageModel
from alignbench.ledger import Ledger, spending
from alignbench.models import has_finite_weights
from alignbench.ppo import checkpoint
from alignbench.ppo.advantages import generalised_advantages
from alignbench.ppo.config import PPOConfig
from alignbench.ppo.costs import PassCosts
from alignbench.ppo.kl import ESTIMATORS, KLController, exact_kl, k3
from alignbench.ppo.losses import policy_loss, value_loss
from alignbench.ppo.metrics import Metrics, completion_sample, rollout_metrics, timed
from alignbench.ppo.networks import Networks
from alignbench.ppo.rewards import (
    RunningMoments,
    completion_penalties,
    masked_mean,
    scaled_rewards,
    token_rewards,
    whiten,
)
from alignbench.ppo.rollout import (
    RewardFunction,
    Rollout,
    collect_rewards,
    measure,
    policy_distribution,
)
from alignbench.ppo.schedule import adamw, learning_rate_factor
from alignbench.records import Completion, Cost, Decoding, Prompt, fingerprint
from alignbench.runtime import generator, peak_memory_gib

logger = logging.getLogger(__name__)

Log = Callable[[int, Mapping[str, float]], None]
CompletionLog = Callable[[int, Sequence[Mapping[str, object]]], None]


class Targets(NamedTuple):
    """What the update works towards, both (b, t), 0 behind the completion."""

    advantages: Tensor
    returns: Tensor


class PPOTrainer:
    """Trains a policy against any reward function.

    The reference is the policy as it stands when the trainer is built, an adapter that it came with included.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reward: RewardFunction,
        prompts: Sequence[Prompt],
        config: PPOConfig,
        *,
        seed: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        """Prepares training; nothing is sampled yet.

        Args:
            policy: What is trained, in place. Attach a LoRA adapter first to train that alone.
            reward: Called with the texts of prompts and completions of a batch.
            prompts: What completions are drawn for.
            config: Hyperparameters.
            seed: With the prompts' ids it fixes every draw.
            ledger: Where costs are booked; None keeps their sums in `cost` alone.
        """
        _check_prompts(policy, prompts, config.completion_tokens[1])
        for caution in config.cautions():
            logger.warning(caution)
        self.policy, self.reward, self.prompts, self.config, self.seed = policy, reward, prompts, config, seed
        self.networks = Networks(policy, config, seed)
        self.model, self.value_head = self.networks.model, self.networks.value_head
        self.parameters = self.networks.parameters
        self.optimizer = adamw(self.parameters, config)
        self.controller = KLController(config.kl_coef, config.kl_target, config.kl_horizon, config.kl_controller)
        self.moments = RunningMoments()
        self.decoding = Decoding(
            max_new_tokens=config.completion_tokens[1],
            min_new_tokens=config.min_completion_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            stop_strings=config.stop_strings,
        )
        self.step = 0
        self.passes = PassCosts(self.networks)
        self.ledger = ledger or Ledger()
        self.ledger.restore({"trainable_parameters": self.passes.n_parameters})  # known before the first step

    @property
    def cost(self) -> Cost:
        """What training has cost so far, without seconds and memory."""
        return self.ledger.cost

    def train(
        self,
        n_steps: int,
        *,
        log: Log | None = None,
        log_completions: CompletionLog | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        """Runs PPO steps until `n_steps` are done in all; resumes from `checkpoints` where it holds a state.

        Args:
            n_steps: PPO steps in all, each on `batch_size` fresh completions; the learning rate's schedule ends there.
            log: Called after every step with its number and its metrics.
            log_completions: Called every `log_completions_every` steps, the first one included, with some completions.
            checkpoints: Where the state is kept every `checkpoint_every` steps.

        Raises:
            TrainingError: a reward, loss or gradient that is not finite, a reward that leaves more than 1 % unscored,
                or a first step at which policy and reference differ. The last checkpoint stays.
        """
        if checkpoints is not None:
            self._resume(checkpoints, n_steps)
        while self.step < n_steps:
            metrics, samples = self._train_step(n_steps)
            if log is not None:
                log(self.step, metrics)
            if log_completions is not None and (self.step - 1) % self.config.log_completions_every == 0:
                log_completions(self.step, samples)
            if checkpoints is not None and (self.step % self.config.checkpoint_every == 0 or self.step == n_steps):
                self._save(checkpoints, n_steps)

    def train_step(self) -> Metrics:
        """One PPO step on one batch of fresh completions; returns its metrics, defined in docs/metrics.md.

        `train` is the usual way: this one knows no end, so it takes a constant schedule only.
        """
        if self.config.schedule != "constant":
            raise TrainingError(f"schedule: {self.config.schedule} needs the number of steps: call train(n_steps)")
        return self._train_step(0)[0]

    def _train_step(self, n_steps: int) -> tuple[Metrics, list[dict[str, object]]]:
        config = self.config
        seconds: Metrics = {}
        # 1. Sample a completion for every prompt of the batch.
        with timed(seconds, "rollout"), self.networks.autocast(), spending(self.policy) as sampling:
            prompts, completions = self._sample()
        # 2. Score the completions; scale, cut and penalise the scores.
        with timed(seconds, "reward"), spending(self.reward) as scoring:
            scores = collect_rewards(self.reward, prompts, completions)
        scored, rewards = self._rewards(scores, completions)
        # 3. Log-probabilities under policy and reference, KL and values, all by the same full pass.
        with timed(seconds, "forward"):
            batch = self.policy.batch(prompts, completions)
            rollout = measure(self.networks, batch, scored, rewards, self.decoding, self.policy.eos_id)
        if self.step == 0:
            self._check_reference(rollout)
        # 4. Token rewards, advantages and returns.
        targets = self._targets(rollout)
        # 5. Several epochs of clipped updates.
        factor = learning_rate_factor(self.step, n_steps, config.schedule, config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with timed(seconds, "update"), self.networks.recomputing():
            update, training = self._update(rollout, targets)
        # 6. Adapt the weight of the KL penalty.
        metrics = rollout_metrics(rollout, targets.returns, scores, completions, self.controller.coef) | update
        self.controller.update(metrics["objective/kl"], len(completions))
        if not has_finite_weights(self.model):
            raise TrainingError(f"weights are not finite after PPO step {self.step + 1}: lower method.learning_rate")
        self.step += 1
        n = len(completions)
        self.ledger.book(self.step, "sample", replace(sampling, prompts_seen=n, training_completions=n))
        self.ledger.book(self.step, "score", replace(scoring, reward_calls=n))
        self.ledger.book(self.step, "forward", self.passes.rollout(batch))
        self.ledger.book(self.step, "train", training)
        metrics["time/tokens_per_second"] = sampling.generated_tokens / sum(seconds.values())
        metrics |= {f"time/{stage}_seconds": value for stage, value in seconds.items()}
        metrics["memory/peak_gib"] = peak_memory_gib()
        return metrics, completion_sample(prompts, completions, scores, rollout)

    def _sample(self) -> tuple[list[Prompt], list[Completion]]:
        """The step's prompts, a function of seed and step alone, and one completion of each."""
        size = self.config.batch_size
        places = [divmod(i, len(self.prompts)) for i in range(self.step * size, (self.step + 1) * size)]
        orders = {epoch: self._order(epoch) for epoch, _ in places}
        prompts = [self.prompts[orders[epoch][index]] for epoch, index in places]
        shortest, longest = self.config.completion_tokens
        limits = generator(self.seed, "limits", self.step).integers(shortest, longest + 1, size=size).tolist()
        epochs = [epoch for epoch, _ in places]
        return prompts, self.policy.complete(prompts, epochs, limits, self.decoding, (self.seed, "rollout"))

    def _order(self, epoch: int) -> list[int]:
        return generator(self.seed, "order", epoch).permutation(len(self.prompts)).tolist()  # type: ignore[no-any-return]

    def _rewards(self, scores: Sequence[float | None], completions: Sequence[Completion]) -> tuple[Tensor, Tensor]:
        """Which completions are scored, (b,), and the rewards to train on, (b,), 0 where unscored."""
        config, device = self.config, self.policy.device
        scored = torch.tensor([score is not None for score in scores], device=device)
        rewards = torch.tensor([score or 0.0 for score in scores], device=device)
        if config.reward_scaling != "none":
            self.moments.update(rewards[scored])
        rewards = scaled_rewards(rewards, self.moments, config.reward_scaling, config.reward_clip)
        n_tokens = torch.tensor([len(c.token_ids) for c in completions], device=device)
        is_cut = torch.tensor([c.finish_reason == "length" for c in completions], device=device)
        penalties = completion_penalties(n_tokens, is_cut, config.missing_eos_penalty, config.length_penalty)
        return scored, (rewards - penalties) * scored

    def _check_reference(self, rollout: Rollout) -> None:
        """Before any update policy and reference are the same model, so KL must be 0."""
        difference = masked_mean((rollout.policy_logprobs - rollout.reference_logprobs).abs(), rollout.mask).item()
        if not difference <= 1e-4:
            raise TrainingError(
                f"before the first update policy and reference differ by {difference:.2e} nats per token on average, "
                "expected at most 1e-4: the policy's weights were changed after the trainer was built, or two passes "
                "over the same tokens differ (dropout or other noise in the model)"
            )

    def _targets(self, rollout: Rollout) -> Targets:
        """Token rewards with the KL penalty on every token, then advantages and returns; whitened where asked for."""
        config, batch = self.config, rollout.batch
        kl_coef = self.controller.coef if config.kl_placement == "reward" else 0.0
        rewards = token_rewards(rollout.rewards, rollout.kl, batch.completion_mask, kl_coef)
        if config.whiten_rewards:
            rewards = whiten(rewards, rollout.mask, center=False)
        advantages, returns = generalised_advantages(
            rewards, rollout.values, batch.completion_mask, config.gamma, config.gae_lambda
        )
        if config.whiten_advantages:
            advantages = whiten(advantages, rollout.mask, center=True)
        return Targets(advantages, returns)

    def _update(self, rollout: Rollout, targets: Targets) -> tuple[Metrics, Cost]:
        steps: list[Metrics] = []
        cost = Cost()
        for rows in self._mini_batches(len(rollout.batch)):
            part = rollout.rows(rows)
            if not part.mask.any():  # its only completions are unscored
                continue
            if self.config.whiten_over == "mini_batch":
                part_targets = self._targets(part)
            else:
                part_targets = Targets(targets.advantages[rows], targets.returns[rows])
            metrics = self._accumulate(part, part_targets)
            cost.charge(self.passes.update(part.batch, part.mask))
            if not steps and self.step == 0:
                self._check_ratio(metrics)
            if steps and metrics["policy/approximate_kl"] > (self.config.early_stop_kl or math.inf):
                break  # the gradient at hand is dropped
            self.optimizer.step()
            cost.optimizer_steps += 1
            steps.append(metrics)
        averages = {key: math.fsum(step[key] for step in steps) / len(steps) for key in steps[0]}
        averages["policy/ratio_max"] = max(step["policy/ratio_max"] for step in steps)
        averages["policy/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        averages["policy/n_updates"] = float(len(steps))
        return averages, cost

    def _mini_batches(self, n_rows: int) -> Iterator[Tensor]:
        for epoch in range(self.config.ppo_epochs):
            order = generator(self.seed, "mini-batches", self.step, epoch).permutation(n_rows)
            yield from torch.split(torch.from_numpy(order).to(self.policy.device), self.config.mini_batch_size)

    def _accumulate(self, rollout: Rollout, targets: Targets) -> Metrics:
        """The gradient of one mini-batch, clipped: of a mean over its tokens, however it is cut into passes."""
        n_tokens = rollout.mask.sum().clamp(min=1)
        totals: Metrics = {}
        self.optimizer.zero_grad()
        for rows in torch.split(torch.arange(len(rollout.batch), device=n_tokens.device), self.config.rows_at_once):
            part = Targets(targets.advantages[rows], targets.returns[rows])
            loss, sums, largest_ratio = self._losses(rollout.rows(rows), part)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss.item()} at PPO step {self.step + 1}: lower method.learning_rate"
                )
            (loss / n_tokens).backward()  # type: ignore[no-untyped-call]
            for key, value in sums.items():
                totals[key] = totals.get(key, 0.0) + value.item() / n_tokens.item()
            totals["policy/ratio_max"] = max(totals.get("policy/ratio_max", 0.0), largest_ratio.item())
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm or math.inf).item()
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm} at PPO step {self.step + 1}: lower method.learning_rate")
        return totals | {"policy/gradient_norm": norm}

    def _losses(self, rollout: Rollout, targets: Targets) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss summed over the tokens of some rows, sums over the same tokens for the log, the largest ratio."""
        batch, mask, config = rollout.batch, rollout.mask, self.config
        reference = self._reference_of_the_loss(rollout)
        raw, values = self.networks.policy_and_values(batch, rollout.shared)
        logits = policy_distribution(raw, self.decoding, self.policy.eos_id)
        logprobs = token_logprobs(logits, batch.completion_ids, support=rollout.support)
        policy, policy_clipped = policy_loss(logprobs, rollout.logprobs, targets.advantages, config.clip_range)
        value, value_clipped = value_loss(values, rollout.values, targets.returns, config.value_clip_range)
        policy_sum, value_sum = (policy * mask).sum(), (value * mask).sum()
        loss = policy_sum + config.value_coef * value_sum
        with torch.no_grad():
            ratio = torch.exp(logprobs - rollout.logprobs)
            sums = {
                "policy/loss": policy_sum.detach(),
                "policy/ratio_mean": (ratio * mask).sum(),
                "policy/clip_fraction": (policy_clipped & mask).sum(),
                "policy/approximate_kl": (k3(rollout.logprobs, logprobs) * mask).sum(),
                "value/loss": value_sum.detach(),
                "value/clip_fraction": (value_clipped & mask).sum(),
            }
        if config.kl_placement == "loss":
            if reference is not None:
                kl = exact_kl(logits, reference)
            else:
                whole = logprobs if rollout.support is None else token_logprobs(logits, batch.completion_ids)
                kl = ESTIMATORS[config.kl_estimator](whole, rollout.reference_logprobs)
            kl_sum = (kl * mask).sum()
            loss = loss + self.controller.coef * kl_sum
            sums["policy/kl_loss"] = kl_sum.detach()
        return loss, sums, ratio.masked_fill(~mask, 0.0).max()

    def _reference_of_the_loss(self, rollout: Rollout) -> Tensor | None:
        """Logits of the reference, (b, t, V), where the loss has the exact KL to it; computed again to save memory."""
        if self.config.kl_placement != "loss" or self.config.kl_estimator != "exact":
            return None
        raw = self.networks.reference_logits(rollout.batch, rollout.shared)
        return policy_distribution(raw, self.decoding, self.policy.eos_id)

    def _check_ratio(self, first: Metrics) -> None:
        """At the first mini-batch nothing has moved, so the probability ratio must be 1."""
        is_exact = next(self.model.parameters()).dtype == torch.float32 and not self.config.mixed_precision
        if abs(first["policy/ratio_mean"] - 1) > (1e-3 if is_exact else 5e-2):
            raise TrainingError(
                f"the first probability ratio is {first['policy/ratio_mean']:.6f} on average, expected 1"
            )

    def _save(self, directory: Path, n_steps: int) -> None:
        state = {
            "step": self.step,
            "kl_coef": self.controller.coef,
            "moments": asdict(self.moments),
            "cost": self.cost.counts(),
        }
        checkpoint.save(directory, self.parameters, self.optimizer, state, self._identity(n_steps))

    def _resume(self, directory: Path, n_steps: int) -> None:
        state = checkpoint.load(directory, self.parameters, self.optimizer, self._identity(n_steps))
        if state is None:
            return
        self.step, self.controller.coef = state["step"], state["kl_coef"]
        self.moments = RunningMoments(**state["moments"])
        self.ledger.restore(state["cost"])

    def _identity(self, n_steps: int) -> dict[str, object]:
        """What must be equal for a run to go on from a checkpoint: everything that decides the numbers."""
        options = {key: value for key, value in asdict(self.config).items() if key not in _RECORDS}
        # A schedule that ends depends on where.
        end = {"n_steps": n_steps} if self.config.schedule != "constant" else {}
        prompts = fingerprint([[prompt.id, prompt.text] for prompt in self.prompts])
        return {"seed": self.seed, "start_weights": self.networks.start, "prompts": prompts, **end, **options}


_RECORDS = ("checkpoint_every", "log_completions_every")


def _check_prompts(policy: LanguageModel, prompts: Sequence[Prompt], n_new_tokens: int) -> None:
    if not prompts:
        raise TrainingError("PPO got no training prompts")
    for prompt in prompts:
        if not isinstance(prompt, Prompt):
            raise TrainingError(f"prompts: got {prompt!r}, expected alignbench.records.Prompt(id=..., text=...)")
    ids = Counter(prompt.id for prompt in prompts)
    twice, n = ids.most_common(1)[0]
    if n > 1:
        raise TrainingError(
            f"prompts: {n} have the id {twice!r}; expected different ids, because draws are keyed by them"
        )
    policy.check_context(prompts, [n_new_tokens])
