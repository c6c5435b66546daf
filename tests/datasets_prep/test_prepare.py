from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from alignbench.errors import DataError, LeakError
from alignbench.records import Prompt
from datasets_prep.leaks import without_leaks
from datasets_prep.prepare import prepare_prompts
from datasets_prep.prepared import PreparedData
from datasets_prep.prompt_lengths import TextTokenizer
from datasets_prep.settings import PromptSettings

WriteRows = Callable[[str, Sequence[Mapping[str, object]]], str]


def nested(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows as RealToxicityPrompts has them, with ten words each and toxicities 0.00, 0.01, ... 0.99."""
    return [
        {
            "filename": f"{i:07d}.txt",
            "begin": 0,
            "end": 99,
            "prompt": {"text": f"Prompt {i} has a few more words than it needs", "toxicity": i % 100 / 100},
            "continuation": {"text": " and goes on.", "toxicity": 0.5},
        }
        for i in range(start, start + n)
    ]


def prepare(
    tokenizer: TextTokenizer, cache: Path | None = None, context_tokens: int = 100, **settings: Any
) -> PreparedData:
    return prepare_prompts(
        PromptSettings.model_validate(settings), tokenizer, context_tokens=context_tokens, cache_directory=cache
    )


def everything(data: PreparedData) -> list[Prompt]:
    return [*data.train, *data.validation, *data.heldout]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_nested_rows_are_filtered_cut_and_split(name: str, words: TextTokenizer, write_jsonl: WriteRows) -> None:
    data = prepare(words, prompts=write_jsonl(name, nested(400)), min_prompt_toxicity=0.3, prompt_tokens=[3, 5])
    assert len(everything(data)) == 280  # toxicities 0.30 to 0.99 of every hundred
    assert all(prompt.toxicity is not None and prompt.toxicity >= 0.3 for prompt in everything(data))
    assert {len(prompt.text.split()) for prompt in everything(data)} == {3, 4, 5}
    assert len(data.train) > len(data.heldout) > len(data.validation) > 0
    used = {key: value for key, value in data.statistics.items() if value}
    assert used == {
        "n_rows": 400,
        "n_outside_toxicity": 120,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_heldout": len(data.heldout),
    }


def test_the_same_prompts_from_any_file_are_the_same_data(
    words: TextTokenizer, write_jsonl: WriteRows, tmp_path: Path
) -> None:
    rows = [{"key": f"k{i}", "question": f"Prompt {i} of a table", "score": i % 10 / 10} for i in range(100)]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    shuffled = random.Random(0).sample(rows, len(rows))
    files = [
        write_jsonl("rows.jsonl", rows),
        write_jsonl("rows.jsonl.gz", shuffled),
        str(tmp_path / "rows.csv"),
        str(tmp_path / "rows.parquet"),
    ]
    columns = {"id": "key", "prompt": "question", "toxicity": "score"}
    first, *others = [prepare(words, prompts=file, columns=columns, max_prompt_toxicity=0.5) for file in files]
    assert len(everything(first)) == 60
    assert all(other == first for other in others)  # the fingerprint too: no path and no order enters it


def test_removing_rows_moves_no_other_row(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    rows = nested(300)
    settings: dict[str, Any] = {"prompt_tokens": [3, 8]}
    whole = prepare(words, prompts=write_jsonl("a.jsonl", rows), **settings)
    half = prepare(words, prompts=write_jsonl("b.jsonl", rows[::2]), **settings)
    for split in ("train", "validation", "heldout"):
        kept = {prompt.id: prompt for prompt in getattr(half, split)}
        assert kept
        assert kept == {prompt.id: prompt for prompt in getattr(whole, split) if prompt.id in kept}


def test_the_split_does_not_depend_on_the_cut(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    file = write_jsonl("a.jsonl", nested(200))
    whole, cut = prepare(words, prompts=file), prepare(words, prompts=file, prompt_tokens=[3, 4])
    assert [prompt.id for prompt in whole.heldout] == [prompt.id for prompt in cut.heldout]
    assert whole.fingerprint != cut.fingerprint


def test_max_prompts_keeps_a_prefix_in_hash_order(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    rows = [{"id": f"{i:03d}", **row} for i, row in enumerate(nested(200))]
    file = write_jsonl("a.jsonl", rows)
    whole, fewer = prepare(words, prompts=file), prepare(words, prompts=file, max_prompts=50)
    assert len(everything(fewer)) == 50
    assert fewer.statistics["n_over_max_prompts"] == 150
    assert fewer.train == whole.train[: len(fewer.train)]
    assert fewer.heldout == whole.heldout[: len(fewer.heldout)]
    numbers = [int(prompt.text.split()[1]) for prompt in everything(fewer)]
    assert max(numbers) > 150  # neither the first rows of the file nor the first ids


def test_duplicates_are_dropped_and_counted(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    rows = nested(100)
    rows += [
        {"prompt": {"text": f"  prompt {i} HAS a few more words than  it needs", "toxicity": 0.5}} for i in range(10)
    ]
    data = prepare(words, prompts=write_jsonl("a.jsonl", rows))
    assert data.statistics["n_duplicate_text"] == 10
    assert len({" ".join(prompt.text.lower().split()) for prompt in everything(data)}) == len(everything(data)) == 100


def test_prompts_that_cutting_makes_equal_never_stand_in_two_splits(
    words: TextTokenizer, write_jsonl: WriteRows
) -> None:
    rows = [{"text": f"The beginning {i % 60} is shared number {i}"} for i in range(300)]
    data = prepare(words, prompts=write_jsonl("a.jsonl", rows), prompt_tokens=[3, 3])
    assert len(everything(data)) == len({prompt.text for prompt in everything(data)}) == 60
    assert data.statistics["n_duplicate_after_cut"] == 240


def test_unusable_rows_are_counted(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    rows: list[dict[str, Any]] = nested(50)
    rows += [{"prompt": {"text": "", "toxicity": 0.5}}, {"prompt": {"text": None}}, {"prompt": {"text": " \n"}}]
    rows += [{"prompt": {"text": "of unknown toxicity", "toxicity": None}}]
    rows += [{"prompt": {"text": "x " * 150, "toxicity": 0.5}}, {"prompt": {"text": "x" * 500, "toxicity": 0.5}}]
    file = write_jsonl("a.jsonl", rows)
    filtered = prepare(words, prompts=file, min_prompt_toxicity=0.0, max_prompt_chars=400).statistics
    assert filtered["n_rows"] == 56
    assert filtered["n_empty_text"] == 3
    assert filtered["n_null_toxicity"] == 1
    assert filtered["n_over_max_chars"] == 1
    assert filtered["n_too_long"] == 1
    assert filtered["n_train"] + filtered["n_validation"] + filtered["n_heldout"] == 50
    assert prepare(words, prompts=file).statistics["n_null_toxicity"] == 0


def test_a_second_file_is_the_held_out_split(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    own, other = write_jsonl("a.jsonl", nested(100)), write_jsonl("b.jsonl", nested(60, start=1000))
    data = prepare(words, prompts=own, heldout=other, min_prompt_toxicity=0.3, max_prompts=50, prompt_tokens=[3, 5])
    assert {int(prompt.text.split()[1]) for prompt in data.heldout} == set(range(1030, 1060))
    assert all(3 <= len(prompt.text.split()) <= 5 for prompt in data.heldout)
    assert len(data.train) + len(data.validation) == 50
    assert data.statistics["heldout/n_rows"] == 60
    assert data.statistics["heldout/n_outside_toxicity"] == 30


def test_a_directory_is_a_data_set_with_splits(
    words: TextTokenizer, write_jsonl: WriteRows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_jsonl("set/train.jsonl", nested(40))
    write_jsonl("set/test.jsonl", nested(7, start=1000))
    data = prepare(words, prompts=str(tmp_path / "set"), heldout=str(tmp_path / "set"))
    assert (len(data.train) + len(data.validation), len(data.heldout)) == (40, 7)


def test_a_leak_between_two_files_fails_loudly(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    own = write_jsonl("a.jsonl", nested(100))
    planted: list[dict[str, Any]] = [
        *nested(60, start=1000),
        {"prompt": {"text": "PROMPT 17 has a few more words than it needs", "toxicity": 0}},
    ]
    with pytest.raises(LeakError, match=r"data.prompts and data.heldout share 1 prompts.*PROMPT 17 has"):
        prepare(words, prompts=own, heldout=write_jsonl("b.jsonl", planted))


def test_training_loses_the_prompt_that_cutting_makes_equal_to_a_held_out_one(
    words: TextTokenizer, write_jsonl: WriteRows
) -> None:
    own = write_jsonl("a.jsonl", [{"text": f"Start {i} mine"} for i in range(50)])
    other = write_jsonl("b.jsonl", [{"text": "Start 7 yours"}])
    data = prepare(words, prompts=own, heldout=other, prompt_tokens=[2, 2])
    assert [prompt.text for prompt in data.heldout] == ["Start 7"]
    assert data.statistics["n_duplicate_after_cut"] == 1
    assert "Start 7" not in {prompt.text for prompt in [*data.train, *data.validation]}


def test_what_comes_back_is_checked_for_leaks(
    words: TextTokenizer, write_jsonl: WriteRows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leaky = PreparedData((Prompt("1", "a"),), (), (Prompt("2", "A"),), "0")
    monkeypatch.setattr("datasets_prep.prepare.cached_prompts", lambda *_: leaky)
    with pytest.raises(LeakError, match="train and heldout share 1"):
        prepare(words, cache=tmp_path, prompts=write_jsonl("a.jsonl", nested(50)))


def test_nothing_left_tells_the_stages_and_the_key(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    rows: list[dict[str, Any]] = [*nested(30), {"prompt": {"text": "", "toxicity": 0.9}}]
    file = write_jsonl("a.jsonl", rows)
    with pytest.raises(
        DataError, match=r"Of 31 rows: 1 without text, 30 outside the toxicity range. .*data.min_prompt_toxicity"
    ):
        prepare(words, prompts=file, min_prompt_toxicity=0.8)
    with pytest.raises(
        DataError, match=r"Of 31 rows: 1 without text, 30 with too few tokens. Look first at data.prompt_tokens"
    ):
        prepare(words, prompts=file, prompt_tokens=[20, 30])
    with pytest.raises(DataError, match=r"data.heldout: .* 30 longer than the policy's context allows"):
        prepare(words, context_tokens=9, prompts=write_jsonl("b.jsonl", [{"text": "short"}]), heldout=file)


def test_a_split_without_prompts_is_an_error(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    file = write_jsonl("a.jsonl", nested(2))
    with pytest.raises(DataError, match=r"2 prompts are left and none of them falls into the validation split.*10%"):
        prepare(words, prompts=file, heldout_fraction=0.0)
    assert len(prepare(words, prompts=file, heldout_fraction=1.0, validation_fraction=0.0).heldout) == 2


def test_names_that_are_no_source(words: TextTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"data.prompts: cannot get .*did you mean 'real_toxicity_prompts'\?"):
        prepare(words, prompts="real_toxicity_prompt")
    with pytest.raises(DataError, match="allenai/real-toxicity-prompts"):
        prepare(words, prompts="real_toxicity_prompts")
    with pytest.raises(DataError, match=r"nowhere.jsonl: there is no such file"):
        prepare(words, prompts=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match="embedded prompts have no name here; give the path"):
        prepare(words, prompts="embedded")


def test_nontoxic_prompts_are_those_below_one_half(words: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*nested(100), {"prompt": {"text": "of unknown toxicity", "toxicity": None}}]
    monkeypatch.setattr("datasets_prep.hub.read_rows", lambda *_: rows)
    data = prepare(words, prompts="real_toxicity_prompts_nontoxic")
    assert sorted(prompt.toxicity or 0.0 for prompt in everything(data)) == [i / 100 for i in range(50)]
    assert len(everything(prepare(words, prompts="real_toxicity_prompts"))) == 101


def test_a_second_call_reads_the_cache(words: TextTokenizer, write_jsonl: WriteRows, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"prompts": write_jsonl("a.jsonl", nested(300)), "prompt_tokens": [3, 5]}
    first = prepare(words, cache=tmp_path / "cache", **settings)
    (entry,) = (tmp_path / "cache").iterdir()
    written = entry.stat().st_mtime_ns
    assert prepare(words, cache=tmp_path / "cache", **settings) == first == prepare(words, **settings)
    assert entry.stat().st_mtime_ns == written


def test_whatever_changes_the_data_changes_the_fingerprint(
    words: TextTokenizer, utf8_bytes: TextTokenizer, write_jsonl: WriteRows
) -> None:
    rows = nested(100)
    file = write_jsonl("a.jsonl", rows)
    rows[0]["prompt"]["toxicity"] = 0.75
    fingerprints = {
        prepare(words, prompts=file).fingerprint,
        prepare(words, prompts=write_jsonl("b.jsonl", rows)).fingerprint,
        prepare(words, prompts=file, split_seed=1).fingerprint,
        prepare(words, prompts=file, context_tokens=99).fingerprint,
        prepare(utf8_bytes, prompts=file).fingerprint,
    }
    assert len(fingerprints) == 5


def test_a_damaged_cache_entry_is_built_again(
    words: TextTokenizer, write_jsonl: WriteRows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"prompts": write_jsonl("a.jsonl", nested(100))}
    first = prepare(words, cache=tmp_path / "cache", **settings)
    (entry,) = (tmp_path / "cache").iterdir()
    lines = (entry / "rows.jsonl").read_text().splitlines(keepends=True)
    moved = json.loads(lines[0])
    moved["split"] = "heldout"  # a readable file that says something else
    (entry / "rows.jsonl").write_text(json.dumps(moved) + "\n" + "".join(lines[1:]))
    assert prepare(words, cache=tmp_path / "cache", **settings) == first
    assert "damaged" in caplog.text
    assert (entry / "rows.jsonl").read_text() == "".join(lines)


def test_variants_of_one_text_fall_into_one_split(words: TextTokenizer, write_jsonl: WriteRows, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Person {variant} asks about subject {i}", "subject": i} for i in range(60) for variant in "abcd"
    ]
    settings = {"prompts": write_jsonl("rows.jsonl", rows), "columns": {"group": "subject"}, "heldout_fraction": 0.4}
    data = prepare(words, tmp_path / "cache", **settings)
    groups = [{prompt.group for prompt in split} for split in (data.train, data.validation, data.heldout)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 60
    assert all(groups)
    assert prepare(words, tmp_path / "cache", **settings).heldout[0].group == data.heldout[0].group


def test_a_leak_is_left_out_of_training_and_counted(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    own = write_jsonl("a.jsonl", nested(100))
    held: list[dict[str, Any]] = [*nested(60, start=1000), *nested(2, start=17)]
    held += [{"prompt": {"text": "PROMPT\u00a050 has a few more\u200b words than it needs", "toxicity": 0.5}}]
    other = write_jsonl("b.jsonl", held)
    with pytest.raises(LeakError, match=r"share 3 prompts.*data\.on_leak to drop"):
        prepare(words, prompts=own, heldout=other)
    data = prepare(words, prompts=own, heldout=other, on_leak="drop")
    apart = prepare(words, prompts=write_jsonl("c.jsonl", nested(17)), heldout=other)
    assert data.heldout == apart.heldout, "what is held out is the same for everyone"
    numbers = {int(prompt.text.split()[1]) for prompt in (*data.train, *data.validation)}
    assert numbers == set(range(100)) - {17, 18, 50}
    assert data.statistics["n_leaked"] == 3
    assert data.statistics["n_train"] == len(data.train)


def test_an_equal_id_alone_is_no_reason_to_drop(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    own = write_jsonl("a.jsonl", [{"id": i, "text": f"own {i}"} for i in range(50)])
    other = write_jsonl("b.jsonl", [{"id": i, "text": f"other {i}"} for i in range(50)])
    with pytest.raises(LeakError, match=r"share 50 prompts \(0 by text, 50 by id alone\).*data\.columns\.id"):
        prepare(words, prompts=own, heldout=other, on_leak="drop")


def test_nothing_is_left_where_everything_is_held_out(words: TextTokenizer, write_jsonl: WriteRows) -> None:
    file = write_jsonl("a.jsonl", nested(20))
    with pytest.raises(DataError, match=r"20 held out elsewhere\. Look first at data\.on_leak"):
        prepare(words, prompts=file, heldout=file, on_leak="drop")


def test_training_loses_what_other_sources_hold_out() -> None:
    train = tuple(Prompt(str(i), f"the training prompt of number {i} has eight words") for i in range(4))
    data = PreparedData(
        train, (Prompt("v", "validation"),), (Prompt("h", "held"),), "key", {"n_train": 4, "n_leaked": 2}
    )
    kept = without_leaks(
        data, [Prompt("x", "The training prompt of number 1 has EIGHT words")], [f"{train[3].text} and on"]
    )
    assert [prompt.id for prompt in kept.train] == ["0", "2"]
    assert (kept.validation, kept.heldout) == (data.validation, data.heldout)
    assert kept.statistics == {"n_train": 2, "n_validation": 1, "n_leaked": 4}
    assert kept.fingerprint != data.fingerprint
    with pytest.raises(DataError, match=r"data\.on_leak: every one of the 1 validation prompts"):
        without_leaks(data, [Prompt("x", "Validation")], [])
