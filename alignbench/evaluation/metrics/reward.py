"""The training reward of evaluated completions, along training. Definition in docs/metrics.md."""

from __future__ import annotations

from alignbench.evaluation.metrics.metric import Metric

plugin = Metric(
    name="reward_mean", direction="none", needs="rewards", of_prompts=lambda rewards: rewards, section="", order=1100
)
