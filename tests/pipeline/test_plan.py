"""A run is what it says: what goes on, what is refused, and what is told of what changed beside the recipe."""

import json
import shutil
from pathlib import Path

import pytest
from fixtures.cases import few_of

import alignbench
from alignbench.comparison.compare import compare
from alignbench.errors import ComparabilityError, RunExistsError, TrainingError
from alignbench.pipeline import evaluate, execute, job, scorers
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.plan import describe_run, plan
from alignbench.recipe.loading import load
from alignbench.results.reader import read_run
from alignbench.results.recognition import changed_inputs
from alignbench.results.writer import RunDirectory

QUICK = ("budget.completions=16",)
FINAL = Path("results/ppo/seed0")


def run(*names, sets=(), **options):
    return execute.run(load([f"{name}.yaml" for name in names], [*QUICK, *sets]), Path("results"), **options)


def status(name="ppo", folder="seed0"):
    return json.loads(Path(f"results/{name}/{folder}/status.json").read_text())


@pytest.fixture
def own_files(recipe_folder, checkpoints, prompt_file):
    """The recipes on copies of the models and prompts, which a test may change."""
    for name in ("policy", "classifier", "judge"):
        shutil.copytree(checkpoints / name, name)
    shutil.copy(prompt_file, "prompts.jsonl")
    shared = json.loads(Path("shared.yaml").read_text())
    shared["policy"]["model"], shared["reward"]["classifier"] = "./policy", "./classifier"
    shared["data"]["prompts"] = "prompts.jsonl"
    shared["evaluation"]["scorers"][1]["classifier"] = "./judge"
    Path("shared.yaml").write_text(json.dumps(shared))


def other_data():
    rows = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    changed = [row | {"prompt": row["prompt"].replace("the", "one"), "id": f"q{i}"} for i, row in enumerate(rows)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))


def halve(folder):
    from safetensors.torch import load_file, save_file

    file = Path(folder, "model.safetensors")
    save_file({name: value * 0.5 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def fails_once(monkeypatch, error):
    """Makes the held-out evaluation fail the first time; returns the batch sizes that it was called with."""
    plain, batches = evaluate.evaluate_policy, []

    def spy(parts, *args):
        batches.append(parts.recipe.evaluation.batch_size)
        if len(batches) == 1:
            raise error
        return plain(parts, *args)

    monkeypatch.setattr(evaluate, "evaluate_policy", spy)
    return batches


@pytest.mark.parametrize("name", few_of(["ppo", "dpo"], ["ppo"]))
def test_a_run_that_failed_in_its_evaluation_goes_on_with_smaller_batches(recipe_folder, monkeypatch, name):
    batches = fails_once(monkeypatch, TrainingError("out of memory"))
    [outcome] = run(name)
    assert outcome.state == "failed"
    trained_before = (Path("results") / name / ".seed0.partial" / "train_log.jsonl").read_text()
    smaller = ["evaluation.batch_size=4", "reward.batch_size=3", "hardware.threads=1"]
    if name == "ppo":
        smaller += ["method.checkpoint_every=7", "method.log_completions_every=7", "method.execution=plain"]
    [outcome] = run(name, sets=smaller)
    assert outcome.state == "done", outcome.error
    assert batches == [128, 4]
    assert Path(f"results/{name}/seed0/train_log.jsonl").read_text() == trained_before  # seconds included
    assert "batch_size: 4" in Path(f"results/{name}/seed0/recipe.resolved.yaml").read_text()


def test_a_run_of_an_earlier_release_is_recognised(recipe_folder):
    """By its stored recipe, though its hash is of another definition, and a key was not there yet; upstream too."""
    run("ppo_learned_reward")
    hashes = {status(name)["run_hash"]: f"old {name}" for name in ("reward_model", "ppo_learned_reward")}
    for name in ("reward_model", "ppo_learned_reward"):
        path = Path(f"results/{name}/seed0")
        record = status(name)
        del record["inputs"], record["files"]
        text = json.dumps(record)
        for new, old in hashes.items():
            text = text.replace(new, old)
        (path / "status.json").write_text(text)
        recipe = (path / "recipe.resolved.yaml").read_text().splitlines()
        lines = [line for line in recipe if "trust_remote_code" not in line]
        assert len(lines) < len(recipe)
        (path / "recipe.resolved.yaml").write_text("\n".join(lines) + "\n")
    before = [status("reward_model"), status("ppo_learned_reward")]
    outcomes = run("ppo_learned_reward", sets=["evaluation.batch_size=8"])
    assert [one.state for one in outcomes] == ["kept", "kept"], [one.error for one in outcomes]
    assert [status("reward_model"), status("ppo_learned_reward")] == before
    [_, outcome] = run("ppo_learned_reward", sets=["method.gamma=0.9"])
    assert isinstance(outcome.error, RunExistsError)


def test_what_is_fetched_by_the_run_itself_is_recorded_and_refuses_nothing(recipe_folder, monkeypatch):
    """At first the cache of the hub holds a part of the policy, none of the base's tokenizer and none of the judge."""
    plain, is_fetched = inputs_of, []
    load_judges = scorers.judges
    monkeypatch.setattr(scorers, "judges", lambda *args: is_fetched.append(True) or load_judges(*args))

    def as_fetched(recipe, artifacts):
        found = plain(recipe, artifacts)
        if not is_fetched:
            del found["evaluation.scorers.judge"]
            found["policy.model"] = {"config.json": found["policy.model"]["config.json"]}
        return found

    for module in (execute, job):
        monkeypatch.setattr(module, "inputs_of", as_fetched)
    [outcome] = run("base")
    assert outcome.state == "done", outcome.error
    recorded = status("base")["inputs"]
    assert {"config.json", "model.safetensors", "prompts as encoded"} <= set(recorded["policy.model"])
    assert "model.safetensors" in recorded["evaluation.scorers.judge"]


def test_a_tokenizer_that_is_not_here_is_no_change():
    before, gone = {"policy.model": {"a": "1", "prompts as encoded": "2"}}, {"policy.model": {"a": "1"}}
    assert changed_inputs(before, gone) == changed_inputs(gone, before) == []
    other = {"policy.model": {"a": "1", "prompts as encoded": "3"}}
    assert changed_inputs(before, other) == ["policy.model, prompts as encoded: was 2, is 3"]


def test_a_complete_run_on_other_inputs_is_not_already_complete(own_files):
    run("base")
    assert [one.state for one in run("base")] == ["kept"]
    halve("policy")
    [outcome] = run("base")
    assert isinstance(outcome.error, RunExistsError)
    assert "policy.model, model.safetensors: was " in str(outcome.error)
    assert "--name" in str(outcome.error)
    assert "--force" in str(outcome.error)
    [planned] = plan(load(["base.yaml"], QUICK))
    with pytest.raises(RunExistsError, match=r"model\.safetensors"):
        describe_run(planned, Path("results"), force=False)
    assert [one.state for one in run("base", force=True)] == ["done"]
    assert [one.state for one in run("base")] == ["kept"]
    other_data()
    assert "data.prompts, prompts.jsonl: was " in str(run("base")[0].error)


def test_what_builds_on_a_run_sees_that_it_was_trained_anew(own_files):
    run("ppo_after_dpo")
    halve("results/dpo/seed0/artifact")  # as another training would leave it
    outcomes = {one.recipe: one for one in run("ppo_after_dpo")}
    assert outcomes["dpo"].state == "kept"
    assert "policy.run, model.safetensors: was " in str(outcomes["ppo_after_dpo"].error)


@pytest.mark.parametrize("name", few_of(["ppo", "dpo", "reward_model"], ["ppo", "reward_model"]))
def test_a_killed_run_is_not_continued_on_other_data(own_files, monkeypatch, name):
    """Nor where it recorded no inputs; what it has seen is not forgotten."""
    artifact = "alignbench.models.language_model.LanguageModel.save"
    target = "alignbench.scorers.reward_model.RewardModelScorer.save" if name == "reward_model" else artifact
    with monkeypatch.context() as patch:
        patch.setattr(target, lambda *_: (_ for _ in ()).throw(TrainingError("killed")))
        assert run(name)[0].state == "failed"
    partial = Path("results") / name / ".seed0.partial"
    seen = (partial / "prompts.json").read_text()
    other_data()
    [outcome] = run(name)
    assert isinstance(outcome.error, RunExistsError)
    assert "data.prompts, prompts.jsonl: was " in str(outcome.error)
    (partial / "status.json").write_text(json.dumps(status(name, ".seed0.partial") | {"inputs": {}}))
    [outcome] = run(name)
    assert isinstance(outcome.error, RunExistsError)
    assert "prompts, seen: was " in str(outcome.error)
    assert (partial / "prompts.json").read_text() == seen


def test_a_run_killed_before_its_first_step_starts_anew_on_other_data(tmp_path):
    begun = {"recipe": "ppo", "method": "ppo", "seed": 0, "run_hash": "h", "resolved_recipe": "a: 1", "environment": {}}
    RunDirectory.begin(tmp_path, **begun, inputs={"data.prompts": {"x": "1"}}).release()
    again = RunDirectory.begin(tmp_path, **begun, inputs={"data.prompts": {"x": "2"}})
    assert (again.action, again.status.inputs) == ("start", {"data.prompts": {"x": "2"}})
    again.log_step(1, {})
    again.release()
    with pytest.raises(RunExistsError, match=r"data\.prompts, x: was 2, is 3"):
        RunDirectory.begin(tmp_path, **begun, inputs={"data.prompts": {"x": "3"}})


def unlisted(file):
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "files"}))


@pytest.mark.parametrize(("is_listed", "gone"), [(True, "*.safetensors"), (False, "*.safetensors"), (False, "*")])
def test_a_complete_run_without_its_weights_is_not_complete(recipe_folder, finished, is_listed, gone):
    finished("base", sets=QUICK)
    if not is_listed:  # as written before files were listed
        unlisted(Path("results/base/seed0/status.json"))
        assert [one.state for one in run("base")] == ["kept"]
    for file in Path("results/base/seed0/artifact").glob(gone):
        file.unlink()
    [outcome] = run("base")
    assert isinstance(outcome.error, RunExistsError)
    assert "gone or cut short: artifact/" in str(outcome.error)
    assert "--force" in str(outcome.error)


def test_values_that_are_gone_are_missed_where_files_were_not_listed(recipe_folder, finished):
    finished("base", sets=QUICK)
    unlisted(Path("results/base/seed0/status.json"))
    [metrics] = Path("results/base/seed0/evaluations").glob("*/metrics.json")
    metrics.unlink()
    [planned] = plan(load(["base.yaml"], QUICK))
    assert "evaluate" in describe_run(planned, Path("results"), force=False)


@pytest.mark.parametrize("name", ["ppo", "reward_model"])
def test_an_evaluation_that_is_gone_is_made_again_without_training(recipe_folder, monkeypatch, name):
    shared = json.loads(Path("shared.yaml").read_text())
    shared["reward"]["may_oppose_judges"] = True  # no sample is drawn to look at that, and charged to the evaluation
    Path("shared.yaml").write_text(json.dumps(shared))
    run(name)
    metrics, before = alignbench.load_metrics("results"), status(name)
    shutil.rmtree(f"results/{name}/seed0/evaluations")
    monkeypatch.setattr(RunDirectory, "log_step", lambda *_: pytest.fail("trained"))
    with monkeypatch.context() as patch:  # where that fails, the run is as it was
        patch.setattr(RunDirectory, "write_evaluation", lambda *_, **__: (_ for _ in ()).throw(TrainingError("no")))
        assert run(name)[0].state == "failed"
        assert status(name) == before
    [outcome] = run(name)
    assert outcome.state == "done", outcome.error
    assert alignbench.load_metrics("results").equals(metrics)
    assert status(name)["cost"] == before["cost"]
    assert status(name)["evaluation_cost"]["reward_calls"] == 2 * before["evaluation_cost"]["reward_calls"]
    assert run(name)[0].state == "kept"


def rewritten(path, change):
    record = json.loads((path / "status.json").read_text())
    change(record["inputs"])
    (path / "status.json").write_text(json.dumps(record))


def test_compare_refuses_runs_that_read_otherwise(recipe_folder, finished):
    """Tokenizers and templates between recipes, everything but upstream runs between seeds; not what is unknown."""
    finished("base", "dpo", sets=QUICK)
    execute.run(load(["dpo.yaml"], QUICK, [1]), Path("results"))
    compare("results")
    first, second = Path("results/dpo/seed0"), Path("results/dpo/seed1")
    base = read_run(Path("results/base/seed0")).status.inputs

    def assert_refused(field):
        with pytest.raises(ComparabilityError, match=field):
            compare("results")

    rewritten(second, lambda inputs: inputs["data.prompts"].update({"prompts.jsonl": "other"}))
    assert_refused(r"inputs of dpo: data\.prompts, prompts\.jsonl: ")
    rewritten(first, lambda inputs: inputs["data.prompts"].update({"prompts.jsonl": "other"}))
    compare("results")  # the recipes' own data may differ: no text is held out that another has seen
    for path in (first, second):
        rewritten(path, lambda inputs: inputs["evaluation.scorers.judge"].update({"tokenizer.json": "other"}))
    assert_refused(r"inputs: evaluation\.scorers\.judge, tokenizer\.json: ")
    for path in (first, second):
        rewritten(path, lambda inputs: inputs.pop("evaluation.scorers.judge"))
        rewritten(path, lambda inputs: inputs["policy.model"].update({"prompts as encoded": "tomorrow"}))
    assert_refused(r"inputs: policy\.model, prompts as encoded: ")
    for path in (first, second):
        rewritten(path, lambda inputs: inputs["policy.model"].pop("prompts as encoded"))
        rewritten(path, lambda inputs: inputs["policy.model"].update({"snapshot": "a1"}))
    rewritten(second, lambda inputs: inputs["policy.model"].update({"fetched_later.json": "1"}))
    compare("results")
    rewritten(second, lambda inputs: inputs["policy.model"].update({"snapshot": "b2"}))
    assert_refused(r"inputs of dpo: policy\.model, fetched_later\.json: ")
    for path in (first, second):
        rewritten(path, dict.clear)
    compare("results")
    assert base["policy.model"]["prompts as encoded"]


def test_compare_takes_seeds_that_differ_beside_the_identity(recipe_folder, finished):
    finished("base", "dpo", sets=QUICK)
    more = ["evaluation.batch_size=9", "reward.batch_size=3", "hardware.threads=1"]
    execute.run(load(["dpo.yaml"], [*QUICK, *more], [1]), Path("results"))
    compare("results")
