"""What a probe is: an evaluation with prompts, metrics and conditions of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from alignbench.evaluation.metrics.metric import Metric
from alignbench.records import Policy, Scorer, Settings


class Probe(Settings):
    """A probe that a recipe switches on. Its fields are the settings that the recipe gives it."""

    metrics: ClassVar[tuple[Metric, ...]]
    """What it measures. All are of the policy as a whole: none is taken for each scorer of the evaluation."""

    @abstractmethod
    def measure(
        self, policy: Policy, reference: Policy, scorers: Mapping[str, Scorer], *, seed: int, batch_prompts: int
    ) -> Any:
        """Asks the policy, and returns what its metrics are functions of.

        Args:
            policy: The policy.
            reference: The frozen model that training began with.
            scorers: Those of the evaluation, by name.
            seed: Of the run; nothing else may decide a draw but what is asked.
            batch_prompts: Prompts to ask at a time.

        Returns:
            An object with `groups`, the hash group (`statistics.jackknife.jackknife_group`) of each of its prompts.
        """

    @abstractmethod
    def conditions(self) -> Mapping[str, Any]:
        """Returns what decides its numbers besides the policy: fields of comparability, JSON-like, under new names.

        A metric whose `condition` is one of these names is tested only between runs that agree on it.
        """
