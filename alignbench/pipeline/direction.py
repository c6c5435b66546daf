"""Do the reward and the judges point the same way? Asked on texts of the policy before training.

A reward that pays for what a judge calls harmful is nearly always a label the wrong way round. Noise is no reason to
stop: the rank correlation of reward and harm must be OPPOSED or more, and significant at ALPHA with the number of
prompts as that of independent texts: with 64 prompts a correlation of 0.39, from 108 on OPPOSED itself. Where a judge
hardly tells the texts apart, ranks may be of topics and not of harm, and it takes BLINDLY_OPPOSED.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignbench.errors import UsageError
from alignbench.pipeline.curve import draw_sample
from alignbench.records import Cost, EvalReport, MetricKey
from alignbench.runtime.clock import measured
from alignbench.statistics.correlation import correlation_p, rank_correlation

if TYPE_CHECKING:
    import pandas as pd

    from alignbench.pipeline.build import Parts, Yardsticks

logger = logging.getLogger(__name__)

N_TEXTS = 128
"""Texts looked at, where there are as many prompts: of rewards whose true correlation with harm is 0.45, 97 % are
found out."""
MIN_PROMPTS = 10
OPPOSED = 0.3
"""What Cohen (1988) calls a medium effect; a weaker one would be significant with many prompts, and matter little."""
MIN_SPREAD = 0.01
"""Standard deviation of a judge's scores, between 0 and 1, below which it hardly tells texts apart."""
BLINDLY_OPPOSED = 0.7
ALPHA = 0.001
"""One-sided, for each judge: one honest run in a thousand whose reward has nothing to do with a judge is stopped."""
_SHOWN_CHARS = 60


def check_direction(parts: Parts, yardsticks: Yardsticks, first: EvalReport | None, cost: Cost) -> None:
    """Stops where what training learns from rises with harm, on texts of the policy before training.

    Args:
        parts: What is trained, and what it learns from; where that is nothing, nothing is looked at.
        yardsticks: Has the judges.
        first: The evaluation before training. Where there is none, or of fewer than N_TEXTS completions or half as many
            prompts, a sample is drawn, on prompts for validation and for training.
        cost: What is charged for that.

    Raises:
        UsageError: As `require_agreement` says.
    """
    settings, method, reward, data = parts.recipe.reward, parts.recipe.method, parts.signal, parts.data
    if reward is None or (settings is not None and settings.may_oppose_judges):
        return
    prompts = (*data.validation, *data.train)[:N_TEXTS]
    if first is not None and len(first.completions) >= len(prompts) and 2 * len(first.prompt_values) >= len(prompts):
        texts = first.completions
    else:
        with measured(cost, parts.device):
            texts = draw_sample(parts.policy, prompts, parts.recipe, yardsticks.judges, reward, cost)
    variants = {prompt.id: prompt.group or prompt.id for prompt in (*data.validation, *data.train)}
    texts = texts.assign(prompt_id=texts["prompt_id"].map(variants))  # of one text are no independent witnesses
    reward_name = "the reward" if method.facts.calls_reward else "the score that labels pairs"
    require_agreement(texts, reward_name, list(yardsticks.judges))


def require_agreement(completions: pd.DataFrame, reward_name: str, scorers: Sequence[str]) -> None:
    """Stops where the reward of texts rises with their harm.

    Args:
        completions: Rows with `prompt_id`, one for all variants of a text, `completion`, `reward`, and
            `toxicity@SCORER` of each scorer; NaN where unscored.
        reward_name: What the reward is called in the error.
        scorers: Those of the evaluation.

    Raises:
        UsageError: Names reward and judge, their correlation and the number of texts, two texts, and what to do.
    """
    for scorer in scorers:
        table = completions[["prompt_id", "completion"]].assign(
            reward=completions["reward"].astype(float),
            harm=completions[str(MetricKey("toxicity", scorer))].astype(float),
        )
        table = table.dropna()
        n_prompts = table["prompt_id"].nunique()
        r = rank_correlation(table["reward"].to_numpy(), table["harm"].to_numpy())
        if r is None or n_prompts < MIN_PROMPTS:
            logger.info("direction of %s and %s: not to be seen on %d prompts", reward_name, scorer, n_prompts)
            continue
        logger.info("direction of %s and %s: r = %+.2f on %d prompts", reward_name, scorer, r, n_prompts)
        least = OPPOSED if table["harm"].std() >= MIN_SPREAD else BLINDLY_OPPOSED
        if r >= least and correlation_p(r, n_prompts) < ALPHA:
            raise UsageError(_opposed(table, reward_name, scorer, r, n_prompts))


def _opposed(table: pd.DataFrame, reward_name: str, scorer: str, r: float, n_prompts: int) -> str:
    ranked = table.sort_values(["harm", "reward"])
    shown = " and ".join(
        f"{' '.join(row.completion.split())[:_SHOWN_CHARS]!r} ({reward_name} {row.reward:+.3g}, harm {row.harm:.3g})"
        for row in (ranked.iloc[0], ranked.iloc[-1])
    )
    return (
        f"training was not started: {reward_name} rises with what the scorer {scorer!r} calls harm, expected it to "
        f"fall (rank correlation r = {r:+.2f} over {len(table)} completions of {n_prompts} prompts, before training; "
        f"for example {shown}). The label of one of them is probably the wrong way round: `reward.label` is the "
        "harmless class, `reward.harmful_label` the harmful one, and a judge's `label` the harmful one. To train "
        "against a judge on purpose, set reward.may_oppose_judges: true"
    )
