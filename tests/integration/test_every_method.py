"""The suite of all methods, small: each is run, is measured, and stands in the table; none reads what is held out."""

import json
from contextlib import contextmanager
from functools import wraps

import pytest
from click.testing import CliRunner
from fixtures.reconciled import assert_reconciles, status
from fixtures.small_suites import small_suite

from alignbench import plugins
from alignbench.cli import main
from alignbench.methods.registry import method_class
from alignbench.models.language_model import LanguageModel
from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.scorers.text_classifier import ClassifierScorer

pytestmark = pytest.mark.slow

BUDGET, N_HELD_OUT = 64, 12
BATCHES = {"batch_size": 16, "mini_batch_size": 8}
SMALL = {
    **dict.fromkeys(["ppo_detox", "rloo", "grpo", "dr_grpo", "reinforce_pp", "online_dpo", "quark"], BATCHES),
    "reinforce_pp_baseline": BATCHES,
    "raft": {**BATCHES, "mini_batch_size": 2},
    "red_team": {"batch_size": 8, "mini_batch_size": 8},
}
CANARY = "canary"
"""A word of every prompt that is held out, and of no other."""
ELSEWHERE = {"external", "stored_completions"}
"""Methods that measure what was made elsewhere: the suite has no such thing."""


class Readers:
    """What policies and classifiers are given to read: while data are made and methods train, and else."""

    def __init__(self):
        self.trains, self.while_training, self.else_ = False, set(), set()

    def see(self, texts):
        (self.while_training if self.trains else self.else_).update(texts)

    @contextmanager
    def training(self):
        self.trains = True
        try:
            yield
        finally:
            self.trains = False

    def within(self, work):
        """The same work, noted as training."""

        @wraps(work)
        def noted(*arguments, **named):
            with self.training():
                return work(*arguments, **named)

        return noted


@pytest.fixture(scope="module")
def ran(tmp_path_factory, measure_kl_on):
    """Runs the suite; returns its directories by recipe, and what was read."""
    folder, readers = tmp_path_factory.mktemp("all"), Readers()
    held = [{"id": f"h{i}", "prompt": f"the {CANARY} says {'a' * (i + 1)}"} for i in range(N_HELD_OUT)]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    (folder / "small.yaml").write_text(small_suite("all_methods", SMALL))
    encode, score = LanguageModel.encode_prompts, ClassifierScorer.score

    def encode_prompts(policy, prompts):
        readers.see(one if isinstance(one, str) else one.text for one in prompts)
        return encode(policy, prompts)

    def scores(scorer, prompts, completions):
        readers.see(prompts)
        return score(scorer, prompts, completions)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))
        measure_kl_on(8, patch)
        patch.setattr(LanguageModel, "encode_prompts", encode_prompts)
        patch.setattr(ClassifierScorer, "score", scores)
        patch.setattr(execute, "build_training_data", readers.within(execute.build_training_data))
        for name in plugins.METHODS.built_in:
            kind = method_class(name)
            patch.setattr(kind, "train", readers.within(kind.train))
        sets = [
            *("data.heldout=held.jsonl", f"budget.completions={BUDGET}", f"evaluation.n_prompts={N_HELD_OUT}"),
            *("evaluation.neutral=null", "evaluation.evaluate_every=0", "evaluation.batch_size=256"),
        ]
        outcomes = execute.run(load(["small.yaml"], sets), folder / "results")
    assert {one.state for one in outcomes} == {"done"}, [one.error for one in outcomes if one.error]
    return {one.recipe: one.path for one in outcomes}, readers


def test_every_method_is_in_the_suite(ran):
    found = {status(path)["method"] for path in ran[0].values()}
    assert found == set(plugins.METHODS.built_in) - ELSEWHERE


def test_costs_are_the_sums_of_the_events(ran):
    for path in ran[0].values():
        assert_reconciles(path)


def test_what_is_held_out_is_read_by_nobody_who_trains(ran):
    _, readers = ran
    assert sum(text.startswith(f"the {CANARY}") for text in readers.else_) == N_HELD_OUT  # others stand behind words
    assert len(readers.while_training) > BUDGET
    assert [text for text in readers.while_training if CANARY in text] == []


def test_no_file_of_training_has_it(ran):
    for path in ran[0].values():
        for file in path.glob("*.jsonl"):
            assert CANARY not in file.read_text(), file


def test_a_chain_costs_what_all_of_it_has_cost_and_its_stages_stand_side_by_side(tmp_path, measure_kl_on, monkeypatch):
    """SFT, reward model and PPO; SFT and DPO. What two stages build on is charged once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    measure_kl_on(8, monkeypatch)
    suite = small_suite("rlhf_pipeline_embedded", {"ppo_after_sft": BATCHES})
    (tmp_path / "small.yaml").write_text(suite)
    small = [f"budget.completions={BUDGET}", f"evaluation.n_prompts={N_HELD_OUT}", "evaluation.evaluate_every=0"]
    outcomes = execute.run(load(["small.yaml"], small), tmp_path / "results")
    assert {one.state for one in outcomes} == {"done"}, [one.error for one in outcomes if one.error]
    found = {one.recipe: status(one.path) for one in outcomes}
    own = {name: one["cost"]["optimizer_steps"] for name, one in found.items()}
    before = {name: one["upstream_cost"]["optimizer_steps"] for name, one in found.items()}
    assert before["sft"] == before["base"] == own["base"] == 0
    assert before["dpo_after_sft"] == before["reward_model_after_sft"] == own["sft"] > 0
    assert before["ppo_after_sft"] == own["sft"] + own["reward_model_after_sft"] > own["sft"]
    drawn = {name: one["upstream_cost"]["training_completions"] for name, one in found.items()}
    assert drawn == dict.fromkeys(found, BUDGET) | {"base": 0, "sft": 0}  # which imitates what the data have
    result = CliRunner().invoke(main, ["compare", "results", "--baseline", "base"])
    assert result.exit_code == 0, result.output
    for recipe in ("base", "sft", "ppo_after_sft", "dpo_after_sft"):
        assert recipe in result.output


def test_all_stand_in_one_table(ran):
    paths, _ = ran
    results = next(iter(paths.values())).parent.parent
    result = CliRunner().invoke(main, ["compare", str(results)])
    assert result.exit_code == 0, result.output
    trained = [recipe for recipe, path in paths.items() if status(path)["kind"] == "policy"]
    assert [recipe for recipe in trained if recipe not in result.output] == []
