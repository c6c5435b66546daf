"""Tables that are printed in place of the page where a reader asks for them: along the curves, and the frontier."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.comparison.along import AtPlace, Place, at_place
from alignbench.comparison.answer import listed
from alignbench.comparison.comparison import Comparison
from alignbench.comparison.frontier import frontier
from alignbench.comparison.grid import grid, titled
from alignbench.comparison.numbers import interval


def along(comparison: Comparison, place: Place, width: int) -> list[str]:
    """Returns recipes at a place of their curves."""
    found = at_place(comparison, place)
    body = [
        [
            name,
            interval(found.measured[name].value),
            str(found.ranking.ranges[name]),
            *_beside_baseline(found, name),
        ]
        for name in found.ranking.order
    ]
    header = ["recipe", str(found.key), "rank", f"difference to {found.baseline}", "verdict"]
    n = 5 if found.baseline is not None else 3
    lines = grid(header[:n], [cells[:n] for cells in body], [True, False, False, False, True][:n])
    n_pairs = len(found.ranking.pairs)
    drawn = " Pairs that were drawn before training are spent as they are trained on."
    said = (
        f"{found.n_prompts} validation prompts along training, not the held-out ones; straight lines between "
        f"neighbouring points; 95 % intervals and ranks, all {n_pairs} pairs together (Holm)."
        f"{drawn if place.axis == 'completions' else ''}"
    )
    return [
        f"AT {found.place}",
        *lines,
        *titled("ABOUT", said, width),
        *(line for name, why in found.unreached.items() for line in titled("NOT REACHED", f"{name}: {why}", width)),
    ]


def _beside_baseline(found: AtPlace, name: str) -> tuple[str, str]:
    if found.baseline is None or name == found.baseline:
        return "-", "baseline"
    difference = found.ranking.difference(name, found.baseline)
    word = found.ranking.verdict(name, found.baseline)
    return ("-" if difference is None else interval(difference, "+")), word or "-"


def on_frontier(comparison: Comparison, names: Sequence[str], width: int) -> list[str]:
    """Returns rows, and by which others they are dominated."""
    wanted, rows = frontier(comparison, names)
    body = []
    for row in rows:
        by = [*(f"{name} (shown)" for name in row.shown), *row.measured]
        body.append([row.recipe, *map(interval, row.values), listed(by, 2) or "on the frontier"])
    said = (
        "Dominated by: measures at least as good in all of these and better in one. Shown: better in every metric by "
        "tests of all pairs on all of them together (95 %, Holm), and no dearer; without it chance may have done it."
    )
    header = ["recipe", *map(str, wanted), "dominated by"]
    lines = grid(header, body, [True, *(False for _ in wanted), True])
    return [*lines, *titled("ABOUT", said, width)]
