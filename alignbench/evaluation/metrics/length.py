"""How many tokens completions have. Definitions in docs/metrics.md."""

from __future__ import annotations

from functools import partial

import numpy as np

from alignbench.evaluation.metrics.aggregate import FloatArray, SetStatistic
from alignbench.evaluation.metrics.metric import Metric, Sample


def _tokens(sample: Sample) -> FloatArray:
    lengths = [completion.n_tokens for completion in sample.completions]
    return np.array(lengths, dtype=np.float64).reshape(-1, sample.k)


def _percentile(sample: Sample, percent: int) -> SetStatistic:
    """Of the number of tokens: a whole number that occurs."""
    value = np.percentile(_tokens(sample), percent, method="inverted_cdf")
    reason = "no interval is computed for a percentile of whole numbers"
    return SetStatistic(float(value), counts=(len(sample.completions), 0), reason=reason)


_metric = partial(Metric, direction="none", section="length")

plugin = (
    _metric(name="completion_tokens", of_prompts=_tokens, order=300),
    *(
        _metric(name=f"completion_tokens_p{percent}", of_set=partial(_percentile, percent=percent), order=700)
        for percent in (10, 50, 90)
    ),
)
