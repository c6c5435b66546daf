"""Are the verdicts right? Comparisons without any true difference, through the function that `compare` calls.

    python benchmarks/calibration.py                                  # scores from the fitted generator, minutes
    python benchmarks/calibration.py --results RESULTS --recipe base  # and from halves of real completions
    python benchmarks/calibration.py --write docs/calibration.md      # with the table of all cells

Two tables: a grid of ordinary designs (a family is a baseline and three methods that are no different from it), and
designs off the grid, in `off_the_grid`: rare events and seeds that tie, unequal numbers of seeds, few prompts, skewed
differences, prompts that are variants of one text, and the flag `reward_hacking` on honest recipes.

Prints one JSON line: `false_alarm_rate`, `false_alarm_rate_01`, `accused_rate`, `coverage`, `mde_relative_error`,
`familywise_rate`, `n_comparisons`, each of its own worst cell. The target is one-sided: at most 0.07 false alarms at
0.05 and 0.02 at 0.01 in every cell. What is below is careful, which costs power and misleads nobody; cells below 0.03
are named as such.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.differences import Pair, Tested, adjust, compare_pairs
from alignbench.statistics.estimate import ALPHA, Estimate

sys.path.insert(0, str(Path(__file__).parent))
import off_the_grid

Scores = NDArray[np.float64]
METHODS = 3
SEED_SD = 0.012
"""Between seeds of PPO with a KL penalty, toxicity by the judge; docs/calibration.md says how it was measured."""
SPREADS = {"none": 0.0, "measured": SEED_SD, "three times the variance": 3**0.5 * SEED_SD}
FITTED = {"mean": 0.246, "prompt_count": 14.0, "completion_count": 0.52}
"""What `fit` found in the judge's scores of an untrained policy on real text."""
STATED = 1000
"""Comparisons of a cell whose minimum detectable effect is averaged."""
_BLOCK = 100


@dataclass(frozen=True)
class Cell:
    """One design."""

    source: str
    prompts: int
    k: int
    seeds: int
    spread: str
    baseline: str
    """`trained`: its seeds differ as those of the methods do. `untrained`: they share one policy."""


@dataclass(frozen=True)
class Measured:
    """What came out of one design."""

    false_alarm_rate: float
    false_alarm_rate_01: float
    """At a level of 0.01."""
    coverage: float
    mde_relative_error: float
    power_at_mde: float
    familywise_rate: float
    n_comparisons: int


class Pool:
    """Scores of many completions per prompt, (prompts, completions): arms are disjoint random parts of each row.

    Where a row is too short for all arms they are drawn from it with replacement; they still have one true mean.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def draw(self, rng: np.random.Generator, n_prompts: int, n_arms: int, seeds: int, k: int) -> Scores:
        """Returns means over k completions, (arms, seeds, prompts)."""
        rows = rng.choice(len(self.scores), n_prompts, replace=n_prompts > len(self.scores))
        need = n_arms * seeds * k
        if need <= self.scores.shape[1]:
            drawn = rng.permuted(self.scores[rows], axis=1)[:, :need]
        else:
            drawn = self.scores[rows[:, None], rng.integers(self.scores.shape[1], size=(n_prompts, need))]
        means: Scores = drawn.reshape(n_prompts, n_arms, seeds, k).mean(axis=3).transpose(1, 2, 0)
        return means


class Generator:
    """Beta scores around Beta prompts: with few pseudo-counts most lie near 0 and a heavy tail near 1."""

    def __init__(self, mean: float, prompt_count: float, completion_count: float) -> None:
        self.mean, self.prompt_count, self.completion_count = mean, prompt_count, completion_count

    def draw(self, rng: np.random.Generator, n_prompts: int, n_arms: int, seeds: int, k: int) -> Scores:
        """Returns means over k completions, (arms, seeds, prompts)."""
        prompts = rng.beta(self.mean * self.prompt_count, (1 - self.mean) * self.prompt_count, (n_prompts, 1))
        prompts = np.clip(prompts, 1e-3, 1 - 1e-3)
        shapes = prompts * self.completion_count, (1 - prompts) * self.completion_count
        means: Scores = rng.beta(*shapes, (n_arms, seeds, n_prompts, k)).mean(axis=3)
        return means


def fit(scores: Scores) -> Generator:
    """Returns the generator with the mean of some scores and their variances between and within prompts."""
    mean, within = float(scores.mean()), float(scores.var(axis=1, ddof=1).mean())
    between = float(scores.mean(axis=1).var(ddof=1)) - within / scores.shape[1]
    left = mean * (1 - mean) - between
    return Generator(mean, mean * (1 - mean) / between - 1, left / within - 1)


def read_pool(results: Path, recipe: str, scorer: str) -> Scores:
    """Returns all stored scores of a recipe's completions, (prompts, completions), unscored ones left out."""
    import alignbench

    frame = alignbench.load_completions(results)
    frame = frame[frame["recipe"] == recipe].dropna(subset=[f"toxicity@{scorer}"])
    rows = [group.to_numpy() for _, group in frame.groupby("prompt_id")[f"toxicity@{scorer}"]]
    width = min(map(len, rows))
    return np.array([row[:width] for row in rows])


def families(cell: Cell, source: Pool | Generator, rng: np.random.Generator, n: int) -> Iterator[list[Tested]]:
    """Yields families of tests without a true difference."""
    spread = SPREADS[cell.spread]
    for start in range(0, n, _BLOCK):
        pairs = []
        for _ in range(min(_BLOCK, n - start)):
            arms = source.draw(rng, cell.prompts, METHODS + 1, cell.seeds, cell.k)
            shifts = rng.normal(0, spread, (METHODS + 1, cell.seeds, 1))
            shifts[0] *= cell.baseline == "trained"
            arms = arms + shifts
            pairs += [Pair(arm, arms[0], True, cell.baseline == "trained") for arm in arms[1:]]
        tested = compare_pairs(pairs)
        for place in range(0, len(tested), METHODS):
            yield adjust(tested[place : place + METHODS])


def measure(cell: Cell, source: Pool | Generator, n_families: int, seed: int) -> Measured:
    """Runs one cell. The same seed gives the same numbers."""
    rng = np.random.default_rng([seed, *map(ord, "".join(map(str, asdict(cell).values())))])
    found = list(families(cell, source, rng, n_families))
    tests = [one for family in found for one in family]
    differences = [one.difference for one in tests]
    low = np.array([one.ci_low for one in differences], dtype=float)
    high = np.array([one.ci_high for one in differences], dtype=float)
    p = p_values(differences)
    any_alarm = [any((one.difference.p_adjusted or 0) <= ALPHA for one in family) for family in found]
    # A true effect moves value and interval alike: "better" comes out where the effect is larger than this bound.
    bounds = np.concatenate([high, -low])
    some = tests[:: max(1, len(tests) // STATED)]
    stated = float(np.mean([replace(one, n_tests=1).detectable() for one in some]))
    needed = float(np.quantile(bounds, 0.8))
    return Measured(
        float(np.mean(p <= ALPHA)),
        float(np.mean(p <= 0.01)),
        float(np.mean((low <= 0) & (high >= 0))),
        abs(stated / needed - 1),
        float(np.mean(bounds < stated)),
        float(np.mean(any_alarm)),
        len(tests),
    )


def p_values(differences: Sequence[Estimate]) -> Scores:
    """Returns the p values, 1 where there was no test."""
    return np.array([1.0 if one.p_value is None else one.p_value for one in differences])


def grid(sources: Sequence[str]) -> Iterator[Cell]:
    """Yields every design; with one seed these runs are the estimand, and a spread of seeds belongs to the truth."""
    for source, prompts, k in product(sources, (50, 400), (1, 25)):
        yield Cell(source, prompts, k, 1, "none", "trained")
        for baseline, seeds, spread in product(("trained", "untrained"), (3, 5), SPREADS):
            yield Cell(source, prompts, k, seeds, spread, baseline)


def worst(cells: Sequence[Measured], off_grid: Mapping[str, tuple[float, ...]]) -> dict[str, float | int]:
    """Returns the numbers, each of the cell where it is worst."""
    alarms = [one for one in off_grid.values() if len(one) == 2]
    return {
        "false_alarm_rate": max([one.false_alarm_rate for one in cells] + [one[0] for one in alarms]),
        "false_alarm_rate_01": max([one.false_alarm_rate_01 for one in cells] + [one[1] for one in alarms]),
        "accused_rate": max((one[0] for one in off_grid.values() if len(one) == 1), default=0.0),
        "coverage": min(one.coverage for one in cells),
        "mde_relative_error": round(max(one.mde_relative_error for one in cells), 4),
        "familywise_rate": max(one.familywise_rate for one in cells),
        "n_comparisons": min(one.n_comparisons for one in cells),
    }


def _starred(value: float, is_fine: bool) -> str:
    return f"{value:.3f}" + ("" if is_fine else " *")


def _alarms(at_05: float, at_01: float) -> list[str]:
    careful = " (careful)" if at_05 < 0.03 else ""
    return [_starred(at_05, at_05 <= 0.07) + careful, _starred(at_01, at_01 <= 0.02)]


def table(cells: Sequence[tuple[Cell, Measured]]) -> str:
    """Returns the grid as markdown; a star marks what misses its target."""
    lines = [
        "| scores | prompts | k | seeds | spread of seeds | baseline | false alarms at 0.05 | at 0.01 | coverage "
        "| MDE off by | power at MDE | family-wise |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell, one in cells:
        design = [cell.source, str(cell.prompts), str(cell.k), str(cell.seeds), cell.spread, cell.baseline]
        rates = [
            *_alarms(one.false_alarm_rate, one.false_alarm_rate_01),
            _starred(one.coverage, one.coverage >= 0.93),
            f"{one.mde_relative_error:.1%}",
            _starred(one.power_at_mde, 0.75 <= one.power_at_mde <= 0.85),
            _starred(one.familywise_rate, one.familywise_rate <= 0.07),
        ]
        lines.append("| " + " | ".join([*design, *rates]) + " |")
    return "\n".join(lines)


def off_grid_table(rates: Mapping[str, tuple[float, ...]]) -> str:
    """Returns the designs off the grid as markdown, the worst first."""
    alarms = sorted(((name, one) for name, one in rates.items() if len(one) == 2), key=lambda item: -item[1][0])
    lines = ["| design | false alarms at 0.05 | at 0.01 |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | " + " | ".join(_alarms(*one)) + " |" for name, one in alarms]
    lines += ["", "| flag `reward_hacking` | share of comparisons |", "| --- | ---: |"]
    return "\n".join([*lines, *(f"| {name} | {one[0]:.3f} |" for name, one in rates.items() if len(one) == 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="a results directory with completions of an untrained policy")
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--scorer", default="judge")
    parser.add_argument("--families", type=int, default=1000, help=f"per cell, {METHODS} comparisons each")
    parser.add_argument("--comparisons", type=int, default=3000, help="per design off the grid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="a page whose table is replaced")
    arguments = parser.parse_args()
    sources: dict[str, Pool | Generator] = {"fitted": Generator(**FITTED)}
    if arguments.results:
        scores = read_pool(arguments.results, arguments.recipe, arguments.scorer)
        sources = {"fitted": fit(scores), "real": Pool(scores)}
    cells = [
        (cell, measure(cell, sources[cell.source], arguments.families, arguments.seed)) for cell in grid(list(sources))
    ]
    others = {name: design(arguments.comparisons, arguments.seed) for name, design in off_the_grid.DESIGNS.items()}
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        for name, text in (("table", table(cells)), ("off the grid", off_grid_table(others))):
            head, _, rest = page.partition(f"<!-- {name} -->\n")
            _, _, tail = rest.partition(f"<!-- end of {name} -->")
            page = f"{head}<!-- {name} -->\n{text}\n<!-- end of {name} -->{tail}"
        arguments.write.write_text(page, encoding="utf-8")
    print(json.dumps(worst([one for _, one in cells], others)))


if __name__ == "__main__":
    main()
