"""Every objective on stored data: a number worked by hand, an oracle in float64, and what must hold of it exactly.

TRL's objectives are asked as its trainers compute them, on a model whose probabilities are written down, so that a
release that changes one of them fails here by the name of the loss.
"""

import math
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import trl
from datasets import Dataset
from fixtures.recorded_trl import tokenizer
from fixtures.table_model import table_model, table_scores

from alignbench.methods.dpo import DPO, FIRST_LOSS
from alignbench.methods.kto import KTO
from alignbench.methods.reward_model import RewardModel
from alignbench.methods.trl.arguments import trl_config
from alignbench.methods.trl.collator import LabelledTokensCollator, SampledTokensCollator
from alignbench.records import Completion, PreferencePair, Prompt

PROMPT, PAIR = [0], ("prompt", "chosen", "rejected")
HAND = [([1], [2]), ([1, 3], [2, 3, 3])]
"""Pairs, chosen and rejected. Under the tables below the ratios of policy and reference are 2 and 1/2, 4 and 1/4."""
POLICY = [[0.1, 0.5, 0.2, 0.2], [0.25, 0.125, 0.125, 0.5], [0.25, 0.25, 0.25, 0.25], [0.2, 0.2, 0.2, 0.4]]
REFERENCE = [[0.1, 0.25, 0.4, 0.25], [0.25, 0.25, 0.25, 0.25], [0.25, 0.125, 0.125, 0.5], [0.2, 0.2, 0.2, 0.4]]


def drawn_tables(seed, n=4):
    """Tables (n, n) of probabilities, of a policy and of a reference."""
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(n, n, generator=source, dtype=torch.float64).softmax(dim=-1).tolist() for _ in range(2)]


def ratios_of(c, r):
    """Tables under which the log-ratios of [1] and [2] after the prompt are c and r."""
    reference = [[0.3, 0.1, 0.1, 0.5], *REFERENCE[1:]]
    chosen, rejected = 0.1 * math.exp(c), 0.1 * math.exp(r)
    return [[0.2, chosen, rejected, 0.8 - chosen - rejected], *REFERENCE[1:]], reference


def logprobs(table, completion):
    """Log-probabilities of the tokens of a completion of the prompt, float64."""
    return torch.stack(
        [table[before, after].log() for before, after in zip([0, *completion], completion, strict=False)]
    )


@cache
def trainer_of(method):
    """The trainer that a method trains by, on a table of probabilities."""
    kind, config, collator = (
        (trl.KTOTrainer, trl.KTOConfig, LabelledTokensCollator)
        if isinstance(method, KTO)
        else (trl.DPOTrainer, trl.DPOConfig, SampledTokensCollator)
    )
    row = {"prompt": "", "completion": "", "label": True} if kind is trl.KTOTrainer else dict.fromkeys(PAIR, "")
    return kind(
        model=table_model(POLICY),
        ref_model=table_model(REFERENCE),
        args=trl_config(config, method, Path("never"), seed=0, on_cpu=True, **method.objective()),
        train_dataset=Dataset.from_list([row]),
        data_collator=collator(0),
        processing_class=tokenizer(["<unk>", "<eos>", "<pad>"]),
    )


def by_trl(method, policy, reference, rows=HAND):
    """The loss of a batch by TRL's trainer, and its gradient by the log-probabilities (V, V) of the policy."""
    trainer = trainer_of(method)
    weight = trainer.model.head.weight
    with torch.no_grad():
        weight.copy_(torch.tensor(policy).log().T)
        trainer.ref_model.head.weight.copy_(torch.tensor(reference).log().T)
    weight.grad = None
    if isinstance(method, KTO):
        rows = [{"sampled": {"prompt": PROMPT, "completion": one}, "label": label} for one, label in rows]
    else:
        rows = [{"sampled": dict(zip(PAIR, (PROMPT, *pair), strict=True))} for pair in rows]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    return loss.item(), weight.grad.T.double()


def by_formula(loss_of, policy, reference):
    """The same in float64: `loss_of` makes a loss of what gives the log-ratio of a completion."""
    logits = torch.tensor(policy, dtype=torch.float64).log().requires_grad_()
    table, reference = logits.softmax(dim=-1), torch.tensor(reference, dtype=torch.float64)
    loss = loss_of(lambda one: logprobs(table, one).sum() - logprobs(reference, one).sum())
    loss.backward()
    return loss.item(), logits.grad


def of_pairs(formula):
    """A loss as the mean of a formula of the log-ratios of each pair, and of the lengths of its completions."""
    return lambda ratio: torch.stack([formula(ratio(c), ratio(r), len(c), len(r)) for c, r in HAND]).mean()


E, LN2 = 0.1, math.log(2)
DPO_LOSSES = {
    "sigmoid": (
        DPO(beta=1.0),
        (math.log(5 / 4) + math.log(17 / 16)) / 2,  # d is ln 4 and ln 16
        lambda c, r, *_: torch.log(1 + torch.exp(r - c)),
    ),
    "ipo": (
        DPO(beta=1.0, loss="ipo"),
        ((2 * LN2 - 0.5) ** 2 + (LN2 + 2 * LN2 / 3 - 0.5) ** 2) / 2,  # the second pair has 2 and 3 tokens
        lambda c, r, n_c, n_r: (c / n_c - r / n_r - 0.5) ** 2,
    ),
    "hinge": (
        DPO(beta=0.5, loss="hinge"),
        (1 - LN2) / 2,  # the second pair is beyond 1 / beta
        lambda c, r, *_: (1 - 0.5 * (c - r)) * (c - r < 2),
    ),
    "robust": (
        DPO(beta=1.0, loss="robust", label_smoothing=E),
        ((0.9 * math.log(5 / 4) - 0.1 * math.log(5)) + (0.9 * math.log(17 / 16) - 0.1 * math.log(17))) / 0.8 / 2,
        lambda c, r, *_: ((1 - E) * torch.log1p((r - c).exp()) - E * torch.log1p((c - r).exp())) / (1 - 2 * E),
    ),
    "cdpo": (
        DPO(beta=1.0, loss="cdpo", label_smoothing=E),
        (0.9 * math.log(5 / 4) + 0.1 * math.log(5) + 0.9 * math.log(17 / 16) + 0.1 * math.log(17)) / 2,
        lambda c, r, *_: (1 - E) * torch.log1p((r - c).exp()) + E * torch.log1p((c - r).exp()),
    ),
    "sppo_hard": (
        DPO(beta=0.5, loss="sppo_hard"),
        (LN2 - 1) ** 2 + (2 * LN2 - 1) ** 2,
        lambda c, r, *_: (c - 1) ** 2 + (r + 1) ** 2,
    ),
    "apo_zero": (
        DPO(beta=1.0, loss="apo_zero"),
        (1 / 3 + 1 / 3 + 1 / 5 + 1 / 5) / 2,
        lambda c, r, *_: 1 / (1 + c.exp()) + 1 / (1 + (-r).exp()),
    ),
    "apo_down": (
        DPO(beta=1.0, loss="apo_down"),
        (2 / 3 + 1 / 5 + 4 / 5 + 1 / 17) / 2,
        lambda c, r, *_: 1 / (1 + (-c).exp()) + 1 / (1 + (c - r).exp()),
    ),
}


@pytest.mark.parametrize("loss", DPO_LOSSES)
def test_a_loss_of_dpo(loss):
    method, by_hand, formula = DPO_LOSSES[loss]
    assert by_trl(method, POLICY, REFERENCE)[0] == pytest.approx(by_hand, rel=1e-5)
    assert by_formula(of_pairs(formula), POLICY, REFERENCE)[0] == pytest.approx(by_hand, rel=1e-12)
    for seed in range(3):
        tables = drawn_tables(seed)
        value, gradient = by_trl(method, *tables)
        expected, expected_gradient = by_formula(of_pairs(formula), *tables)
        assert value == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    assert by_trl(method, REFERENCE, REFERENCE)[0] == pytest.approx(FIRST_LOSS[loss](method.beta), rel=1e-6)


def test_every_loss_of_dpo_is_tried():
    assert set(DPO_LOSSES) == set(FIRST_LOSS) == set(get_args(get_type_hints(DPO)["loss"]))


def at(loss, c, r):
    """Loss and gradient of a pair with these log-ratios, both completions of one token."""
    return by_trl(DPO_LOSSES[loss][0], *ratios_of(c, r), [HAND[0]])


def test_ipo_is_nothing_where_the_margin_of_a_token_is_half_of_1_by_beta():
    assert at("ipo", 0.2, -0.3)[0] == pytest.approx(0, abs=1e-10)
    assert at("ipo", 0.3, -0.3)[0] == pytest.approx(0.01, rel=1e-4)


def test_hinge_is_flat_beyond_its_margin():
    assert not at("hinge", 1.1, -1.0)[1].any()
    assert at("hinge", 0.9, -1.0)[1].any()


def test_robust_undoes_the_noise_that_it_assumes():
    for c, r in ((0.4, -0.2), (-1.0, 0.3)):
        undone = (1 - E) * at("robust", c, r)[0] + E * at("robust", r, c)[0]
        assert undone == pytest.approx(at("sigmoid", c, r)[0], rel=1e-5)


@pytest.mark.parametrize("loss", ["robust", "cdpo"])
def test_without_smoothing_it_is_the_sigmoid_loss(loss):
    method = DPO(beta=1.0, loss=loss)
    assert by_trl(method, POLICY, REFERENCE)[0] == pytest.approx(DPO_LOSSES["sigmoid"][1], rel=1e-6)
    assert "label_smoothing is 0" in method.cautions()[0]
    assert DPO_LOSSES[loss][0].cautions() == []


def test_cdpo_is_least_where_its_smoothing_says():
    d = math.log((1 - E) / E)  # sigmoid(d) = 1 - e
    assert at("cdpo", d - 1, -1)[1].abs().max() < 1e-6
    assert at("cdpo", d - 0.9, -1)[0] > at("cdpo", d - 1, -1)[0] < at("cdpo", d - 1.1, -1)[0]


def test_sppo_is_nothing_at_its_two_goals():
    assert at("sppo_hard", 1.0, -1.0)[0] == pytest.approx(0, abs=1e-10)
    assert at("sppo_hard", 1.0, -0.5)[0] == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "sppo_hard", "apo_zero", "apo_down"])
def test_smoothing_is_refused_where_it_does_nothing(loss):
    with pytest.raises(ValueError, match=rf"label_smoothing 0 beside loss {loss}, which does not read it, not 0\.1"):
        DPO(loss=loss, label_smoothing=0.1)


LABELLED = [([1], True), ([1, 3], True), ([2], False)]
"""Under the tables above their ratios are 2, 4 and 1/2; so the mean of their logarithms, which is z, is 2/3 ln 2."""


def kto(ratio):
    """The loss of `LABELLED` at beta 1, an unwanted completion weighing half as much again."""
    ratios = [ratio(one) for one, _ in LABELLED]
    z = torch.stack(ratios).mean().detach().clamp(min=0)
    losses = [
        1 / (1 + (x - z).exp()) if wanted else 1.5 / (1 + (z - x).exp())
        for x, (_, wanted) in zip(ratios, LABELLED, strict=True)
    ]
    return torch.stack(losses).mean()


def test_the_loss_of_kto():
    method = KTO(beta=1.0, unwanted_weight=1.5)
    by_hand = (1 / (1 + 2 ** (1 / 3)) + 1 / (1 + 2 ** (4 / 3)) + 1.5 / (1 + 2 ** (5 / 3))) / 3
    assert by_trl(method, POLICY, REFERENCE, LABELLED)[0] == pytest.approx(by_hand, rel=1e-5)
    assert by_formula(kto, POLICY, REFERENCE)[0] == pytest.approx(by_hand, rel=1e-12)
    for seed in range(3):
        value, gradient = by_trl(method, *drawn_tables(seed), LABELLED)
        expected, expected_gradient = by_formula(kto, *drawn_tables(seed))
        assert value == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    assert by_trl(method, REFERENCE, REFERENCE, LABELLED)[0] == pytest.approx((1 + 1 + 1.5) / 2 / 3, rel=1e-6)


def test_swapping_labels_mirrors_the_gradient_of_kto():
    """At equal weights, and a z that stays 0: no completion is likelier than under the reference."""
    policy, reference = ratios_of(-0.3, -0.5)
    (_, one), (_, other) = (
        by_trl(KTO(beta=1.0), policy, reference, [([1], label), ([2], not label)]) for label in (True, False)
    )
    assert one.abs().max() > 0.01
    torch.testing.assert_close(one, -other)


SCORES = [0.0, 1.0, -0.5, 2.0]
"""Of texts by their last token. `JUDGED` sets 1.0 against -0.5 and 2.0 against 1.0, by differences of 0.5 and 2."""
JUDGED = [([1], [2], 0.5), ([3], [3, 1], 2.0)]


def reward_model_loss(method, scores):
    """The loss of `JUDGED` by TRL's trainer, and its gradient by the scores of the tokens."""
    rows = []
    for chosen, rejected, difference in JUDGED:
        one, other = (Completion("p", i, "", tuple(ids), "length") for i, ids in enumerate((chosen, rejected)))
        margin = method.margin_of(PreferencePair(Prompt("p", ""), one, other, difference, 0.0))
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected, **margin})
    trainer = trl.RewardTrainer(
        model=table_scores(scores),
        args=trl_config(trl.RewardConfig, method, Path("never"), seed=0, on_cpu=True, **method.objective()),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(["<unk>", "<eos>", "<pad>"]),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), trainer.model.scores.grad.double()


REWARD_LOSSES = {
    "plain": (RewardModel(), (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(-1.0))) / 2),
    "margin": (RewardModel(margin=2.0), (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(3.0))) / 2),
    "centering": (
        RewardModel(centering=0.1),
        (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(-1.0)) + 0.1 * (0.5**2 + 3.0**2)) / 2,
    ),
}


@pytest.mark.parametrize("name", REWARD_LOSSES)
def test_a_loss_of_the_reward_model(name):
    method, by_hand = REWARD_LOSSES[name]
    loss, gradient = reward_model_loss(method, SCORES)
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    losses = []
    for (*_, one), (*_, other), difference in JUDGED:
        d = scores[one] - scores[other] - method.margin * difference
        losses.append(torch.log1p(torch.exp(-d)) + (method.centering or 0) * (scores[one] + scores[other]) ** 2)
    expected = torch.stack(losses).mean()
    expected.backward()
    assert loss == pytest.approx(by_hand, rel=1e-6)
    assert expected.item() == pytest.approx(by_hand, rel=1e-12)
    torch.testing.assert_close(gradient, scores.grad, rtol=1e-5, atol=1e-7)


def test_centering_makes_the_level_of_the_scores_matter():
    """A reward model of pairs alone is free to move all its scores by a constant."""
    shifted = [score + 1.0 for score in SCORES]
    plain, centred = RewardModel(), RewardModel(centering=0.1)
    assert reward_model_loss(plain, shifted)[0] == pytest.approx(reward_model_loss(plain, SCORES)[0], rel=1e-6)
    assert reward_model_loss(centred, shifted)[0] > reward_model_loss(centred, SCORES)[0] + 0.1
