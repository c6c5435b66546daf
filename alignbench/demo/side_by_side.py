"""Several runs that answer the same prompt, each with its scores and what the answer costs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.errors import UsageError
from alignbench.pipeline.build import saved_policy
from alignbench.pipeline.scorers import judges
from alignbench.pipeline.stored import recipe_of_run
from alignbench.records import Decoding, Policy, Prompt, Scorer
from alignbench.results.reader import StoredRun, find_runs

if TYPE_CHECKING:
    import torch

MOST_RUNS = 6
"""Models in memory at the same time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one run says."""

    run: str
    text: str
    scores: Mapping[str, float | None]
    """By scorer; None where it gave none."""
    n_tokens: int
    generated_tokens: int
    """Drawn for it, those of answers that were thrown away included."""
    flops: float
    seconds: float


class SideBySide:
    """The policies of some runs, and the judges of the first one."""

    def __init__(self, policies: Mapping[str, Policy], scorers: Mapping[str, Scorer]) -> None:
        self.policies, self.scorers = policies, scorers

    @classmethod
    def load(cls, paths: Sequence[Path], names: Sequence[str], device: torch.device) -> SideBySide:
        """Loads runs of policies, one seed of each recipe.

        Args:
            paths: Where runs are sought.
            names: Recipes to be shown; empty: all, if they are no more than MOST_RUNS.
            device: Where models compute.

        Raises:
            UsageError: A recipe is not there, or there are too many to be loaded at once.
        """
        runs: dict[str, StoredRun] = {}
        for run in find_runs(list(paths))[0]:
            if run.status.kind == "policy":
                runs.setdefault(run.status.recipe, run)
        if missing := [name for name in names if name not in runs]:
            raise UsageError(f"--run: got {missing[0]!r}, expected one of {', '.join(runs)}")
        chosen = list(names) or list(runs)
        if not chosen or len(chosen) > MOST_RUNS:
            raise UsageError(
                f"demo: got {len(chosen)} recipes, expected 1 to {MOST_RUNS}, which are loaded at the same time; "
                f"choose by --run among {', '.join(runs) or 'runs of policies'}"
            )
        recipes = {name: recipe_of_run(runs[name]) for name in chosen}
        policies = {name: saved_policy(recipe, runs[name].artifact, device) for name, recipe in recipes.items()}
        return cls(policies, judges(recipes[chosen[0]], "", device))

    def answers(self, text: str, max_new_tokens: int, seed: int) -> list[Answer]:
        """Returns an answer of each run to a prompt, at temperature 1, with the same random numbers for all.

        UsageError where there is no text.
        """
        if not text.strip():
            raise UsageError("a prompt without text: nothing can be answered")
        prompt = Prompt("demo", text)
        return [self._answer(name, policy, prompt, max_new_tokens, seed) for name, policy in self.policies.items()]

    def _answer(self, name: str, policy: Policy, prompt: Prompt, max_new_tokens: int, seed: int) -> Answer:
        before, began = replace(policy.spent), time.perf_counter()
        [drawn] = policy.generate([prompt], Decoding(max_new_tokens), 1, (seed, "demo"))
        seconds, spent = time.perf_counter() - began, policy.spent.since(before)
        scores = {key: scorer.score([prompt.text], [drawn.text])[0] for key, scorer in self.scorers.items()}
        flops = spent.generation_flops + spent.forward_flops
        return Answer(name, drawn.text, scores, drawn.n_tokens, spent.generated_tokens, flops, seconds)
