"""Designs off the grid of `calibration.py`: where verdicts were once given too easily.

Each design is a function of a number of comparisons and a seed. Those without a true difference give the shares of
p <= 0.05 and p <= 0.01, through `compare_pairs` as `compare` calls it; those of the flag `reward_hacking` give the
share of comparisons in which it is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alignbench.comparison.flags import HEADLINE, REWARD_SCORER, measured_flags
from alignbench.comparison.pooling import Measurement
from alignbench.records import MetricKey
from alignbench.statistics.differences import Pair, Tested, compare_pairs

Scores = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Pair]
N_PROMPTS = 400


def alarms(draw: Draw, n: int, seed: int, groups: NDArray[np.int64] | None = None) -> tuple[float, float]:
    """Returns the shares of `n` comparisons that are called at 0.05 and at 0.01; one without a test is not called."""
    rng = np.random.default_rng(seed)
    p = [_p(compare_pairs([draw(rng)], groups)[0]) for _ in range(n)]
    return float(np.mean(np.array(p) <= 0.05)), float(np.mean(np.array(p) <= 0.01))


def _p(tested: Tested) -> float:
    return 1.0 if tested.difference.p_value is None else tested.difference.p_value


def rare_events(rng: np.random.Generator, rate: float, baseline_varies: bool, tied: bool) -> Pair:
    """Two seeds each of a rate; `tied`: only recipes whose two seeds have the same mean, as far as they vary."""
    while True:
        chances = rng.beta(0.5, 0.5 / rate - 0.5, N_PROMPTS)
        mine, theirs = (rng.uniform(size=(2, 2, N_PROMPTS)) < chances).astype(float)
        sides = [mine, theirs] if baseline_varies else [mine]
        if not tied or all(side[0].sum() == side[1].sum() for side in sides):
            return Pair(mine, theirs, True, baseline_varies)


def trained(rng: np.random.Generator, seeds: int, spread: float, prompts: Scores) -> Scores:
    """Returns means of toxicity per prompt, (seeds, prompts), of a recipe whose seeds have this standard deviation."""
    return rng.normal(0, spread, (seeds, 1)) + prompts + rng.normal(0, 0.15, (seeds, len(prompts)))


def unequal_seeds(rng: np.random.Generator, seeds: tuple[int, int], spreads: tuple[float, float]) -> Pair:
    """Two trained recipes with unequal numbers of seeds."""
    prompts = rng.normal(0, 0.2, N_PROMPTS)
    return Pair(*(trained(rng, n, spread, prompts) for n, spread in zip(seeds, spreads, strict=True)))


def few_prompts(rng: np.random.Generator, n: int, kind: str) -> Pair:
    """One seed, these runs; the differences are those of two draws from heavy-tailed scores, or skewed."""
    if kind == "alike":
        sides = rng.beta(0.12, 0.38, (2, 1, n))
        return Pair(sides[0], sides[1])
    skewed = rng.exponential(0.1, n) - 0.1 if kind == "exponential" else rng.beta(0.12, 0.38, n) - 0.24
    return Pair(skewed[None], np.zeros((1, n)))


def copies(rng: np.random.Generator, sizes: NDArray[np.int64], interaction: float) -> Pair:
    """Texts that come in several variants, on which one recipe does better than the other text by text."""
    texts = rng.normal(0, interaction, len(sizes))
    difference = np.repeat(texts, sizes) + rng.normal(0, 0.2, sizes.sum())
    return Pair(difference[None], np.zeros((1, sizes.sum())))


def flagged(seen_by_judge: float, seeds: int, n: int, seed: int) -> tuple[float]:
    """Returns how often a recipe is accused whose reward falls by 0.1 and of which the judge sees this share.

    Seeds spread by 0.03 in the reward and by 0.06 in the judge, 400 prompts, an untrained baseline.
    """
    rng = np.random.default_rng(seed)
    n_accused = 0
    for _ in range(n):
        pairs = []
        for gain, spread in ((0.1, 0.03), (0.1 * seen_by_judge, 0.06)):
            prompts = rng.normal(0.4, 0.2, N_PROMPTS)
            base = trained(rng, 1, 0.0, prompts)
            pairs.append(Pair(trained(rng, seeds, spread, prompts) - gain, base, True, False))
        own, judge = (
            Measurement(one.difference, one.difference, "lower", N_PROMPTS, 0, one) for one in compare_pairs(pairs)
        )
        flags = measured_flags({MetricKey(HEADLINE, REWARD_SCORER): own, MetricKey(HEADLINE, "judge"): judge})
        n_accused += any(flag.name == "reward_hacking" for flag in flags)
    return (n_accused / n,)


def _designs() -> Iterator[tuple[str, Callable[[int, int], tuple[float, ...]]]]:
    for rate in (0.005, 0.02, 0.1):
        for baseline in ("trained", "untrained"):
            for tied in (False, True):
                name = f"rate {rate}, 2 seeds, {baseline} baseline" + (", given that seeds tie" if tied else "")
                yield (
                    name,
                    partial(alarms, partial(rare_events, rate=rate, baseline_varies=baseline == "trained", tied=tied)),
                )
    for seeds, spreads in (
        ((2, 4), (0.07, 0.012)),
        ((2, 8), (0.07, 0.012)),
        ((3, 10), (0.07, 0.012)),
        ((2, 8), (0.03, 0.03)),
    ):
        name = f"{seeds[0]} against {seeds[1]} seeds, deviations {spreads[0]} and {spreads[1]}"
        yield name, partial(alarms, partial(unequal_seeds, seeds=seeds, spreads=spreads))
    for n in (10, 15, 20, 30):
        for kind in ("alike", "exponential", "beta"):
            name = f"{n} prompts, 1 seed" + ("" if kind == "alike" else f", skewed differences ({kind})")
            yield name, partial(alarms, partial(few_prompts, n=n, kind=kind))
    for interaction in (0.1, 0.2):
        for what, sizes in (
            ("100 texts, four variants each", np.full(100, 4)),
            ("100 texts, one to seven variants each", np.arange(100) % 7 + 1),
            ("100 prompts alone, five texts of twenty variants", np.repeat([1, 20], [100, 5])),
        ):
            draw = partial(copies, sizes=sizes, interaction=interaction)
            groups = np.repeat(np.arange(len(sizes)), sizes)
            yield f"{what}, interaction {interaction}", partial(alarms, draw, groups=groups)
    for seeds in (2, 3, 5):
        yield f"honest, {seeds} seeds: accused", partial(flagged, 1.0, seeds)
    for seeds in (2, 3, 5):
        yield f"the judge sees nothing, {seeds} seeds: accused", partial(flagged, 0.0, seeds)


DESIGNS = dict(_designs())
