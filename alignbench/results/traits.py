"""What tables and tests need to know of a metric, from its plug-in or, where that is not installed, from the run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from alignbench import plugins
from alignbench.errors import UsageError
from alignbench.records import MetricValue


class Traits(BaseModel):
    """What tables and tests go by, of a metric besides its direction."""

    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True)

    scale: Literal["linear", "log"] = "linear"
    """`log`: averaged and tested as a logarithm, as which it is in the values per prompt and in replicates."""
    section: str = "quality"
    """Which columns of the table it is among."""
    order: int = 1000
    """Its place among those: smaller ones come first, equal ones as in the file."""
    between_0_and_1: bool = False
    depends_on_length: bool = False
    condition: str | None = None
    """The field of comparability that tells what it is measured on; None: the prompts of the evaluation."""

    @staticmethod
    def of(metric: str) -> Traits:
        """Returns those of a metric that is installed, or what is assumed of one that is not."""
        if (found := _ours().get(metric)) is not None:
            return found
        known = None
        with suppress(UsageError):  # of a package that is broken: who reads results need not have it
            known = plugins.metrics().get(metric)
        return Traits() if known is None else Traits.model_validate(known)


@cache
def _ours() -> dict[str, Traits]:
    """Returns those of the metrics of alignbench itself, by name."""
    return {name: Traits.model_validate(known) for name, known in plugins.metrics(added=False).items()}


def of_packages(measured: Iterable[MetricValue]) -> dict[str, Traits]:
    """Returns those of the metrics that installed packages brought, by name: one may not be there later on."""
    names = {metric.metric for metric in measured}
    return {name: Traits.of(name) for name in plugins.metrics(added=True) if name in names}
