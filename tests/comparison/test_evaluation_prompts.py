"""The prompts of an evaluation in words: what was left out of their source, and in what two sets differ."""

import json

import numpy as np
import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.errors import ComparabilityError
from datasets_prep.prepared import PromptRows

VALUES = {"kl": list(np.linspace(0, 1, 40))}
SOME = PromptRows(450, {"repeated": 9, "longer than the policy's context allows": 3}, 34)
SAID = "of 450 rows 12 were left out (9 repeated, 3 longer than the policy's context allows; prompts of up to"


def texts(first, last):
    return (), {f"h{i}": f"p{i}" for i in range(first, last)}


def test_rows_left_out_are_noted_beside_the_table(tmp_path, add_run):
    for name in ("untrained", "ppo"):
        add_run(tmp_path, name, VALUES, prompt_rows=SOME)
    comparison = compare(tmp_path)
    note = f"Held-out prompts: {SAID} 34 tokens fit)."
    assert note in comparison.notes
    assert "of 450 rows 12 were left out" in " ".join(render(comparison, "details").split())
    assert f"{SAID} 34 tokens fit)." in render(comparison, "markdown")
    assert all(note in record["notes"] for record in comparison.records())


def test_nothing_is_said_where_nothing_was_left_out_or_counted(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES, prompt_rows=PromptRows(450, {}, None))
    path = add_run(tmp_path, "ppo", VALUES)
    assert not [note for note in compare(tmp_path).notes if "Held-out prompts" in note]
    # As a release wrote it that did not count.
    file = next(path.glob("evaluations/*/metrics.json"))
    record = json.loads(file.read_text())
    assert record.pop("prompt_rows", "absent") is None
    file.write_text(json.dumps(record))
    assert not [note for note in compare(tmp_path).notes if "Held-out prompts" in note]


def test_runs_that_have_lost_other_rows_are_told_apart(tmp_path, add_run):
    """The same prompts from a longer file, for example."""
    add_run(tmp_path, "untrained", VALUES, prompt_rows=SOME)
    add_run(tmp_path, "ppo", VALUES, prompt_rows=PromptRows(9000, {"without text": 1}, None))
    notes = compare(tmp_path).notes
    assert f"Held-out prompts of untrained/seed0: {SAID} 34 tokens fit)." in notes
    assert "Held-out prompts of ppo/seed0: of 9000 rows 1 were left out (1 without text)." in notes


@pytest.mark.parametrize(
    ("prompts", "rows", "words"),
    [
        (texts(3, 43), PromptRows(450, {}, None),
         "40 prompts of 450 rows; 3 are not among those of ppo/seed0, and 3 of those are missing"),
        (texts(0, 40), None, "40 prompts; the same texts as ppo/seed0, but cut otherwise, with other ids"),
        (None, SOME, f"40 prompts; {SAID} 34 tokens fit))"),
    ],
)  # fmt: skip
def test_a_mismatch_says_in_what_the_prompts_differ(tmp_path, add_run, comparability, prompts, rows, words):
    rows_of_ppo = PromptRows(450, {"longer than the policy's context allows": 30}, 14)
    add_run(tmp_path, "ppo", VALUES, prompts=texts(0, 40), prompt_rows=rows_of_ppo)
    other = comparability | {"heldout_prompts": "xyz"}
    add_run(tmp_path, "untrained", VALUES, comparability=other, prompts=prompts, prompt_rows=rows)
    with pytest.raises(ComparabilityError) as caught:
        compare(tmp_path)
    (line,) = [line for line in str(caught.value).splitlines() if "heldout_prompts" in line]
    assert line.startswith(
        "  heldout_prompts: abc (40 prompts; of 450 rows 30 were left out (30 longer than the policy's context allows; "
        "prompts of up to 14 tokens fit)) in ppo/seed0; xyz (40 prompts"
    )
    assert f"xyz ({words}" in line
    assert line.endswith(" in untrained/seed0")
