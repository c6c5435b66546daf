"""Wanted and unwanted completions, worked out by hand."""

from __future__ import annotations

import math

import pytest

from alignbench.errors import DataError, ScorerError
from alignbench.records import Completion, LabelledCompletion, Prompt
from datasets_prep.labelled_completions import label_completions
from datasets_prep.settings import LabelledCompletionSettings

A, B = Prompt("a", "one"), Prompt("b", "two")


def completion(prompt: Prompt, sample: int, text: str = "") -> Completion:
    return Completion(prompt.id, sample, text or f"text {sample}", (sample + 1,), "length")


DRAWN = [completion(A, 0), completion(A, 1), completion(A, 2, " "), completion(B, 0), completion(B, 1, "text 0"),
         completion(B, 2)]  # fmt: skip
REWARDS = [0.9, -1.0, 5.0, 0.25, 0.75, None]


def test_the_median_parts_them_where_no_threshold_is_given() -> None:
    # Blank (5.0), repeated (0.75) and unscored ones take no part; the median of -1, 0.25 and 0.9 is 0.25.
    labelled, statistics = label_completions([A, B], DRAWN, REWARDS, LabelledCompletionSettings())
    assert labelled == [
        LabelledCompletion(A, DRAWN[0], True, 0.9),
        LabelledCompletion(A, DRAWN[1], False, -1.0),
        LabelledCompletion(B, DRAWN[3], True, 0.25),
    ]
    assert statistics == {
        "n_prompts": 2,
        "n_completions": 6,
        "n_unscored": 1,
        "n_blank": 1,
        "n_repeated_completions": 1,
        "n_wanted": 2,
        "n_unwanted": 1,
        "wanted_from": 0.25,
        "mean_wanted_reward": pytest.approx(0.575),
        "mean_unwanted_reward": -1.0,
    }


@pytest.mark.parametrize(("threshold", "wanted"), [(0.9, [True, False, False]), (0.26, [True, False, False]),
                                                   (-0.5, [True, False, True])])  # fmt: skip
def test_a_threshold_takes_in_its_own_value(threshold: float, wanted: list[bool]) -> None:
    settings = LabelledCompletionSettings(wanted_from=threshold)
    labelled, statistics = label_completions([A, B], DRAWN, REWARDS, settings)
    assert [one.is_wanted for one in labelled] == wanted
    assert statistics["wanted_from"] == threshold


@pytest.mark.parametrize("threshold", [0.91, -1.0])
def test_one_label_for_all_is_refused(threshold: float) -> None:
    settings = LabelledCompletionSettings(wanted_from=threshold)
    with pytest.raises(DataError, match=r"labelled_completions.wanted_from: .* theirs go from -1 to 0.9"):
        label_completions([A, B], DRAWN, REWARDS, settings)
    # Who reads the rewards alone takes them: all have the lowest one as often as not, where rewards are words found.
    labelled, statistics = label_completions([A, B], DRAWN, REWARDS, settings, both_kinds=False)
    assert [one.reward for one in labelled] == [0.9, -1.0, 0.25]
    assert {statistics["n_wanted"], statistics["n_unwanted"]} == {0, 3}
    assert ("mean_wanted_reward" in statistics) is (threshold < 0)


def test_equal_rewards_nothing_to_label_and_no_number() -> None:
    settings = LabelledCompletionSettings()
    with pytest.raises(DataError, match="wanted_from: got 1, expected a reward"):
        label_completions([A], DRAWN[:2], [1.0, 1.0], settings)
    with pytest.raises(DataError, match="none of 2 completions can be labelled: 2 have no score"):
        label_completions([A], DRAWN[:2], [None, None], settings)
    with pytest.raises(ScorerError, match="reward of sample 1 of prompt 'a' is nan"):
        label_completions([A], DRAWN[:2], [1.0, math.nan], settings)
