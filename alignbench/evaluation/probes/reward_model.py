"""How good a trained reward model is: on held-out pairs, against training pairs, against what labelled both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from alignbench.evaluation.metrics.aggregate import FloatArray
from alignbench.evaluation.metrics.measure import metric_value
from alignbench.evaluation.metrics.metric import Metric
from alignbench.records import EvalReport, MetricValue, PreferencePair, Scorer
from alignbench.statistics.correlation import rank_correlation as correlation_of_ranks
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.prompt_means import mean_interval, numbered

PROTOCOL = "reward-model"
_metric = partial(Metric, needs="pairs", section="", order=1200)
_ACCURACY = _metric(name="pair_accuracy", direction="higher", between_0_and_1=True)
_TRAIN_ACCURACY = _metric(name="pair_accuracy_train", direction="none", between_0_and_1=True)
_GAP = _metric(name="pair_accuracy_gap", direction="lower")
_AGREEMENT = _metric(name="label_agreement", direction="higher")

plugin = (_ACCURACY, _TRAIN_ACCURACY, _GAP, _AGREEMENT)


def evaluate_reward_model(
    scorer: Scorer,
    train_pairs: Sequence[PreferencePair],
    heldout_pairs: Sequence[PreferencePair],
    groups: Mapping[str, str] | None = None,
) -> EvalReport:
    """Measures a reward model on the pairs it was trained on and on pairs of held-out prompts.

    `groups` names the group of held-out prompts that are variants of one text, by prompt id.

    `pair_accuracy` is the share of held-out pairs whose chosen completion scores higher, a tie counting one half;
    `pair_accuracy_gap` is the accuracy on training pairs minus that; `label_agreement` is the rank correlation
    (Spearman) between the model's score and the labelling reward over all held-out completions in pairs.
    """
    import pandas as pd

    chosen, rejected = _scores(scorer, heldout_pairs)
    correct = _correct(chosen, rejected)
    train_correct = _correct(*_scores(scorer, train_pairs))
    labels = [pair.chosen_reward for pair in heldout_pairs] + [pair.rejected_reward for pair in heldout_pairs]
    scores = np.concatenate((chosen, rejected))
    scored = ~np.isnan(scores)
    agreement = rank_correlation(scores[scored], np.array(labels)[scored])
    ids, groups = [pair.prompt.id for pair in heldout_pairs], dict(groups or {})
    accuracy, train_accuracy = mean_interval(correct, numbered(ids, groups)), mean_interval(train_correct)
    metrics = (
        _value(_ACCURACY, accuracy, len(heldout_pairs)),
        _value(_TRAIN_ACCURACY, train_accuracy, len(train_pairs)),
        _value(_GAP, _gap(train_accuracy, accuracy), len(heldout_pairs)),
        _value(_AGREEMENT, agreement, 2 * len(heldout_pairs)),
    )
    values = pd.DataFrame({_ACCURACY.name: correct}, index=pd.Index(ids, name="prompt_id"))
    return EvalReport(PROTOCOL, metrics, values, pd.DataFrame(), prompt_groups=groups)


def rank_correlation(a: FloatArray, b: FloatArray) -> Estimate:
    """Spearman's rank correlation, ties given their mean rank; without an interval."""
    if len(a) < 2:
        return Estimate(None, reason="fewer than two completions have a score")
    correlation = correlation_of_ranks(a, b)
    if correlation is None:
        return Estimate(None, reason="one side gives every completion the same score")
    return Estimate(correlation, n=len(a), reason="no interval is computed for a correlation")


def _scores(scorer: Scorer, pairs: Sequence[PreferencePair]) -> tuple[FloatArray, FloatArray]:
    prompts = [pair.prompt.text for pair in pairs]
    scores = scorer.score(prompts * 2, [pair.chosen.text for pair in pairs] + [pair.rejected.text for pair in pairs])
    values = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    return values[: len(pairs)], values[len(pairs) :]


def _correct(chosen: FloatArray, rejected: FloatArray) -> FloatArray:
    return np.where(np.isnan(chosen - rejected), np.nan, (np.sign(chosen - rejected) + 1) / 2)


def _gap(train: Estimate, heldout: Estimate) -> Estimate:
    if train.value is None or heldout.value is None:
        return Estimate(None, reason="an accuracy could not be measured")
    return Estimate(
        train.value - heldout.value, n=heldout.n, reason="a difference of two sets of pairs, given without interval"
    )


def _value(metric: Metric, estimate: Estimate, n: int) -> MetricValue:
    n_scored = estimate.n if estimate.value is not None else 0
    return metric_value(metric, None, estimate, (n_scored, n - n_scored))
