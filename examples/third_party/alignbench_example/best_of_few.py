"""Best of n: of n answers of the policy as it is, the one that the recipe's reward likes best.

Paper: Nakano et al. 2021 (arXiv:2112.09332), where it is called rejection sampling.

Objective: answer x by the y of y_1 ... y_n ~ pi(. | x) with the largest r(x, y). Nothing is trained.

Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt, Scorer, total
from alignbench.scorers.base import spent_by

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel


class BestOf:
    """A policy around another one. Implements `records.Policy`."""

    def __init__(self, base: LanguageModel, n: int, reward: Scorer, kept_reward: Sequence[Mapping[str, Any]]) -> None:
        self.base, self.n, self.reward, self.kept_reward = base, n, reward, kept_reward

    @property
    def spent(self) -> Cost:
        """All n answers, and scoring them."""
        return total((self.base.spent, spent_by(self.reward)))

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Sample i of a prompt is the best of the samples i * n to i * n + n - 1 of the policy within."""
        drawn = self.base.generate(prompts, decoding, n_samples * self.n, key)
        texts = [prompt.text for prompt in prompts for _ in range(n_samples * self.n)]
        scores = self.reward.score(texts, [one.text for one in drawn])
        worth = [float("-inf") if score is None else score for score in scores]
        starts = range(0, len(drawn), self.n)
        best = [max(range(start, start + self.n), key=worth.__getitem__) for start in starts]
        return [replace(drawn[place], sample=i % n_samples) for i, place in enumerate(best)]

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> None:
        """Returns None: how likely an answer is to be the best of n is not known."""

    def save(self, directory: Path) -> None:
        """Writes the policy within, n, and what the reward is made of again."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "best_of_few", n=self.n, reward=list(self.kept_reward))
        self.base.save(directory / "base")


def load_best_of(directory: Path, load_part: Callable[[Path], Policy]) -> BestOf:
    """Reads what `BestOf.save` wrote."""
    from alignbench.methods.kept_reward import load_reward
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.policy_file import read_policy_file

    record, base = read_policy_file(directory), load_part(directory / "base")
    assert isinstance(base, LanguageModel)
    return BestOf(base, record["n"], load_reward(record["reward"], base), record["reward"])


@dataclass(frozen=True)
class BestOfN:
    """Answers with the best of n completions."""

    n: Annotated[int, Field(ge=2)] = 4
    """Completions that are drawn for each answer."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}), calls_reward=True, gives="policy", load_policy=load_best_of
    )

    def train(self, data: TrainData, run: RunContext) -> BestOf:
        """Returns the policy of the recipe within another one; nothing is drawn yet."""
        assert run.reward is not None
        return BestOf(run.policy, self.n, run.reward, run.kept_reward)
