from __future__ import annotations

import pytest

from alignbench.errors import LeakError
from alignbench.records import Prompt
from datasets_prep.prepared import PreparedData
from datasets_prep.splits import check_no_leak, known_texts, normalised_text, split_of, whole_text_hash

TEXTS = [f"This is prompt number {i}" for i in range(5000)]


def test_normalised_text() -> None:
    assert (
        normalised_text("  The\tSTRASSE \n is  Long ") == normalised_text("the straße is long") == "the strasse is long"
    )


def test_shares_are_as_asked() -> None:
    splits = [split_of(text, 0, 0.1, 0.2) for text in TEXTS]
    # Four standard deviations of a binomial count: 4 sqrt(5000 p (1 - p)) is 85 and 113.
    assert splits.count("validation") == pytest.approx(500, abs=85)
    assert splits.count("heldout") == pytest.approx(1000, abs=113)
    assert len(splits) == splits.count("train") + splits.count("validation") + splits.count("heldout")


def test_case_and_white_space_do_not_move_a_prompt() -> None:
    assert [split_of(text, 3, 0.3, 0.3) for text in TEXTS] == [
        split_of("  " + text.upper().replace(" ", "\n "), 3, 0.3, 0.3) for text in TEXTS
    ]


def test_another_seed_is_another_split() -> None:
    same = sum(split_of(text, 0, 0.0, 0.5) == split_of(text, 1, 0.0, 0.5) for text in TEXTS)
    assert same == pytest.approx(2500, abs=142)  # four standard deviations: independent coins agree half of the time


def test_held_out_does_not_depend_on_the_validation_share() -> None:
    assert [split_of(text, 0, 0.0, 0.2) == "heldout" for text in TEXTS] == [
        split_of(text, 0, 0.5, 0.2) == "heldout" for text in TEXTS
    ]


@pytest.mark.parametrize(
    ("validation", "heldout", "expected"), [(0.0, 0.0, {"train"}), (0.0, 1.0, {"heldout"}), (1.0, 0.0, {"validation"})]
)
def test_a_share_of_one_is_everything(validation: float, heldout: float, expected: set[str]) -> None:
    assert {split_of(text, 0, validation, heldout) for text in TEXTS} == expected


def test_disjoint_splits_pass() -> None:
    check_no_leak({"train": [Prompt("1", "a")], "validation": [Prompt("2", "b")], "heldout": []})


def test_a_planted_text_is_found_and_named() -> None:
    train = [Prompt("1", "first"), Prompt("2", "You are  THE one")]
    with pytest.raises(LeakError) as caught:
        check_no_leak({"train": train, "validation": [], "heldout": [Prompt("9", "you are the one")]})
    message = str(caught.value)
    assert message.startswith("train and heldout share 1 prompts (1 by text, 0 by id alone)")
    assert "'you are the one' (id '9' in heldout; id '2' in train)" in message


def test_a_planted_id_is_found_and_its_cure_named() -> None:
    with pytest.raises(
        LeakError, match=r"validation and heldout share 1 prompts \(0 by text, 1 by id alone\).*data.columns.id"
    ) as caught:
        check_no_leak({"validation": [Prompt("1", "a")], "heldout": [Prompt("1", "b")]})
    assert "on_leak" not in str(caught.value), "it looks at texts, so it would not help"


def test_a_long_list_of_leaks_is_shortened() -> None:
    prompts = [Prompt(str(i), f"text {i}") for i in range(10)]
    with pytest.raises(LeakError, match=r"share 10 prompts.*and 7 more\. Remove them"):
        check_no_leak({"train": prompts, "heldout": prompts})


def test_one_text_cut_twice_is_a_leak() -> None:
    whole = whole_text_hash(Prompt("a", "the dog barks at me"))
    train = [Prompt("a", "the dog", whole_text_hash=whole)]
    heldout = [Prompt("b", "the dog barks", whole_text_hash=whole)]
    with pytest.raises(LeakError, match=r"share 1 prompts \(1 by text"):
        check_no_leak({"train": train, "heldout": heldout})
    check_no_leak({"train": train, "heldout": [Prompt("b", "the dog barks")]})


def test_which_texts_count_as_seen() -> None:
    """Validation counts, but for a trial that is evaluated on it; nothing where nothing is or was trained."""
    train, validation, heldout = ((Prompt(name, f"text {name}"),) for name in "tvh")
    data = PreparedData(train, validation, heldout, "f")
    text_hash = {name: whole_text_hash(Prompt(name, f"text {name}")) for name in "tvh"}

    def known(evaluated: tuple[Prompt, ...], trains: bool = True) -> tuple[set[str], set[str]]:
        seen, held = known_texts(data, evaluated, trains=trains)
        return {name for name, one in text_hash.items() if one in seen}, set(held.values())

    assert known(heldout) == ({"t", "v"}, {"h"})
    assert known(validation) == ({"t"}, {"v"})
    assert known(heldout, trains=False) == (set(), {"h"})
    assert known(train) == ({"t", "v"}, {"t"})  # a leak is stored as one
