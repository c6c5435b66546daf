"""TensorBoard: event files, to be read by `tensorboard --logdir`."""

from __future__ import annotations

from collections.abc import Mapping

from alignbench.tracking.trackers import TrackedRun, Tracker


class TensorBoard:
    """A writer of event files."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard" / run.label))
        self._writer.add_text("recipe", f"{run.method}\n\n{dict(run.settings)}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a scalar of each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Closes the file."""
        self._writer.close()


def begin(run: TrackedRun) -> Tracker:
    """Begins a run; ModuleNotFoundError where tensorboard is not installed."""
    return TensorBoard(run)
