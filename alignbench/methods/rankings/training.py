"""Training on ranked completions: one explicit loop of full passes, AdamW and checkpoints.

A step is on a batch of prompts with all their ranked completions; its loss is the mean over the prompts, however they
are cut into passes. Nothing is drawn, and no reference is asked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from alignbench.errors import TrainingError
from alignbench.methods.on_policy import checkpoint
from alignbench.methods.on_policy.networks import trainable
from alignbench.methods.on_policy.schedule import learning_rate_factor
from alignbench.methods.rankings.batches import (
    RankedBatch,
    TokenRow,
    passes_of,
    rows_of_step,
    steps_of,
    token_rows,
)
from alignbench.methods.rankings.losses import Ranking
from alignbench.methods.trl.checkpoints import training_identity
from alignbench.models.flops import tokens_of, weights_of
from alignbench.models.forward import completion_forward, compute_again, token_logprobs
from alignbench.models.loading import has_finite_weights
from alignbench.models.output_layer import States, output_layer, rows_that_fit
from alignbench.records import Cost
from alignbench.runtime.allocator import keeping_freed_memory
from alignbench.runtime.progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from alignbench.methods.base import RunContext
    from alignbench.methods.rankings.settings import RankingSettings
    from alignbench.models.forward import SequenceBatch
    from alignbench.models.language_model import LanguageModel
    from alignbench.records import RankedCompletions

Loss = Callable[[Ranking], "Tensor"]
"""The loss of each prompt of a pass, (b,)."""
MAX_GRAD_NORM = 1.0


class RankingTrainer:
    """Trains a policy on ranked completions, in place; what a killed run has left is gone on from."""

    def __init__(
        self, settings: RankingSettings, loss: Loss, ranked: Sequence[RankedCompletions], run: RunContext
    ) -> None:
        """Prepares training, with a fresh adapter where the run has one.

        Args:
            settings: The method: step sizes, batches, epochs, and all that belongs to its identity.
            loss: What is minimised, the mean over prompts.
            ranked: The training data.
            run: What surrounds the training.

        Raises:
            TrainingError: There are no data, or a checkpoint is damaged or of another training.
        """
        if not ranked:
            raise TrainingError("there is nothing to train on: no prompt has completions that are ranked")
        self.settings, self.loss, self.run, self.policy = settings, loss, run, run.policy
        self.rows = token_rows(ranked, run.policy)
        self.n_steps = steps_of(len(self.rows), settings.batch_size, settings.epochs)
        rows = [row.values() for row in self.rows]
        self._identity = training_identity(settings, run.policy.model, rows, seed=run.seed, lora=run.lora)
        if run.lora is not None:
            run.policy.add_adapter(run.lora, seed=run.seed)
        self.model: nn.Module = run.policy.model.eval()
        if settings.gradient_checkpointing:
            compute_again(self.model)
        self.parameters = trainable({"policy": self.model})
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        layer = output_layer(self.model)
        self.output_layer = layer if layer is not None and layer.is_frozen else None
        self._weights, self._trained = weights_of(self.model), weights_of(self.model, trained=True)
        self.step = self._resumed()

    def train(self, *, title: str, drawn_completions: int) -> LanguageModel:
        """Trains to the end and returns the policy.

        Args:
            title: What the progress bar says.
            drawn_completions: What the data have taken of the budget; a step uses its share.

        Raises:
            TrainingError: A loss, a gradient or a weight is not finite. The last checkpoint stays.
        """
        with keeping_freed_memory(), progress_bar(title, self.n_steps, done=self.step) as advance:
            while self.step < self.n_steps:
                metrics, cost = self.take_step()
                self.run.step_done(
                    self.step, drawn_completions * self.step // self.n_steps, metrics, {"train": cost}, self.policy
                )
                if self.step % self.settings.checkpoint_every == 0 or self.step == self.n_steps:
                    self._save()
                advance()
        return self.policy

    def take_step(self) -> tuple[dict[str, float], Cost]:
        """One optimizer step; returns a row of the log, and what it cost."""
        settings = self.settings
        places = rows_of_step(len(self.rows), settings.batch_size, self.step, self.run.seed)
        rate = settings.learning_rate * learning_rate_factor(self.step, self.n_steps, "linear", 0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        with self._recomputing():
            metrics, cost = self._accumulate([self.rows[i] for i in places])
        if not math.isfinite(metrics["policy/loss"]):
            raise TrainingError(
                f"the loss is {metrics['policy/loss']} at step {self.step + 1}: lower method.learning_rate"
            )
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), MAX_GRAD_NORM).item()
        if not math.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm} at step {self.step + 1}: lower method.learning_rate")
        self.optimizer.step()
        self.step += 1
        return metrics | {"policy/gradient_norm": norm, "policy/learning_rate": rate}, cost

    def _accumulate(self, rows: Sequence[TokenRow]) -> tuple[dict[str, float], Cost]:
        """The gradient of the mean loss of a batch, pass by pass; its metrics and cost."""
        sums: defaultdict[str, float] = defaultdict(float)
        cost = Cost(optimizer_steps=1, trainable_parameters=sum(p.numel() for p in self.parameters.values()))
        for batch in passes_of(rows, self.settings.rows_at_once, self.policy):
            ranking = self._ranking(batch)
            losses = self.loss(ranking)
            (losses.sum() / len(rows)).backward()  # type: ignore[no-untyped-call]
            for name, value in (_sums(ranking) | {"policy/loss": losses.sum().item()}).items():
                sums[name] += value
            cost.charge(self._cost(batch))
        return {name: value / len(rows) for name, value in sums.items()}, cost

    def _ranking(self, batch: RankedBatch) -> Ranking:
        """Log-probabilities of the completions of a pass, with gradients."""
        sequences = batch.sequences
        logprobs = self._logprobs(sequences) * sequences.completion_mask
        lengths = sequences.completion_mask.sum(dim=1)
        return Ranking(batch.laid_out(logprobs.sum(dim=1)), batch.laid_out(lengths), batch.ranks)

    def _logprobs(self, sequences: SequenceBatch) -> Tensor:
        """Of the completion tokens, (b, t): without logits where these would be large and their layer is frozen."""
        t = sequences.completion_mask.shape[1]
        layer = self.output_layer if len(sequences) > rows_that_fit(self.model, t) else None
        if layer is None:
            return token_logprobs(completion_forward(self.model, sequences)[0], sequences.completion_ids)
        with layer.passed_by() as given:
            completion_forward(self.model, sequences)
        return States(given[0][:, -t:], layer).logprobs(sequences.completion_ids)

    def _cost(self, batch: RankedBatch) -> Cost:
        tokens = tokens_of(batch.sequences)
        forward = self._weights.flops(tokens)
        return Cost(
            trained_tokens=tokens.predicted,
            forward_flops=forward,
            backward_flops=forward + self._trained.flops(tokens),
        )

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Within the block gradient checkpointing is at work, if it is asked for: models do it in training mode only.

        Dropout is off in either mode.
        """
        self.model.train(self.settings.gradient_checkpointing)
        try:
            yield
        finally:
            self.model.eval()

    def _save(self) -> None:
        if not has_finite_weights(self.model):
            raise TrainingError(f"weights are not finite at step {self.step}: lower method.learning_rate")
        state = {"step": self.step, "cost": self.run.cost.counts()}
        checkpoint.save(self.run.checkpoints, self.parameters, self.optimizer, state, self._identity)

    def _resumed(self) -> int:
        """Takes up a checkpoint; returns the steps that it has behind it."""
        state = checkpoint.load(self.run.checkpoints, self.parameters, self.optimizer, self._identity)
        if state is None:
            return 0
        self.run.ledger.restore(state["cost"])
        return int(state["step"])


def _sums(ranking: Ranking) -> dict[str, float]:
    """What the log says of a pass, summed over its prompts: the best completion beside the worst, per token."""
    means = ranking.means.detach()
    last = (ranking.lengths > 0).sum(dim=1, keepdim=True) - 1
    best, worst = means[:, 0], means.gather(1, last).squeeze(1)
    return {
        "objective/best_logprob": best.sum().item(),
        "objective/worst_logprob": worst.sum().item(),
        "objective/pair_accuracy": (best > worst).sum().item(),
    }
