"""What came out of a run, in some words: for the end of a command, not for a verdict."""

from __future__ import annotations

from pathlib import Path

from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, own_judges
from alignbench.comparison.numbers import number, with_interval
from alignbench.comparison.pooling import NOT_TRAINED_HERE
from alignbench.errors import ResultsError
from alignbench.records import MetricKey
from alignbench.results.reader import StoredEvaluation, StoredRun, read_run
from alignbench.statistics.estimate import Estimate

_MORE = (
    (MetricKey("kl"), "KL"),
    (MetricKey("perplexity"), "perplexity"),
    (MetricKey("pair_accuracy"), "pairs of held-out prompts ranked right"),
)


def came_out(path: Path) -> str:
    """Returns toxicity by the first held-out judge, divergence, perplexity and seconds of training, if there were any.

    Of a reward model it is the share of pairs that it ranks right; what was not trained here has no seconds. Empty
    where the run cannot be read.
    """
    try:
        run = read_run(path)
    except ResultsError:
        return ""
    words = [word for evaluation in run.evaluations[:1] for word in _measured(run, evaluation)]
    if run.status.method not in NOT_TRAINED_HERE:
        words.append(f"{run.status.cost.wall_seconds:,.0f} s of training")
    return ", ".join(words)


def _measured(run: StoredRun, evaluation: StoredEvaluation) -> list[str]:
    values = {one.key: one for one in evaluation.record.metrics}
    own = own_judges(run.status.trained_on, evaluation.record.scorer_sources)
    judges = [key.scorer for key in values if key.metric == HEADLINE and key.scorer != REWARD_SCORER]
    held_out = [judge for judge in judges if judge not in own] or judges
    named = [(MetricKey(HEADLINE, judge), f"toxicity by {judge}") for judge in held_out[:1]]
    return [
        f"{words} {with_interval(Estimate(one.value, one.ci_low, one.ci_high)) if key.scorer else number(one.value)}"
        for key, words in (*named, *_MORE)
        if (one := values.get(key)) is not None and one.value is not None
    ]
