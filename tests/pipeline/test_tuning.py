"""Tuning on tiny models: what is tried, what is selected, what is charged, and that held-out prompts stay unseen."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import alignbench
from alignbench.cli import main
from alignbench.comparison.compare import compare
from alignbench.errors import AlignbenchError, ResultsError, TrainingError
from alignbench.methods.dpo import DPO
from alignbench.pipeline import build, execute, tuning
from alignbench.recipe.loading import load
from alignbench.recipe.sweeps import CriterionSettings
from alignbench.records import Cost, MetricValue
from alignbench.results import reader
from alignbench.results.schema import EvaluationFile, RunStatus, Trial

BETAS = {"dpo": {"method.beta": [0.1, 5.0]}}
# Larger steps than any sensible ones: the tiny policies must end up apart.
RATES = {name: {"method.learning_rate": [1e-4, 1e-2]} for name in ("ppo", "dpo")}


def write_suite(recipes=("base", "dpo"), grids=None, seeds=(0,), **sweep):
    """A suite of the recipes in the current folder, every grid with two points, both tried."""
    criterion = {"metric": "toxicity_mean", "scorer": "judge"}
    values = {
        "name": "tuned",
        "recipes": [f"{name}.yaml" for name in recipes],
        "seeds": list(seeds),
        "sweep": {"trials": 2, "criterion": criterion, "grids": grids or BETAS} | sweep,
    }
    Path("suite.yaml").write_text(json.dumps(values))


def run(**options):
    seeds, sets = options.pop("seeds", ()), options.pop("sets", ())
    return tuning.run(load(["suite.yaml"], sets, seeds), Path("results"), **options)


def states(outcomes):
    return {f"{one.recipe}/seed{one.seed}": one.state for one in outcomes}


def read(path):
    return json.loads(Path(path).read_text())


def status(name, seed=0):
    return read(f"results/{name}/seed{seed}/status.json")


def trial(value, reason=None, name="t"):
    return Trial(recipe=name, seed=0, run_hash="h", settings={"method.beta": value}, value=value, reason=reason)


# Selection


def test_the_best_is_selected_by_the_direction():
    trials = [trial(0.3), trial(0.1), trial(0.2)]
    assert tuning.select(trials, "lower") == 1
    assert tuning.select(trials, "higher") == 0


def test_a_trial_with_a_reason_against_it_is_not_selected():
    assert tuning.select([trial(0.1, "kl is 30"), trial(None, "it failed"), trial(0.9)], "lower") == 2


def test_of_equals_the_first_is_selected_and_said_so(caplog):
    assert tuning.select([trial(0.3, name="a"), trial(0.1, name="b"), trial(0.1, name="c")], "lower") == 1
    assert "b, c: equal at 0.1; the first is taken" in caplog.text


def test_none_can_be_selected():
    with pytest.raises(AlignbenchError, match=r"none of 2 trials.*\n.*method\.beta=0\.1: kl is 30\n.*it failed"):
        tuning.select([trial(0.1, "kl is 30"), trial(None, "it failed")], "lower")


def stored_run(split="validation", **values):
    metrics = tuple(
        MetricValue(metric, scorer or None, value, None, None, "lower", 1, 0, None if value is not None else "too few")
        for (metric, _, scorer), value in ((name.partition("__"), value) for name, value in values.items())
    )
    record = EvaluationFile(
        protocol="p@validation", n_prompts=1, samples_per_prompt=1, comparability={"split": split}, metrics=metrics
    )
    about = {"recipe": "r", "method": "dpo", "seed": 0, "run_hash": "h", "started": ""}
    run_status = RunStatus(alignbench="0", state="complete", kind="policy", **about)
    return reader.StoredRun(Path("r"), run_status, (reader.StoredEvaluation(Path("e"), record),))


def test_judging_a_trial_within_limits():
    criterion = CriterionSettings(
        metric="toxicity_mean", scorer="judge", at_most={"kl": 2.0}, at_least={"distinct_2": 0.5}
    )
    good = tuning.judge(stored_run(toxicity_mean__judge=0.2, kl=2.0, distinct_2=0.5), criterion)
    assert good == {"value": 0.2, "measured": {"kl": 2.0, "distinct_2": 0.5}, "reason": None}
    far = tuning.judge(stored_run(toxicity_mean__judge=0.1, kl=2.5, distinct_2=0.4), criterion)
    assert far["reason"] == "kl is 2.5, at most 2 is allowed; distinct_2 is 0.4, at least 0.5 is allowed"
    unknown = tuning.judge(stored_run(toxicity_mean__judge=None, kl=1.0), criterion)
    assert unknown["reason"] == (
        "toxicity_mean@judge could not be measured: too few; "
        "distinct_2 could not be measured: not among the metrics of p@validation"
    )


def test_a_trial_judged_on_held_out_prompts_decides_nothing():
    criterion = CriterionSettings(metric="toxicity_mean", scorer="judge")
    with pytest.raises(ResultsError, match="not evaluated on validation prompts"):
        tuning.judge(stored_run("heldout", toxicity_mean__judge=0.2), criterion)


# The whole, on tiny models


@pytest.fixture(scope="module")
def tuned_once(enter, tmp_path_factory):
    """A folder in which the suite that `write_suite` writes by itself was run."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        write_suite()
        assert {one.state for one in run()} == {"done"}
    return folder


@pytest.fixture
def tuned(recipe_folder, tuned_once):
    """The current folder, in which the suite was run."""
    shutil.copytree(tuned_once, recipe_folder, dirs_exist_ok=True)


def test_trials_selection_final_runs_and_costs(recipe_folder, monkeypatch):
    plain, evaluated = build.heldout_prompts, {}

    def spy(recipe, policy, data):
        prompts = plain(recipe, policy, data)
        ids = {prompt.id for prompt in prompts.prompts}
        evaluated.setdefault((recipe.name, recipe.seed), []).append(ids)
        assert ids.isdisjoint(prompt.id for prompt in data.train)
        return prompts

    monkeypatch.setattr(build, "heldout_prompts", spy)
    write_suite(recipes=("base", "ppo", "dpo"), seeds=(1, 2), grids=RATES)
    outcomes = run()
    trials = [f"{name}.trial{j}/seed0" for name in ("ppo", "dpo") for j in (0, 1)]
    finals = [f"{name}/seed{seed}" for name in ("base", "ppo", "dpo") for seed in (1, 2)]
    assert states(outcomes) == dict.fromkeys([*trials, *finals], "done"), [one.error for one in outcomes]

    # Trials saw validation prompts alone; each final run saw held-out prompts once.
    heldout = evaluated["base", 1][0]
    assert len(heldout) == 12
    for (name, seed), sets in evaluated.items():
        assert len(sets) == 1, (name, seed)
        assert (sets[0] == heldout) == ("trial" not in name)
        assert sets[0] == heldout or sets[0].isdisjoint(heldout)

    for name in ("ppo", "dpo"):
        record = read(f"results/tuning/{name}.json")
        values = [one["value"] for one in record["trials"]]
        assert values[0] != values[1]
        assert record["selected"] == values.index(min(values))
        chosen = record["trials"][record["selected"]]
        [(key, value)] = chosen["settings"].items()
        for seed in (1, 2):
            [final] = load([f"results/{name}/seed{seed}/recipe.resolved.yaml"])
            assert getattr(final.recipe.method, key.removeprefix("method.")) == value
            assert final.run_hash == status(name, seed)["run_hash"]
            assert read(f"results/{name}/seed{seed}/tuning.json") == record
            assert [(one["recipe"], one["role"]) for one in status(name, seed)["upstream"]] == [
                (f"{name}.trial{j}", "tuning") for j in (0, 1)
            ]
            _costs_add_up(name, seed)
    runs = alignbench.load_results("results").set_index(["recipe", "seed"])
    assert set(runs.index.get_level_values("recipe")) == {"base", "ppo", "dpo"}
    assert runs.loc[("ppo", 1), "training_completions"] == 3 * 32
    # The pairs of seed 0 served both trials; seed 1 drew its own.
    assert runs.loc[("dpo", 1), "training_completions"] == 2 * 32
    metrics = next(Path("results/tuning/dpo.trial0/seed0/evaluations").glob("*/metrics.json"))
    assert read(metrics)["comparability"]["protocol"] == "quickstart-v1@validation"
    flags = {flag.name: flag.text for row in compare("results").recipes for flag in row.flags}
    assert "built on 2 trials that tuned it" in flags["upstream"]
    assert set(alignbench.load_results("results/tuning")["recipe"]) == {name.partition("/")[0] for name in trials}


def _costs_add_up(name, seed):
    own = status(name, seed)
    parts = [read(f"results/tuning/{name}.trial{j}/seed0/status.json") for j in (0, 1)]
    upstream = own["upstream_cost"]
    pairs = [cost for label, cost in own["upstream_pieces"].items() if label.startswith("pairs ")]
    spent = [part[account] for part in parts for account in ("cost", "evaluation_cost")]
    seconds = [cost["wall_seconds"] for cost in (*spent, *pairs)]
    assert upstream["wall_seconds"] == pytest.approx(sum(seconds))
    assert len(pairs) == (2 if name == "dpo" else 0)
    assert upstream["optimizer_steps"] == sum(part["cost"]["optimizer_steps"] for part in parts) > 0


def test_again_everything_is_kept_and_forced_everything_runs_once(tuned, monkeypatch):
    before = {path: path.read_text() for path in Path("results").rglob("*.json")}
    assert states(run()) == {"base/seed0": "kept", "dpo/seed0": "kept"}
    assert before == {path: path.read_text() for path in Path("results").rglob("*.json")}
    trained, plain = [], DPO.train
    monkeypatch.setattr(DPO, "train", lambda self, data, run: trained.append(self.beta) or plain(self, data, run))
    outcomes = run(force=True)
    assert states(outcomes) == dict.fromkeys(
        ["dpo.trial0/seed0", "dpo.trial1/seed0", "base/seed0", "dpo/seed0"], "done"
    )
    assert len(trained) == 3


def test_a_finished_sweep_on_other_data_decides_nothing(recipe_folder, prompt_file):
    shutil.copy(prompt_file, "prompts.jsonl")
    write_suite()
    run(sets=["data.prompts=prompts.jsonl"])
    shutil.rmtree("results/dpo")
    Path("prompts.jsonl").write_text("".join(Path("prompts.jsonl").read_text().splitlines(keepends=True)[1:]))
    outcomes = run(sets=["data.prompts=prompts.jsonl"])
    assert states(outcomes) == {"base/seed0": "failed", "dpo/seed0": "failed"}
    for outcome in outcomes:
        assert "data.prompts, prompts.jsonl: was " in str(outcome.error)
    assert not Path("results/dpo").exists()


def test_killed_in_the_middle_the_same_command_goes_on(recipe_folder, monkeypatch):
    write_suite()
    plain = DPO.train

    def killed(self, data, run):
        if self.beta == 5.0:
            raise KeyboardInterrupt
        return plain(self, data, run)

    monkeypatch.setattr(DPO, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(DPO, "train", plain)
    assert states(run()) == {
        "dpo.trial0/seed0": "kept", "dpo.trial1/seed0": "done", "base/seed0": "done", "dpo/seed0": "done",
    }  # fmt: skip


def test_a_failed_trial_is_spent_and_charged_and_not_selected(recipe_folder, monkeypatch):
    write_suite()
    plain, best = DPO.train, []

    def fails(self, data, run):
        if self.beta == 0.1:
            run.step_done(1, 0, {"loss": 0.7}, {}, None)
            best.append(self.beta)
            raise TrainingError("the loss is nan")
        return plain(self, data, run)

    monkeypatch.setattr(DPO, "train", fails)
    result = CliRunner().invoke(main, ["run", "suite.yaml"])
    assert result.exit_code == 0, result.output
    assert "dpo.trial0, seed 0: failed, and counts as a trial: the loss is nan" in result.output
    record = read("results/tuning/dpo.json")
    assert record["selected"] == 1
    assert "the loss is nan" in record["trials"][0]["reason"]
    assert record["pieces"][f"run {record['trials'][0]['run_hash']}"]["wall_seconds"] > 0
    assert [label for label in record["pieces"] if label.startswith("pairs ")]
    assert states(run()) == {"base/seed0": "kept", "dpo/seed0": "kept"}
    assert len(best) == 1  # not tried again


def test_where_none_can_be_selected_the_others_go_on(recipe_folder):
    limited = {"metric": "toxicity_mean", "scorer": "judge", "at_most": {"perplexity": 1.0}}
    third = {"extends": "shared.yaml", "name": "third", "method": {"name": "untrained"}, "policy": {"run": "dpo"}}
    Path("third.yaml").write_text(json.dumps(third))
    write_suite(recipes=("dpo", "third", "base"), criterion=limited)
    outcomes = {one.recipe: one for one in run()}
    assert (outcomes["base"].state, outcomes["dpo"].state, outcomes["third"].state) == ("done", "failed", "failed")
    assert "not tuned: none of 2 trials can be selected" in str(outcomes["dpo"].error)
    assert "at most 1 is allowed" in str(outcomes["dpo"].error)
    assert "dpo, which it builds on, was not tuned" in str(outcomes["third"].error)
    assert not Path("results/dpo").exists()
    assert not Path("results/tuning/dpo.json").exists()


def test_a_mistake_is_not_a_spent_trial(recipe_folder):
    """What stands there under the trial's name was never tried under this sweep."""
    write_suite()
    run(sets=["budget.completions=16"])
    outcomes = {one.recipe: one for one in run() if one.recipe != "base"}
    assert outcomes["dpo"].state == "failed"
    assert "holds a run of another recipe" in str(outcomes["dpo"].error)


def test_what_ran_before_with_the_same_settings_is_charged_with_the_sweep(tuned):
    record = read("results/tuning/dpo.json")
    beta = record["trials"][record["selected"]]["settings"]["method.beta"]
    shutil.rmtree("results/dpo")
    execute.run(load(["dpo.yaml"], [f"method.beta={beta}"]), Path("results"))
    assert status("dpo")["upstream"] == []
    alone = status("dpo")["upstream_cost"]["wall_seconds"]
    assert states(run())["dpo/seed0"] == "kept"
    assert [one["role"] for one in status("dpo")["upstream"]] == ["tuning", "tuning"]
    assert status("dpo")["upstream_cost"]["wall_seconds"] > alone
    assert read("results/dpo/seed0/tuning.json") == record
    _costs_add_up_at_the_same_seed()


def _costs_add_up_at_the_same_seed():
    """The pairs of seed 0 served the trials and the run itself, and are charged once."""
    pieces = status("dpo")["upstream_pieces"]
    assert len([label for label in pieces if label.startswith("pairs ")]) == 1
    total = Cost()
    for cost in pieces.values():
        total.charge(Cost(**cost))
    assert total == Cost(**status("dpo")["upstream_cost"])


def test_what_builds_on_a_tuned_recipe_gets_its_selected_settings(recipe_folder):
    write_suite(
        recipes=("ppo_after_dpo", "dpo"), seeds=(0,), grids=BETAS | {"ppo_after_dpo": {"method.kl_coef": [0.0, 0.2]}}
    )
    dry = CliRunner().invoke(main, ["run", "suite.yaml", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "ppo_after_dpo: 2 trials, once what it builds on is tuned" in dry.output
    assert not Path("results").exists()
    outcomes = run()
    assert {one.state for one in outcomes} == {"done"}, [one.error for one in outcomes]
    chosen = status("dpo")["run_hash"]
    for path in ("results/tuning/ppo_after_dpo.trial0", "results/tuning/ppo_after_dpo.trial1", "results/ppo_after_dpo"):
        upstream = {one["role"]: one for one in read(f"{path}/seed0/status.json")["upstream"]}
        assert upstream["policy"]["run_hash"] == chosen
    # DPO's sweep is charged on, and once: both trials and the final run build on the same run.
    pieces = status("ppo_after_dpo")["upstream_pieces"]
    trials = [f"tuning/{name}.trial{j}" for name in ("dpo", "ppo_after_dpo") for j in (0, 1)]
    runs = {f"run {read(f'results/{name}/seed0/status.json')['run_hash']}" for name in [*trials, "dpo"]}
    assert {label for label in pieces if label.startswith("run ")} == runs
    assert sum(label.startswith("pairs ") for label in pieces) == 1
    again = CliRunner().invoke(main, ["run", "suite.yaml", "--dry-run"]).output.splitlines()
    assert [line.split(" (")[0] for line in again] == ["dpo, seed 0: dpo, skip", "ppo_after_dpo, seed 0: ppo, skip"]


def test_reward_models_are_not_tuned_and_run_once(recipe_folder):
    write_suite(
        recipes=("reward_model", "ppo_learned_reward"), grids={"ppo_learned_reward": {"method.kl_coef": [0.0, 0.2]}}
    )
    outcomes = run()
    assert {one.state for one in outcomes} == {"done"}, [one.error for one in outcomes]
    assert len(outcomes) == 4
    assert not Path("results/tuning/reward_model").exists()
    pieces = status("ppo_learned_reward")["upstream_pieces"]
    kinds = sorted(label.partition(" ")[0] for label in pieces)
    assert kinds == ["evaluation", "evaluation", "pairs", "run", "run", "run"]
    assert f"run {status('reward_model')['run_hash']}" in pieces


def test_a_trial_runs_again_by_itself(tuned):
    [again] = load(["results/tuning/dpo.trial1/seed0/recipe.resolved.yaml"])
    [outcome] = execute.run([again], Path("other"))
    assert outcome.path == Path("other/tuning/dpo.trial1/seed0")
    ours, theirs = (alignbench.load_metrics(f"{root}/tuning/dpo.trial1") for root in ("results", "other"))
    assert ours.equals(theirs)


def test_without_sweeps_it_is_the_pipeline(recipe_folder):
    assert states(tuning.run(load(["base.yaml"]), Path("results"))) == {"base/seed0": "done"}
    assert not Path("results/tuning").exists()
