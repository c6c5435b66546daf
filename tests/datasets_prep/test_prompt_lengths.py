from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from alignbench.records import Prompt
from datasets_prep.prompt_lengths import PromptCutter, TextTokenizer, drawn_length

LONG = [Prompt(str(i), f"{i} " + " ".join(f"w{j}" for j in range(30))) for i in range(200)]


def cut_all(
    pool: Sequence[Prompt], tokenizer: TextTokenizer, prompt_tokens: tuple[int, int] | None, context_tokens: int = 1000
) -> tuple[list[Prompt], Counter[str]]:
    counts: Counter[str] = Counter()
    cutter = PromptCutter(tokenizer, context_tokens, prompt_tokens, seed=0)
    return [cut for _, cut in cutter.cut(pool, None, counts)], counts


def test_lengths_are_uniform_with_both_ends() -> None:
    drawn = Counter(drawn_length(0, f"id{i}", 10, 15) for i in range(6000))
    assert set(drawn) == {10, 11, 12, 13, 14, 15}
    # Each count is binomial(6000, 1/6): mean 1000, standard deviation 28.9.
    assert all(abs(count - 1000) < 116 for count in drawn.values())


def test_a_length_depends_on_seed_and_id() -> None:
    ids = [f"id{i}" for i in range(100)]
    assert [drawn_length(0, i, 1, 1000) for i in ids] == [drawn_length(0, i, 1, 1000) for i in ids]
    assert [drawn_length(0, i, 1, 1000) for i in ids] != [drawn_length(1, i, 1, 1000) for i in ids]
    assert len({drawn_length(0, i, 1, 1000) for i in ids}) > 80


def test_a_range_of_one_length() -> None:
    assert drawn_length(0, "x", 7, 7) == 7


def test_long_prompts_are_cut_to_the_drawn_length(words: TextTokenizer) -> None:
    cuts, counts = cut_all(LONG, words, (3, 6))
    assert len(cuts) == 200
    assert not counts
    for before, after in zip(LONG, cuts, strict=True):
        assert before.text.startswith(after.text)
        assert (after.id, after.toxicity) == (before.id, before.toxicity)
        assert len(after.text.split()) == drawn_length(0, before.id, 3, 6)


def test_a_prompt_shorter_than_its_draw_stays_whole_from_the_lowest_length_on(words: TextTokenizer) -> None:
    at_lowest = next(str(i) for i in range(100) if drawn_length(0, str(i), 3, 6) == 6)
    pool = [Prompt(at_lowest, "only three words"), Prompt("short", "two words")]
    cuts, counts = cut_all(pool, words, (3, 6))
    assert [cut.text for cut in cuts] == ["only three words"]
    assert counts == {"n_too_short": 1}


def test_other_prompts_do_not_change_a_cut(words: TextTokenizer) -> None:
    alone = {prompt.id: cut_all([prompt], words, (3, 6))[0][0] for prompt in LONG}
    together, _ = cut_all(LONG[::-1], words, (3, 6))
    assert {cut.id: cut for cut in together} == alone


def test_a_cut_never_splits_a_character(utf8_bytes: TextTokenizer) -> None:
    pool = [Prompt(str(i), f"{i:03d}" + "é" * 10) for i in range(50)]
    cuts, counts = cut_all(pool, utf8_bytes, (4, 9))
    # 3 digits and n characters of 2 bytes: 4 drawn leaves 3 bytes, too few; 5 and 6 give 5, 7 and 8 give 7, 9 gives 9.
    drawn = Counter(drawn_length(0, prompt.id, 4, 9) for prompt in pool)
    assert counts == {"n_uncuttable": drawn[4]}
    lengths = Counter(len(cut.text.encode()) for cut in cuts)
    assert lengths == {5: drawn[5] + drawn[6], 7: drawn[7] + drawn[8], 9: drawn[9]}
    assert not any("\ufffd" in cut.text for cut in cuts)


class GrowingTokenizer:
    """Decodes to words of its own, so that a text may be encoded as more tokens than it was decoded from."""

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join("ab" if n == 2 else "c c" for n in token_ids)


def test_the_length_counts_as_the_policy_reads_it() -> None:
    # Tokens 3 decode to two words each: "ab c c" from two tokens is read as three, "ab c c c c" from three as five.
    cuts, counts = cut_all([Prompt("x", "ab abc abc abc abc")], GrowingTokenizer(), (2, 4))
    assert not counts
    assert [cut.text for cut in cuts] == ["ab c c"]


def test_prompts_beyond_the_context_are_counted(words: TextTokenizer) -> None:
    pool = [Prompt("1", "one two three"), Prompt("2", "one two three four")]
    cuts, counts = cut_all(pool, words, None, context_tokens=3)
    assert [cut.id for cut in cuts] == ["1"]
    assert counts == {"n_too_long": 1}


def test_texts_that_cutting_makes_equal_are_used_once(words: TextTokenizer) -> None:
    pool = [Prompt("1", "Once upon a time"), Prompt("2", "once UPON another day"), Prompt("3", "Never upon a day")]
    cuts, counts = cut_all(pool, words, (2, 2))
    assert [cut.text for cut in cuts] == ["Once upon", "Never upon"]
    assert counts == {"n_duplicate_after_cut": 1}


@pytest.mark.parametrize(("max_prompts", "left"), [(1, 199), (199, 1), (200, 0), (300, 0)])
def test_the_first_prompts_of_a_pool_are_used(max_prompts: int, left: int, words: TextTokenizer) -> None:
    counts: Counter[str] = Counter()
    cuts = [cut for _, cut in PromptCutter(words, 1000, None, 0).cut(LONG, max_prompts, counts)]
    assert cuts == LONG[:max_prompts]
    assert counts["n_over_max_prompts"] == left
