"""Self-BLEU against nltk, which is what Texygen calls, one text at a time."""

import math
from random import Random

import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.metrics.self_bleu import self_bleu
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.records import Decoding, Prompt

WORDS = ("you", "are", "so", "kind", "rude", "grey", "and", "late")


def oracle(texts):
    words = [text.split() for text in texts]
    method = SmoothingFunction().method1
    scores = [
        sentence_bleu(words[:i] + words[i + 1 :], words[i], weights=(0.25,) * 4, smoothing_function=method)
        for i in range(len(words))
    ]
    return sum(scores) / len(scores)


def random_texts(n, n_words, seed, longest=12):
    rng = Random(seed)
    return [" ".join(rng.choices(WORDS[:n_words], k=rng.randint(1, longest))) for _ in range(n)]


@pytest.mark.parametrize(("n_words", "longest"), [(2, 4), (3, 12), (8, 12), (8, 30)])
def test_value_and_every_replicate_are_nltks(n_words, longest):
    texts = random_texts(32, n_words, seed=n_words, longest=longest)
    texts += [texts[0], "alone", "so so so so so so so"]
    rng = Random(1)
    groups = [rng.choice([g for g in range(20) if g != 11]) for _ in texts]
    statistic = self_bleu(texts, groups)
    assert statistic.value == pytest.approx(oracle(texts), rel=1e-12)
    for group in range(20):
        if group not in groups:
            assert statistic.replicates[group] is None
            continue
        kept = [text for text, g in zip(texts, groups, strict=True) if g != group]
        assert statistic.replicates[group] == pytest.approx(oracle(kept), rel=1e-12)


def test_by_hand():
    # Of both texts four of four words, a-b of three bigrams, none of two trigrams, none of one 4-gram.
    bleu = (4 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25
    assert self_bleu(["a b d c", "a b c d"], [0, 1]).value == pytest.approx(bleu)
    scores = [
        # "a a": one of two words, the other is in no reference twice; the closest reference has three words.
        (1 / 2 * 0.1 * 0.1 * 0.1) ** 0.25 * math.exp(1 - 3 / 2),
        # "b c a": references of two and of four words are equally close, so the shorter counts.
        (3 / 3 * 0.1 / 2 * 0.1 * 0.1) ** 0.25,
        # "a c b d": all words but d.
        (3 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1) ** 0.25,
    ]
    assert self_bleu(["a a", "b c a", "a c b d"], [0, 1, 2]).value == pytest.approx(sum(scores) / 3)


def test_equal_texts_have_one_and_texts_without_a_common_word_zero():
    assert self_bleu(["you are so kind"] * 5, [0, 1, 2, 3, 4]).value == pytest.approx(1.0)
    assert self_bleu(["you are", "so kind", "rude"], [0, 1, 2]).value == 0.0


def test_group_that_holds_nearly_everything():
    statistic = self_bleu(["you are", "so kind", "rude"], [3, 3, 4])
    assert statistic.replicates[3] is None  # one text has no reference
    assert statistic.replicates[4] == 0.0
    assert self_bleu(["you are", "so kind"], [3, 3]).replicates == (None,) * 20


def test_first_completion_of_each_of_the_first_400_prompts_with_words(scripted):
    texts = random_texts(420, 8, seed=0, longest=6)
    texts[5] = " "
    policy = scripted({f"p{i}": [text, "never looked at"] for i, text in enumerate(texts)})
    prompts = [Prompt(f"p{i}", "x") for i in range(420)]
    protocol = EvalProtocol("double", 2, Decoding(30), "nowhere", 420)
    report = evaluate(policy, policy, prompts, protocol, {}, seed=0, batch_prompts=100)
    (metric,) = [metric for metric in report.metrics if metric.metric == "self_bleu"]
    assert metric.value == pytest.approx(oracle([text for text in texts[:400] if text.strip()]))
    assert (metric.n_scored, metric.n_unscored, sum(metric.group_sizes)) == (399, 1, 399)
    assert metric.ci_low < metric.value < metric.ci_high
