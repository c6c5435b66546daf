"""Losses of ranked completions: numbers worked by hand, an oracle in float64, what TRL has computed, properties."""

import json
import math
from pathlib import Path

import pytest
import torch

from alignbench.methods.cpo import CPO
from alignbench.methods.orpo import ORPO
from alignbench.methods.rankings.losses import Ranking
from alignbench.methods.rrhf import RRHF
from alignbench.methods.simpo import SimPO

LN2 = math.log(2)
RECORDED = json.loads((Path(__file__).parent / "recorded" / "trl_pair_losses.json").read_text())


def ranking(*prompts, ranks=None):
    """Of each prompt the log-probabilities of the tokens of its completions, best first."""
    n = max(map(len, prompts))
    filled = [[*prompt, *[[]] * (n - len(prompt))] for prompt in prompts]
    logprobs = torch.tensor([[math.fsum(one) for one in prompt] for prompt in filled], dtype=torch.float64)
    lengths = torch.tensor([[len(one) for one in prompt] for prompt in filled])
    return Ranking(logprobs.requires_grad_(), lengths, torch.tensor(ranks or [list(range(n))] * len(prompts)))


HAND = ranking([[-LN2], [-2 * LN2]], [[-LN2, -3 * LN2], [-LN2]])
"""Chosen and rejected of two pairs: probabilities 1/2 and 1/4; 1/16 (per token 1/4) and 1/2."""
LOSSES = {
    "orpo": (
        ORPO(weight=0.4),
        [LN2 + 0.4 * math.log(4 / 3), 2 * LN2 + 0.4 * math.log(4)],  # odds 1 and 1/3; 1/3 and 1
        lambda s, n: -s[0] / n[0] + 0.4 * math.log(1 + math.expm1(-s[0] / n[0]) / math.expm1(-s[1] / n[1])),
    ),
    "cpo": (
        CPO(beta=1.0, alpha=0.5),
        [math.log(3 / 2) + 0.5 * LN2, math.log(9) + 0.5 * 2 * LN2],  # probabilities 2 : 1 and 1 : 8
        lambda s, n: math.log1p(math.exp(s[1] - s[0])) - 0.5 * s[0] / n[0],
    ),
    "simpo": (
        SimPO(beta=2.0, gamma=LN2),
        [math.log(3 / 2), math.log(9)],  # per token 2 : 1 and 1 : 2; squared, and halved by the margin: 2 : 1 and 1 : 8
        lambda s, n: math.log1p(math.exp(2 * (s[1] / n[1] - s[0] / n[0]) + LN2)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_number_worked_by_hand(name):
    method, by_hand, formula = LOSSES[name]
    assert method.loss(HAND).tolist() == pytest.approx(by_hand, rel=1e-12)
    pairs = zip(HAND.logprobs.tolist(), HAND.lengths.tolist(), strict=True)
    assert [formula(*pair) for pair in pairs] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_the_formula_and_its_slope_in_float64(name):
    method, _, formula = LOSSES[name]
    sums, lengths = torch.tensor(RECORDED["logprobs"], dtype=torch.float64), torch.tensor(RECORDED["lengths"])
    sums.requires_grad_()
    losses = method.loss(Ranking(sums, lengths, torch.tensor([[0, 1]]).expand(len(sums), 2)))
    losses.sum().backward()
    step = 1e-6
    for s, n, loss, slopes in zip(sums.tolist(), lengths.tolist(), losses.tolist(), sums.grad.tolist(), strict=True):
        assert loss == pytest.approx(formula(s, n), rel=1e-10)
        for i, slope in enumerate(slopes):
            moved = [formula([value + sign * step * (j == i) for j, value in enumerate(s)], n) for sign in (1, -1)]
            assert slope == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("name", "kind"), [("orpo", ORPO), ("cpo", CPO), ("simpo", SimPO)])
def test_it_agrees_with_trl(name, kind):
    """But for the imitation, which TRL takes over the prompt as well."""
    sums, lengths = torch.tensor(RECORDED["logprobs"], dtype=torch.float64), torch.tensor(RECORDED["lengths"])
    pairs = Ranking(sums, lengths, torch.tensor([[0, 1]]).expand(len(sums), 2))
    imitation = {"orpo": 1.0, "cpo": CPO().alpha, "simpo": 0.0}[name]
    losses = kind(**RECORDED["settings"][name]).loss(pairs) + imitation * pairs.means[:, 0]
    torch.testing.assert_close(
        losses, torch.tensor(RECORDED["losses"][name], dtype=torch.float64), rtol=1e-5, atol=1e-7
    )


def test_orpo_at_equal_odds_is_imitation_and_ln_2():
    pair = ranking([[-0.7, -0.9], [-0.8]])
    assert ORPO(weight=0.3).loss(pair).item() == pytest.approx(0.8 + 0.3 * LN2)
    assert ORPO(weight=0.0).loss(HAND).tolist() == pytest.approx([LN2, 2 * LN2])


@pytest.mark.parametrize("mean", [-1e-9, -1e-3, -0.5, -0.8, -30.0, -200.0])
def test_orpo_has_finite_odds_and_slopes_wherever_a_model_is(mean):
    pair = ranking([[mean], [-1.0]], [[-1.0], [mean]])
    loss = ORPO(weight=1.0).loss(pair)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(pair.logprobs.grad).all()


def test_simpo_does_not_see_how_often_tokens_are_repeated_and_cpo_does():
    pair = [[-0.3, -0.9], [-1.2, -0.4, -2.0]]
    once, twice = ranking(pair), ranking([one * 2 for one in pair])
    torch.testing.assert_close(SimPO().loss(once), SimPO().loss(twice))
    assert not torch.allclose(CPO().loss(once), CPO().loss(twice))


def test_simpo_aims_at_its_margin():
    """At beta (m_w - m_l) = gamma the loss is ln 2, whatever beta is."""
    for beta, gamma in ((2.5, 1.375), (10.0, 3.0)):
        pair = ranking([[-1.0], [-1.0 - gamma / beta]])
        assert SimPO(beta=beta, gamma=gamma).loss(pair).item() == pytest.approx(LN2)


FOUR = [[-0.5], [-1.0, -2.0], [-0.2, -0.4], [-1.0]]
"""Per token -0.5, -1.5, -0.3 and -1.0. If ranked in this order, the third is too likely by 0.2 beside the first, by 1.2
beside the second; the last by 0.5 beside the second."""


def rrhf_by_pairs(means, ranks, rank_weight):
    """The sum over pairs, one by one."""
    pairs = [(i, j) for i in range(len(means)) for j in range(len(means)) if ranks[i] > ranks[j]]
    return rank_weight * sum(max(0.0, means[i] - means[j]) for i, j in pairs) - means[0]


def test_rrhf_worked_by_hand_and_pair_by_pair():
    assert RRHF().loss(ranking(FOUR)).item() == pytest.approx(0.2 + 1.2 + 0.5 + 0.5)
    assert RRHF(rank_weight=3.0).loss(ranking(FOUR)).item() == pytest.approx(3 * 1.9 + 0.5)
    source = torch.Generator().manual_seed(0)
    for ranks in ([0, 1, 2, 3], [0, 0, 1, 1], [0, 1, 1, 2]):
        means = (-3 * torch.rand(4, generator=source, dtype=torch.float64)).tolist()
        loss = RRHF(rank_weight=2.0).loss(ranking([[mean] for mean in means], ranks=[ranks]))
        assert loss.item() == pytest.approx(rrhf_by_pairs(means, ranks, 2.0), rel=1e-12)


def test_rrhf_with_equal_rewards_is_imitation_of_the_first():
    assert RRHF().loss(ranking(FOUR, ranks=[[0, 0, 0, 0]])).item() == pytest.approx(0.5)


def test_rrhf_takes_prompts_with_different_numbers_of_completions():
    alone = [RRHF().loss(ranking(one)).item() for one in (FOUR, FOUR[1:3])]
    both = ranking(FOUR, FOUR[1:3])
    losses = RRHF().loss(both)
    assert alone == pytest.approx([2.4, 1.2 + 1.5])
    assert losses.tolist() == pytest.approx(alone)
    losses.sum().backward()
    assert not both.logprobs.grad[1, 2:].any()


def test_rrhf_is_flat_where_the_order_is_right_but_for_the_imitation():
    ordered = ranking([[-0.1], [-0.2, -0.2], [-3.0]])
    RRHF(rank_weight=5.0).loss(ordered).sum().backward()
    assert ordered.logprobs.grad.tolist() == [[-1.0, 0.0, 0.0]]
