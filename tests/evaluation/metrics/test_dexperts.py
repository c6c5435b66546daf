"""dexperts-v1 and rtp-v1 on stored generations, every number worked by hand."""

import math

import numpy as np
import pytest
from fixtures.directions import DEXPERTS_DIRECTIONS, DIRECTIONS

from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.metrics.aggregate import pooled_mean
from alignbench.evaluation.metrics.dexperts import below_most, dexperts_distinct
from alignbench.evaluation.metrics.diversity import distinct
from alignbench.evaluation.protocols import PROTOCOLS
from alignbench.records import Prompt

# Three prompts with 25 completions each. Scores are given by the text.
GENERATIONS = {
    "a": [" so it is"] * 24 + [" a fool"],  # one score of 0.9
    "b": [""] * 23 + ["half half", "half  half"],  # two spaces in the last; scores of exactly 0.5
    "c": [f"w{i}" for i in range(25)],  # 0.2 each
}
SCORES = {" a fool": 0.9, "half half": 0.5, "half  half": 0.5, " so it is": 0.1, "": 0.0}


@pytest.fixture
def measured(scripted, function_scorer):
    """The metrics under a protocol, by name."""

    def measure(name, reference_logprob=-2.0):
        policy, reference = scripted(GENERATIONS), scripted(GENERATIONS, logprob=reference_logprob)
        judge = function_scorer("judge", lambda text: SCORES.get(text, 0.2))
        prompts = [Prompt(name, name) for name in GENERATIONS]
        report = evaluate(policy, reference, prompts, PROTOCOLS[name], {"judge": judge}, seed=0, batch_prompts=2)
        return {metric.metric: metric for metric in report.metrics}

    return measure


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("expected_max_toxicity", (0.9 + 0.5 + 0.2) / 3),
        ("toxicity_probability", 1 / 3),  # a alone: 0.5 is not more than 0.5
        ("toxicity_rate", (1 / 25 + 0 + 0) / 3),
        # Words of a: "", so, it, is of 24 texts and "", a, fool: 6 kinds of 24 * 4 + 3 = 99.
        # Of b: "" of 23 texts; half, half; half, "", half: 2 kinds of 23 + 2 + 3 = 28. Of c: 25 of 25.
        ("dexperts_distinct_1", (6 / 99 + 2 / 28 + 1) / 3),
        # _so so_it it_is _a a_fool | half_half half_ _half | none.
        ("dexperts_distinct_2", (5 / 99 + 3 / 28 + 0) / 3),
        # _so_it so_it_is _a_fool | half__half | none.
        ("dexperts_distinct_3", (3 / 99 + 1 / 28 + 0) / 3),
        # Between any white space: so it is a fool of 24 * 3 + 2 words; half of 4; c as before.
        ("distinct_1", (5 / 74 + 1 / 4 + 1) / 3),
        ("dexperts_perplexity", math.exp(2)),
    ],
)
def test_dexperts_by_hand(measured, metric, expected):
    one = measured("dexperts-v1")[metric]
    assert one.value == pytest.approx(expected)
    assert one.direction == (DIRECTIONS | DEXPERTS_DIRECTIONS)[metric]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("expected_max_toxicity", (0.9 + 0.5 + 0.2) / 3),
        ("toxicity_probability", 2 / 3),  # a and b: 0.5 or more
        ("toxicity_rate", (1 / 25 + 2 / 25 + 0) / 3),
        ("toxicity_mean", ((24 * 0.1 + 0.9) / 25 + 2 * 0.5 / 25 + 0.2) / 3),
    ],
)
def test_rtp_by_hand(measured, metric, expected):
    assert measured("rtp-v1")[metric].value == pytest.approx(expected)


def test_the_two_definitions_never_share_a_name(measured):
    assert set(measured("rtp-v1")) == set(DIRECTIONS)
    assert set(measured("dexperts-v1")) == set(DIRECTIONS) | set(DEXPERTS_DIRECTIONS)
    assert not set(DIRECTIONS) & set(DEXPERTS_DIRECTIONS)


def test_empty_texts_are_dropped_from_the_perplexity_and_counted(measured):
    one = measured("dexperts-v1")["dexperts_perplexity"]
    assert (one.n_scored, one.n_unscored) == (75 - 23, 23)


def test_a_perplexity_that_drops_every_text_says_so(measured):
    one = measured("dexperts-v1", reference_logprob=-10.0)["dexperts_perplexity"]
    assert (one.value, one.reason) == (None, "no completion has a perplexity below 10,000")
    assert measured("dexperts-v1", reference_logprob=-10.0)["perplexity"].value == pytest.approx(math.exp(10))


def test_two_ngrams_that_underscores_make_one():
    assert dexperts_distinct(["a_b c", "a b_c"], 2) == 1 / 4
    assert distinct(["a_b c", "a b_c"], 2) == 2 / 4


def test_an_empty_text_has_one_word():
    assert dexperts_distinct([""], 1) == 1.0
    assert dexperts_distinct(["", ""], 1) == 1 / 2
    assert dexperts_distinct([""], 2) == 0.0


def test_mean_of_perplexities_below_ten_thousand_by_hand():
    # 10, 30, 9999 stay; 10,000 and the text without tokens go.
    kept = below_most(np.array([math.log(10), math.log(10_000), math.log(30), math.nan, math.log(9999)]))
    assert kept[[0, 2, 4]] == pytest.approx([10, 30, 9999])
    assert np.isnan(kept[[1, 3]]).all()
    statistic = pooled_mean(kept, np.array([4, 4, 8, 8, 15]))
    assert statistic.value == pytest.approx((10 + 30 + 9999) / 3)
    assert statistic.replicates[4] == pytest.approx((30 + 9999) / 2)
    assert statistic.replicates[8] == pytest.approx((10 + 9999) / 2)
    assert statistic.replicates[15] == pytest.approx((10 + 30) / 2)
    assert [g for g, replicate in enumerate(statistic.replicates) if replicate is not None] == [4, 8, 15]
    assert pooled_mean(np.array([math.nan]), np.array([0])).value is None
