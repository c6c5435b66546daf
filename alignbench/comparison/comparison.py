"""A comparison as data: rows, and the records that JSON and CSV hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignbench.comparison.comparability import Mismatch
from alignbench.comparison.flags import HEADLINE, Flag, judgement
from alignbench.comparison.hacking_over_seeds import HackingAlongTraining
from alignbench.comparison.pooling import Measurement, PairedRecipes
from alignbench.errors import NothingComparedError
from alignbench.records import MetricKey
from alignbench.results.reader import SkippedRun
from alignbench.results.threads import in_threads
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.length_matching import LengthMatched
from alignbench.statistics.power import Settlement


@dataclass(frozen=True)
class ComparedRecipe:
    """A row of the table."""

    recipe: str
    method: str
    seeds: tuple[int, ...]
    metrics: Mapping[MetricKey, Measurement]
    train_reward: float | None
    cost: Mapping[str, float]
    """Fields of `records.Cost`, upstream included; means over seeds."""
    cost_per_answer: Mapping[str, float]
    """By the names in PER_ANSWER, means over seeds; empty where it is not known."""
    flags: tuple[Flag, ...] = ()
    hacking: HackingAlongTraining | None = None
    """What the evaluations along training say; None for recipes without any."""


@dataclass(frozen=True)
class Comparison:
    """Everything that the tables show."""

    baseline: str | None
    protocol: str | None
    n_prompts: int
    samples_per_prompt: int
    recipes: tuple[ComparedRecipe, ...]
    """The baseline first."""
    pairs: tuple[PairedRecipes, ...] = ()
    """Every pair of recipes on every metric, where asked for."""
    reward_models: tuple[tuple[ComparedRecipe, ...], ...] = ()
    """One group per set of pairs that they were measured on."""
    mismatches: tuple[Mismatch, ...] = ()
    """Not empty only where the user let runs be side by side that are not comparable."""
    skipped: tuple[SkippedRun, ...] = ()
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, object]]:
        """Returns a record per recipe and metric, with the fields that docs/results.md lists; then one per pair."""
        rows = [one for some in in_threads(lambda row: _records(row, self.baseline), self.recipes) for one in some]
        by_name = {row.recipe: row for row in self.recipes}
        rows += in_threads(
            lambda pair: _record(by_name[pair.recipe], pair.key, pair.measurement, pair.other, "all pairs"), self.pairs
        )
        protocol = {
            "protocol": self.protocol,
            "n_prompts": self.n_prompts,
            "samples_per_prompt": self.samples_per_prompt,
        }
        rows = [record | protocol for record in rows]
        for group in self.reward_models:
            others = [record for row in group for record in _records(row, None)]
            rows += [record | dict.fromkeys(protocol) for record in others]
        # In each record, so that none of them can be quoted without.
        said = {
            "mismatch": [str(one) for one in self.mismatches],
            "notes": list(self.notes),
            "skipped": [str(one) for one in self.skipped],
        }
        return [record | said for record in rows]

    def require_two(self) -> None:
        """Raises NothingComparedError where no table has two recipes."""
        tables = [table for table in (self.recipes, *self.reward_models) if table]
        if all(len(table) < 2 for table in tables):
            names = ", ".join(row.recipe for table in tables for row in table)
            skipped = f"; {len(self.skipped)} skipped" if self.skipped else ""
            raise NothingComparedError(
                f"nothing was compared: got {names} alone, expected two recipes or more in one table{skipped}"
            )


def settlement(measurement: Measurement) -> Settlement | None:
    """Returns what would settle a question that the verdict leaves open; None where it does not, or nothing would."""
    if measurement.tested is None or judgement(measurement) != "not distinguishable":
        return None
    return measurement.tested.settlement()


def detectable(measurement: Measurement) -> float | None:
    """Returns the smallest difference that the design would have found, no larger than there can be; None untested."""
    found = measurement.tested.detectable() if measurement.tested is not None else None
    return min(found, 1.0) if found is not None and measurement.traits.between_0_and_1 else found


def _records(row: ComparedRecipe, baseline: str | None) -> list[dict[str, object]]:
    reference = None if row.recipe == baseline else baseline
    rows = [_record(row, key, one, reference) for key, one in row.metrics.items()]
    for name, value in {"train_reward": row.train_reward, **row.cost, **row.cost_per_answer}.items():
        # Of the run as a whole: no prompts, no interval, no test.
        rows.append(_record(row, MetricKey(name), Measurement(Estimate(value), None, "none", 0, 0), reference))
    return rows


def _record(
    row: ComparedRecipe,
    key: MetricKey,
    one: Measurement,
    baseline: str | None,
    family: str = "baseline",
) -> dict[str, object]:
    difference = one.difference or Estimate(None)
    tested = one.tested
    runs = tested.these_runs if tested else Estimate(None)
    needed = (settlement(one) if key.metric == HEADLINE else None) or Settlement(None, None)
    matched = one.length_matched or LengthMatched(Estimate(None), None)
    hacking = row.hacking or HackingAlongTraining(None)
    return {
        "recipe": row.recipe,
        "method": row.method,
        "metric": key.metric,
        "scorer": key.scorer,
        "value": one.value.value,
        "ci_low": one.value.ci_low,
        "ci_high": one.value.ci_high,
        "reason": one.value.reason,
        "n_scored": one.n_scored,
        "n_unscored": one.n_unscored,
        "n_cut": one.n_cut,
        "n_seeds": len(row.seeds),
        "seeds": list(row.seeds),
        "baseline": baseline,
        "difference": difference.value,
        "difference_ci_low": difference.ci_low,
        "difference_ci_high": difference.ci_high,
        "difference_reason": difference.reason,
        "p_value": difference.p_value,
        "p_adjusted": difference.p_adjusted,
        "verdict": judgement(one),
        "family": family if tested else None,
        "estimand": tested.estimand if tested else None,
        "runs_difference": runs.value,
        "runs_ci_low": runs.ci_low,
        "runs_ci_high": runs.ci_high,
        "runs_p_value": runs.p_value,
        "detectable_difference": detectable(one),
        "settling_prompts": needed.prompts,
        "settling_seeds": needed.seeds,
        "length_matched_difference": matched.difference.value,
        "length_matched_ci_low": matched.difference.ci_low,
        "length_matched_ci_high": matched.difference.ci_high,
        "length_matched_share": matched.share,
        "length_matched_reason": matched.difference.reason,
        "reward_hacking": hacking.word,
        "reward_hacking_seeds": hacking.n_seeds if hacking.word else None,
        "reward_hacking_onset": hacking.onset_completions,
        "reward_hacking_evidence": [*hacking.evidence, *hacking.reasons],
        "flags": list(dict.fromkeys(flag.name for flag in row.flags)),
    }
