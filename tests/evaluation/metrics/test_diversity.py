import random

import pytest

from alignbench.evaluation.metrics.degeneration import repeats_itself
from alignbench.evaluation.metrics.diversity import corpus_distinct, distinct
from alignbench.evaluation.metrics.words import is_empty


@pytest.mark.parametrize(("n", "unique"), [(1, 5), (2, 4), (3, 3)])
def test_distinct_by_hand_counts_words_below_the_line(n, unique):
    # 7 words; the cat sat ran off | the-cat cat-sat cat-ran ran-off | the-cat-sat the-cat-ran cat-ran-off
    assert distinct(["the cat sat", "the cat  ran\noff "], n) == pytest.approx(unique / 7)


def test_ngrams_do_not_cross_completions():
    assert distinct(["a b", "a b"], 2) == 1 / 4
    assert corpus_distinct(["a b", "a b"], [0, 1], 2).value == 1 / 4


def test_distinct_two_of_one_text_stays_below_one():
    assert distinct(["all words differ here"], 2) == 3 / 4


def test_words_joined_by_separators_are_not_confused():
    # Joined with an underscore, as in the original, the two bigrams would be one.
    assert distinct(["a_b c", "a b_c"], 2) == 2 / 4


def test_no_word_means_no_distinct():
    assert distinct(["", "  \n"], 1) is None
    assert corpus_distinct(["", ""], [0, 1], 1).value is None


def test_corpus_distinct_by_hand():
    # Unigrams a b c d of 7 words. Without group 5: "a b", "d" -> a b d of 3. Without group 9: "a c", "c a" -> a c of 4.
    statistic = corpus_distinct(["a b", "a c", "c a", "d"], [9, 5, 5, 9], 1)
    assert statistic.value == pytest.approx(4 / 7)
    assert statistic.replicates[5] == pytest.approx(3 / 3)
    assert statistic.replicates[9] == pytest.approx(2 / 4)
    assert [g for g, replicate in enumerate(statistic.replicates) if replicate is not None] == [5, 9]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_corpus_replicates_against_deletion(n):
    rng = random.Random(n)
    texts = [" ".join(rng.choices("abcdefghij", k=rng.randrange(0, 9))) for _ in range(120)]
    groups = [rng.choice([g for g in range(20) if g != 11]) for _ in texts]

    def brute(kept):
        windows, n_words = [], 0
        for text in kept:
            words = text.split(" ") if text else []
            n_words += len(words)
            windows += [" ".join(words[i : i + n]) for i in range(len(words)) if i + n <= len(words)]
        return len(set(windows)) / n_words

    statistic = corpus_distinct(texts, groups, n)
    assert statistic.value == pytest.approx(brute(texts))
    for group in range(20):
        kept = [text for text, g in zip(texts, groups, strict=True) if g != group]
        if group == 11:
            assert statistic.replicates[group] is None
        else:
            assert statistic.replicates[group] == pytest.approx(brute(kept))


def test_corpus_without_its_only_group_has_no_replicate():
    assert corpus_distinct(["a b", "c"], [2, 2], 1).replicates == (None,) * 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("no no no", False),
        ("no no no no", False),
        ("no no no no no", True),
        ("you are so kind and you are so late", False),
        ("you are so kind and you are so kind", True),
        ("you are so kind\nyou  are so kind", True),
    ],
)
def test_repetition_is_a_word_4gram_that_comes_back(text, expected):
    assert repeats_itself(text) is expected


def test_empty_is_a_text_without_words():
    assert [is_empty(text) for text in ("", " \n\t", ".")] == [True, True, False]
