"""The rows of a table as data, and the records that JSON and CSV hold of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alignbench.comparison.flags import HEADLINE, Flag, judgement
from alignbench.comparison.hacking_over_seeds import HackingAlongTraining
from alignbench.comparison.pooling import Measurement
from alignbench.records import MetricKey
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
    by_seed: Mapping[MetricKey, tuple[float | None, ...]] = field(default_factory=dict)
    """What was measured with each of `seeds`; None where a seed has no value."""


def settlement(measurement: Measurement) -> Settlement | None:
    """Returns what would settle a question that the verdict leaves open; None where it does not, or nothing would."""
    if measurement.tested is None or judgement(measurement) not in ("not distinguishable", "not tested"):
        return None
    return measurement.tested.settlement()


def detectable(measurement: Measurement) -> float | None:
    """Returns the smallest difference that the design would have found, no larger than there can be; None untested."""
    found = measurement.tested.detectable() if measurement.tested is not None else None
    return min(found, 1.0) if found is not None and measurement.traits.between_0_and_1 else found


def records_of(row: ComparedRecipe, baseline: str | None) -> list[dict[str, object]]:
    """Returns a record per metric of a row, then one per cost."""
    reference = None if row.recipe == baseline else baseline
    rows = [record_of(row, key, one, reference) for key, one in row.metrics.items()]
    for name, value in {"train_reward": row.train_reward, **row.cost, **row.cost_per_answer}.items():
        # Of the run as a whole: no prompts, no interval, no test.
        rows.append(record_of(row, MetricKey(name), Measurement(Estimate(value), None, "none", 0, 0), reference))
    return rows


def record_of(
    row: ComparedRecipe,
    key: MetricKey,
    one: Measurement,
    baseline: str | None,
    family: str = "baseline",
) -> dict[str, object]:
    """Returns one metric of a row beside another row, with the fields that docs/results.md lists."""
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
