"""Best of n: of n answers of the policy, the one that the recipe's reward likes best.

Papers: Nakano et al. 2021 (arXiv:2112.09332), as rejection sampling; Beirami et al. 2024 (arXiv:2401.01879) on its KL.

Objective: answer x by the y of y_1 ... y_n ~ pi(. | x) with the largest r(x, y), the first of several. Nothing is
trained; every answer costs n answers and n readings of the reward.

KL: at most ln n - (n - 1) / n from the policy it draws from, whatever the reward; where answers can tie it is less.
That is reported as `kl_bound`, with the mean log-ratio of the chosen answers added where the policy is a trained one.

Differences from the papers: none. An answer that the reward cannot score is chosen only where it can score none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt, Scorer, total
from alignbench.scorers.base import spent_by


def most_divergence(n: int) -> float:
    """Nats from a policy to the best of n of its answers, at most: exactly so many where no two rewards are equal."""
    return math.log(n) - (n - 1) / n


class BestOf:
    """A policy of any kind, of whose answers the best of n are given. Implements `records.Policy`."""

    choice_is_bound = True

    def __init__(self, base: Policy, n: int, reward: Scorer, kept_reward: Sequence[Mapping[str, Any]]) -> None:
        """`kept_reward` is what `reward` is made of again."""
        self.base, self.n, self.reward, self.kept_reward = base, n, reward, kept_reward
        self._n_scored = 0

    @property
    def spent(self) -> Cost:
        """All n answers, and scoring them."""
        return total((self.base.spent, spent_by(self.reward), Cost(reward_calls=self._n_scored)))

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Sample i of a prompt is the best of the samples i * n to i * n + n - 1 of the policy within."""
        n = self.n
        drawn = self.base.generate(prompts, decoding, n_samples * n, key)
        texts = [prompt.text for prompt in prompts for _ in range(n_samples * n)]
        scores = self.reward.score(texts, [one.text for one in drawn])
        self._n_scored += len(drawn)
        worth = [-math.inf if score is None else score for score in scores]
        best = [max(range(start, start + n), key=worth.__getitem__) for start in range(0, len(drawn), n)]
        return [replace(drawn[place], sample=i % n_samples) for i, place in enumerate(best)]

    def generate_with_choice(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> tuple[list[Completion], list[float]]:
        """Does the same, and says how many nats away the choice takes each answer, at most."""
        chosen = self.generate(prompts, decoding, n_samples, key)
        return chosen, [most_divergence(self.n)] * len(chosen)

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> None:
        """Returns None: how likely an answer is to be the best of n is not known."""

    def save(self, directory: Path) -> None:
        """Writes the policy within, n, and what the reward is made of again."""
        from alignbench.models.policy_file import write_policy_file

        write_policy_file(directory, "best_of_n", n=self.n, reward=list(self.kept_reward))
        self.base.save(directory / "base")


def moved_best_of(record: dict[str, Any], move: Callable[[str], str]) -> dict[str, Any]:
    """What `BestOf.save` wrote, with the models and files of the reward elsewhere."""
    from alignbench.methods.kept_reward import moved_reward

    return record | {"reward": moved_reward(record["reward"], move)}


def load_best_of(directory: Path, load_part: Callable[[Path], Policy]) -> BestOf:
    """Reads what `BestOf.save` wrote."""
    from alignbench.methods.kept_reward import load_reward
    from alignbench.models.policy_file import read_policy_file
    from alignbench.models.within import language_model_of

    record, base = read_policy_file(directory), load_part(directory / "base")
    reward = load_reward(record["reward"], language_model_of(base))
    return BestOf(base, record["n"], reward, record["reward"])


@dataclass(frozen=True)
class BestOfN:
    """Answers with the best of n completions."""

    n: Annotated[int, Field(ge=1)] = 16
    """Completions that are drawn and scored for each answer; 1 is the policy as it is."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        asks_for_answers=True,
        calls_reward=True,
        gives="policy",
        load_policy=load_best_of,
        moved=moved_best_of,
        beside_its_models="Of n answers the one is given that the reward likes best; policy.json has n and names the "
        "reward.",
    )

    def train(self, data: TrainData, run: RunContext) -> BestOf:
        """Returns the policy of the recipe within another one; nothing is drawn yet."""
        assert run.reward is not None
        return BestOf(run.start or run.policy, self.n, run.reward, run.kept_reward)


plugin = BestOfN
