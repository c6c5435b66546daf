"""Which texts are the same: by example, by property, and what must not have moved."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.errors import LeakError
from alignbench.records import Prompt
from datasets_prep.neutral_texts import check_unseen
from datasets_prep.prepare import prepare_prompts
from datasets_prep.prompt_lengths import TextTokenizer
from datasets_prep.settings import PromptSettings
from datasets_prep.splits import check_no_leak, split_of, whole_text_hash
from datasets_prep.text_forms import normalised_text, split_text

TEXT = 'Señor café said "it\'s naïve" - twice'
TWINS: dict[str, Callable[[str], str]] = {
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "compatibility": lambda text: unicodedata.normalize("NFKD", text),
    "upper case": str.upper,
    "title case": str.title,
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "mathematical letters": lambda text: text.replace("a", "\U0001d41a"),
    "zero-width space": lambda text: "\u200b".join(text),
    "zero-width joiner": lambda text: text.replace("a", "a\u200d"),
    "word joiner": lambda text: text.replace(" ", " \u2060"),
    "soft hyphen": lambda text: text.replace("caf", "ca\u00adf"),
    "byte order mark": lambda text: "\ufeff" + text,
    "marks of direction": lambda text: f"\u202b\u200f{text}\u202c\u2066\u2069",
    "variation selector": lambda text: text.replace("é", "é\ufe0f") + "\U000e0100",
    "grapheme joiner before an accent": lambda text: (
        unicodedata.normalize("NFD", text).replace("\u0301", "\u034f\u0301")
    ),
    "tags and fillers": lambda text: text.replace("s", "s\U000e0073\u3164\uffa0"),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0\u202f"),
    "tabs, lines and wide spaces": lambda text: text.replace(" ", "\t\r\n\u2003\u3000") + "\u2028\u0085",
    "control characters": lambda text: text.replace("a", "a\x00\x08\x7f"),
    "typographic quotes": lambda text: text.replace("'", "\u2019").replace(' "', " \u201c").replace('"', "\u201d"),
    "modifier apostrophe": lambda text: text.replace("'", "\u02bc"),
    "dashes": lambda text: text.replace("-", "\u2014"),
}  # fmt: skip


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_a_twin_is_the_same_text_everywhere(
    twin: Callable[[str], str], words: TextTokenizer, write_jsonl: Callable[..., str]
) -> None:
    same = twin(TEXT)
    assert same != TEXT
    assert normalised_text(same) == normalised_text(TEXT) == 'señor café said "it\'s naïve" - twice'
    assert whole_text_hash(Prompt("a", same)) == whole_text_hash(Prompt("b", TEXT))
    with pytest.raises(LeakError, match=r"share 1 prompts \(1 by text"):
        check_no_leak({"train": [Prompt("a", TEXT)], "heldout": [Prompt("b", same)]})
    with pytest.raises(LeakError, match=r"evaluation\.neutral"):
        check_unseen([same + " and so on"], [Prompt("a", TEXT + " and so")])
    rows = [{"prompt": f"{TEXT} {i}"} for i in range(30)]
    copies = [{"prompt": twin(f"{TEXT} {i}")} for i in range(30)]
    both = write_jsonl("both.jsonl", [*rows, *copies])
    settings = PromptSettings(prompts=both)
    assert (
        prepare_prompts(settings, words, context_tokens=99, cache_directory=None).statistics["n_duplicate_text"] == 30
    )
    apart = PromptSettings(prompts=write_jsonl("a.jsonl", rows), heldout=write_jsonl("b.jsonl", copies))
    with pytest.raises(LeakError, match="share 30 prompts"):
        prepare_prompts(apart, words, context_tokens=99, cache_directory=None)


def test_what_reads_differently_stays_different() -> None:
    texts = [
        "cafe",
        "café",
        "caff",
        "ca f",
        "\u0441afe",
        "cafe!",
        "cafe 1",
        "cafe ²3",
        "cafe 2 3",
        "🙂",
        "🙁",
        "",
        "可",
        "か",
        "が",
    ]
    assert len({normalised_text(text) for text in texts}) == len(texts)


@given(st.text())
def test_the_form_of_a_form_is_itself(text: str) -> None:
    for form in (normalised_text, split_text):
        assert form(form(text)) == form(text)


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_unicode_forms_are_one(text: str, form: str) -> None:
    assert normalised_text(unicodedata.normalize(form, text)) == normalised_text(text)


@given(st.text(), st.text(st.sampled_from("\u200b\u200d\u2060\u00ad\ufeff\u202a\u034f\ufe0f\x00")), st.integers(0, 20))
def test_invisible_characters_do_not_count(text: str, invisible: str, place: int) -> None:
    assert normalised_text(text[:place] + invisible + text[place:]) == normalised_text(text)


@given(st.text(st.characters(min_codepoint=9, max_codepoint=126, exclude_categories=["Cc"])))
def test_ascii_is_what_it_was_before(text: str) -> None:
    before = " ".join(text.casefold().split())
    assert normalised_text(text) == split_text(text) == before


@pytest.mark.parametrize(
    "text", ["Café müde", "Straße", "\u201cIt\u2019s \u2013 fine\u201d", "你好 世界", "Привет", "héllo 🙂"]
)
def test_ordinary_texts_keep_their_splits(text: str) -> None:
    assert split_text(text) == " ".join(text.casefold().split())


def test_recorded_hashes_and_splits() -> None:
    """As runs of earlier builds have stored them."""
    assert whole_text_hash(Prompt("a", "The  dog barks at ME")) == "e1ea79370dc8df51"
    splits = [split_of(f"Prompt “number” {i}", 0, 0.1, 0.2) for i in range(12)]
    assert "".join(split[0] for split in splits) == "hthhvtttthht"


def test_twins_in_a_file_and_a_byte_order_mark_in_its_first_cell(
    words: TextTokenizer, write_jsonl: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "b.csv").write_bytes(
        b"\xef\xbb\xbfprompt\n" + "\n".join(f"\ufeffPrompt {i}" for i in range(9)).encode()
    )
    train = write_jsonl("a.jsonl", [{"prompt": f"prompt {i}"} for i in range(50)])
    settings = PromptSettings(prompts=train, heldout=str(tmp_path / "b.csv"))
    with pytest.raises(LeakError, match="share 9 prompts"):
        prepare_prompts(settings, words, context_tokens=99, cache_directory=None)
