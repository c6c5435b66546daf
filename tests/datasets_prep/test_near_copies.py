from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

from alignbench.records import Prompt
from datasets_prep.near_copies import first_copies, variants

VARIANTS = [
    "The old man in the corner shop said that she was",
    "The old man in the corner store said that she was",
    "Well, the old man in the corner shop said that she was",
    "the old man in the corner shop said that she was a",
]
OTHERS = ["But what he has shown us over the last year and", "A man, maybe in his 40s or 50s, had", "x", "y", ""]


def test_variants_are_found_and_strangers_are_not():
    assert first_copies([*VARIANTS, *OTHERS]) == [0, 0, 0, 0, 4, 5, 6, 7, 8]
    assert first_copies([OTHERS[0], *VARIANTS]) == [0, 1, 1, 1, 1]
    assert first_copies([]) == []


def test_against_every_pair_looked_at():
    rng = random.Random(0)
    words = ["one", "three", "seven", "eleven", "twelve", "thousand"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(120)]

    def shingles(text):
        return {text[i : i + 5] for i in range(max(1, len(text) - 4))}

    how_often = Counter(one for text in texts for one in shingles(text))
    kept = [{one for one in shingles(text) if how_often[one] <= 20} for text in texts]
    first, before = list(range(len(texts))), []
    near = combinations(range(len(texts)), 2)
    pairs = [(i, j) for i, j in near if 10 * len(kept[i] & kept[j]) >= 6 * len(kept[i] | kept[j]) > 0]
    while first != before:  # connected components the slow way
        before = list(first)
        for i, j in pairs:
            first[i] = first[j] = min(first[i], first[j])
    assert first_copies(texts) == first
    assert len(set(first)) < 110


def test_prompts_from_one_template_are_no_copies():
    rng = random.Random(1)
    nouns = ["".join(rng.choices("bcdfghjklmnprstvwz", k=8)) for _ in range(40)]
    texts = [f"Write a short story for children about a {noun}" for noun in nouns]
    assert first_copies(texts) == list(range(40))
    # Below twenty there is no telling a template from variants of a text: then they count as one.
    assert first_copies(texts[:6]) == [0] * 6


def test_scripts_without_spaces_are_compared_too():
    text = "昨日の夜、駅前の小さな店で会った男はとても怒っていて、"
    assert first_copies([f"{text}何も言わなかった", f"{text}何か言った", "今日は良い天気です"]) == [0, 0, 2]


def test_groups_are_those_of_the_data_or_near_copies():
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate([OTHERS[0], *VARIANTS])]
    assert variants(prompts) == {f"p{i}": "near copies of p1" for i in range(1, 5)}
    named = [Prompt("a", VARIANTS[0], group="1"), Prompt("b", VARIANTS[1]), Prompt("c", OTHERS[0], group="1")]
    assert variants([*named, Prompt("d", "x", group="2")]) == {"a": "1", "c": "1"}
    assert variants([]) == {}
