"""The gate from end to end, and what is only said: leaks, versions, reward hacking along training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.comparison.hacking_over_seeds import along_training_flag, hacking_along_training
from alignbench.errors import ComparabilityError, LeakError
from alignbench.records import HackingDiagnosis, Prompt
from alignbench.results.schema import RunStatus
from datasets_prep.prompt_lengths import PromptCutter
from datasets_prep.splits import whole_text_hash

N = 40
VALUES = {"toxicity_mean@judge": list(np.linspace(0, 1, N))}
KL_OF_PPO = ("ppo", "kl")


def call(*arguments):
    result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


FIELDS = {
    "decoding.top_p": {"decoding": {"temperature": 1.0, "top_p": 0.9}},
    "decoding.temperature": {"decoding": {"temperature": 0.7, "top_p": 1.0}},
    "heldout_prompts": {"heldout_prompts": "xyz"},
    "scorers.judge": {"scorers": {"reward": "r1", "judge": "j2"}},
    "hardware_class": {"hardware_class": "cuda-sm90"},
    "precision": {"precision": "bfloat16"},
    "toxicity_threshold": {"toxicity_threshold": 0.4},
    "chat.system": {"chat": {"system": "be kind"}},
    "samples_per_prompt": {"samples_per_prompt": 25},
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_differing_field_is_named_and_the_exit_code_says_so(tmp_path, add_run, comparability, field):
    add_run(tmp_path, "untrained", VALUES, comparability=comparability)
    add_run(tmp_path, "ppo", VALUES, comparability=comparability | FIELDS[field])
    result = call(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"\n  {field}: " in result.stderr
    assert "ppo/seed0" in result.stderr
    assert "untrained/seed0" in result.stderr
    for style in ("table", "markdown", "json", "csv", "latex", "html-fragment"):
        shown = call(tmp_path, "--allow-mismatch", "--format", style)
        assert shown.exit_code == 0
        assert field in shown.stdout.replace("\\", "")


def test_runs_that_differ_do_not_share_a_table(tmp_path, add_run, comparability):
    values = {"toxicity_mean@judge": list(np.linspace(0, 1, N))}
    add_run(tmp_path, "untrained", values)
    add_run(tmp_path, "dpo", values)
    other = comparability | {"decoding": {"temperature": 1.0, "top_p": 0.9}, "chat": {"system": "be kind"}}
    add_run(tmp_path, "ppo", values, comparability=other)
    with pytest.raises(ComparabilityError) as caught:
        compare(tmp_path)
    message = str(caught.value)
    assert "decoding.top_p: 1.0 in dpo/seed0, untrained/seed0; 0.9 in ppo/seed0" in message
    assert "chat.system: (absent) in dpo/seed0, untrained/seed0; be kind in ppo/seed0" in message
    assert "temperature" not in message
    assert "--allow-mismatch" in message
    comparison = compare(tmp_path, allow_mismatch=True)
    assert all("mismatch" in record["flags"] for record in comparison.records())
    for style in ("table", "markdown"):
        assert render(comparison, style).startswith("NOT COMPARABLE")
        assert "decoding.top_p" in render(comparison, style)


def test_other_prompts_are_a_mismatch_and_pair_where_they_meet(tmp_path, add_run):
    rng = np.random.default_rng(7)
    values = rng.uniform(size=N)
    add_run(tmp_path, "untrained", {"kl": values})
    add_run(tmp_path, "ppo", {"kl": values[:30] + 1 + rng.normal(0, 0.01, 30)})
    with pytest.raises(ComparabilityError, match="n_prompts: 30 in ppo/seed0; 40 in untrained/seed0"):
        compare(tmp_path)
    (record,) = [r for r in compare(tmp_path, allow_mismatch=True).records() if (r["recipe"], r["metric"]) == KL_OF_PPO]
    assert record["difference"] == pytest.approx(1.0, abs=0.01)


def test_seeds_run_with_other_settings_are_not_averaged(tmp_path, add_run):
    values = {"kl": list(np.linspace(0, 1, N))}
    add_run(tmp_path, "untrained", values)
    add_run(tmp_path, "ppo", values)
    same = "name: ppo\ndescription: on a slow day\nmethod: {kl_coef: 0.2}\nhardware: {threads: 3}\nseed: 2\n"
    add_run(tmp_path, "ppo", values, seed=2, resolved_recipe=same)
    (record,) = [r for r in compare(tmp_path).records() if (r["recipe"], r["metric"]) == KL_OF_PPO]
    assert record["n_seeds"] == 2
    add_run(tmp_path, "ppo", values, seed=1, resolved_recipe="name: ppo\nmethod: {kl_coef: 0.0}\nseed: 1\n")
    with pytest.raises(ComparabilityError) as caught:
        compare(tmp_path)
    assert "settings of ppo, method.kl_coef: 0.2 in ppo/seed0, ppo/seed2; 0.0 in ppo/seed1" in str(caught.value)


def test_a_comparable_table_has_no_mark(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES)
    add_run(tmp_path, "ppo", VALUES)
    for style in ("table", "markdown", "latex", "html-fragment"):
        assert "NOT COMPARABLE" not in call(tmp_path, "--format", style).stdout
    assert all(record["mismatch"] == [] for record in json.loads(call(tmp_path, "--format", "json").stdout))


def test_prompts_that_another_run_was_trained_on(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES, prompts=((), {"h1": "p1", "h2": "p2", "h3": "p3"}))
    add_run(tmp_path, "ppo", VALUES, prompts=(("h2", "h3", "h7"), {"h9": "p9"}))
    for more in ((), ("--allow-mismatch",)):
        result = call(tmp_path, *more)
        assert (result.exit_code, result.stdout) == (1, "")
        said = "training of ppo/seed0 could see 2 of the prompts that untrained/seed0 was evaluated on, for example"
        assert f"{said} the one with id 'p2'" in result.stderr
        assert "No option" in result.stderr


def test_prompts_that_a_run_was_itself_trained_on(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES)
    add_run(tmp_path, "ppo", VALUES, prompts=(("h1",), {"h1": "p1"}))
    with pytest.raises(LeakError, match="ppo/seed0 could see 1 of the prompts that ppo/seed0 was evaluated on"):
        compare(tmp_path)


def test_runs_that_share_their_splits_are_no_leak(tmp_path, add_run):
    for name in ("untrained", "ppo", "dpo"):
        add_run(tmp_path, name, VALUES, prompts=(("h1", "h2") if name != "untrained" else (), {"h3": "p3"}))
    assert not [note for note in compare(tmp_path).notes if "training could see" in note]


def test_runs_that_do_not_say_are_named(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES)
    path = add_run(tmp_path, "ppo", VALUES, prompts=None)
    add_run(tmp_path, "dpo", VALUES)
    (note,) = [note for note in compare(tmp_path).notes if "cannot be checked" in note]
    assert note.startswith("ppo/seed0: which texts training could see was not stored")
    (path / "prompts.json").write_text('{"schema_version": 1, "seen": 3}')
    damaged = compare(tmp_path)
    assert [(one.path, one.state) for one in damaged.skipped] == [(path, "corrupt")]
    assert not [note for note in damaged.notes if "cannot be checked" in note]
    (path / "prompts.json").unlink()
    for name in ("untrained", "dpo"):
        (tmp_path / name / "seed0" / "prompts.json").unlink()
    assert [note for note in compare(tmp_path).notes if note.startswith("All runs: which texts")]


def test_runs_of_an_earlier_definition_of_equal_texts_are_checked_as_far_as_they_can(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES, prompts=((), {"h1": "p1"}))
    old = add_run(tmp_path, "ppo", VALUES, prompts=(("h2",), {"h3": "p3"})) / "prompts.json"
    assert json.loads(old.read_text())["text_form"] == 2
    assert not [note for note in compare(tmp_path).notes if "cannot be checked" in note]
    stored = json.loads(old.read_text())
    del stored["text_form"]  # as earlier builds wrote it
    old.write_text(json.dumps(stored))
    (note,) = [note for note in compare(tmp_path).notes if "cannot be checked" in note]
    assert note.startswith("ppo/seed0: written when texts were compared by case and white space alone")
    old.write_text(json.dumps(stored | {"seen": ["h1"]}))
    with pytest.raises(LeakError, match="training of ppo/seed0 could see 1 of the prompts that untrained/seed0"):
        compare(tmp_path)


class Words:
    """A tokenizer of words."""

    def encode(self, text):
        return text.split()

    def decode(self, tokens):
        return " ".join(tokens)


def test_texts_are_compared_whole():
    """The same text cut twice is one text; two texts with the same beginning are two."""
    whole = [Prompt("a", "the dog barks at me"), Prompt("b", "The  dog barks at night")]
    short, long = (
        next(cut for _, cut in PromptCutter(Words(), 10, (n, n), 0).cut([one], None, {}))
        for n, one in ((2, whole[0]), (4, whole[0]))
    )
    other = next(cut for _, cut in PromptCutter(Words(), 10, (2, 2), 0).cut([whole[1]], None, {}))
    assert (short.text, long.text, other.text) == ("the dog", "the dog barks at", "The dog")
    assert whole_text_hash(short) == whole_text_hash(long) == whole_text_hash(whole[0])
    assert whole_text_hash(short) != whole_text_hash(other)
    assert whole_text_hash(Prompt("c", "THE dog  barks at me")) == whole_text_hash(short)


def test_versions_that_differ_are_named_and_not_refused(tmp_path, add_run):
    for name, torch in (("untrained", "2.6.0"), ("ppo", "2.7.1"), ("dpo", "2.6.0")):
        environment = {"python": "3.11.2", "packages": {"torch": torch, "numpy": "2.1.0", "trl": None}}
        add_run(tmp_path, name, VALUES, environment=environment)
    notes = [note for note in compare(tmp_path).notes if note.startswith("Versions")]
    assert notes == ["Versions differ, torch: 2.6.0 in dpo/seed0, untrained/seed0; 2.7.1 in ppo/seed0."]
    (tmp_path / "ppo" / "seed0" / "environment.json").write_text('{"packages": [1]}')
    assert not [note for note in compare(tmp_path).notes if note.startswith("Versions")]


def status(seed, word=None, onset=None, reason=None):
    found = word and HackingDiagnosis(word, onset, (f"said {seed}",))
    return RunStatus(
        alignbench="0", state="complete", kind="policy", recipe="ppo", method="ppo", seed=seed, run_hash="h",
        started="", reward_hacking=found, reward_hacking_reason=reason,
    )  # fmt: skip


def test_the_worst_word_of_the_seeds():
    seeds = [status(0, "none"), status(1, "evident", 900), status(2, "suspected", 300), status(3, "evident", 600)]
    found = hacking_along_training([*seeds, status(4, reason="evaluate_every is 0")])
    assert (found.word, found.n_seeds, found.n_measured, found.onset_completions) == ("evident", 2, 4, 600)
    assert found.evidence == ("seed 1: said 1", "seed 3: said 3")
    assert found.reasons == ("seed 4: evaluate_every is 0",)
    flag = along_training_flag(found)
    assert flag.name == "reward_hacking"
    assert "part from 600 completions on in 2 of 4 seeds" in flag.text
    assert hacking_along_training([status(0)]) is None
    assert along_training_flag(hacking_along_training([status(0, "none")])) is None
    only_reason = hacking_along_training([status(0, reason="no held-out judge")])
    assert (only_reason.word, along_training_flag(only_reason)) == (None, None)


def test_a_suspicion_is_a_flag_of_its_own():
    evidence = ("The training reward rose: 0.8 to 2.1 (+1.3, standard error 0.1).", "No judge sees clearly less harm.")
    seeds = [status(0, "none"), replace_evidence(status(3, "suspected"), evidence), status(4, "suspected")]
    flag = along_training_flag(hacking_along_training(seeds))
    assert flag.name == "hacking_suspected"
    assert flag.text.endswith("in 2 of 3 seeds; seed 3: The training reward rose; No judge sees clearly less harm")
    without = along_training_flag(hacking_along_training([replace_evidence(status(0, "suspected"), ())]))
    assert without.text.endswith("in 1 of 1 seeds")


def replace_evidence(one, evidence):
    return one.model_copy(update={"reward_hacking": HackingDiagnosis(one.reward_hacking.word, None, evidence)})


def test_an_untrained_recipe_is_not_said_to_lack_a_curve(tmp_path, add_run):
    reason = "there are not two evaluations along training"
    add_run(tmp_path, "untrained", VALUES, reward_hacking_reason=reason)
    assert reason not in render(compare(tmp_path), "details")
    add_run(tmp_path, "ppo", VALUES, reward_hacking_reason=reason)
    assert f"ppo, seed 0: {reason}" in render(compare(tmp_path), "details")


def test_a_suspicion_marks_the_verdict(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES)
    add_run(tmp_path, "ppo", VALUES, reward_hacking=HackingDiagnosis("suspected", 0, ("The reward rose: 1 to 2.",)))
    text = render(compare(tmp_path), "markdown")
    (verdict,) = [line for line in text.splitlines() if line.startswith("| ppo |") and line.endswith("! |")]
    assert verdict
    assert "ppo: hacking_suspected: along training, reward and" in text


def test_the_word_is_shown_and_stored(tmp_path, add_run):
    add_run(tmp_path, "untrained", VALUES, reward_hacking_reason="nothing was trained")
    for seed, word in enumerate(("none", "evident")):
        found = HackingDiagnosis(word, 1024 if seed else None, ("reward +1.5, judge -0.25",))
        add_run(tmp_path, "ppo", VALUES, seed=seed, reward_hacking=found)
    comparison = compare(tmp_path)
    base, ppo = (next(r for r in comparison.records() if r["recipe"] == name) for name in ("untrained", "ppo"))
    assert (ppo["reward_hacking"], ppo["reward_hacking_seeds"], ppo["reward_hacking_onset"]) == ("evident", 1, 1024)
    assert ppo["reward_hacking_evidence"] == ["seed 1: reward +1.5, judge -0.25"]
    assert "reward_hacking" in ppo["flags"]
    assert (base["reward_hacking"], base["reward_hacking_seeds"]) == (None, None)
    assert base["reward_hacking_evidence"] == ["seed 0: nothing was trained"]
    text = render(comparison, "details")
    assert "Reward hacking along training" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("ppo") and "evident" in line]
    assert row == ["ppo", "evident", "1", "of", "2", "1,024"]
    stored = json.loads((tmp_path / "ppo" / "seed1" / "status.json").read_text())
    assert stored["reward_hacking"] == {
        "word": "evident", "onset_completions": 1024, "evidence": ["reward +1.5, judge -0.25"],
    }  # fmt: skip
