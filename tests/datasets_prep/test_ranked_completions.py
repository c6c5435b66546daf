"""All completions of a prompt, best first: order, ties, what takes no part."""

import pytest

from alignbench.errors import DataError
from alignbench.records import Completion, Prompt
from datasets_prep.ranked_completions import rank_completions

PROMPTS = [Prompt("a", "one"), Prompt("b", "two"), Prompt("c", "three")]


def drawn(**texts):
    """Completions and rewards: of each prompt a list of texts with theirs."""
    rows = [
        (Completion(key, i, text, (i,), "length"), reward)
        for key, of_prompt in texts.items()
        for i, (text, reward) in enumerate(of_prompt)
    ]
    return [one for one, _ in rows], [reward for _, reward in rows]


def test_the_best_comes_first_and_equals_as_they_were_drawn():
    texts = [("bad", 0.1), ("good", 0.9), ("fair", 0.5), ("fine", 0.5 + 1e-8), ("worst", -3.0)]
    ranked, statistics = rank_completions(PROMPTS[:1], *drawn(a=texts))
    assert [one.text for one in ranked[0].completions] == ["good", "fine", "fair", "bad", "worst"]
    assert ranked[0].ranks == (0, 1, 1, 2, 3)
    assert (statistics["n_ranked"], statistics["mean_ranked"]) == (1, 5)
    assert statistics["mean_range"] == pytest.approx(3.9)


def test_only_the_order_of_rewards_counts():
    texts = [("bad", 0.1), ("good", 0.9), ("fair", 0.5), ("same", 0.5)]
    grown = [(text, reward**3 * 100 - 7) for text, reward in texts]
    assert rank_completions(PROMPTS[:1], *drawn(a=texts))[0] == rank_completions(PROMPTS[:1], *drawn(a=grown))[0]


def test_what_ranks_nothing_takes_no_part():
    completions, rewards = drawn(
        a=[("x", 1.0), ("y", 1.0)], b=[("x", 1.0), ("x", 0.0), (" ", 2.0), ("z", None)], c=[("x", 0.0), ("y", 1.0)]
    )
    ranked, statistics = rank_completions(PROMPTS, completions, rewards)
    assert [one.prompt.id for one in ranked] == ["c"]
    assert {key: statistics[key] for key in ("n_dropped_tie", "n_dropped_too_few", "n_unscored", "n_blank")} == {
        "n_dropped_tie": 1, "n_dropped_too_few": 1, "n_unscored": 1, "n_blank": 1,
    }  # fmt: skip


def test_no_prompt_at_all_is_refused():
    with pytest.raises(DataError, match=r"no prompt of 1 .* 0 have fewer than two different scored ones, 1 only equal"):
        rank_completions(PROMPTS[:1], *drawn(a=[("x", 1.0), ("y", 1.0)]))
