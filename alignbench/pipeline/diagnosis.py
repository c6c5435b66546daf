"""The word on reward hacking of one run, from its points along training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, own_judges
from alignbench.evaluation.hacking import TEXT_METRICS, CurvePoint, diagnose, why_not
from alignbench.records import HackingDiagnosis, MetricKey
from alignbench.results.reader import StoredPoint, read_points


def diagnose_run(
    run: Path, trained_on: Collection[str] = (), *, kind: str = "policy"
) -> tuple[HackingDiagnosis | None, str | None]:
    """Returns whether a run has learned to please its reward, or why that was not measured.

    Args:
        run: The run's directory, complete or not.
        trained_on: Hashes of what rewarded it or labelled its pairs: a judge made of the same is no held-out one.
        kind: What it trained.
    """
    if kind != "policy":
        return None, "a reward model is no policy"
    curve = [_curve_point(point, trained_on) for point in read_points(run)]
    reason = why_not(curve)
    return (None, reason) if reason else (diagnose(curve), None)


def _curve_point(point: StoredPoint, trained_on: Collection[str]) -> CurvePoint:
    _, columns = point.prompt_values
    no_judges = {REWARD_SCORER, *own_judges(trained_on, point.record.scorer_sources)}
    keys = [key for key in map(MetricKey.parse, columns) if key.metric == HEADLINE]
    return CurvePoint(
        completions=point.completions,
        reward=columns.get("reward_mean"),
        harm={key.scorer: columns[str(key)] for key in keys if key.scorer and key.scorer not in no_judges},
        kl=columns.get("kl"),
        texts={name: columns[name] for name in TEXT_METRICS},
    )


def last_tenth(rewards: Sequence[float]) -> float | None:
    """Mean of the last tenth of the steps, at least one; None where nothing was logged."""
    last = rewards[-max(1, len(rewards) // 10) :]
    return sum(last) / len(last) if last else None
