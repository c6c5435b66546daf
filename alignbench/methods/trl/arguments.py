"""What all methods on TRL trainers share: settings given in full, logging, resuming, stopping on a loss of NaN.

TRL's defaults differ between its trainers and assume a GPU with bfloat16, so nothing is left to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from alignbench.errors import TrainingError
from alignbench.methods.trl.checkpoints import Identity, Vouching, last_checkpoint
from alignbench.methods.trl.settings import TrainerSettings
from alignbench.methods.trl.step_costs import StepCosts
from alignbench.models.loading import has_finite_weights
from alignbench.runtime.ledger import Ledger
from alignbench.runtime.progress import progress_bar


def trl_arguments(settings: TrainerSettings, directory: Path, *, seed: int, on_cpu: bool) -> dict[str, Any]:
    """Arguments for any TRL configuration: float32, no dropout, AdamW, linear decay, nothing reported anywhere.

    Args:
        settings: Learning rate, batches and epochs.
        directory: Where checkpoints go.
        seed: Seeds the order of the data too.
        on_cpu: True keeps the trainer off any GPU.
    """
    micro_batch_size = settings.micro_batch_size or settings.batch_size
    return {
        "output_dir": str(directory),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": on_cpu,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // micro_batch_size,
        "num_train_epochs": settings.epochs,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "optim": "adamw_torch",
        "bf16": False,
        "fp16": False,
        "activation_checkpointing": False,
        "disable_dropout": True,
        "max_length": None,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": None,  # `Vouching` deletes the one before, once the next is vouched for
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }


class StepLog(TrainerCallback):  # type: ignore[misc]
    """Shows progress, passes every logged step on with our names, and stops when the loss is not finite."""

    def __init__(
        self,
        title: str,
        names: Mapping[str, str],
        log: Callable[[int, Mapping[str, float]], None],
        check_first_step: Callable[[Mapping[str, float]], None] = lambda logs: None,
        after_step: Callable[[int, int, Any], None] = lambda step, n_steps, model: None,
    ) -> None:
        self.title = title
        self.names = names
        self.log = log
        self.check_first_step = check_first_step
        """Called with what the trainer logs for step 1, which was taken before any update; may raise."""
        self.after_step = after_step
        """Called after every optimizer step, before its checkpoint, with its number, the steps in all, the model."""
        self._open = ExitStack()
        self._advance: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer before the first step."""
        self._advance = self._open.enter_context(progress_bar(self.title, state.max_steps - state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after every optimizer step, before it saves."""
        if control.should_save and not has_finite_weights(kwargs["model"]):
            self._open.close()
            raise TrainingError(f"weights are not finite at step {state.global_step}: lower method.learning_rate")
        self.after_step(state.global_step, state.max_steps, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after the last step."""
        self._open.close()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Called by the trainer after every optimizer step."""
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self._open.close()
            raise TrainingError(f"the loss is {loss} at step {state.global_step}: lower method.learning_rate")
        if state.global_step == 1:
            self.check_first_step(logs)
        self.log(
            state.global_step, {ours: float(logs[theirs]) for theirs, ours in self.names.items() if theirs in logs}
        )
        self._advance()


def train(trainer: Any, checkpoints: Path, ledger: Ledger, identity: Identity, *, n_forward: int = 1) -> None:
    """Trains to the end, from the newest checkpoint that a killed run has left.

    Args:
        trainer: A TRL trainer.
        checkpoints: Where it keeps its state.
        ledger: Where every step is booked.
        identity: What must be equal for it to go on from a checkpoint; see `training_identity`.
        n_forward: Models that read each batch, a reference included.

    Raises:
        TrainingError: The checkpoint is one of another training, or is not whole.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepCosts(ledger, trainer, n_forward))
    trainer.add_callback(Vouching(identity))
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints, identity))
