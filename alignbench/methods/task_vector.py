"""A task vector, negated: what fine-tuning on toxic text has added to the weights is taken away from them.

Paper: Ilharco et al. 2022, "Editing Models with Task Arithmetic" (arXiv:2212.04089).

Objective: theta = theta_policy - scale (theta_toxic - theta_policy), where theta_toxic is the run that `builds_on`
names as `toxic`, such as `sft` on toxic text, trained from the policy. No step is taken. Of an adapter the difference
is its product, so its scale is turned round.

The scale: with `scale: null` the one of `scales` whose answers to validation prompts the reward likes best, among those
whose perplexity under the policy as it was is at most `max_perplexity` times that of its own answers. That draws
answers for each, which are part of the budget.

Differences from the paper: it keeps 95 % of the accuracy on a control task, here the limit is on perplexity; scales are
compared by the recipe's reward.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from alignbench.errors import TrainingError
from alignbench.methods.base import Facts, RunContext, TrainData
from alignbench.records import Completion, Decoding, Prompt

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.weight_arithmetic import Line

logger = logging.getLogger(__name__)

ROLE = "toxic"


@dataclass(frozen=True, slots=True)
class Trial:
    """How a scale did on validation prompts."""

    scale: float
    reward: float
    """Mean over the answers that have one."""
    log_perplexity: float
    """Of the answers under the policy as it was, mean over answers."""


def chosen(trials: Sequence[Trial], limit: float) -> Trial:
    """The trial of the best reward among those that are at most as perplexing as `limit`, a logarithm.

    The smallest scale where several are as good, and where none is within the limit the least perplexing one.
    """
    fluent = [one for one in trials if one.log_perplexity <= limit]
    if not fluent:
        return min(trials, key=lambda one: (one.log_perplexity, one.scale))
    return min(fluent, key=lambda one: (-one.reward, one.scale))


@dataclass(frozen=True)
class TaskVector:
    """The policy less a multiple of what a toxic fine-tune has that it has not."""

    scale: Annotated[float, Field(ge=0)] | None = None
    """How much is taken away; 0 is the policy. null: one of `scales`, chosen on validation prompts."""
    scales: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 1.0)
    """What is tried where `scale` is null."""
    max_perplexity: Annotated[float, Field(gt=0)] = 1.05
    """The most perplexity of answers that a scale may have to be chosen, in that of the policy's own answers."""
    completion_tokens: Annotated[int, Field(ge=1)] = 20
    """Token limit of the answers that scales are chosen by."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal", "seq2seq"}),
        calls_reward=True,
        roles=frozenset({"policy", "reward", ROLE}),
    )

    def train(self, data: TrainData, run: RunContext) -> LanguageModel:
        """Returns the policy with the vector taken away."""
        from alignbench.models.weight_arithmetic import Line, difference

        line = Line(run.policy, difference(run.policy, run.load_language_model(ROLE), ROLE))
        scale = self._best(line, data.validation_prompts, run) if self.scale is None else self.scale
        line.go_to(-scale)
        return run.policy

    def _best(self, line: Line, prompts: Sequence[Prompt], run: RunContext) -> float:
        """Tries every scale, and 0, on as many validation prompts as the budget allows."""
        from alignbench.runtime.ledger import spending

        scales = sorted({0.0, *self.scales})
        asked = prompts[: run.budget_completions // len(scales)]
        if not asked:
            raise TrainingError(
                f"method.scale: got null, which takes a validation prompt and a completion of the budget for each of "
                f"{len(scales)} scales; there are {len(prompts)} and {run.budget_completions}: set "
                "data.validation_fraction, budget.completions or method.scale"
            )
        drawn: dict[float, Sequence[Completion]] = {}
        with spending(run.policy, run.reward) as spent:
            for scale in scales:
                line.go_to(-scale)
                key = (run.seed, "scales of a task vector")
                drawn[scale] = run.policy.generate(asked, Decoding(self.completion_tokens), 1, key)
            line.go_to(0.0)  # which reads all of them
            trials = [self._trial(scale, asked, answers, run) for scale, answers in drawn.items()]
        n = len(asked) * len(scales)
        run.ledger.book(None, "choice of scale", replace(spent, prompts_seen=n, training_completions=n, reward_calls=n))
        limit = trials[0].log_perplexity + math.log(self.max_perplexity)
        best = chosen([one for one in trials if one.scale in self.scales], limit)
        for one in trials:
            logger.info(
                "task_vector: scale %g: reward %.4g, perplexity %.4g%s",
                *(one.scale, one.reward, math.exp(one.log_perplexity), " (chosen)" if one is best else ""),
            )
        return best.scale

    def _trial(self, scale: float, prompts: Sequence[Prompt], answers: Sequence[Completion], run: RunContext) -> Trial:
        """Reads answers with the policy as it was."""
        assert run.reward is not None
        scores = run.reward.score([one.text for one in prompts], [one.text for one in answers])
        known = [score for score in scores if score is not None]
        logprobs = run.policy.token_logprobs(prompts, answers)
        losses = [-own.mean().item() for own in logprobs if len(own)]
        return Trial(scale, _mean(known), _mean(losses))


def _mean(values: Sequence[float]) -> float:
    """The mean; TrainingError where there is nothing to take it of."""
    if not values:
        raise TrainingError("method.scale: none of the answers to validation prompts could be scored; set method.scale")
    return sum(values) / len(values)


plugin = TaskVector
