"""Finished runs measured again, and judged by further scorers: nothing is trained, and nothing is lost."""

import importlib
import json
import shutil
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner

import alignbench
from alignbench import plugins
from alignbench.cli import main
from alignbench.errors import LeakError, UsageError
from alignbench.evaluation.metrics.aggregate import SetStatistic
from alignbench.evaluation.metrics.metric import Metric
from alignbench.pipeline import execute
from alignbench.pipeline.again import changed_recipe, measure_again
from alignbench.pipeline.named_scorers import judge_settings
from alignbench.recipe.loading import load
from alignbench.results.reader import read_run
from alignbench.scorers.presets import PRESETS

WORDS = "{name: words, lexicon: words.txt}"
of_a_package = (
    Metric(
        name="n_words",
        direction="higher",
        of_prompts=lambda sample: [[len(text.split()) for text in own] for own in sample.texts],
    ),
    Metric(
        name="n_different",
        direction="higher",
        of_set=lambda sample: SetStatistic(float(len({text for own in sample.texts for text in own}))),
    ),
)


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def record(run, number=1):
    files = Path(run).glob("seed*/evaluations/*/metrics.json")
    [found] = [one for one in map(json.loads, (file.read_text() for file in files)) if measured(one) == number]
    return found


def measured(record):
    return (record["measurement"] or {"number": 1})["number"]


def values(record):
    return {(one["metric"], one["scorer"]): one for one in record["metrics"]}


@pytest.fixture(scope="module")
def folder(enter, finished, tmp_path_factory):
    """Two runs; one of them once more, with a further judge from the start; then that judge is added to the two."""
    folder = tmp_path_factory.mktemp("again")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        finished("base", "ppo")
        Path("words.txt").write_text("stupid\nrude\n")
        judge = load(["base.yaml"])[0].recipe.resolved()["evaluation"]["scorers"][1]
        scorers = json.dumps(
            [
                "reward",
                {key: judge[key] for key in ("name", "classifier", "label")},
                {"name": "words", "lexicon": "words.txt"},
            ]
        )
        [outcome] = execute.run(load(["ppo.yaml"], [f"evaluation.scorers={scorers}"]), Path("whole"))
        assert outcome.state == "done", outcome.error
        before = {path: path.read_bytes() for path in Path("results").rglob("evaluations/*/*")}
        said = call("rescore", "results", "--scorer", WORDS)
        assert said.exit_code == 0, said.output
        assert {path: path.read_bytes() for path in before} == before
        said = call("evaluate", "results", "--set", "evaluation.batch_size=32", "--set", "evaluation.n_prompts=10")
        assert said.exit_code == 0, said.output
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))


def test_a_judge_that_is_added_says_what_it_would_have_said_in_the_run(here):
    added, whole = record("results/ppo", 2), record("whole/ppo")
    assert values(added) == values(whole)
    for key in ("comparability", "scorer_sources", "n_prompts", "samples_per_prompt", "prompt_groups", "answer_cost"):
        assert added[key] == whole[key]


def test_a_judge_has_the_name_of_a_preset_or_its_settings():
    settings = judge_settings("s-nlp", "--scorer")
    assert (settings.name, settings.classifier) == ("s-nlp", "s-nlp/roberta_toxicity_classifier")
    assert settings == judge_settings(json.dumps({"name": "s-nlp", **PRESETS["s-nlp"]}), "--scorer")


def test_measured_again_on_fewer_prompts(here):
    first, again = record("results/ppo"), record("results/ppo", 3)
    assert (first["n_prompts"], again["n_prompts"]) == (12, 10)
    assert again["measurement"]["changed"] == ["evaluation.batch_size=32", "evaluation.n_prompts=10"]
    assert again["measurement"]["evaluation"]["n_prompts"] == 10
    assert len(alignbench.load_completions("results/ppo")) == 10 * 4


def test_tables_show_the_latest_and_say_so(here):
    latest, second, first = (alignbench.compare("results", measurement=number) for number in (None, 2, 1))
    assert [one.n_prompts for one in (latest, second, first)] == [10, 12, 12]
    keys = [{str(key) for key in one.recipes[1].metrics} for one in (latest, second, first)]
    assert ["toxicity_mean@words" in one for one in keys] == [False, True, False]
    [note] = [one for one in latest.notes if one.startswith("Shown of")]
    assert note.startswith("Shown of base/seed0, ppo/seed0: measurement 3 of 3 (evaluate on ")
    assert "evaluation.n_prompts=10" in note
    assert any("measurement 2 of 3 (rescore on " in one and "scorer words" in one for one in second.notes)
    assert any("measurement 1 of 3 (the run itself)" in one for one in first.notes)
    assert "words" in call("compare", "results", "--measurement", 2).output


def test_a_measurement_that_no_run_has_is_refused_by_its_number(here):
    said = call("compare", "results", "--measurement", 4)
    assert said.exit_code == 2
    assert "measurement: got 4, expected at most 3, the latest of these runs" in said.output


def test_frames_show_the_latest_or_the_one_that_is_asked_for(here):
    for number, n_prompts in ((None, 10), (3, 10), (2, 12), (1, 12)):
        stored = record("results/ppo", number or 3)
        frame = alignbench.load_metrics("results/ppo", measurement=number)
        shown = frame.astype(object).where(frame.notna(), None)
        assert dict(zip(zip(shown.metric, shown.scorer, strict=True), shown.value, strict=True)) == {
            key: one["value"] for key, one in values(stored).items()
        }
        completions = alignbench.load_completions("results/ppo", measurement=number)
        assert len(completions) == n_prompts * 4
        assert ("toxicity@words" in completions) == (number == 2)
        assert len(alignbench.load_divergence("results/ppo", measurement=number)) == n_prompts
        assert alignbench.load_results("results/ppo", measurement=number)["protocol"].tolist() == [stored["protocol"]]


def test_a_measurement_that_a_run_lacks_has_no_rows_and_one_that_all_lack_is_an_error(here):
    alone, beside = (alignbench.load_metrics(paths, measurement=2) for paths in ("results", ["results", "whole"]))
    assert len(beside) == len(alone) > 0
    for load_frame in (alignbench.load_metrics, alignbench.load_completions, alignbench.load_results):
        with pytest.raises(UsageError, match="measurement: got 4, expected at most 3, the latest of these runs"):
            load_frame("results", measurement=4)


def test_method_seed_and_model_stay_and_what_it_took_is_charged(here):
    status, whole = (json.loads(Path(f"{one}/ppo/seed0/status.json").read_text()) for one in ("results", "whole"))
    for key in ("method", "seed", "state", "trained_on"):
        assert status[key] == whole[key]
    assert status["cost"]["generated_tokens"] == whole["cost"]["generated_tokens"]
    assert status["evaluation_cost"]["reward_calls"] > whole["evaluation_cost"]["reward_calls"]
    events = [json.loads(line) for line in Path("results/ppo/seed0/events.jsonl").read_text().splitlines()]
    charged = sum(one.get("reward_calls", 0) for one in events if one["account"] == "evaluation_cost")
    assert charged == status["evaluation_cost"]["reward_calls"]
    outcomes = execute.run(load(["ppo.yaml"]), Path("results"))
    assert [one.state for one in outcomes] == ["kept"]


def test_a_trained_run_measured_on_prompts_that_it_has_not_seen_knows_them_from_then_on(here):
    """Its log of training makes it a run with progress, which must not be taken for one that is resumed."""
    shutil.copytree("results", "others")
    Path("others.jsonl").write_text(
        "".join(json.dumps({"prompt": f"a wholly other text {i}"}) + "\n" for i in range(9))
    )
    before = read_run(Path("others/ppo/seed0")).prompts
    changes = ("--set", "evaluation.prompts=others.jsonl", "--set", "evaluation.n_prompts=null")
    said = call("evaluate", "others", *changes)
    assert said.exit_code == 0, said.output
    run = read_run(Path("others/ppo/seed0"))
    assert (run.prompts.seen, len(run.prompts.heldout)) == (before.seen, len(before.heldout) + 9)
    assert [one.n_prompts for one in [alignbench.compare("others"), alignbench.compare("others", measurement=1)]] == [
        9, 12,
    ]  # fmt: skip


def test_metrics_of_a_package_that_came_later_are_added_to_the_stored_texts(here, installed, tmp_path):
    shutil.copytree("results/ppo", tmp_path / "ppo")
    before = {path: path.read_bytes() for path in tmp_path.rglob("evaluations/*/*")}
    said = call("rescore", tmp_path, "--metric", "n_words", "--metric", "n_different")
    assert said.exit_code == 0, said.output
    assert {path: path.read_bytes() for path in before} == before
    added, earlier = record(tmp_path / "ppo", 4), record(tmp_path / "ppo", 3)
    assert (added["measurement"]["by"], added["measurement"]["changed"]) == (
        "rescore",
        ["metric n_words", "metric n_different"],
    )
    assert added["comparability"] == earlier["comparability"]
    assert {key: one for key, one in values(added).items() if key in values(earlier)} == values(earlier)
    assert values(added).keys() - values(earlier).keys() == {("n_words", None), ("n_different", None)}
    texts = alignbench.load_completions(tmp_path)
    assert texts.equals(alignbench.load_completions(tmp_path, measurement=3))
    lengths = texts["completion"].str.split().str.len()
    of_prompts = lengths.groupby(texts["prompt_id"]).mean()
    n_words, n_different = values(added)["n_words", None], values(added)["n_different", None]
    assert n_words["value"] == pytest.approx(of_prompts.mean(), abs=1e-12)
    assert n_words["reason"] == values(earlier)["completion_tokens", None]["reason"]  # of the same prompts and groups
    assert n_words["n_scored"] == len(texts)
    assert n_different["value"] == texts["completion"].nunique()
    ids, columns = read_run(tmp_path / "ppo/seed0").evaluations[0].prompt_values
    assert dict(zip(ids, columns["n_words"], strict=True)) == pytest.approx(of_prompts.to_dict())
    [row] = alignbench.compare([tmp_path], baseline="ppo").recipes
    assert {"n_words", "n_different"} <= {str(key) for key in row.metrics}


@pytest.fixture
def installed(monkeypatch):
    """Metrics of this file, as a package offers them that was not there when the runs were made."""
    entries = [EntryPoint("of_a_package", "came_later:of_a_package", "alignbench.metrics")]
    monkeypatch.setitem(sys.modules, "came_later", importlib.import_module(__name__))
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "alignbench.metrics" else [])
    plugins.entries_of.cache_clear()
    yield
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


def test_what_training_could_see_is_not_measured_on(here, prompt_file):
    run = read_run(Path("results/ppo/seed0"))
    Path("seen.jsonl").write_text(prompt_file.read_text())
    sets = ["evaluation.prompts=seen.jsonl", "evaluation.n_prompts=null"]
    with pytest.raises(LeakError):
        measure_again(run, changed_recipe(run, sets), sets)
    assert read_run(run.path).n_measurements == 3


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("rescore", "results"), "rescore: got nothing to add"),
        (("rescore", "results", "--scorer", WORDS.replace("words", "judge", 1)), "'judge' has judged it already"),
        (("rescore", "results", "--scorer", WORDS, "--scorer", WORDS), "got one name twice"),
        (("rescore", "results", "--scorer", "words.txt"), "expected settings such as"),
        (("rescore", "results", "--scorer", "s-nlpp"), "one of the presets s-nlp, "),
        (("rescore", "results", "--scorer", "reward"), "expected settings such as"),
        (("rescore", "results", "--scorer", "{lexicn: words.txt}"), "--scorer: "),
        (("rescore", "results", "--metric", "self_blue"), "did you mean 'self_bleu'?"),
        (("rescore", "results", "--metric", "toxicity_mean"), "which needs scores, expected"),
        (("rescore", "results", "--metric", "rep_4"), "the metric rep_4 was measured already"),
        (("rescore", "nothing", "--scorer", WORDS), "no complete run in nothing"),
        (("evaluate", "results", "--set", "method.kl_coef=1"), "--set method: a finished run can be"),
        (("evaluate", "results", "--set", "evaluation.n_prompts=0"), "evaluation.n_prompts"),
        (("evaluate", "results/base", "results/ppo", "--name", "x"), "got 2 names, expected one MODEL"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_sentence_and_changes_nothing(here, arguments, wanted):
    said = call(*arguments)
    assert said.exit_code in (1, 2)
    assert wanted in said.output
    assert "Traceback" not in said.output
    assert read_run(Path("results/base/seed0")).n_measurements == 3
