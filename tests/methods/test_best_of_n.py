"""Best of n against every answer written down: which is chosen, how often it wins, how far it goes, what it costs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from fixtures.lottery import WORDS, Lottery, Marks

from alignbench.errors import ModelError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.probes.divergence import measure_divergence
from alignbench.evaluation.protocols import get_protocol
from alignbench.methods.base import TrainData
from alignbench.methods.best_of_n import BestOf, BestOfN, most_divergence
from alignbench.methods.word_filter import Filtered
from alignbench.models.loading import load_policy
from alignbench.models.within import language_model_of
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt(f"p{i}", "x") for i in range(1000)]
DECODING = Decoding(2)
KEY = (0, "best")


def untied(text):
    """A number of its own for each of the 16 answers."""
    return float(sorted("".join(pair) for pair in itertools.product(WORDS, repeat=2)).index(text))


def oracle(n, mark):
    """The distribution of the best of n by counting all n-tuples of answers, slowly: by answer."""
    answers = Lottery().answers()
    found = dict.fromkeys(answers, 0.0)
    for drawn in itertools.product(answers, repeat=n):
        scores = [mark("".join(WORDS[i] for i in ids)) for ids in drawn]
        found[drawn[scores.index(max(scores))]] += math.prod(answers[ids] for ids in drawn)
    return found


def divergence(mine, other):
    return sum(p * math.log(p / other[ids]) for ids, p in mine.items() if p)


@pytest.mark.parametrize("mark", [untied, lambda text: float(text.startswith("a"))], ids=["untied", "0 or 1"])
def test_the_answers_are_those_of_counting_all_tuples(mark):
    expected = oracle(3, mark)
    drawn = BestOf(Lottery(), 3, Marks(mark), ()).generate(PROMPTS, DECODING, 2, KEY)
    for ids, probability in expected.items():
        share = np.mean([one.token_ids == ids for one in drawn])
        assert share == pytest.approx(probability, abs=4 * math.sqrt(0.25 / len(drawn)))


def test_the_bound_holds_and_is_reached_where_none_tie():
    answers = Lottery().answers()
    assert most_divergence(1) == 0
    assert most_divergence(3) == pytest.approx(math.log(3) - 2 / 3)
    for n in (2, 3):
        assert divergence(oracle(n, untied), answers) <= most_divergence(n)
        assert divergence(oracle(n, lambda text: 1.0), answers) == pytest.approx(0, abs=1e-12)
    # Of 64 answers as likely as each other, none worth as much as another, the best of n is the k-th with
    # probability (k^n - (k - 1)^n) / 64^n: the finer the answers, the nearer is the bound.
    fine = [(k**4 - (k - 1) ** 4) / 64**4 for k in range(1, 65)]
    reached = sum(p * math.log(64 * p) for p in fine)
    assert reached == pytest.approx(most_divergence(4), abs=2e-2)
    assert reached <= most_divergence(4)


@pytest.mark.parametrize("n", [1, 4, 16])
def test_it_wins_n_of_n_plus_one_without_ties(n):
    """Against one more draw, with rewards that no two answers share; of 0 or 1, which tie, half a win for a tie."""
    chance = np.random.default_rng(0)
    marks = chance.random(20_000)
    one_draw, best = marks[:1000], [marks[1000 + n * i : 1000 + n * (i + 1)].max() for i in range(1000)]
    policy = BestOf(Numbered(), n, Marks(lambda text: marks[1000 + int(text)]), ())
    chosen = policy.generate([Prompt(str(i), "x") for i in range(1000)], DECODING, 1, KEY)
    got = [marks[1000 + int(one.text)] for one in chosen]
    assert got == best
    assert np.mean(got > one_draw) == pytest.approx(n / (n + 1), abs=4 * math.sqrt(0.25 / 1000))


class Numbered(Lottery):
    """Every draw has a text of its own: its number."""

    def answer(self, prompt, sample, key):
        return replace(super().answer(prompt, sample, key), text=str(self.n_drawn - 1))


def test_with_a_reward_of_0_or_1_its_wins_and_half_its_ties_are_four_fifths():
    """Two answers in five are good: of 16 one is, nearly always, and ties with those of two draws in five."""
    good = Marks(lambda text: float(text.startswith("a")))
    chosen = BestOf(Lottery(), 16, good, ()).generate(PROMPTS, DECODING, 1, KEY)
    others = Lottery().generate(PROMPTS, DECODING, 1, (1, "another"))
    mine, theirs = (np.array(good.score([], [one.text for one in drawn])) for drawn in (chosen, others))
    assert np.mean((mine > theirs) + 0.5 * (mine == theirs)) == pytest.approx(0.80, abs=0.03)


def test_one_of_one_is_the_policy_bit_for_bit(run_context, tiny_policy):
    run, _ = run_context(tiny_policy())
    policy = BestOfN(n=1).train(TrainData([], []), run)
    assert policy.generate(PROMPTS[:5], Decoding(6), 3, KEY) == tiny_policy().generate(PROMPTS[:5], Decoding(6), 3, KEY)


def test_an_answer_without_a_score_is_the_last_choice():
    marks = {ids: None if ids[0] == 0 else -5.0 for ids in Lottery().answers()}
    texts = {"".join(WORDS[i] for i in ids): mark for ids, mark in marks.items()}
    drawn = BestOf(Lottery(), 4, Marks(texts.__getitem__), ()).generate(PROMPTS[:500], DECODING, 1, KEY)
    first = Lottery().generate(PROMPTS[:500], DECODING, 4, KEY)
    for i, one in enumerate(drawn):
        if one.token_ids[0] == 0:
            assert {other.token_ids[0] for other in first[4 * i : 4 * i + 4]} == {0}


def test_n_answers_and_n_readings_are_paid_for_one():
    policy = BestOf(Lottery(), 4, Marks(untied), ())
    policy.generate(PROMPTS[:10], DECODING, 3, KEY)
    assert (policy.spent.generated_tokens, policy.spent.reward_calls) == (10 * 3 * 4 * 2, 10 * 3 * 4)
    assert policy.spent.generation_flops == 10 * 3 * 4 * 10.0
    report = evaluate(policy, Lottery(), PROMPTS[:20], get_protocol("quickstart-v1"), {})
    cost = report.answer_cost
    assert (cost.generated_tokens, cost.flops, cost.reward_calls) == (8.0, 40.0, 4.0)


def test_its_divergence_is_a_bound_and_called_one():
    policy = BestOf(Lottery(), 4, Marks(untied), ())
    found = {m.metric: m for m in evaluate(policy, Lottery(), PROMPTS[:20], "quickstart-v1", {}).metrics}
    assert found["kl_bound"].value == pytest.approx(most_divergence(4))
    assert found["kl_bound"].direction == "none"
    for name in ("kl", "kl_k3", "kl_exact"):
        assert found[name].value is None
    plain = {m.metric for m in evaluate(Lottery(), Lottery(), PROMPTS[:20], "quickstart-v1", {}).metrics}
    assert "kl_bound" not in plain


def test_over_a_trained_policy_the_chosen_answers_log_ratio_comes_to_the_bound():
    """The true divergence of the best of 2 from the reference, by the oracle, is at most what is reported."""
    trained, reference = Lottery(), Lottery((0.1, 0.2, 0.3, 0.4))
    chosen, others = oracle(2, untied), reference.answers()
    log_ratio = sum(p * math.log(trained.answers()[ids] / others[ids]) for ids, p in chosen.items())
    measured = measure_divergence(BestOf(trained, 2, Marks(untied), ()), reference, PROMPTS, 0, 0)
    assert np.isnan(measured.k1).all()
    error = measured.bound.std() / math.sqrt(len(PROMPTS))
    assert measured.bound.mean() == pytest.approx(most_divergence(2) + log_ratio, abs=4 * error)
    assert divergence(chosen, others) < most_divergence(2) + log_ratio


def test_where_the_policy_within_has_no_log_probabilities_there_is_no_bound():
    measured = measure_divergence(
        BestOf(BestOf(Lottery(), 2, Marks(untied), ()), 2, Marks(untied), ()), Lottery(), PROMPTS[:5], 0, 0
    )
    assert np.isnan(measured.bound).all()


def test_over_a_policy_of_any_kind_that_a_run_has_given(tiny_policy, tmp_path):
    """`policy.run` of a recipe whose policy is no language model: parts have the model within, the method the whole."""
    within = Filtered(tiny_policy(), ["dog"], 4)
    within.save(tmp_path / "upstream")
    best = BestOf(load_policy(tmp_path / "upstream"), 3, Marks(lambda text: float(len(text))), ())
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat", "two", "one red bird"))]
    drawn = best.generate(prompts, Decoding(5), 2, KEY)
    assert not [one for one in drawn if "dog" in one.text.split()]
    longest = within.generate(prompts, Decoding(5), 6, KEY)
    assert [len(one.text) for one in drawn] == [
        max(len(one.text) for one in longest[3 * i : 3 * i + 3]) for i in range(8)
    ]
    assert language_model_of(best) is best.base.base
    with pytest.raises(ModelError, match="a Lottery has no language model within"):
        language_model_of(Lottery())
