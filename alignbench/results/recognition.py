"""What a results directory holds under a run's name, seen from the run that is to be written there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from alignbench.errors import RunExistsError
from alignbench.results import layout, reader
from alignbench.results.schema import PROMPTS_AS_ENCODED, SNAPSHOT, Inputs, RunStatus, UnreadableError, read_record

Action = Literal["start", "resume", "evaluate", "skip"]
"""`evaluate`: training is complete, and of the evaluation files are gone."""

_WAY_OUT = "give this one another name with --name, or replace the old one with --force"


def decide(final: Path, partial: Path, wanted: str, inputs: Inputs, *, force: bool = False) -> Action:
    """Returns what there is to do for a run.

    Args:
        final: Its directory when it is complete.
        partial: Its directory until then.
        wanted: Its run hash.
        inputs: What it reads, as far as that can be told now.
        force: Start, whatever is there.

    Raises:
        RunExistsError: Something else is under this name: another recipe, this one on other inputs, or a complete
            run of which files are gone.
    """
    if force:
        return "start"
    done, begun = read_status(final), read_status(partial)
    if done is not None and done.state == "complete" and is_same(final, done, wanted):
        lost = _lost_files(final, done)
        require_same_inputs(final, done.inputs, inputs)
        return "evaluate" if lost else "skip"
    if begun is not None and is_same(partial, begun, wanted):
        if begun.state != "complete" and not has_progress(partial) and changed_inputs(begun.inputs, inputs):
            return "start"
        require_same_inputs(partial, begun.inputs, inputs)
        return "skip" if begun.state == "complete" else "resume"
    for path, status in ((final, done), (partial, begun)):
        if path.exists() and (status is not None or path == final):
            what = f"a run of another recipe ({status.run_hash})" if status else "files that are no readable run"
            raise RunExistsError(f"{path} holds {what}, this one is {wanted}; {_WAY_OUT}")
    return "start"


def read_status(path: Path) -> RunStatus | None:
    """Returns the status of a run's directory; None where there is none that can be read."""
    try:
        return read_record(path / layout.STATUS_FILE, RunStatus)
    except UnreadableError:
        return None


def is_same(path: Path, status: RunStatus, wanted: str) -> bool:
    """True where the run in a directory has this run hash, or would have it by today's declarations."""
    return wanted in (status.run_hash, stored_run_hash(path, status))


def stored_run_hash(path: Path, status: RunStatus) -> str:
    """Returns the hash of a stored run by the declarations of today, from its resolved recipe.

    So a run is recognised that was written when other settings belonged to the identity. What it says of itself is
    taken where its recipe cannot be read.
    """
    from alignbench.recipe.identity import run_hash
    from alignbench.recipe.roles import upstream_names

    try:
        recipe = reader.read_recipe(path, status.resolved)
        return run_hash(recipe, {role: _upstream_hash(path, status, role) for role in upstream_names(recipe)})
    except (UnreadableError, KeyError, TypeError, ValueError, AttributeError):  # no recipe, or a damaged one
        return status.run_hash


def _upstream_hash(path: Path, status: RunStatus, role: str) -> str:
    """The hash of what gave a run its policy or reward, by today's declarations where it still lies beside the run."""
    from alignbench.recipe.sweeps import TUNING

    [upstream] = [one for one in status.upstream if one.role == role]
    results = path.parent.parent
    # A trial lies in a folder of its own, and may build on a run outside it.
    for root in (results, results.parent) if results.name == TUNING else (results,):
        other = layout.run_path(root, upstream.recipe, upstream.seed)
        found = read_status(other)
        if found is not None and found.run_hash == upstream.run_hash:
            return stored_run_hash(other, found)
    return upstream.run_hash


def changed_inputs(recorded: Inputs, now: Inputs) -> list[str]:
    """Returns a line on each file or fact that is not as it was; what is known on one side alone is passed over."""
    lines = []
    for name in (name for name in recorded if name in now):
        before, after = recorded[name], now[name]
        for part in sorted({*before, *after} - {SNAPSHOT}):  # a newer commit counts by the files that it changes
            is_known = (part in before and part in after) or not may_lack(part, (before, after))
            if is_known and before.get(part) != after.get(part):
                was, is_now = before.get(part, "absent"), after.get(part, "absent")
                lines.append(f"{name}, {part}: was {was}, is {is_now}")
    return lines


def may_lack(part: str, sides: Iterable[Mapping[str, str]]) -> bool:
    """True where an input that lacks a part says nothing by it: it could not be told, or was not fetched yet."""
    snapshots = {side.get(SNAPSHOT) for side in sides}
    return part == PROMPTS_AS_ENCODED or (len(snapshots) == 1 and None not in snapshots)


def require_same_inputs(path: Path, recorded: Inputs, now: Inputs) -> None:
    """RunExistsError, naming each, where a run was made from other inputs than those of now."""
    lines = changed_inputs(recorded, now)
    if lines:
        shown = "".join(f"\n  {line}" for line in lines[:8]) + ("\n  and more" if lines[8:] else "")
        raise RunExistsError(
            f"{path} holds a run of this recipe on other inputs; changed since then:{shown}\n"
            f"Put them back, or {_WAY_OUT}"
        )


def has_progress(partial: Path) -> bool:
    """True where an unfinished run holds a logged step or a checkpoint."""
    return (partial / layout.TRAIN_LOG_FILE).exists() or has_checkpoint(partial)


def has_checkpoint(partial: Path) -> bool:
    """True where an unfinished run holds something that training goes on from."""
    return any((partial / layout.CHECKPOINTS).glob("*"))


def files_of(run: Path) -> dict[str, int]:
    """Returns the files of a run's trained model and of its final evaluations, with their sizes in bytes."""
    found = [file for file in (run / layout.ARTIFACT).rglob("*") if file.is_file()]
    found += [file for file in (run / layout.EVALUATIONS).glob("*/*") if file.is_file()]
    return {file.relative_to(run).as_posix(): file.stat().st_size for file in sorted(found)}


def _lost_files(path: Path, status: RunStatus) -> list[str]:
    """Returns the files of a complete run's evaluation that are gone or cut short.

    RunExistsError where files of the trained model are: only training would bring them back.
    """
    there = files_of(path)
    lost = [name for name, size in (status.files or {}).items() if there.get(name) != size]
    if status.files is None:  # written before files were listed
        lost = _unlisted_loss(there)
    if any(name.startswith(layout.ARTIFACT) for name in lost):
        named = ", ".join(lost[:5]) + (" and more" if lost[5:] else "")
        raise RunExistsError(
            f"{path} was complete, but of its files these are gone or cut short: {named}; put them back, or run it "
            "again with --force"
        )
    return lost


def _unlisted_loss(there: Mapping[str, int]) -> list[str]:
    """Returns what a complete run lacks that nobody listed: the weights of a saved model, the measured values."""
    saved = {Path(name).name for name in there if name.startswith(f"{layout.ARTIFACT}/")}
    has_weights = any(name.endswith((".safetensors", ".bin")) for name in saved)
    lost = []
    if not saved or (saved & {"config.json", "adapter_config.json"} and not has_weights):
        lost.append(f"{layout.ARTIFACT}/" + ("" if not saved else "*.safetensors"))
    if not any(name.startswith(f"{layout.EVALUATIONS}/") and name.endswith(layout.METRICS_FILE) for name in there):
        lost.append(f"{layout.EVALUATIONS}/")
    return lost
