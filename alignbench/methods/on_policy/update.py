"""Several epochs of steps of the policy, and of values where there are any, on one rollout."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.errors import TrainingError
from alignbench.methods.on_policy.kl import ESTIMATORS, exact_kl, has_moved, k3
from alignbench.methods.on_policy.losses import token_weights, value_loss
from alignbench.methods.on_policy.rollout import Rollout, policy_distribution, whole_logprobs
from alignbench.models.forward import token_logprobs
from alignbench.models.sampling.token_draw import EosId
from alignbench.records import Cost, Decoding
from alignbench.runtime import distributed
from alignbench.runtime.randomness import generator

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from alignbench.methods.on_policy.advantages import Targets
    from alignbench.methods.on_policy.costs import PassCosts
    from alignbench.methods.on_policy.imitation import Imitation
    from alignbench.methods.on_policy.metrics import Metrics
    from alignbench.methods.on_policy.networks import Networks
    from alignbench.methods.on_policy.objective import Objective
    from alignbench.models.forward import SequenceBatch


class Updater:
    """Moves the weights of some networks."""

    def __init__(
        self,
        networks: Networks,
        objective: Objective,
        optimizer: Optimizer,
        decoding: Decoding,
        eos_id: EosId,
        seed: int,
    ) -> None:
        """Prepares; `decoding` and `eos_id` say what rollouts are sampled by, `seed` orders the mini-batches."""
        self.networks, self.config, self.optimizer = networks, networks.config, optimizer
        self.objective = objective
        self.imitation: Imitation | None = None
        """What is imitated besides."""
        self.decoding, self.eos_id, self.seed = decoding, eos_id, seed

    def run(
        self,
        rollout: Rollout,
        targets: Targets,
        targets_of: Callable[[Rollout], Targets],
        costs: PassCosts,
        *,
        step: int,
        kl_coef: float,
    ) -> tuple[Metrics, Cost]:
        """All updates of training step `step` (from 0).

        Args:
            rollout: What is learned from.
            targets: Advantages and returns of the whole rollout.
            targets_of: The same of some of its rows, where they are whitened by mini-batch.
            costs: Counts what is computed.
            step: Orders the mini-batches, with the seed.
            kl_coef: Weight of the KL penalty, where it is in the loss.

        Returns:
            Averages of the updates' metrics, and their cost.

        Raises:
            TrainingError: A loss or a gradient is not finite, or the first ratio of all is not 1.
        """
        updates: list[Metrics] = []
        cost = Cost()
        for number, rows in enumerate(self._mini_batches(len(rollout.batch), step)):
            part = rollout.rows(rows)
            if not part.mask.any():  # nothing in it is trained on, such as unscored completions
                continue
            part_targets = targets_of(part) if self.config.targets_of_a_mini_batch else targets.rows(rows)
            imitated = None if self.imitation is None else self.imitation.batch(step, number)
            metrics = self._accumulate(part, part_targets, imitated, step, kl_coef)
            cost.charge(costs.update(part.batch, part.mask))
            if imitated is not None:
                cost.charge(costs.update(imitated, imitated.completion_mask))
            if not updates and step == 0:
                self._check_ratio(metrics)
            if updates and metrics["policy/approximate_kl"] > (self.config.early_stop_kl or math.inf):
                break  # the gradient at hand is dropped
            self.optimizer.step()
            cost.optimizer_steps += 1
            updates.append(metrics)
        self.optimizer.zero_grad()  # the next rollout has the memory of the gradients
        keys = updates[0] if updates else ()
        averages = {key: math.fsum(one[key] for one in updates) / len(updates) for key in keys}
        if updates:
            averages["policy/ratio_max"] = max(one["policy/ratio_max"] for one in updates)
        averages["policy/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        averages["policy/n_updates"] = float(len(updates))
        return averages, cost

    def _mini_batches(self, n_rows: int, step: int) -> Iterator[Tensor]:
        n = self.config.rows_together
        for epoch in range(self.config.epochs_of_a_step):
            order = generator(self.seed, "mini-batches", step, epoch).permutation(n_rows // n)
            yield from torch.split(_rows_of(torch.from_numpy(order), n), self.config.mini_batch_size)

    def _accumulate(
        self, rollout: Rollout, targets: Targets, imitated: SequenceBatch | None, step: int, kl_coef: float
    ) -> Metrics:
        """The gradient of one mini-batch, clipped: the same however it is cut into passes.

        Every process passes its share of the rows; gradients are averaged over processes, hence the factor.
        """
        placement, n_processes, n = self.networks.placement, distributed.world_size(), self.config.rows_together
        n_tokens = rollout.mask.sum().clamp(min=1)
        longest = self.config.completion_tokens[1]
        weights, divisor = token_weights(rollout.mask, self.config.loss_aggregation, longest)
        zero = torch.zeros((), dtype=torch.float64, device=n_tokens.device)
        totals: defaultdict[str, Tensor] = defaultdict(zero.clone)  # read at the end: a look waits for the device
        self.optimizer.zero_grad()
        # Rows of like length share a pass, which then has little padding.
        lengths = rollout.batch.lengths.sum(dim=1).view(-1, n).sum(dim=1)
        by_length = _rows_of(lengths.argsort(stable=True)[distributed.share()], n)
        passes = torch.split(by_length, self.networks.rows_at_once)
        for number, rows in enumerate(passes, start=1):
            part = rollout.rows(rows).trimmed()
            t = part.mask.shape[1]
            with placement.accumulating(is_last=number == len(passes) and imitated is None):
                loss, losses, sums, largest_ratio = self.losses(part, targets.rows(rows, t), weights[rows, :t], kl_coef)
                (loss * n_processes / divisor).backward()  # type: ignore[no-untyped-call]
            for key, value in (losses | {"loss": loss.detach()}).items():
                totals[key] += value.double() / divisor
            for key, value in sums.items():
                totals[key] += value.double() / n_tokens
            totals["policy/ratio_max"] = torch.maximum(totals["policy/ratio_max"], largest_ratio.double())
        if imitated is not None:
            totals["policy/ptx_loss"] = self._imitate(imitated)
        own = dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))
        metrics = _together(distributed.gather(own))
        if not math.isfinite(loss_of_all := metrics.pop("loss")):
            raise TrainingError(f"the loss is {loss_of_all} at training step {step + 1}: lower method.learning_rate")
        norm = placement.clip(self.config.max_grad_norm or math.inf)
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm} at training step {step + 1}: lower method.learning_rate")
        return metrics | {"policy/gradient_norm": norm}

    def _imitate(self, batch: SequenceBatch) -> Tensor:
        """Adds the gradient of imitation; returns this process's part of the loss, before its weight."""
        n_tokens, config = batch.completion_mask.sum().clamp(min=1), self.config
        as_it_is = replace(self.decoding, temperature=1.0, min_new_tokens=0)
        parts = batch.rows(distributed.share()).split(self.networks.rows_at_once)
        loss_of_all = torch.zeros((), dtype=torch.float64, device=n_tokens.device)
        for number, whole in enumerate(parts, start=1):
            part = whole.trimmed()
            with self.networks.placement.accumulating(is_last=number == len(parts)):
                raw, values = self.networks.placement.policy_and_values(part, None)
                logprobs = whole_logprobs(raw, part, as_it_is, self.eos_id, fused=config.fuses)
                loss = -(logprobs * part.completion_mask).sum() / n_tokens
                unused = 0.0 if values is None else 0.0 * values.sum()  # or processes wait for its gradient
                (config.ptx_coef * loss * distributed.world_size() + unused).backward()  # type: ignore[no-untyped-call]
            loss_of_all += loss.detach().double()
        return loss_of_all

    def losses(
        self, rollout: Rollout, targets: Targets, weights: Tensor, kl_coef: float
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Sums over the tokens of some rows: the loss, its parts, both by `weights` (b, t), and the rest of the log.

        The last one is the largest ratio.
        """
        batch, mask, config = rollout.batch, rollout.mask, self.config
        reference = self._reference_of_the_loss(rollout)
        raw, values = self.networks.placement.policy_and_values(batch, rollout.shared)
        if config.fuses:
            logprobs = whole_logprobs(raw, batch, self.decoding, self.eos_id, fused=True)
        else:
            assert isinstance(raw, Tensor)
            logits = policy_distribution(raw, self.decoding, self.eos_id)
            logprobs = token_logprobs(logits, batch.completion_ids, support=rollout.support)
        policy, policy_clipped = self.objective.policy_loss(logprobs, rollout, targets)
        loss = (policy * weights).sum()
        parts = {"policy/loss": loss.detach()}
        with torch.no_grad():
            ratio = torch.exp(logprobs - rollout.logprobs)
            sums = {
                "policy/ratio_mean": (ratio * mask).sum(),
                "policy/clip_fraction": (policy_clipped & mask).sum(),
                "policy/approximate_kl": (k3(rollout.logprobs, logprobs) * mask).sum(),
            }
        if config.values is not None:
            assert values is not None
            assert rollout.values is not None
            assert targets.returns is not None
            value, value_clipped = value_loss(values, rollout.values, targets.returns, config.values.value_clip_range)
            value_sum = (value * weights).sum()
            loss = loss + config.values.value_coef * value_sum
            parts["value/loss"] = value_sum.detach()
            sums["value/clip_fraction"] = (value_clipped & mask).sum()
        if config.kl_placement == "loss":
            whole = logprobs if rollout.support is None else token_logprobs(logits, batch.completion_ids)
            if reference is not None:
                kl = exact_kl(logits, reference)
            else:
                kl = ESTIMATORS[config.kl_estimator](whole, rollout.reference_logprobs)
            if config.kl_estimator != "k1":  # whose gradient is the score, not 0, where nothing has moved
                kl = kl * has_moved(whole.detach(), rollout.reference_logprobs, mask)
            kl_sum = (kl * weights).sum()
            loss = loss + kl_coef * kl_sum
            parts["policy/kl_loss"] = kl_sum.detach()
        return loss, parts, sums, ratio.masked_fill(~mask, 0.0).max()

    def _reference_of_the_loss(self, rollout: Rollout) -> Tensor | None:
        """Logits of the reference, (b, t, V), where the loss has the exact KL to it; computed again to save memory."""
        if self.config.kl_placement != "loss" or self.config.kl_estimator != "exact":
            return None
        raw = self.networks.reference_logits(rollout.batch, rollout.shared)
        assert isinstance(raw, Tensor)
        return policy_distribution(raw, self.decoding, self.eos_id)

    def _check_ratio(self, first: Metrics) -> None:
        """At the first mini-batch nothing has moved, so the probability ratio must be 1."""
        weights = self.networks.model.parameters()
        is_exact = all(p.dtype == torch.float32 for p in weights) and not self.config.mixed_precision
        if abs(first["policy/ratio_mean"] - 1) > (1e-3 if is_exact else 5e-2):
            raise TrainingError(
                f"the first probability ratio is {first['policy/ratio_mean']:.6f} on average, expected 1"
            )


def _rows_of(units: Tensor, n: int) -> Tensor:
    """The rows of some runs of n rows that stand beside each other."""
    return (units.unsqueeze(1) * n + torch.arange(n, device=units.device)).flatten()


def _together(parts: Sequence[Metrics]) -> Metrics:
    """The metrics of one mini-batch from its shares: sums, and the largest ratio."""
    first, *others = parts
    for other in others:
        first = {key: max(n, other[key]) if key == "policy/ratio_max" else n + other[key] for key, n in first.items()}
    return first
