"""What the steps of a TRL trainer cost, counted from the batches that it trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from alignbench.models.flops import Tokens, weights_of
from alignbench.models.loading import n_trainable_parameters
from alignbench.records import Cost
from alignbench.runtime.ledger import Ledger


class StepCosts(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Counts every optimizer step. The sums are part of the trainer's checkpoints and go on from there."""

    def __init__(self, ledger: Ledger, trainer: Any, n_forward: int) -> None:
        """Begins to count.

        Args:
            ledger: Where steps are booked: what its checkpoints keep.
            trainer: Its `training_step` is watched: a collator also sees batches that are skipped after a resume.
            n_forward: Models that read each batch, a reference included.
        """
        self.ledger = ledger
        self._n_forward = n_forward
        self._weights, self._trained = weights_of(trainer.model), weights_of(trainer.model, trained=True)
        self._n_parameters = n_trainable_parameters(trainer.model)
        self._step = Cost()
        step = trainer.training_step

        def counted(model: Any, inputs: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            self._step.charge(self.cost_of(inputs))
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = counted

    def cost_of(self, inputs: Mapping[str, torch.Tensor]) -> Cost:
        """One forward and backward pass over a batch, and the forward passes of other models.

        Trained on are the tokens of `completion_mask` (b, s), or of `attention_mask` where there is none: then the
        whole text is judged by one number. TRL's output layer reads the completions alone on a GPU; on a CPU it reads
        every position, which is not counted.
        """
        n_read = int(inputs["attention_mask"].sum())
        n_trained = int(inputs["completion_mask"].sum()) if "completion_mask" in inputs else n_read
        tokens = Tokens(n_read - n_trained, n_trained, n_trained)
        forward = self._weights.flops(tokens)
        return Cost(
            trained_tokens=n_trained,
            forward_flops=self._n_forward * forward,
            backward_flops=forward + self._trained.flops(tokens),
            trainable_parameters=self._n_parameters,
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer before the first step, with the state of the checkpoint where it goes on from one."""
        if state.global_step:
            self.ledger.restore(state.stateful_callbacks[type(self).__name__]["attributes"]["counts"])

    def of_step(self) -> Cost:
        """What has been counted since the last call, which was for the step before."""
        counted, self._step = self._step, Cost()
        return replace(counted, optimizer_steps=1)

    def state(self) -> dict[str, Any]:
        """What the trainer keeps in its checkpoints."""
        return {"args": {}, "attributes": {"counts": self.ledger.cost.counts()}}
