"""What of a gain is left once completions are held at the baseline's lengths, in numbers and in a word."""

from __future__ import annotations

from dataclasses import dataclass

from alignbench.comparison.flags import length_change, lost_at_equal_length
from alignbench.comparison.rows import ComparedRecipe
from alignbench.records import MetricKey
from alignbench.statistics.estimate import Estimate
from alignbench.statistics.length_matching import LengthMatched

LENGTH = MetricKey("completion_tokens")


@dataclass(frozen=True, slots=True)
class Gain:
    """A recipe's change of length against the baseline, and its gain at equal length."""

    tokens: float | None
    """Mean length of its completions."""
    change: float | None
    """Of that length, as a share of the baseline's; None where it is not known."""
    plain: Estimate
    """Difference to the baseline."""
    matched: LengthMatched
    """The same at equal length."""

    @property
    def left(self) -> float | None:
        """Share of the gain, a fall, that is left at equal length; None where there was none, or it is not known."""
        plain, matched = self.plain.value, self.matched.difference.value
        return None if plain is None or matched is None or plain >= 0 else matched / plain

    @property
    def is_shown(self) -> bool:
        """True where a fall is shown at equal length: its whole interval lies below zero."""
        high = self.matched.difference.ci_high
        return high is not None and high < 0

    @property
    def word(self) -> str:
        """What is left, in words: `66 % left`, `gone`, `reversed`, `no gain`, `not known`."""
        plain, matched = self.plain, self.matched.difference
        if plain.value is None or matched.value is None:
            return "not known"
        if plain.value >= 0:
            return "no gain"
        if lost := lost_at_equal_length(plain, matched):
            return lost
        if matched.value >= 0:
            return "none left"
        share = f"{min(1.0, matched.value / plain.value):.0%}".replace("%", " %")
        return f"{share} left" if self.is_shown else f"{share} left, or none"


def gain(row: ComparedRecipe, key: MetricKey, matched: LengthMatched) -> Gain:
    """Returns what a row has gained on a metric, as it is and at equal length."""
    length, one = row.metrics.get(LENGTH), row.metrics.get(key)
    moved = length_change(row.metrics)
    return Gain(
        None if length is None else length.value.value,
        moved[0] / moved[1] if moved is not None and moved[1] else None,
        (None if one is None else one.difference) or Estimate(None),
        matched,
    )
