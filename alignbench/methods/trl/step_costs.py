"""What the steps of a TRL trainer cost, counted from the batches that it trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from alignbench.errors import TrainingError
from alignbench.models.flops import Tokens, weights_of
from alignbench.models.loading import n_trainable_parameters
from alignbench.records import Cost
from alignbench.runtime.ledger import Ledger


class BatchTokens(NamedTuple):
    """Real tokens of a batch."""

    read: int
    """In the pass that is differentiated."""
    trained: int
    """Of these, the ones that a loss is taken on."""
    beside: int = 0
    """Read in a pass that is not differentiated, whose every token is predicted."""


def tokens_of_batch(inputs: Mapping[str, torch.Tensor]) -> BatchTokens:
    """Counts the tokens of a batch as TRL's collators lay them out: masks and labels (b, s).

    Trained on are the tokens of `completion_mask`, or those with a label, or of `attention_mask` where there is
    neither: then the whole text is judged by one number. Chosen and rejected texts may lie apart; texts under `KL_`
    are those by which KTO estimates the KL.

    Raises:
        TrainingError: There is no mask: a trainer that draws its own completions has to say what it reads.
    """
    read = trained = 0
    for kind in ("", "chosen_", "rejected_"):
        if f"{kind}attention_mask" not in inputs:
            continue
        mask = inputs[f"{kind}attention_mask"]
        on = mask
        if f"{kind}completion_mask" in inputs:
            on = inputs[f"{kind}completion_mask"]
        elif f"{kind}labels" in inputs:
            on = inputs[f"{kind}labels"] != -100  # what torch ignores
        read, trained = read + int(mask.sum()), trained + int(on.sum())
    if not read:
        raise TrainingError("batches of this trainer have no attention_mask: give `count`, which counts their tokens")
    return BatchTokens(read, trained, int(inputs["KL_attention_mask"].sum()) if "KL_attention_mask" in inputs else 0)


class StepCosts(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Counts every optimizer step. The sums are part of the trainer's checkpoints and go on from there."""

    def __init__(
        self, ledger: Ledger, trainer: Any, n_forward: int, count: Callable[[Any], BatchTokens] = tokens_of_batch
    ) -> None:
        """Begins to count.

        Args:
            ledger: Where steps are booked: what its checkpoints keep.
            trainer: Its `training_step` is watched: a collator also sees batches that are skipped after a resume.
            n_forward: Models that read each batch, a reference included.
            count: Counts the tokens of what `training_step` is given.
        """
        self.ledger = ledger
        self._n_forward, self._count = n_forward, count
        self._weights, self._trained = weights_of(trainer.model), weights_of(trainer.model, trained=True)
        self._n_parameters = n_trainable_parameters(trainer.model)
        self._step = Cost()
        step = trainer.training_step

        def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._step.charge(self.cost_of(inputs))
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = counted

    def cost_of(self, inputs: Any) -> Cost:
        """One forward and backward pass over a batch, and the forward passes of other models.

        The output layer reads the completions alone; where TRL has it read every position (`trl.scoring`), that is not
        counted.
        """
        counted = self._count(inputs)
        tokens = Tokens(counted.read - counted.trained, counted.trained, counted.trained)
        forward = self._weights.flops(tokens)
        beside = self._weights.flops(Tokens(counted.beside, 0, counted.beside)) if counted.beside else 0.0
        return Cost(
            trained_tokens=counted.trained,
            forward_flops=self._n_forward * (forward + beside),
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
