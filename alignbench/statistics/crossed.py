"""Differences between two training methods: prompts and seeds both random.

One metric of one recipe is a matrix with a row per seed i and a column per prompt j. Seeds are crossed with prompts
(every seed answers the same prompts), the two recipes share their prompts, and a seed of one recipe has nothing to do
with the same seed of the other. With crossed random effects (Baayen, Davidson and Bates, Journal of Memory and
Language 59, 2008; Westfall, Kenny and Judd, Journal of Experimental Psychology: General 143, 2014)

    y_ij = mean + seed_i + prompt_j + residual_ij,   variances S, P, R; the residual holds the sampling of completions,

the difference D of two grand means has the variance

    var D = P_d / n  +  (S_a + R_a / n) / s_a  +  (S_b + R_b / n) / s_b,      n prompts, s seeds,

where P_d is the variance over prompts of prompt_a - prompt_b. Its parts have unbiased estimates from mean squares,
independent of each other for normal effects:

    v = variance over prompts of the seed-averaged differences / n          estimates P_d/n + R_a/(n s_a) + R_b/(n s_b)
    m = sum over recipes of (variance of the means of seeds) / s            estimates the two terms with S and R
    r = sum over recipes of (mean square of the residual) / (n s)           estimates R_a/(n s_a) + R_b/(n s_b)

so var D is estimated by (v - r) + m: prompts alone, cut at zero, and what seeds show. m comes from few seeds and gets
Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946)

    f = m^2 / (m_a^2 / (s - 1) + m_b^2 / (s - 1)),    s the seeds of the recipe with fewer.

With s_a - 1 and s_b - 1 in their places a noisy recipe of two seeds, whose spread came out small by luck, would borrow
the degrees of freedom of a quiet one of eight: 10 % false alarms at a level of 0.05.

Giving Satterthwaite's f to the whole sum, as is usual, calls up to four times too many false alarms at a level of 0.01
where three seeds of one recipe differ and those of the other do not, eight times with two: its degrees of freedom are
many just where m came out too small by luck. Instead the unknown part is integrated out, as in generalized confidence
intervals (Weerahandi, Journal of the American Statistical Association 88, 1993) with a weight w:

    p = E_x [ w 2 T_g( -|D| / sqrt(V) ) ] / E_x [ w ],    B = m f / x,  x chi-squared with f degrees of freedom,
    V = (v - r) + B,    w = (V / B)^c,    c = (s - 2) / (s - 1),    s the seeds of the recipe with fewer.

c = 0 is Weerahandi's interval, Bayes with the prior density 1 / B: with three seeds it calls half as many false alarms
as it may where prompts weigh as much as seeds. c = 1 is the prior V / B^2, whose p is a frequency up to errors of order
1 / f^2 (Ghosh and Kim, Canadian Journal of Statistics 29, 2001, on the Behrens-Fisher problem), yet with three seeds it
calls twice too many at 0.01, and with two four times. The c above is Weerahandi's for two seeds and goes to 1 as fast
as 1 / (s - 1), which leaves errors of that order. docs/calibration.md has the numbers.

Seeds whose means happen to agree make m, and with it var D, small by luck, down to nothing where rates of rare events
tie. A verdict about the method is therefore never surer than the one about these runs: p is the larger of the two, the
interval the wider.

T_g is the distribution function of Student's t with g = (n - 1) V^2 / (v - r)^2 degrees of freedom, Satterthwaite's,
for once x is given only the part over prompts is estimated. Without seed noise this is the t test over prompts, without
prompt noise Welch's test on the means of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.estimate import ALPHA, Estimate
from alignbench.statistics.prompt_means import (
    MIN_PROMPTS,
    Groups,
    collapse,
    sign_test_p,
)

Matrix = NDArray[np.float64]
MIN_SEEDS = 2
_POINTS = 48
_POWER = 6
"""With these, Student's t comes out of normal and chi-squared to 0.01 % at p = 0.05 and to 0.4 % at p = 1e-5."""
_ROUNDING = 1e-12
_BLOCK = 256
"""Differences that are estimated at a time."""
_LEAST_SHARE = 1e-2
"""Of prompts in the variance; below, Student's t is the normal distribution anyway."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What the seeds of one recipe show about their spread."""

    n_seeds: int
    seeds: float
    """Sample variance of the means of the seeds, residual included."""
    residual: float
    """The part of `seeds` that the finite number of prompts and completions explains."""
    varies: bool = True
    """False where every seed has the same policy, as without training: then all of `seeds` is residual."""


@dataclass(frozen=True, slots=True)
class Components:
    """Variance of a difference of two recipes, in parts that can be planned with."""

    prompts: float
    """(v - r) of the module, not below zero: falls with the number of prompts."""
    n_prompts: float
    """Prompts; with groups of them as many as have the same degrees of freedom."""
    seeds: float = 0.0
    """m of the module: falls with the number of seeds."""
    seeds_residual: float = 0.0
    """r of the module, at most `seeds`: the part of it that falls with the number of prompts as well."""
    seeds_df: float = 1.0
    """f of the module."""
    n_seeds: int = 1
    """Of the arm with fewer."""
    runs: float | None = None
    """v of the module, the variance for these runs; None where seeds have no part in it, and `prompts` is all of it."""
    arms: tuple[Arm, ...] = ()
    """Those that vary."""

    @property
    def of_these_runs(self) -> Components:
        """The components of a verdict about these runs, prompts alone."""
        return Components(self.prompts if self.runs is None else self.runs, self.n_prompts)

    @property
    def variance(self) -> float:
        """Estimated variance of the difference."""
        return self.prompts + self.seeds

    @property
    def df(self) -> float:
        """Satterthwaite's degrees of freedom of the whole, a summary: the interval integrates instead."""
        parts = self.prompts**2 / (self.n_prompts - 1) + self.seeds**2 / self.seeds_df
        return self.variance**2 / parts if parts > 0 else self.n_prompts - 1


def arm(values: Matrix, varies: bool = True) -> Arm:
    """Returns the spread of the seeds of one recipe from complete values (seeds, prompts)."""
    n_seeds, n_prompts = values.shape
    if n_seeds < MIN_SEEDS or n_prompts < MIN_SEEDS:
        return Arm(n_seeds, 0.0, 0.0, varies)
    means = values.mean(axis=1)
    left = values - values.mean(axis=0) - (means - means.mean())[:, None]
    mean_square = float((left**2).sum()) / ((n_seeds - 1) * (n_prompts - 1))
    return Arm(n_seeds, float(means.var(ddof=1)), mean_square / n_prompts, varies)


def components(prompt_variance: float, n_prompts: float, arms: Sequence[Arm]) -> Components:
    """Joins v of the module docstring and the spread of the seeds on both sides."""
    varying = tuple(one for one in arms if one.varies)
    n_seeds = min((one.n_seeds for one in varying), default=1)
    seeds = sum(one.seeds / one.n_seeds for one in varying)
    residual = sum(one.residual / one.n_seeds for one in varying)
    squares = sum((one.seeds / one.n_seeds) ** 2 / (n_seeds - 1) for one in varying)
    f = seeds**2 / squares if squares > 0 else float(len(varying) * (n_seeds - 1) or 1)
    prompts = max(0.0, prompt_variance - residual)
    return Components(prompts, n_prompts, seeds, min(residual, seeds), f, n_seeds, prompt_variance, varying)


@dataclass(frozen=True, slots=True)
class Side:
    """What a recipe brings to every pair that it is part of."""

    averages: Matrix
    """(prompts,), over the seeds that measured a prompt."""
    spread: Arm | str
    """Of the seeds, or why it is not known."""

    @classmethod
    def of(cls, values: Matrix, varies: bool, groups: Groups | None) -> Side:
        """Returns it for values (seeds, prompts); the spread is taken from prompts that every seed measured."""
        complete = np.isfinite(values).all(axis=0)
        left = collapse(values[:, complete], None if groups is None else groups[complete]).values
        spread: Arm | str = arm(left, varies)
        if varies and len(values) < MIN_SEEDS:
            spread = "a single seed says nothing about other seeds"
        elif varies and left.shape[1] < MIN_PROMPTS:
            spread = f"{left.shape[1]} prompts were measured with every seed, the spread of seeds needs {MIN_PROMPTS}"
        return cls(over_seeds(values), spread)


def differences(sides: Sequence[Side], baselines: Sequence[Side]) -> Matrix:
    """Returns the averages of sides minus those of as many others, (sides, prompts), 0 where that is but rounding."""
    mine, theirs = np.stack([one.averages for one in sides]), np.stack([one.averages for one in baselines])
    found: Matrix = mine - theirs
    found[np.abs(found) <= _ROUNDING * np.maximum(np.abs(mine), np.abs(theirs))] = 0.0
    return found


def parts_of_method(
    sides: Sequence[Side], runs: Estimate, prompt_variance: float, n_prompts: float
) -> Components | Estimate:
    """Returns the components of a difference of two methods, or where there are none what is said instead.

    Args:
        sides: A recipe and the one it is compared with.
        runs: The mean over prompts of the one minus the other.
        prompt_variance: v of the module docstring.
        n_prompts: Prompts; with groups of them as many as have the same degrees of freedom.
    """
    if runs.value is None or (runs.ci_low is None and runs.p_value is None):
        return runs
    arms = []
    for side in sides:
        if isinstance(side.spread, str):
            return Estimate(runs.value, n=runs.n, reason=side.spread)
        arms.append(side.spread)
    return components(prompt_variance, n_prompts, arms)


def estimate(value: float, parts: Components) -> Estimate:
    """Returns a difference with the interval and p of the module docstring, by `parts` alone: see `no_surer`."""
    return estimates([value], [parts])[0]


def estimates(values: Sequence[float], parts: Sequence[Components]) -> list[Estimate]:
    """Returns `estimate` of several differences, each with the numbers that it has alone, in a fraction of the time."""
    found: dict[int, Estimate] = {}
    alike: dict[int, list[int]] = {}
    for place, (value, one) in enumerate(zip(values, parts, strict=True)):
        if math.sqrt(one.variance) <= _ROUNDING * max(1.0, abs(value)):
            n = round(one.n_prompts)
            found[place] = Estimate(value, value, value, n, 1.0 if abs(value) <= _ROUNDING else sign_test_p(n))
        else:
            alike.setdefault(one.n_seeds if one.seeds else 0, []).append(place)
    for same in alike.values():
        for start in range(0, len(same), _BLOCK):
            places = same[start : start + _BLOCK]
            spread = Spread.of_each([parts[place] for place in places])
            p = spread.p_values(np.abs([[values[place]] for place in places]))[:, 0]
            halves = spread.half_widths(ALPHA, alone=True)
            for place, one_p, half in zip(places, p.tolist(), halves.tolist(), strict=True):
                value, n = values[place], round(parts[place].n_prompts)
                found[place] = Estimate(value, value - half, value + half, n, min(1.0, one_p))
    return [found[place] for place in range(len(values))]


def no_surer(method: Estimate, runs: Estimate) -> Estimate:
    """Returns the verdict about the method with what the runs leave open: the larger p, the wider interval.

    `runs` that have a p and no interval are constant: where that is literally so, so says the method's reason.
    """
    if runs.p_value is None or method.p_value is None:
        return runs if method.p_value is not None else method
    p = max(method.p_value, runs.p_value)
    if runs.ci_low is None or runs.ci_high is None:
        if method.ci_low == method.ci_high:
            return replace(runs, p_value=p, reason=f"{runs.reason} with every seed")
        return replace(method, n=runs.n, p_value=p)
    assert method.ci_low is not None
    assert method.ci_high is not None
    return Estimate(method.value, min(method.ci_low, runs.ci_low), max(method.ci_high, runs.ci_high), runs.n, p)


@cache
def quadrature(points: int) -> tuple[Matrix, Matrix]:
    """Returns Gauss-Legendre nodes and weights between 0 and 1; finding them costs more than a comparison does."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1) / 2, weights / 2


@dataclass(frozen=True, slots=True)
class Spread:
    """The standard errors that a difference may have, given the spread of few seeds; several cases at once."""

    scales: Matrix
    """Standard errors, (cases, points)."""
    weights: Matrix
    """w of the module times Gauss-Legendre's in the sixth root of the probability, for the tail; rows sum to 1."""
    df: Matrix
    """g of the module, (cases, points)."""

    @classmethod
    def of(cls, parts: Components, seeds: Matrix | None = None) -> Spread:
        """Returns the spread for the seeds' part as estimated, or for each of the cases `seeds` (cases,)."""
        m = np.array([parts.seeds]) if seeds is None else seeds
        return cls._of(m[:, None], parts.prompts, parts.n_prompts, parts.seeds_df, parts.n_seeds)

    @classmethod
    def of_each(cls, parts: Sequence[Components]) -> Spread:
        """Returns the spread of several differences, all with a seeds' part and as many seeds, or none with any."""
        cases = np.array([(one.seeds, one.prompts, one.n_prompts, one.seeds_df) for one in parts])
        m, prompts, n_prompts, seeds_df = cases.T[:, :, None]
        return cls._of(m, prompts, n_prompts, seeds_df, parts[0].n_seeds)

    @classmethod
    def _of(
        cls, m: Matrix, prompts: Matrix | float, n_prompts: Matrix | float, seeds_df: Matrix | float, n_seeds: int
    ) -> Spread:
        """Returns the spread for parts (cases, 1), or one number for all cases."""
        from scipy.special import gammaincinv

        if not m.any():
            return cls(*(np.broadcast_to(one, m.shape) for one in (np.sqrt(prompts), 1.0, n_prompts - 1)))
        nodes, weights = quadrature(_POINTS)
        shares = gammaincinv(seeds_df / 2, nodes**_POWER) * 2 / seeds_df
        variances = prompts + m / shares
        share = np.maximum(prompts / variances, _LEAST_SHARE)
        matching = 1 - 1 / max(1, n_seeds - 1)
        points = weights * nodes ** (_POWER - 1) * (m + prompts * shares) ** matching
        weights = points / points.sum(axis=1, keepdims=True)
        return cls(np.sqrt(variances), weights, (n_prompts - 1) / share**2)

    def p_values(self, differences: Matrix) -> Matrix:
        """Returns two-sided p (cases, k) of differences (cases, k), none negative."""
        from scipy.special import stdtr

        tails = stdtr(self.df[:, None], -differences[:, :, None] / self.scales[:, None])
        p: Matrix = 2 * np.einsum("ckp,cp->ck", tails, self.weights)
        return p

    def half_widths(self, alpha: float, alone: bool = False) -> Matrix:
        """Returns the differences (cases,) whose p is alpha.

        Cases are refined until the last of them is found; with `alone` each until it is found itself, so that it has
        the very number that it would have without the others.
        """
        from scipy.special import stdtrit

        half: Matrix = -stdtrit(self.df.max(axis=1), alpha / 2) * self.scales.min(axis=1)
        left, constant = np.ones(len(half), dtype=bool), self._constant()
        for _ in range(100):
            # Newton on log p over log difference: concave, so from the left no step goes past the root.
            p = self.p_values(half[:, None])[:, 0]
            step = np.log(p / alpha) * p / (half * np.maximum(self._density(half, constant), 1e-300))
            half = np.where(left, half * np.exp(np.minimum(step, 3.0)), half)
            found = np.abs(step) <= 1e-9
            left = left & ~found if alone else left
            if np.all(found | ~left):
                break
        return half

    def _constant(self) -> Matrix:
        """Returns what the density of Student's t has in front of it, (cases, points)."""
        from scipy.special import gammaln

        constant: Matrix = np.exp(gammaln((self.df + 1) / 2) - gammaln(self.df / 2)) / np.sqrt(self.df * np.pi)
        return constant

    def _density(self, differences: Matrix, constant: Matrix) -> Matrix:
        """Returns minus the slope of p at differences (cases,)."""
        t = differences[:, None] / self.scales
        densities = 2 * constant * (1 + t**2 / self.df) ** (-(self.df + 1) / 2) / self.scales
        density: Matrix = (densities * self.weights).sum(axis=1)
        return density


def over_seeds(values: Matrix) -> Matrix:
    """Returns the mean over the seeds that measured a prompt, (prompts,), NaN where none has."""
    measured = np.isfinite(values)
    n = measured.sum(axis=0)
    sums = np.where(measured, values, 0.0).sum(axis=0)
    means: Matrix = np.divide(sums, n, out=np.full(values.shape[1], np.nan), where=n > 0)
    return means
