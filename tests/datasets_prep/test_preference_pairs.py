from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from alignbench.errors import DataError, ScorerError
from alignbench.records import Completion, PreferencePair, Prompt
from datasets_prep.preference_pairs import build_pairs
from datasets_prep.settings import PairSettings

P, Q = Prompt("p", "first prompt"), Prompt("q", "second prompt")


def drawn(prompt: Prompt, *texts: str) -> list[Completion]:
    """One completion per text, one token per word."""
    return [
        Completion(prompt.id, sample, text, tuple(range(len(text.split()))), "length")
        for sample, text in enumerate(texts)
    ]


def texts(pairs: Sequence[PreferencePair]) -> list[tuple[str, str]]:
    return [(pair.chosen.text, pair.rejected.text) for pair in pairs]


def test_best_against_worst() -> None:
    completions = drawn(P, "fine", "rude word", "nice", "very rude word") + drawn(Q, "one two", "one")
    pairs, statistics = build_pairs([P, Q], completions, [0.5, -1.0, 2.0, -2.5, 1.0, 0.25], PairSettings())
    assert texts(pairs) == [("nice", "very rude word"), ("one two", "one")]
    assert (pairs[0].prompt, pairs[0].chosen_reward, pairs[0].rejected_reward) == (P, 2.0, -2.5)
    assert (pairs[0].chosen.sample, pairs[0].rejected.sample) == (2, 3)
    assert statistics == {
        "n_prompts": 2,
        "n_completions": 6,
        "n_unscored": 0,
        "n_blank": 0,
        "n_repeated_completions": 0,
        "n_pairs": 2,
        "n_dropped_too_few": 0,
        "n_dropped_tie": 0,
        "n_dropped_margin": 0,
        "n_dropped_length_ratio": 0,
        "n_dropped_repeated": 0,
        "mean_margin": 2.625,  # (4.5 + 0.75) / 2
        "mean_chosen_tokens": 1.5,  # (1 + 2) / 2
        "mean_rejected_tokens": 2.0,  # (3 + 1) / 2
        "share_chosen_shorter": 0.5,
    }


def test_every_two_the_better_against_the_worse() -> None:
    completions = drawn(P, "fine", "rude word", "nice", "also nice") + drawn(Q, "one")
    settings = PairSettings(take="all", min_margin=1.0)
    pairs, statistics = build_pairs([P, Q], completions, [0.5, -1.0, 2.0, 2.0, 1.0], settings)
    assert texts(pairs) == [
        *(("nice", "fine"), ("nice", "rude word"), ("also nice", "fine"), ("also nice", "rude word")),
        ("fine", "rude word"),
    ]
    assert [(pair.chosen_reward, pair.rejected_reward) for pair in pairs[::4]] == [(2.0, 0.5), (0.5, -1.0)]
    expected = {"n_pairs": 5, "n_dropped_tie": 1, "n_dropped_too_few": 1, "n_dropped_margin": 0}
    assert {name: statistics[name] for name in expected} == expected
    narrow, statistics = build_pairs(
        [P], completions[:4], [0.5, -1.0, 2.0, 2.0], settings.model_copy(update={"min_margin": 2.0})
    )
    assert texts(narrow) == [("nice", "rude word"), ("also nice", "rude word")]
    assert statistics["n_dropped_margin"] == 3


def test_tokens_are_counted_without_the_end_of_sequence() -> None:
    ended = [Completion("p", 0, "a b", (1, 2, 0), "eos"), Completion("p", 1, "c d", (3, 4), "length")]
    _, statistics = build_pairs([P], ended, [1.0, 0.0], PairSettings())
    assert (statistics["mean_chosen_tokens"], statistics["share_chosen_shorter"]) == (2.0, 0.0)


def test_among_equal_rewards_the_first_drawn_counts_in_any_order_of_rows() -> None:
    completions = drawn(P, "a", "b", "c", "d")
    forward, _ = build_pairs([P], completions, [1.0, 1.0, 0.0, 0.0], PairSettings())
    backward, _ = build_pairs([P], completions[::-1], [0.0, 0.0, 1.0, 1.0], PairSettings())
    assert texts(forward) == texts(backward) == [("a", "c")]


def test_ties_give_no_pair() -> None:
    completions = drawn(P, "a", "b", "c") + drawn(Q, "a", "b")
    pairs, statistics = build_pairs([P, Q], completions, [0.7, 0.7, 0.7 + 5e-7, 1.0, 0.0], PairSettings())
    assert texts(pairs) == [("a", "b")]
    assert statistics["n_dropped_tie"] == 1


def test_the_margin_itself_is_enough() -> None:
    completions = drawn(P, "a", "b") + drawn(Q, "a", "b")
    pairs, statistics = build_pairs([P, Q], completions, [1.0, 0.5, 1.0, 0.5625], PairSettings(min_margin=0.5))
    assert [pair.prompt for pair in pairs] == [P]
    assert statistics["n_dropped_margin"] == 1


def test_unscored_completions_take_no_part() -> None:
    completions = drawn(P, "best but unscored", "middle", "worst") + drawn(Q, "a", "b")
    pairs, statistics = build_pairs([P, Q], completions, [None, 1.0, 0.0, 1.0, None], PairSettings())
    assert texts(pairs) == [("middle", "worst")]
    assert (statistics["n_unscored"], statistics["n_dropped_too_few"]) == (2, 1)


def test_blank_completions_take_no_part() -> None:
    pairs, statistics = build_pairs([P], drawn(P, "", " \n", "a", "b"), [9.0, 8.0, 1.0, 0.0], PairSettings())
    assert texts(pairs) == [("a", "b")]
    assert statistics["n_blank"] == 2


def test_identical_completions_never_make_a_pair() -> None:
    completions = drawn(P, "same", "same ", "same") + drawn(Q, "same", "same", "other")
    pairs, statistics = build_pairs([P, Q], completions, [0.0, 1.0, 2.0, 0.5, 0.9, 0.1], PairSettings())
    assert [(pair.prompt, pair.chosen.text, pair.chosen_reward) for pair in pairs] == [(Q, "same", 0.5)]
    assert statistics["n_repeated_completions"] == 3
    assert statistics["n_dropped_too_few"] == 1


def test_a_repeated_pair_is_dropped() -> None:
    twin = Prompt("p2", P.text)
    pairs, statistics = build_pairs(
        [P, twin], drawn(P, "a", "b") + drawn(twin, "b", "a"), [1.0, 0.0, 0.0, 1.0], PairSettings()
    )
    assert [pair.prompt.id for pair in pairs] == ["p"]
    assert statistics["n_dropped_repeated"] == 1


def test_length_control() -> None:
    completions = drawn(P, "one two three", "one") + drawn(Q, "one two", "one")
    rewards = [1.0, 0.0, 0.0, 1.0]
    pairs, statistics = build_pairs([P, Q], completions, rewards, PairSettings(max_length_ratio=2.0))
    assert [pair.prompt for pair in pairs] == [Q]
    assert statistics["n_dropped_length_ratio"] == 1
    assert len(build_pairs([P, Q], completions, rewards, PairSettings())[0]) == 2


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_stops(reward: float) -> None:
    with pytest.raises(ScorerError, match=r"sample 1 of prompt 'p' is -?(nan|inf), expected a finite number or None"):
        build_pairs([P], drawn(P, "a", "b"), [0.0, reward], PairSettings())


def test_no_pair_at_all_tells_why() -> None:
    completions = drawn(P, "a", "b", "c") + drawn(Q, "a", "b")
    with pytest.raises(
        DataError, match=r"5 completions \(1 unscored, 0 blank\) of 2 prompts: 2 had too small.*pairs.min_margin"
    ):
        build_pairs([P, Q], completions, [0.5, None, 0.25, 1.0, 0.5], PairSettings(min_margin=9.0))


def test_completions_must_belong_to_the_prompts() -> None:
    with pytest.raises(ValueError, match="prompt 'q'"):
        build_pairs([P], drawn(Q, "a", "b"), [0.0, 1.0], PairSettings())
    with pytest.raises(ValueError, match="shorter"):
        build_pairs([P], drawn(P, "a", "b"), [0.0], PairSettings())
