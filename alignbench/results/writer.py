"""Writing one run. It grows in `.seed<k>.partial` and is renamed to `seed<k>` once complete.

run = RunDirectory.begin(results, recipe="ppo", method="ppo", seed=0, run_hash=..., ...)
if run.action == "skip": ...
with run:                       # an exception is written down, the lock is given back
run.log_step(1, {"objective/kl": 0.01})
run.write_evaluation(report, comparability)
run.complete(cost=cost)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from alignbench._version import __version__
from alignbench.records import Cost, EvalReport, HackingDiagnosis, fingerprint, total
from alignbench.results import layout, reader, traits
from alignbench.results.files import make_directory, rows_before, write_atomically, write_frame, write_record
from alignbench.results.json_values import plain
from alignbench.results.lock import RunLock
from alignbench.results.measurement import StoredMeasurement
from alignbench.results.publishing import publish, repair
from alignbench.results.recognition import (
    Action,
    decide,
    files_of,
    has_progress,
    is_same,
    read_status,
    require_same_inputs,
)
from alignbench.results.schema import (
    EvaluationFile,
    Inputs,
    Kind,
    PromptsFile,
    RunStatus,
    StoredMetric,
    StoredRows,
    TuningFile,
    Upstream,
    read_record,
)
from datasets_prep.prepared import PromptRows


class RunDirectory:
    """A run while it is being written, or found complete (`action` is `skip` or `evaluate`)."""

    def __init__(self, path: Path, final: Path, action: Action, status: RunStatus, lock: RunLock | None) -> None:
        self.path = path
        """Where the run's files are now."""
        self.action = action
        self.status = status
        self._final = final
        self._lock = lock
        self._logs: dict[str, TextIO] = {}
        self.told: Callable[[int | None, Mapping[str, object]], None] = lambda _step, _values: None
        """Is given the numbers of every step and evaluation."""

    @classmethod
    def begin(
        cls,
        results: str | Path,
        *,
        recipe: str,
        method: str,
        seed: int,
        run_hash: str,
        resolved_recipe: str,
        environment: Mapping[str, Any],
        kind: Kind = "policy",
        upstream: Sequence[Upstream] = (),
        inputs: Inputs | None = None,
        force: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Finds out what there is to do for a run, and takes hold of its directory.

        The same run (docs/identity.md) and complete: `skip`, or `evaluate` where files of its evaluation are gone. The
        same run and unfinished: `resume`. Nothing there, or `force`: `start`; a complete run that is to be replaced
        stays until the new one is complete. `settings` is what `resolved_recipe` says, where the caller knows it.

        Raises:
            RunExistsError: Another recipe was run under this name, or this one on other `inputs`; or files of the
                complete run are gone; or another process is writing this run.
            UsageError: The results path cannot be a directory.
        """
        final, partial = layout.run_path(results, recipe, seed), layout.partial_path(results, recipe, seed)
        make_directory(Path(results), final.parent)
        inputs = inputs or {}
        done = None if force else read_status(final)
        is_complete = done is not None and done.state == "complete" and is_same(final, done, run_hash)
        if done is not None and is_complete and decide(final, partial, run_hash, inputs) == "skip":
            return cls(final, final, "skip", done, None)
        lock = RunLock(layout.lock_path(final))
        try:
            repair(final, partial)
            action = decide(final, partial, run_hash, inputs, force=force)
            if action in ("skip", "evaluate"):
                run = cls(final, final, action, read_record(final / layout.STATUS_FILE, RunStatus), lock)
                if action == "skip":
                    run.release()
                return run
            if action == "start":
                shutil.rmtree(partial, ignore_errors=True)
                status = RunStatus(
                    alignbench=__version__, state="running", kind=kind, recipe=recipe, method=method, seed=seed,
                    run_hash=run_hash, upstream=tuple(upstream), inputs=inputs, started=_now(),
                )  # fmt: skip
            else:
                changes = {"state": "running", "error": None, "run_hash": run_hash, "upstream": tuple(upstream)}
                status = read_record(partial / layout.STATUS_FILE, RunStatus).model_copy(update=changes)
            run = cls(partial, final, action, status, lock)
            run._write_header(resolved_recipe, environment, settings)
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Takes hold of a complete run, to be measured again; RunExistsError where another process has it."""
        lock = RunLock(layout.lock_path(path))
        return cls(path, path, "evaluate", read_record(path / layout.STATUS_FILE, RunStatus), lock)

    @staticmethod
    def foresee(
        results: str | Path, recipe: str, seed: int, run_hash: str, *, inputs: Inputs | None = None, force: bool = False
    ) -> Action:
        """Returns what `begin` would do, and touches nothing; raises RunExistsError as it would."""
        final, partial = layout.run_path(results, recipe, seed), layout.partial_path(results, recipe, seed)
        return decide(final, partial, run_hash, inputs or {}, force=force)

    @property
    def artifact(self) -> Path:
        """Where the trained policy or reward model goes."""
        return self.path / layout.ARTIFACT

    @property
    def checkpoints(self) -> Path:
        """Where training keeps its checkpoints; gone once the run is complete."""
        return self.path / layout.CHECKPOINTS

    def log_step(self, step: int, metrics: Mapping[str, object]) -> None:
        """Appends a row to the training log, on disk at once; numbers that are not finite are stored as null.

        The first call after a resume drops the rows of this step and later: they are run again.
        """
        self._append(layout.TRAIN_LOG_FILE, step, [metrics])
        self.told(step, metrics)

    def log_completions(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Appends a sample of a step's completions, one row each, in the manner of `log_step`."""
        self._append(layout.TRAIN_COMPLETIONS_FILE, step, rows)

    def log_event(self, step: int | None, row: Mapping[str, object]) -> None:
        """Appends an event to the costs' record, in the manner of `log_step`.

        Events without a step come after the last step. A resumed run writes them again: those of earlier attempts go.
        """
        self._append(layout.EVENTS_FILE, step, [row])

    def _append(self, name: str, step: int | None, rows: Sequence[Mapping[str, object]]) -> None:
        path = self.path / name
        if name not in self._logs:
            if path.exists():
                write_atomically(path, "".join(rows_before(path, step)))
            self._logs[name] = path.open("a", encoding="utf-8")
        self._logs[name].writelines(json.dumps({"step": step, **plain(row)}) + "\n" for row in rows)
        self._logs[name].flush()

    def logged(self, key: str) -> list[float]:
        """Returns what the training log has under a key, in the order of steps."""
        path = self.path / layout.TRAIN_LOG_FILE
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
        return [row[key] for row in rows if row.get(key) is not None]

    def record_cost(self, cost: Cost) -> None:
        """Writes down what training has cost so far; after a kill it is found in `status.cost`."""
        self._set_status(cost=cost)

    def record_evaluation_cost(self, cost: Cost) -> None:
        """Does the same for what measuring has cost so far."""
        self._set_status(evaluation_cost=cost)

    def points(self) -> dict[int, int]:
        """Returns the completions of the budget spent at each step that has been evaluated along training."""
        return {point.step: point.completions for point in reader.read_points(self.path)}

    def record_inputs(self, inputs: Inputs) -> None:
        """Writes down what the run reads; RunExistsError where a resumed run was begun with something else.

        Before the first step files may still arrive, such as the weights of a model that is being fetched.
        """
        if self.action == "evaluate" or self.has_progress:
            require_same_inputs(self.path, self.status.inputs, inputs)
        self._set_status(inputs={**self.status.inputs, **inputs})

    def write_prompts(
        self, seen: Iterable[str], heldout: Mapping[str, str], counts: Mapping[str, float] = {}, *, anew: bool = False
    ) -> None:
        """Writes `PromptsFile.of` these; RunExistsError where a resumed run had others, unless they are told `anew`."""
        record = PromptsFile.of(seen, heldout, counts)
        if not anew and self.has_progress and (self.path / layout.PROMPTS_FILE).exists():
            before = read_record(self.path / layout.PROMPTS_FILE, PromptsFile)
            texts = [{"seen": fingerprint(one.seen), "held out": fingerprint(one.heldout)} for one in (before, record)]
            require_same_inputs(self.path, {"prompts": texts[0]}, {"prompts": texts[1]})
        write_atomically(self.path / layout.PROMPTS_FILE, json.dumps(plain(record)) + "\n")

    def write_evaluation(
        self,
        report: EvalReport,
        comparability: Mapping[str, Any],
        scorer_sources: Mapping[str, tuple[str, ...]] | None = None,
        *,
        prompt_rows: PromptRows | StoredRows | None = None,
        step: int | None = None,
        completions: int | None = None,
        measurement: StoredMeasurement | None = None,
    ) -> None:
        """Writes what the evaluator measured, what must be equal in every run beside it, and what its scorers are.

        With `step` and the `completions` of the budget spent it is a point along training, in place of any before it;
        with `measurement` a later one of a finished run, beside the earlier ones.
        """
        if not report.prompt_values.index.is_unique:
            raise ValueError("prompt_values needs one row per prompt")
        n_prompts = len(report.prompt_values)
        samples = int(report.completions["sample"].max()) + 1 if len(report.completions) else 1
        number = 1 if measurement is None else measurement.number
        path = layout.evaluation_path(self.path, report.protocol, step, number)
        path.mkdir(parents=True, exist_ok=True)
        if len(report.prompt_values):
            values = report.prompt_values.rename_axis(layout.PROMPT_ID).reset_index()
            write_frame(path / layout.PROMPT_VALUES_FILE, values)
        for name, frame in ((layout.COMPLETIONS_FILE, report.completions), (layout.DIVERGENCE_FILE, report.divergence)):
            if frame is not None and len(frame):
                write_frame(path / name, frame)
        record = EvaluationFile(
            protocol=report.protocol,
            step=step,
            completions=completions,
            n_prompts=n_prompts,
            samples_per_prompt=samples,
            prompt_rows=prompt_rows,
            comparability=plain(comparability),
            scorer_sources=dict(scorer_sources or {}),
            metrics=tuple(map(StoredMetric.of, report.metrics)),
            traits=traits.of_packages(report.metrics),
            measurement=measurement,
            prompt_groups=dict(report.prompt_groups),
            answer_cost=report.answer_cost,
        )
        write_record(path / layout.METRICS_FILE, record)
        on = "heldout/" if step is None else "validation/"
        self.told(step, {on + str(metric.key): metric.value for metric in record.metrics})

    def charge(
        self, pieces: Mapping[str, Cost], upstream: Sequence[Upstream] = (), tuning: TuningFile | None = None
    ) -> None:
        """Adds what the run has not been charged with yet.

        A complete run is charged too, where a sweep selects what had run before.

        Args:
            pieces: Pieces of work by name, as in `RunStatus.upstream_pieces`.
            upstream: The runs they come from.
            tuning: How the settings were selected, kept with the run.
        """
        missing = {name: cost for name, cost in pieces.items() if name not in self.status.upstream_pieces}
        if not missing and set(upstream) <= set(self.status.upstream):
            return
        lock = RunLock(layout.lock_path(self._final)) if self._lock is None else None
        try:
            if tuning is not None:
                write_record(self.path / layout.TUNING_FILE, tuning)
            if self.status.state == "complete":  # any other run has them written down when it is complete
                with (self.path / layout.EVENTS_FILE).open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"step": None, **row}) + "\n" for row in _upstream_events(missing))
            together = {**self.status.upstream_pieces, **missing}
            self._set_status(
                upstream=tuple(dict.fromkeys((*self.status.upstream, *upstream))),
                upstream_pieces=together,
                upstream_cost=total(together.values()),
            )
        finally:
            if lock is not None:
                lock.release()

    def complete(
        self,
        *,
        cost: Cost,
        evaluation_cost: Cost | None = None,
        train_reward: float | None = None,
        trained_on: Sequence[str] = (),
        reward_hacking: HackingDiagnosis | None = None,
        reward_hacking_reason: str | None = None,
    ) -> Path:
        """Marks the run complete and gives it its final name, which it returns."""
        if pieces := self.status.upstream_pieces:
            self._append(layout.EVENTS_FILE, None, _upstream_events(pieces))
        self._close_logs()
        self._set_status(
            state="complete",
            cost=cost,
            evaluation_cost=evaluation_cost or Cost(),
            train_reward=plain(train_reward),
            trained_on=tuple(trained_on),
            reward_hacking=reward_hacking,
            reward_hacking_reason=reward_hacking_reason,
            files=files_of(self.path),
            finished=_now(),
        )
        publish(self.path, self._final)
        self.path = self._final
        self.release()
        return self._final

    def complete_again(self, evaluation_cost: Cost) -> None:
        """Marks the evaluation of a complete run as whole again, and charges what that took."""
        event = {"step": None, "event": "evaluation", "account": "evaluation_cost", **evaluation_cost.amounts()}
        with (self.path / layout.EVENTS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        whole = total((self.status.evaluation_cost, evaluation_cost))
        self._set_status(evaluation_cost=whole, files=files_of(self.path))
        self.release()

    def fail(self, error: str) -> None:
        """Writes down why the run ended; its checkpoints stay, and the same recipe resumes from them.

        A run that failed before its first step leaves nothing: a typo, once mended, must not be in its own way.
        """
        self._close_logs()
        if self.path == self._final:  # complete, and lacks its evaluation as before
            self.release()
            return
        self._set_status(state="failed", error=error, finished=_now())
        if not self.has_progress:
            shutil.rmtree(self.path)
        self.release()
        with suppress(OSError):
            self._final.parent.rmdir()  # only where it is empty

    @property
    def has_progress(self) -> bool:
        """True where the unfinished run holds a logged step or a checkpoint."""
        return has_progress(self.path)

    def release(self) -> None:
        """Lets other processes have the run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_logs()
        if error is not None and self._lock is not None:
            self.fail(str(error) or type(error).__name__)
        self.release()

    def _close_logs(self) -> None:
        for file in self._logs.values():
            file.close()
        self._logs.clear()

    def _write_header(self, recipe: str, environment: Mapping[str, Any], settings: Mapping[str, Any] | None) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / layout.RECIPE_FILE, recipe)
        write_atomically(self.path / layout.ENVIRONMENT_FILE, json.dumps(plain(environment), indent=1) + "\n")
        self._set_status(resolved=reader.recipe_for_status(self.path, settings))

    def _set_status(self, **changes: object) -> None:
        self.status = RunStatus.model_validate({**dict(self.status), **changes})
        write_record(self.path / layout.STATUS_FILE, self.status)


def _upstream_events(pieces: Mapping[str, Cost]) -> list[dict[str, object]]:
    return [
        {"event": "upstream", "account": "upstream_cost", "source": source, **cost.amounts()}
        for source, cost in pieces.items()
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
