"""What a metric is: its name, what tables, sweeps and flags go by, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from numpy.typing import ArrayLike

from alignbench.evaluation.metrics.aggregate import FloatArray, IntArray, SetStatistic
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.records import Completion, Direction, Prompt

Need = Literal["texts", "scores", "rewards", "log-probabilities", "distributions", "neutral texts", "pairs"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Sample:
    """What a policy answered; n prompts, k completions of each."""

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]
    """Prompt-major."""
    protocol: EvalProtocol
    groups: IntArray
    """(n,), the hash group of each prompt."""
    log_perplexity: FloatArray
    """(n, k), under the reference; NaN where a completion has no token."""
    scores: FloatArray | None = None
    """(n, k), of the scorer that a metric which needs scores is measured of; NaN where unscored."""

    @property
    def k(self) -> int:
        """Completions of each prompt."""
        return len(self.completions) // len(self.prompts)

    @cached_property
    def texts(self) -> list[list[str]]:
        """The completions of each prompt."""
        texts = [completion.text for completion in self.completions]
        return [texts[start : start + self.k] for start in range(0, len(texts), self.k)]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. It is a mean over prompts, or a statistic of the whole set."""

    name: str
    direction: Direction
    needs: Need = "texts"
    """One that needs `scores` is measured for each scorer, and withheld where a scorer leaves too much unscored."""
    of_prompts: Callable[[Any], ArrayLike] | None = None
    """From a Sample, or what its probe measured, to a value of each completion, (n, k), or of each prompt, (n,)."""
    of_set: Callable[[Any], SetStatistic] | None = None
    """The same to a statistic of the whole set. One that has neither is measured by its probe."""
    scale: Scale = "linear"
    """`log`: measured, averaged and tested as a logarithm, and shown as its exponential."""
    section: str = "quality"
    """Which columns of the table it is among: `toxicity`, `fluency`, `divergence`, `length`, `diversity`,
    `degeneration`, `dexperts` or, after these, another; empty: in no table of policies."""
    order: int = 1000
    """Its place in reports: smaller ones come first."""
    between_0_and_1: bool = False
    """It cannot leave this range: neither can its interval, nor a difference that could be detected."""
    depends_on_length: bool = False
    """Longer texts have another value for being longer."""
    condition: str | None = None
    """Of a probe's metric: the field of comparability that tells what it is measured on."""
    applies: Callable[[EvalProtocol], bool] = lambda protocol: True
    """Whether it is measured under a protocol."""
    n_prompts: int | None = None
    """The first so many prompts are measured, the others do not count; None: all of them."""
    missing: str = ""
    """Why a mean over prompts has no value, where the metric itself knows."""

    def __post_init__(self) -> None:
        """Refuses what cannot be stored or measured."""
        if not self.name.isidentifier():
            raise ValueError(f"a metric called {self.name!r}: letters, digits and underscores, please")
        if self.of_prompts is not None and self.of_set is not None:
            raise ValueError(f"metric {self.name}: it is a mean over prompts or a statistic of the set, not both")

    @property
    def takes_scorer(self) -> bool:
        """True where it is measured for each scorer."""
        return self.needs == "scores"
