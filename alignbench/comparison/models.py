"""Runs on several base models: which belong together, and in how many models a method came out how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePath

from alignbench.comparison.ranks import Ranking
from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.statistics.estimate import Verdict

BASE_MODEL = "base_model"
"""The hash of the reference's weights among what must be equal in one table."""
_Measured = Sequence[tuple[StoredRun, StoredEvaluation]]


def by_model(measured: _Measured) -> dict[str, list[tuple[StoredRun, StoredEvaluation]]]:
    """Returns the runs by the name of their base model, in the order of the runs.

    Models are those of one name, or with the same weights: of one name with other weights, or where a run does not say
    what it is based on, runs stay together, so that the gate of comparability names what differs.
    """
    hashes = {evaluation.record.comparability.get(BASE_MODEL): run for run, evaluation in reversed(measured)}
    names = {value: _model(run) for value, run in reversed(hashes.items())} if len(hashes) > 1 else {}
    if None in hashes or None in names.values() or len(set(names.values())) < 2:
        return {"": list(measured)}
    found: dict[str, list[tuple[StoredRun, StoredEvaluation]]] = {}
    shown = _short(list(dict.fromkeys(str(name) for name in names.values())))
    for run, evaluation in measured:
        name = shown[str(names[evaluation.record.comparability[BASE_MODEL]])]
        found.setdefault(name, []).append((run, evaluation))
    return found


def _model(run: StoredRun) -> str | None:
    """Returns the model that a run's recipe names, with its revision; None where it names none."""
    policy = run.recipe.get("policy")
    model = policy.get("model") if isinstance(policy, Mapping) else None
    if not isinstance(policy, Mapping) or not isinstance(model, str):
        return None
    revision = policy.get("revision")
    return model if revision is None else f"{model} at {revision}"


def _short(names: Sequence[str]) -> dict[str, str]:
    """Returns paths by their last part, where that tells them apart."""
    last = {name: PurePath(name).name if PurePath(name).is_absolute() or name[0] == "." else name for name in names}
    return last if len(set(last.values())) == len(last) else {name: name for name in names}


@dataclass(frozen=True, slots=True)
class AcrossModels:
    """How methods came out on several models, each against the baseline of its own model."""

    models: tuple[str, ...]
    verdicts: Mapping[str, Mapping[str, Verdict]]
    """By method, then by model where it was tested there."""
    alike: tuple[tuple[str, str], ...]
    """Pairs of methods of which the first is shown to be better in two models or more, and the second in none."""
    turned: tuple[tuple[str, str], ...]
    """Pairs of methods of which either is shown to be better in some model."""
    n_pairs: int
    """Pairs of methods that two models or more have."""

    def counts(self, method: str) -> tuple[int, int, int]:
        """Returns in how many models a method was better, worse, and neither."""
        words = Counter(self.verdicts[method].values())
        better, worse = words["better"], words["worse"]
        return better, worse, len(self.verdicts[method]) - better - worse

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Returns header and rows: by method its verdict on each model, and how many of each there are."""
        rows = [
            [method, *(words.get(model, "-") for model in self.models), *map(str, self.counts(method))]
            for method, words in self.verdicts.items()
        ]
        return ["method", *self.models, "better", "worse", "undecided"], rows

    @property
    def carries_over(self) -> str:
        """Whether the order of methods does, in a sentence."""
        if not self.n_pairs:
            return "No two methods were compared on two models."
        if self.turned:
            said = ", ".join(f"{one} and {other}" for one, other in self.turned)
            return f"The order does not carry over: {said} change places from model to model."
        if not self.alike:
            return "Whether the order carries over is not known: no order of two methods is shown on two models."
        return (
            f"Of {self.n_pairs} pairs of methods {len(self.alike)} are shown in the same order on two models or more, "
            "none in the opposite order."
        )


@dataclass(frozen=True, slots=True)
class Block:
    """What is needed of one model's table."""

    model: str
    methods: Mapping[str, str]
    """Method by row, without the baseline."""
    verdicts: Mapping[str, Verdict | None]
    """By row, beside the baseline of this model."""
    ranking: Ranking | None


def across(blocks: Sequence[Block]) -> AcrossModels:
    """Returns how methods came out. Rows of one name are one method, or the only rows with a method in their models."""
    labels = _labels(blocks)
    verdicts: dict[str, dict[str, Verdict]] = {}
    orders: dict[tuple[str, str], set[int]] = {}
    shown: Counter[tuple[str, str]] = Counter()
    common: Counter[tuple[str, str]] = Counter()
    for block in blocks:
        for row in block.methods:
            if (word := block.verdicts[row]) is not None:
                verdicts.setdefault(labels[block.model, row], {})[block.model] = word
        for one, other in combinations(sorted(block.methods, key=lambda row: labels[block.model, row]), 2):
            pair = labels[block.model, one], labels[block.model, other]
            common[pair] += 1
            better = {} if block.ranking is None else block.ranking.shown_better
            sign = (one in better.get(other, ())) - (other in better.get(one, ()))
            if sign:
                orders.setdefault(pair, set()).add(sign)
                shown[pair] += 1
    several = [pair for pair, n in common.items() if n > 1]
    return AcrossModels(
        tuple(block.model for block in blocks),
        verdicts,
        tuple(
            pair if orders[pair] == {1} else (pair[1], pair[0])
            for pair in several
            if len(orders.get(pair, ())) == 1 and shown[pair] > 1
        ),
        tuple(pair for pair in several if len(orders.get(pair, ())) == 2),
        len(several),
    )


def _labels(blocks: Sequence[Block]) -> dict[tuple[str, str], str]:
    """Returns what each row of each model is called across models."""
    n_models = Counter(row for block in blocks for row in block.methods)
    rivals = {method for block in blocks for method, n in Counter(block.methods.values()).items() if n > 1}
    return {
        (block.model, row): row if n_models[row] > 1 or method in rivals else method
        for block in blocks
        for row, method in block.methods.items()
    }
