"""The gate: which runs may be in one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignbench.comparison import evaluation_prompts
from alignbench.errors import ComparabilityError, LeakError
from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.results.recognition import may_lack
from alignbench.results.schema import PROMPTS_AS_ENCODED, SNAPSHOT, PromptsFile

_TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "added_tokens", "special_tokens", "spiece", "sentencepiece")
"""How the names of a tokenizer's files begin."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A field that is not the same in all runs."""

    field: str
    values: Mapping[str, tuple[str, ...]]
    """Each value and the runs that have it."""

    def __str__(self) -> str:
        sides = (f"{value} in {', '.join(runs)}" for value, runs in self.values.items())
        return f"{self.field}: {'; '.join(sides)}"


def find_mismatches(measured: Sequence[tuple[StoredRun, StoredEvaluation]]) -> list[Mismatch]:
    """Returns every field in which the runs' evaluations, or the settings of one recipe's seeds, differ."""
    fields = {run.label: _fields(evaluation) for run, evaluation in measured}
    names = list(dict.fromkeys(name for one in fields.values() for name in one))
    found = [_mismatch(name, {run: one.get(name, "(absent)") for run, one in fields.items()}) for name in names]
    runs = [run for run, _ in measured]
    found += [*_settings_mismatches(runs), *_input_mismatches(runs)]
    return [
        replace(one, values=evaluation_prompts.described(one.values, measured))
        if one.field == evaluation_prompts.FIELD
        else one
        for one in found
        if len(one.values) > 1
    ]


def between_models(measured: Iterable[Sequence[tuple[StoredRun, StoredEvaluation]]]) -> list[str]:
    """Returns what the tables of several models were measured under otherwise, but for what follows from the model."""
    sides = [_fields(one[0][1]) for one in measured]
    names = dict.fromkeys(name for side in sides for name in side)
    of_the_model = ("base_model", "chat")
    return [
        name
        for name in names
        if not name.startswith(of_the_model) and len({side.get(name, "(absent)") for side in sides}) > 1
    ]


def require_comparable(mismatches: Sequence[Mismatch]) -> None:
    """Raises ComparabilityError, naming each field, where there is any mismatch."""
    if mismatches:
        lines = "".join(f"\n  {one}" for one in mismatches)
        raise ComparabilityError(
            f"these runs do not belong in one table, they differ in:{lines}\n"
            "Compare those that agree, run the others again alike, or pass --allow-mismatch to see them side by side."
        )


def require_no_leak(runs: Sequence[StoredRun]) -> list[str]:
    """Makes sure that no run was evaluated on prompts that training of another, or its own, could see.

    Texts are equal here if they were equal before any cutting (as `datasets_prep.text_forms` has it): a prompt cut to
    five tokens and the same prompt cut to eight are one text, two texts that share their first five tokens are not.

    Returns:
        Notes that name the runs for which this cannot be checked, or not for every text.

    Raises:
        LeakError: There are such prompts; names the two runs, how many there are, and one of them.
    """
    # Most runs of a table share their data: each content is compared once.
    known: dict[str, tuple[PromptsFile, list[str]]] = {}
    contents: dict[int, str] = {}  # of objects that the runs hold on to
    unknown = []
    for run in runs:
        if run.prompts is None:
            unknown.append(run.label)
        else:
            content = contents.get(id(run.prompts)) or run.prompts.model_dump_json()
            contents[id(run.prompts)] = content
            known.setdefault(content, (run.prompts, []))[1].append(run.label)
    for trained, trained_runs in known.values():
        seen = set(trained.seen)
        for held, held_runs in known.values():
            if shared := seen & held.heldout.keys():
                raise LeakError(_leak(trained_runs, held_runs, [held.heldout[one] for one in sorted(shared)]))
    said = "which texts training could see was not stored; that none of them is held out elsewhere cannot be checked."
    notes = [f"{', '.join(unknown) if known else 'All runs'}: {said}"] if unknown else []
    forms: dict[int, list[str]] = {}
    for file, labels in known.values():
        forms.setdefault(file.text_form, []).extend(labels)
    if len(forms) > 1:
        older = ", ".join(label for form in sorted(forms)[:-1] for label in forms[form])
        notes.append(
            f"{older}: written when texts were compared by case and white space alone; whether a text with typographic "
            "quotes, ligatures or invisible characters is there and held out elsewhere cannot be checked."
        )
    return notes


def _leak(trained_runs: Sequence[str], held_runs: Sequence[str], ids: Sequence[str]) -> str:
    def named(runs: Sequence[str]) -> str:
        return runs[0] + (f" (and {len(runs) - 1} more)" if len(runs) > 1 else "")

    return (
        f"training of {named(trained_runs)} could see {len(ids)} of the prompts that {named(held_runs)} was evaluated "
        f"on, for example the one with id {ids[0]!r}. No option lets these runs be in one table: leave one of them "
        "out, or run them again with the same `data` block."
    )


def version_notes(runs: Sequence[StoredRun]) -> list[str]:
    """Returns a note per package whose version is not the same in all runs that state one."""
    versions: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        packages = run.environment.get("packages")
        found = {"python": run.environment.get("python"), **(packages if isinstance(packages, Mapping) else {})}
        for package, version in found.items():
            if version is not None:
                versions.setdefault(str(package), {}).setdefault(str(version), []).append(run.label)
    differing = [
        Mismatch(name, {value: tuple(labels) for value, labels in by.items()}) for name, by in versions.items()
    ]
    return [f"Versions differ, {one}." for one in differing if len(one.values) > 1]


def word_lists(run: StoredRun) -> frozenset[str]:
    """Returns the scorers that are lists of words, as the run's recipe, or its last measurement, has them."""
    from alignbench.recipe.scorers import knows_context

    measured = [one.record.measurement for one in run.evaluations]
    evaluation = measured[0].evaluation if measured and measured[0] else run.recipe.get("evaluation")
    scorers = evaluation.get("scorers") if isinstance(evaluation, Mapping) else None
    named = (one for one in scorers if isinstance(one, Mapping)) if isinstance(scorers, list | tuple) else ()
    return frozenset(str(one.get("name")) for one in named if not knows_context(one))


def group_key(evaluation: StoredEvaluation) -> str:
    """Returns a text that is equal for evaluations that may be in one table."""
    return json.dumps(_fields(evaluation), sort_keys=True)


def _fields(evaluation: StoredEvaluation) -> dict[str, str]:
    record = evaluation.record
    whole = {
        "protocol": record.protocol,
        "n_prompts": record.n_prompts,
        "samples_per_prompt": record.samples_per_prompt,
    }
    return dict(_flatten("", {**whole, **record.comparability}))


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _mismatch(field: str, by_run: Mapping[str, str]) -> Mismatch:
    values: dict[str, list[str]] = {}
    for run, value in by_run.items():
        values.setdefault(value, []).append(run)
    return Mismatch(field, {value: tuple(runs) for value, runs in values.items()})


def _settings_mismatches(runs: Sequence[StoredRun]) -> Iterator[Mismatch]:
    """Yields settings in which the seeds of one recipe differ: an average over them would mean nothing."""
    for recipe, seeds in _by_recipe(runs).items():
        if len({json.dumps({**run.recipe, "seed": None}, sort_keys=True) for run in seeds}) == 1:
            continue  # whatever of it is the identity
        settings = {run.label: _settings(run) for run in seeds}
        for name in dict.fromkeys(name for one in settings.values() for name in one):
            values = {run: one.get(name, "(absent)") for run, one in settings.items()}
            yield _mismatch(f"settings of {recipe}, {name}", values)


def _input_mismatches(runs: Sequence[StoredRun]) -> Iterator[Mismatch]:
    """Yields what runs read otherwise though it must be alike; runs from before it was recorded are passed over.

    In one table that is how prompts and judged texts become tokens, which no other field tells; between the seeds of
    a recipe it is everything but the runs that each builds on.
    """
    yield from _differing_inputs("inputs", runs, _decides_tokens)
    for recipe, seeds in _by_recipe(runs).items():
        yield from _differing_inputs(
            f"inputs of {recipe}",
            seeds,
            lambda name, part: not _is_upstream(name) and not _decides_tokens(name, part),
        )


def _is_upstream(name: str) -> bool:
    return name.endswith(".run") or name.startswith("builds_on.")


def _decides_tokens(name: str, part: str) -> bool:
    return part == PROMPTS_AS_ENCODED or (name.startswith("evaluation.scorers.") and part.startswith(_TOKENIZER_FILES))


def _differing_inputs(title: str, runs: Sequence[StoredRun], counts: Callable[[str, str], bool]) -> Iterator[Mismatch]:
    known = {run.label: run.status.inputs for run in runs}
    fields = dict.fromkeys((name, part) for inputs in known.values() for name in inputs for part in inputs[name])
    for name, part in fields:
        if part != SNAPSHOT and counts(name, part):
            sides = {run: inputs[name] for run, inputs in known.items() if name in inputs}
            lacking = may_lack(part, sides.values())
            by_run = {run: one.get(part, "(absent)") for run, one in sides.items() if part in one or not lacking}
            yield _mismatch(f"{title}: {name}, {part}", by_run)


def _by_recipe(runs: Sequence[StoredRun]) -> dict[str, list[StoredRun]]:
    found: dict[str, list[StoredRun]] = {}
    for run in runs:
        found.setdefault(run.status.recipe, []).append(run)
    return found


def _settings(run: StoredRun) -> dict[str, str]:
    """Returns the settings that belong to the run's identity, flat, but for the seed."""
    from alignbench.recipe.identity import identity_settings

    return {name: value for name, value in _flatten("", identity_settings(run.recipe)) if name != "seed"}
