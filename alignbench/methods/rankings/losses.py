"""Losses of ranked completions, each by its equation and source. Pure: tensors in, a number for each prompt out.

Shapes: b prompts, n completions of each, best first. s is the log-probability of a completion, the sum over its tokens;
m = s / |y| is the mean over them. Of a pair, w is the preferred completion and l the other one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_MOST = -1e-6
"""Nats: a mean log-probability counts as no closer to 0, where odds are infinite."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a pass has found of the completions of b prompts."""

    logprobs: Tensor
    """(b, n), in nats, summed over the tokens of each completion."""
    lengths: Tensor
    """(b, n), tokens of each completion; 0 where a prompt has fewer completions than others."""
    ranks: Tensor
    """(b, n), 0 for the best; equal ranks are equally good."""

    @property
    def means(self) -> Tensor:
        """(b, n), log-probabilities per token."""
        return self.logprobs / self.lengths.clamp(min=1)


def orpo_loss(ranking: Ranking, weight: float) -> Tensor:
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, equations 6 and 7), (b,).

    -m_w - weight log sigmoid(log odds(m_w) - log odds(m_l)), with odds(m) = exp(m) / (1 - exp(m)).
    """
    odds = _log_odds(ranking.means)
    return -ranking.means[:, 0] - weight * logsigmoid(odds[:, 0] - odds[:, 1])


def _log_odds(means: Tensor) -> Tensor:
    m = means.clamp(max=_MOST)
    near = torch.log(-torch.expm1(m))  # log(1 - exp(m)), where exp(m) is near 1
    far = torch.log1p(-torch.exp(m.clamp(max=-math.log(2))))
    return m - torch.where(m > -math.log(2), near, far)


def cpo_loss(ranking: Ranking, beta: float, alpha: float) -> Tensor:
    """Contrastive preference optimisation (Xu et al. 2024, arXiv:2401.08417, equation 5), (b,).

    -log sigmoid(beta (s_w - s_l)) - alpha m_w.
    """
    s = ranking.logprobs
    return -logsigmoid(beta * (s[:, 0] - s[:, 1])) - alpha * ranking.means[:, 0]


def simpo_loss(ranking: Ranking, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, equation 6), (b,).

    -log sigmoid(beta (m_w - m_l) - gamma).
    """
    m = ranking.means
    return -logsigmoid(beta * (m[:, 0] - m[:, 1]) - gamma)


def rrhf_loss(ranking: Ranking, rank_weight: float) -> Tensor:
    """Rank responses to align human feedback (Yuan et al. 2023, arXiv:2304.05302, equations 2 to 4), (b,).

    rank_weight times the sum of max(0, m_i - m_j) over all i that are worse than j, minus m of the best.
    """
    m, exists = ranking.means, ranking.lengths > 0
    worse = (ranking.ranks[:, :, None] > ranking.ranks[:, None, :]) & exists[:, :, None] & exists[:, None, :]
    violations = (m[:, :, None] - m[:, None, :]).clamp(min=0) * worse
    return rank_weight * violations.sum(dim=(1, 2)) - m[:, 0]
