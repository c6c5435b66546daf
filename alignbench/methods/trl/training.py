"""Training by a TRL trainer: every step told to the run, resuming, stopping on a loss of NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from alignbench.errors import TrainingError
from alignbench.methods.base import RunContext
from alignbench.methods.trl.checkpoints import Identity, Vouching, last_checkpoint
from alignbench.methods.trl.step_costs import BatchTokens, StepCosts, tokens_of_batch
from alignbench.models.loading import has_finite_weights
from alignbench.records import Cost, Policy
from alignbench.runtime.allocator import keeping_freed_memory
from alignbench.runtime.progress import progress_bar

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


class Steps(TrainerCallback):  # type: ignore[misc]
    """Shows progress, passes every logged step on with our names, and stops when the loss is not finite."""

    def __init__(
        self,
        title: str,
        names: Mapping[str, str],
        done: Callable[[int, int, Mapping[str, float], Any], None],
        check_first_step: Callable[[Mapping[str, float]], None] = lambda logs: None,
    ) -> None:
        self.title = title
        self.names = names
        self.done = done
        """Called after every optimizer step, before its checkpoint, with its number, the steps in all, what is logged
        under our names, and the model."""
        self.check_first_step = check_first_step
        """Called with what the trainer logs for step 1, which was taken before any update; may raise."""
        self._open = ExitStack()
        self._advance: Callable[[], None] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer before the first step."""
        self._advance = self._open.enter_context(progress_bar(self.title, state.max_steps, done=state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after every optimizer step, before it logs and saves."""
        if control.should_save and not has_finite_weights(kwargs["model"]):
            self._open.close()
            raise TrainingError(f"weights are not finite at step {state.global_step}: lower method.learning_rate")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after the last step."""
        self._open.close()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Called by the trainer after every optimizer step, before it saves."""
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self._open.close()
            raise TrainingError(f"the loss is {loss} at step {state.global_step}: lower method.learning_rate")
        if state.global_step == 1:
            self.check_first_step(logs)
        metrics = {ours: float(logs[theirs]) for theirs, ours in self.names.items() if theirs in logs}
        self.done(state.global_step, state.max_steps, metrics, kwargs["model"])
        self._advance()


def train(
    trainer: Any,
    run: RunContext,
    identity: Identity,
    *,
    title: str,
    names: Mapping[str, str],
    drawn_completions: int,
    as_policy: Callable[[Any], Policy] | None = None,
    check_first_step: Callable[[Mapping[str, float]], None] = lambda logs: None,
    n_forward: int = 1,
    count: Callable[[Any], BatchTokens] = tokens_of_batch,
    before: Cost | None = None,
) -> None:
    """Trains to the end, from the newest checkpoint that a killed run has left.

    Args:
        trainer: A TRL trainer.
        run: Told of every step.
        identity: What must be equal for it to go on from a checkpoint; see `training_identity`.
        title: What the progress bar says.
        names: What is logged: our names by the trainer's.
        drawn_completions: What the training data has taken of the budget before training; a step uses its share.
        as_policy: Makes a policy of the model that is trained; None where that is none.
        check_first_step: Called with what the trainer logs for step 1, which was taken before any update; may raise.
        n_forward: Models that read each batch, a reference included.
        count: Counts the tokens of what the trainer's `training_step` is given.
        before: What passes before the first step have cost, to be booked with it.

    Raises:
        TrainingError: The checkpoint is one of another training, or is not whole.
    """
    from transformers import PrinterCallback

    costs = StepCosts(run.ledger, trainer, n_forward, count)

    def done(step: int, n_steps: int, metrics: Mapping[str, float], model: Any) -> None:
        policy = None if as_policy is None else as_policy(model)
        cost = {"train": costs.of_step()} | ({"forward": before} if before is not None and step == 1 else {})
        run.step_done(step, drawn_completions * step // n_steps, metrics, cost, policy)

    trainer.remove_callback(PrinterCallback)
    for callback in (costs, Steps(title, names, done, check_first_step), Vouching(identity)):
        trainer.add_callback(callback)
    with keeping_freed_memory():  # TRL makes logits in large pieces, which else are mapped anew each
        trainer.train(resume_from_checkpoint=last_checkpoint(run.checkpoints, identity))


def train_policy(
    trainer: Any,
    run: RunContext,
    identity: Identity,
    *,
    as_policy: Callable[[Any], Policy] | None = None,
    **options: Any,
) -> LanguageModel:
    """Trains the policy of a run, as `train` does with its other arguments, and returns it."""
    policy = run.policy
    train(trainer, run, identity, as_policy=as_policy or policy.with_model, **options)
    policy.model = trainer.model.eval()
    return policy
