"""The columns of cost tables, in their order, and how their numbers are shown."""

from __future__ import annotations

COSTS = {
    "wall_seconds": "wall seconds",
    "device_seconds": "device seconds",
    "peak_memory_gib": "peak memory GiB",
    "prompts_seen": "prompts seen",
    "training_completions": "training completions",
    "generated_tokens": "generated tokens",
    "trained_tokens": "trained tokens",
    "reward_calls": "reward calls",
    "optimizer_steps": "optimizer steps",
    "generation_flops": "generation FLOPs",
    "forward_flops": "forward FLOPs",
    "backward_flops": "backward FLOPs",
    "trainable_parameters": "trainable parameters",
    "judge_tokens": "tokens of judges",
    "money": "money",
}
"""Fields of `records.Cost` by the names that tables give them."""
ONLY_IF_SPENT = frozenset({"judge_tokens", "money"})
"""Those that a table has where a row has spent some."""
PER_ANSWER = {
    "tokens_per_answer": "tokens per answer",
    "flops_per_answer": "FLOPs per answer",
    "reward_calls_per_answer": "reward calls per answer",
}
"""What an evaluation says of the cost of an answer, by the names that tables give it; the last only where there are
any."""
_DIGITS = {
    **{"money": 2, "wall_seconds": 1, "device_seconds": 1, "peak_memory_gib": 2},
    **{"tokens_per_answer": 1, "reward_calls_per_answer": 1},
}


def shown(field: str, value: float) -> str:
    """Returns an amount as tables show it: FLOPs as 1.23e12, everything else in full."""
    if "flops" in field and value:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:,.{_DIGITS.get(field, 0)}f}"


def shown_per_answer(field: str, value: float | None, baseline: float | None) -> str:
    """Returns an amount per answer with its ratio to the baseline's, as `34.1 (4.02x)`; - where it is not known."""
    if value is None:
        return "-"
    ratio = f" ({value / baseline:.3g}x)" if baseline else ""
    return shown(field, value) + ratio
