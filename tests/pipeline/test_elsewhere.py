"""Models that were trained elsewhere, as rows beside runs."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import alignbench
from alignbench.cli import main
from alignbench.models.adapters import Lora
from alignbench.models.loading import load_language_model
from alignbench.pipeline.elsewhere import name_of


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def metrics(recipe):
    [file] = Path(f"results/{recipe}").glob("seed*/evaluations/*/metrics.json")
    return {(one["metric"], one["scorer"]): one for one in json.loads(file.read_text())["metrics"]}


@pytest.fixture(scope="module")
def folder(enter, finished, tmp_path_factory, make_tokenizer, checkpoints):
    """Results with two runs, and the rows of models from elsewhere: one brought back, one of another tokenizer."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        finished("base", "ppo")
        said = [call("export", "results/ppo", "taken"), call("evaluate", "taken", "--name", "back")]
        other = load_language_model(str(checkpoints / "policy"))
        other.tokenizer = make_tokenizer(sorted(other.tokenizer.get_vocab())[2:], unk_token="<unk>", eos_token="<eos>")
        other.model.save_pretrained("Other Model")
        other.tokenizer.save_pretrained("Other Model")
        said.append(call("evaluate", "Other Model", "--like", "results/base"))
    assert [one.exit_code for one in said] == [0, 0, 0], [one.output for one in said]
    return folder


@pytest.fixture
def here(folder, monkeypatch, measure_kl_on):
    measure_kl_on(8, monkeypatch)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))


def test_what_is_exported_and_brought_back_has_the_metrics_of_its_run(here):
    run, back = metrics("ppo"), metrics("back")
    assert run.keys() == back.keys()
    for key, metric in run.items():
        assert back[key]["value"] == pytest.approx(metric["value"], rel=1e-5, abs=1e-7), key
        assert back[key]["n_scored"] == metric["n_scored"]
    assert back["kl_exact", None]["value"] > 0  # against the base, not against itself


def test_it_stands_in_the_same_table_and_says_what_is_not_known(here):
    comparison = alignbench.compare("results")
    assert comparison.mismatches == ()
    rows = {row.recipe: row for row in comparison.recipes}
    assert {flag.name for flag in rows["back"].flags} == {"made_elsewhere", *(f.name for f in rows["ppo"].flags)} - {
        "budget_differs"
    }
    assert rows["back"].method == "external"
    [flag] = [flag for flag in rows["back"].flags if flag.name == "made_elsewhere"]
    assert "whether it has seen the prompts" in flag.text
    status = json.loads(Path("results/back/seed0/status.json").read_text())
    assert "model.safetensors" in status["inputs"]["method.model"]
    assert not list(Path("results/back/seed0/evaluations").glob("*/step*"))
    assert not list(Path("results/back").rglob("*.safetensors"))  # the model stays where it lies


def test_of_another_tokenizer_what_needs_common_tokens_is_withheld(here):
    row, base = metrics("other_model"), metrics("base")
    for name in ("kl", "kl_k3", "kl_exact", "kl_per_token"):
        assert row[name, None]["value"] is None
        assert row[name, None]["reason"]
    assert row["perplexity", None]["value"] > 1
    assert row["toxicity_mean", "judge"]["value"] is not None
    assert row.keys() == base.keys()


def test_a_lost_evaluation_is_made_again(here, folder):
    shutil.copytree("results", "copy")
    [file] = Path("copy/back/seed0/evaluations").glob("*/metrics.json")
    before = json.loads(file.read_text())["metrics"]
    file.unlink()
    said = call("evaluate", "taken", "--name", "back", "--results", "copy", "--like", "results/base")
    assert said.exit_code == 0, said.output
    assert "back, seed 0: done, copy/back/seed0: toxicity by judge 0." in said.output
    assert json.loads(file.read_text())["metrics"] == before


def test_an_adapter_beside_its_model_is_merged(here, checkpoints):
    policy = load_language_model(str(checkpoints / "one_layer"))
    policy.add_adapter(Lora(r=2, target_modules=("q_proj",)))
    policy.model.peft_config["default"].base_model_name_or_path = "not/there"
    policy.model.save_pretrained("adapter")
    said = call(
        "evaluate",
        checkpoints / "one_layer",
        "--adapter",
        "adapter",
        "--seed",
        3,
        "--results",
        "more",
        "--like",
        "results/base",
    )
    assert said.exit_code == 0, said.output
    [file] = Path("more/adapter/seed3/evaluations").glob("*/metrics.json")
    [kl] = [one["value"] for one in json.loads(file.read_text())["metrics"] if one["metric"] == "kl_exact"]
    assert kl == pytest.approx(0, abs=1e-9)  # a fresh adapter changes nothing


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), "evaluate: got nothing, expected one MODEL"),
        (("taken", "--results", "empty"), "no complete run in empty"),
        (("./nowhere",), "method.model: got './nowhere', expected a directory with a saved model"),
        (("nosuchmodel", "--results", "unsaved", "--like", "results/base"), "method.model: cannot load 'nosuchmodel'"),
        (("taken", "--name", "ppo"), "holds a run of another recipe"),
        (("taken", "--like", "no_such_recipe"), "no_such_recipe"),
        (("taken", "--set", "evaluation.protcol=rtp-v1", "--name", "x"), "protcol"),
    ],
)
def test_bad_input_is_one_clear_sentence(here, arguments, wanted):
    before = sorted(Path("results").glob("[!.]*"))
    said = call("evaluate", *arguments)
    assert said.exit_code in (1, 2)
    assert wanted in said.output
    assert "Traceback" not in said.output
    assert sorted(Path("results").glob("[!.]*")) == before


def test_runs_that_were_not_measured_alike_say_so(here):
    shutil.copytree("results/base", "unlike/base")
    shutil.copytree("results/ppo", "unlike/ppo")
    [file] = Path("unlike/ppo/seed0/evaluations").glob("*/metrics.json")
    record = json.loads(file.read_text())
    record["comparability"]["precision"] = "bfloat16"
    file.write_text(json.dumps(record))
    said = call("evaluate", "taken", "--results", "unlike")
    assert "not measured alike (base, ppo); name one of them by --like" in said.output


def test_names_of_rows():
    assert name_of("EleutherAI/GPT-Neo-125M") == "gpt-neo-125m"
    assert name_of("results/ppo/seed0/artifact") == "ppo_external"
    assert name_of("./my model/") == "my_model"
