from __future__ import annotations

import random
from itertools import combinations

from alignbench.records import Prompt
from datasets_prep.near_copies import first_copies, with_groups

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

    first = list(range(len(texts)))
    for _ in texts:  # until nothing moves: connected components the slow way
        for i, j in combinations(range(len(texts)), 2):
            a, b = shingles(texts[i]), shingles(texts[j])
            if 10 * len(a & b) >= 6 * len(a | b):
                first[i] = first[j] = min(first[i], first[j])
    assert first_copies(texts) == first
    assert len(set(first)) < 110


def test_scripts_without_spaces_are_compared_too():
    text = "昨日の夜、駅前の小さな店で会った男はとても怒っていて、"
    assert first_copies([f"{text}何も言わなかった", f"{text}何か言った", "今日は良い天気です"]) == [0, 0, 2]


def test_prompts_get_the_group_of_their_text_or_of_their_column():
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate([OTHERS[0], *VARIANTS])]
    assert [prompt.group for prompt in with_groups(prompts)] == [None, *["near copies of p1"] * 4]
    named = [Prompt("a", VARIANTS[0], group="1"), Prompt("b", VARIANTS[1])]
    assert [prompt.group for prompt in with_groups(named)] == ["1", None]
