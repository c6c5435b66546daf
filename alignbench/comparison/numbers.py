"""How tables and sentences write numbers."""

from __future__ import annotations

from alignbench.statistics.estimate import Estimate


def number(value: float | None) -> str:
    """Returns a number as tables show it: four significant digits or so, thousands apart, - where there is none."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}"


def with_interval(estimate: Estimate, sign: str = "") -> str:
    """Returns `value [low, high]`, without the brackets where there is no interval; `sign` comes before gains."""
    if estimate.value is None:
        return "-"
    value = sign + number(estimate.value) if estimate.value > 0 else number(estimate.value)
    if estimate.ci_low is None:
        return value
    return f"{value} [{number(estimate.ci_low)}, {number(estimate.ci_high)}]"


def p_value(value: float | None) -> str:
    """Returns a p with three digits, the smallest ones as `<0.001`."""
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def short(value: float | None, sign: str = "") -> str:
    """Returns a number with about three digits; `sign` comes before those above 0."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    text = f"{value:,.{digits}f}"
    if value and not any(digit in "123456789" for digit in text):
        text = f"{value:.0e}"
    return sign + text if value > 0 else text


def interval(one: Estimate, sign: str = "") -> str:
    """Returns `value [low, high]` with about three digits; no brackets where there is no interval."""
    if one.value is None or one.ci_low is None:
        return short(one.value, sign)
    return f"{short(one.value, sign)} [{short(one.ci_low, sign)}, {short(one.ci_high, sign)}]"
