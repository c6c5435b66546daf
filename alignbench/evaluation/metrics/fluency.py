"""Perplexity of completions under the frozen reference. Definition in docs/metrics.md."""

from __future__ import annotations

from alignbench.evaluation.metrics.metric import Metric

plugin = Metric(
    name="perplexity",
    direction="lower",
    needs="log-probabilities",
    of_prompts=lambda sample: sample.log_perplexity,
    scale="log",
    section="fluency",
    order=450,
    missing="no completion has a token",
)
