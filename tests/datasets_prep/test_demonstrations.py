"""What is imitated: the completions of a data set's rows, and those of a policy that rewards choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignbench.errors import DataError
from alignbench.records import Completion, Prompt
from datasets_prep.demonstrations import choose_demonstrations, read_demonstrations
from datasets_prep.settings import DemonstrationSettings, PromptSettings

A, B = Prompt("a", "one"), Prompt("b", "two")
DRAWN = [Completion(p.id, i, f"text {i}", (i,), "length") for p in (A, B) for i in range(3)]
REWARDS = [0.5, 0.5, -2.0, None, 1.0, 0.0]


def chosen(**settings: Any) -> tuple[list[tuple[str, int]], dict[str, int | float]]:
    found, statistics = choose_demonstrations([A, B], DRAWN, REWARDS, DemonstrationSettings(**settings))
    assert all(one.prompt.id == one.completion.prompt_id for one in found)
    return [(one.prompt.id, one.completion.sample) for one in found], statistics


def test_best_and_worst_of_each_prompt_the_first_of_equals() -> None:
    best, statistics = chosen(take="best")
    assert best == [("a", 0), ("b", 1)]
    assert statistics["mean_reward"] == 0.75
    assert chosen(take="worst")[0] == [("a", 2), ("b", 2)]
    assert (statistics["n_unscored"], statistics["n_demonstrations"]) == (1, 2)


def test_an_expert_and_an_anti_expert_by_thresholds_that_are_part_of_them() -> None:
    expert, statistics = chosen(take="all", min_reward=0.5)
    assert expert == [("a", 0), ("a", 1), ("b", 1)]
    assert statistics["n_outside_rewards"] == 2
    assert chosen(take="all", max_reward=0.0)[0] == [("a", 2), ("b", 2)]
    assert chosen(take="best", max_reward=0.0)[0] == [("a", 2), ("b", 2)]
    assert chosen(take="worst", min_reward=0.75)[0] == [("b", 1)]
    with pytest.raises(DataError, match=r"demonstrations: none of 6 completions is left: 1 have no score, 0 are"):
        chosen(take="all", min_reward=7.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"take": "worst", "max_tokens": 4}, "max_tokens: null where take is worst"),
        ({"take": "best", "column": "answer"}, "column: null where take is best"),
        ({"take": "all", "min_reward": 1.0, "max_reward": 0.0}, "a highest value of at least 1"),
        ({"min_toxicity": 0.6, "max_toxicity": 0.5}, "a highest value of at least 0.6"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DemonstrationSettings(**settings)


def row(name: str, prompt: str, completion: str, toxicity: float | None) -> dict[str, Any]:
    texts = {"prompt": {"text": prompt, "toxicity": 0.1}, "continuation": {"text": completion, "toxicity": toxicity}}
    return {"id": name, **texts}


ROWS = [
    row("a", "The dog", " runs home.", 0.1),
    row("b", "A cat sits here", " now.", 0.9),
    row("c", "Held out", " it is.", 0.1),
    row("d", "Birds", " ", 0.1),
    row("a", "The dog", " sleeps.", None),
    row("a", "The dog", " runs home.", 0.2),
]
PREPARED = [Prompt("b", "A cat"), Prompt("a", "The dog"), Prompt("d", "Birds")]

Write = Callable[..., str]


def read(source: str, prompts: list[Prompt] = PREPARED, **own: Any) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    settings, key = PromptSettings(prompts=source), "data.prompts"
    found, counts = read_demonstrations(settings, DemonstrationSettings(**own), prompts, key=key, conversations=True)
    return [(prompt.text, text) for prompt, text in found], counts


def test_rows_go_on_with_their_prompts_what_was_cut_off_first(write_jsonl: Write) -> None:
    found, counts = read(write_jsonl("rows.jsonl", ROWS))
    assert found == [("A cat", " sits here now."), ("The dog", " runs home."), ("The dog", " sleeps.")]
    assert counts == {"n_rows": 6, "n_empty": 1, "n_outside_toxicity": 0, "n_of_other_prompts": 1, "n_uncuttable": 0,
                      "n_repeated": 1}  # fmt: skip


def test_a_prompt_that_is_no_beginning_of_its_row_is_left_out(write_jsonl: Write) -> None:
    found, counts = read(write_jsonl("rows.jsonl", ROWS), [Prompt("a", "The  dog"), Prompt("b", "A cat")])
    assert found == [("A cat", " sits here now.")]
    assert counts["n_uncuttable"] == 3


def test_experts_and_anti_experts_by_the_toxicity_of_completions(write_jsonl: Write) -> None:
    rows = write_jsonl("rows.jsonl", ROWS)
    found, counts = read(rows, max_toxicity=0.15)
    assert found == [("The dog", " runs home.")]
    assert counts["n_outside_toxicity"] == 3  # one of them states none
    assert read(rows, min_toxicity=0.5)[0] == [("A cat", " sits here now.")]


def test_columns_by_name_and_nested_cells_as_text(write_jsonl: Write, tmp_path: Path) -> None:
    flat = [{"id": "a", "prompt": "The dog", "reply": " runs.", "harm": 0.7, "completion": "no"}]
    rows = write_jsonl("flat.jsonl", flat)
    assert read(rows)[0] == [("The dog", "no")]
    assert read(rows, column="reply", toxicity_column="harm", min_toxicity=0.7)[0] == [("The dog", " runs.")]
    cell = "{'text': ' runs.', 'toxicity': 0.2}"
    (tmp_path / "rows.csv").write_text(f'id,prompt,continuation\na,The dog,"{cell}"\n')
    assert read(str(tmp_path / "rows.csv"))[0] == [("The dog", " runs.")]


def test_the_answer_that_ends_a_conversation(write_jsonl: Write) -> None:
    messages = [{"role": "user", "content": "The dog"}, {"role": "assistant", "content": "It runs."}]
    assert read(write_jsonl("chat.jsonl", [{"id": "a", "messages": messages}]))[0] == [("The dog", "It runs.")]
    with pytest.raises(DataError, match=r"expected text, or messages that end with the assistant's"):
        read(write_jsonl("asked.jsonl", [{"id": "a", "messages": messages[:1]}]))


@pytest.mark.parametrize(
    ("cells", "own", "message"),
    [
        ({}, {}, r"has no completion column .* Its columns are: id, prompt. Name one with demonstrations.column"),
        ({"completion": 3}, {}, r"line 1, row 1: column 'completion' holds 3, expected text"),
        ({"completion": " x"}, {"max_toxicity": 0.5}, r"has no toxicity column .* demonstrations.toxicity_column"),
        ({"completion": " x", "harm": 2}, {"toxicity_column": "harm", "max_toxicity": 0.5}, "holds 2, expected"),
        ({"completion": " "}, {}, r"no demonstration is left \(n_rows 1, n_empty 1\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(
    write_jsonl: Write, cells: dict[str, Any], own: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write_jsonl("rows.jsonl", [{"id": "a", "prompt": "The dog", **cells}]), **own)
    assert str(caught.value).startswith("data.prompts: ")
