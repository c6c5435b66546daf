"""Evaluation along training: every method measured by the same evaluator at equal points of its budget.

The first validation prompts, the recipe's protocol and scorers, and the training reward on the same completions. Every
point has the same random numbers, so that two points differ by the policy alone. Training does not notice.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from alignbench import plugins
from alignbench.comparison.flags import HEADLINE, REWARD_SCORER
from alignbench.errors import ScorerError
from alignbench.evaluation.protocols import comparability, get_protocol
from alignbench.pipeline.measuring import drawn_at_once, measure
from alignbench.pipeline.scorers import judges_that_see_prompts
from alignbench.records import Cost, EvalReport, MetricKey, Policy, Prompt, Scorer
from alignbench.results.reader import StoredRun
from alignbench.results.writer import RunDirectory
from alignbench.runtime import progress
from alignbench.runtime.clock import measured, set_aside
from alignbench.runtime.ledger import spending
from alignbench.scorers.base import cut_prompts, sources_of

if TYPE_CHECKING:
    import pandas as pd

    from alignbench.evaluation.metrics.aggregate import FloatArray
    from alignbench.models.language_model import LanguageModel
    from alignbench.pipeline.build import Parts, Yardsticks
    from alignbench.recipe.recipe import Recipe


logger = logging.getLogger(__name__)

N_POINTS = 8
"""Points after the first one, where a recipe says nothing else."""


class AlongTraining:
    """The curve of one run while it grows. Where there is to be none, nothing happens."""

    def __init__(
        self,
        parts: Parts,
        yardsticks: Yardsticks,
        directory: RunDirectory,
        cost: Cost,
        evaluation_cost: Cost,
    ) -> None:
        """Measures nothing yet.

        Args:
            parts: What is trained.
            yardsticks: What it is measured with.
            directory: The run.
            cost: Of training, which is not charged for points.
            evaluation_cost: What is charged for them.
        """
        recipe = parts.recipe
        settings = recipe.evaluation
        every = max(1, recipe.budget.completions // N_POINTS)
        self._every = every if settings.evaluate_every is None else settings.evaluate_every
        facts = recipe.method.facts
        is_wanted = self._every > 0 and facts.gives_policy and not facts.is_made_elsewhere
        self._prompts = parts.data.validation[: settings.n_validation_prompts] if is_wanted else ()
        if is_wanted and not self._prompts:
            logger.warning("no evaluation along training: there are no validation prompts (data.validation_fraction)")
        self._parts, self._yardsticks, self._directory = parts, yardsticks, directory
        self._cost, self._evaluation_cost = cost, evaluation_cost
        self._changes = facts.trains or facts.calls_reward or facts.gives == "policy" or bool(recipe.builds_on)
        self._earlier = directory.points()
        """Completions spent by step, of the points that a killed run has left."""
        self._done: dict[int, int] = {}
        """The same of this process."""
        self._reached = (0, 0)
        self.is_first_kept = False
        """True where the evaluation before training is that of another run."""

    @property
    def is_cut_off(self) -> bool:
        """True where an earlier attempt of the run began a curve that this one does not go on with."""
        return bool(self._earlier) and not self._prompts

    @cached_property
    def _conditions(self) -> dict[str, Any]:
        """What must be equal in every curve beside this one."""
        recipe = self._parts.recipe
        return comparability(
            get_protocol(recipe.evaluation.protocol),
            self._prompts,
            self._yardsticks.judges,
            prompts_source=None,
            sees_prompt=judges_that_see_prompts(recipe),
        )

    def first(self, policy: Policy) -> EvalReport | None:
        """Evaluates the policy before training, and returns what was measured; None where there is to be no curve."""
        if not self._prompts:
            return None
        with measured(self._evaluation_cost, self._parts.device):
            return self._evaluate(0, 0, policy, is_first=True)

    def at(self, step: int, completions: int, policy: Policy) -> None:
        """Evaluates the policy where a point was passed since the step before."""
        self._reached = (step, completions)
        spent = (self._earlier | self._done).items()
        before = max((there for other, there in spent if other < step), default=0)
        if self._prompts and step not in self._done and completions // self._every > before // self._every:
            with set_aside(self._cost, self._evaluation_cost, self._parts.device):
                self._evaluate(step, completions, policy)

    def last(self, policy: Policy, drawn: int) -> None:
        """Evaluates the policy after training, unless its last step was a point.

        `drawn` is what training has drawn of the budget. It says where the end is, if training has had no step: what
        was killed after the last one is resumed with none left.
        """
        step, completions = self._reached
        if step == 0 and self._changes:
            steps = self._directory.logged("step")
            step, completions = int(max(steps, default=1)), drawn or self._parts.recipe.budget.completions
        if self._prompts and step not in self._done:
            with measured(self._evaluation_cost, self._parts.device):
                self._evaluate(step, completions, policy)

    def _evaluate(self, step: int, completions: int, policy: Policy, *, is_first: bool = False) -> EvalReport:
        from alignbench.scorers.text_classifier import remembered_logits

        judges, reward = self._yardsticks.judges, self._parts.signal
        # Before training another run may have asked the judges: the reward reads for itself, to be the same either way.
        with undisturbed(policy), nullcontext() if is_first else remembered_logits():
            report, spent = measure(
                self._parts, self._yardsticks, policy, self._prompts, purpose="along training", is_first=is_first
            )
            cost = Cost() if spent is None else cost_of_evaluation(spent, report, len(judges))
            self.is_first_kept |= spent is None
            if reward is not None:
                with spending(reward) as rewarding:  # apart: a policy may have asked it too, which it counts
                    report = with_reward(report, reward)
                cost.charge(replace(rewarding, reward_calls=len(report.completions)))
        sources = {name: sources_of(judge) for name, judge in judges.items()}
        self._directory.write_evaluation(report, self._conditions, sources, step=step, completions=completions)
        self._evaluation_cost.charge(cost)
        self._directory.record_evaluation_cost(self._evaluation_cost)
        self._done[step] = completions
        judged = [one for one in report.metrics if one.metric == HEADLINE and one.scorer in judges]
        progress.show(**{f"toxicity by {one.scorer}": one.value for one in judged if one.scorer != REWARD_SCORER})
        return report


def cost_of_evaluation(spent: Cost, report: EvalReport, n_judges: int) -> Cost:
    """What an evaluation took: `spent` by its models and judges, and how often these were asked."""
    n_scored = len(report.completions) * n_judges + spent.reward_calls
    return replace(spent, prompts_seen=len(report.prompt_values), reward_calls=n_scored)


def hashes_of_sources(reward: Scorer | None, labeller: Scorer | None, upstream: Sequence[StoredRun]) -> list[str]:
    """Hashes of what rewarded the run or labelled its pairs, and of what did so upstream."""
    own = {source for scorer in (reward, labeller) if scorer is not None for source in sources_of(scorer)}
    return sorted(own.union(*(run.status.trained_on for run in upstream)))


def with_reward(report: EvalReport, reward: Scorer) -> EvalReport:
    """Adds the training reward of the evaluated completions, as the method is given it: the metric `reward_mean`.

    Raises:
        ScorerError: The reward gives too few numbers, or one that is not finite.
    """
    from alignbench.evaluation.metrics.measure import Scored, column, mean_metrics

    texts = report.completions
    asked = texts["prompt"].tolist(), texts["completion"].tolist()
    rewards = rewards_of(reward, *asked)
    scored = Scored(rewards.reshape(len(report.prompt_values), -1), sum(cut_prompts(reward, *asked)))
    known = plugins.metrics(plugins.METRICS).values()
    columns = [column(metric, scored.scores, scored=scored) for metric in known if metric.needs == "rewards"]
    return replace(
        report,
        metrics=(*report.metrics, *mean_metrics(columns)),
        prompt_values=report.prompt_values.assign(**{str(one.key): one.values for one in columns}),
        completions=texts.assign(reward=rewards),
    )


def rewards_of(reward: Scorer, prompts: Sequence[str], completions: Sequence[str]) -> FloatArray:
    """The rewards of completions: (n,), NaN where the reward gives None.

    Raises:
        ScorerError: It gives too few numbers, or one that is not finite.
    """
    import numpy as np

    rewards = reward.score(prompts, completions)
    if len(rewards) != len(completions):
        raise ScorerError(f"the reward {reward.name!r} gave {len(rewards)} numbers for {len(completions)} completions")
    wrong = [one for one in rewards if one is not None and not np.isfinite(one)]
    if wrong:
        raise ScorerError(f"the reward {reward.name!r} gave {wrong[0]}, expected a finite number, or None for no score")
    return np.array(rewards, dtype=np.float64)


def draw_sample(
    policy: LanguageModel,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    scorers: Mapping[str, Scorer],
    reward: Scorer,
    cost: Cost,
) -> pd.DataFrame:
    """One completion of each prompt, as in the protocol, with reward and harm: what `direction` looks at.

    What it takes to draw and score them is added to `cost`, seconds and memory apart.
    """
    import pandas as pd

    from alignbench.evaluation.samples import completions_of, toxicity_scores

    protocol, size = get_protocol(recipe.evaluation.protocol), drawn_at_once(recipe, policy, prompts)
    prompts, parts = protocol.cut(prompts), []
    with undisturbed(policy), spending(policy, reward, *scorers.values()) as spent:
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            drawn = completions_of(policy, batch, protocol.decoding, 1, (recipe.seed, "direction", protocol.name))
            texts = [completion.text for completion in drawn]
            columns = {
                "prompt_id": [prompt.id for prompt in batch],
                "completion": texts,
                "reward": rewards_of(reward, [prompt.text for prompt in batch], texts),
                **{
                    str(MetricKey("toxicity", name)): toxicity_scores(scorer, name, batch, drawn)
                    for name, scorer in scorers.items()
                },
            }
            parts.append(pd.DataFrame(columns))
    cost.charge(replace(spent, prompts_seen=len(prompts), reward_calls=len(prompts) * (len(scorers) + 1)))
    return pd.concat(parts, ignore_index=True)


@contextmanager
def undisturbed(policy: Policy) -> Iterator[None]:
    """Within the block the policy is in evaluation mode; after it its modes and all random states are as before."""
    import numpy as np
    import torch

    model: Any = getattr(policy, "model", None)
    modes = {module: module.training for module in model.modules()} if isinstance(model, torch.nn.Module) else {}
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what libraries draw from
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
            for module in modes:
                module.training = False
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
