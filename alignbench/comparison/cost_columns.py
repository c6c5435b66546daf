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
}
"""Fields of `records.Cost` by the names that tables give them."""
_DIGITS = {"wall_seconds": 1, "device_seconds": 1, "peak_memory_gib": 2}


def shown(field: str, value: float) -> str:
    """Returns an amount as tables show it: FLOPs as 1.23e12, everything else in full."""
    if field.endswith("_flops") and value:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:,.{_DIGITS.get(field, 0)}f}"
