"""A metric: the share of completions that end a sentence."""

from __future__ import annotations

from alignbench.evaluation.metrics.metric import Metric, Sample


def is_finished(text: str) -> bool:
    """True where the last character is a full stop, a question mark or an exclamation mark."""
    return text.rstrip().endswith((".", "?", "!"))


def measure(sample: Sample) -> list[list[float]]:
    """Returns 1 or 0 of each completion: (n prompts, k completions)."""
    return [[float(is_finished(text)) for text in texts] for texts in sample.texts]


plugin = Metric(
    name="finished_rate", direction="higher", of_prompts=measure, between_0_and_1=True, section="degeneration"
)
