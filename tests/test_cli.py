"""The command line as a user meets it: exit codes, one clear message, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from alignbench import cli
from alignbench.cli import group, main
from alignbench.runtime import progress


@pytest.fixture
def call():
    def invoke(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return invoke


def test_the_list_of_verbs_says_of_each_what_it_says_itself():
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "group"}
    said = {name: main.resolve_command(click.Context(main, **main.context_settings), [name])[1].help for name in files}
    assert {name: text.split("\n\n")[0].replace("\n", " ") for name, text in said.items()} == group.VERBS


def test_run_compare_ls(recipe_folder, finished, call):
    finished("ppo")
    assert call("run", "base.yaml", "ppo.yaml").exit_code == 0
    table = call("compare", "results")
    assert table.exit_code == 0
    assert "ppo" in table.output
    assert "seed" in table.output  # that seeds are not covered
    records = json.loads(call("compare", "results", "--format", "json").output)
    assert {record["recipe"] for record in records} == {"base", "ppo"}
    assert {record["verdict"] for record in records if record["recipe"] == "base"} == {None}
    assert "| " in call("compare", "results", "--format", "markdown").output
    assert "ppo" in call("ls", "results").output


def test_dry_run_shows_the_order_and_writes_nothing(recipe_folder, call):
    result = call("run", "ppo_learned_reward.yaml", "--dry-run", "--seed", "3")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split(",")[0] for line in lines] == ["reward_model", "ppo_learned_reward"]
    assert all("seed 3" in line for line in lines)
    assert not Path("results").exists()
    assert not (recipe_folder / "cache").exists()


def test_a_command_ends_with_what_came_out_and_what_to_type_next(recipe_folder, finished, call):
    finished("ppo")
    said = call("run", "base.yaml", "ppo.yaml", "--quiet").output.splitlines()
    assert len(said) == 3  # quiet: nothing else
    assert said[0].startswith("base, seed 0: done, results/base/seed0: toxicity by ")
    assert said[1].startswith("ppo, seed 0: already complete, results/ppo/seed0: toxicity by ")
    assert ", KL " in said[1]
    assert said[2] == "next: alignbench compare results"


def test_quiet_and_verbose_exclude_each_other(recipe_folder, call):
    result = call("run", "base.yaml", "-q", "-v")
    assert result.exit_code == 2
    assert "expected one of them at most" in result.output


def test_an_interrupt_promises_no_checkpoint_that_is_not_there(recipe_folder, monkeypatch):
    def interrupted(*_arguments, **_settings):
        progress.run_begins("base, seed 0")
        raise KeyboardInterrupt

    monkeypatch.setattr("alignbench.pipeline.tuning.run", interrupted)
    result = CliRunner().invoke(main, ["run", "base.yaml"])
    assert result.exit_code == 130
    assert "base, seed 0 had no checkpoint yet, so the same command begins it anew" in result.output


def test_seeds_and_name(recipe_folder, call):
    assert call("run", "base.yaml", "--seed", 1, "--seed", 2, "--name", "other", "--results", "r").exit_code == 0
    assert sorted(path.name for path in Path("r/other").glob("seed*")) == ["seed1", "seed2"]


def test_suite_goes_on_past_a_failure_and_says_so(recipe_folder, call):
    Path("suite.yaml").write_text("name: s\nrecipes: [broken.yaml, base.yaml]\n")
    Path("broken.yaml").write_text(
        "extends: shared.yaml\nname: broken\nmethod: {name: untrained}\npolicy: {model: no/such-model}\n"
    )
    result = call("run", "suite.yaml")
    assert result.exit_code == 1
    assert "policy.model: cannot load 'no/such-model'" in result.output
    assert "1 of 2 runs failed" in result.output
    assert Path("results/base/seed0").is_dir()
    assert not Path("results/broken/seed0").exists()


@pytest.mark.parametrize(
    ("sets", "code", "message"),
    [
        (["method.kl_coeff=0.1"], 2, "kl_coef"),
        (["method.learning_rate=-1"], 2, "method.learning_rate"),
        (["method.learning_rate=.nan"], 2, "method.learning_rate"),
        (["reward.label=nothat"], 1, "reward.label: got 'nothat', expected one of ['nothate', 'hate'], did you"),
        (["data.prompts=./none.jsonl"], 1, "data.prompts"),
        (["data.prompts=no/such-data"], 1, "data.prompts"),
        (["budget.completions=4"], 1, "budget.completions"),
        (["evaluation.n_prompts=5000"], 1, "evaluation.n_prompts"),
        (["hardware.device=cuda"], 2, "hardware.device"),
        (["data.min_prompt_toxicity=1.0"], 1, "data.min_prompt_toxicity"),
    ],
)  # fmt: skip
def test_bad_recipes(recipe_folder, call, sets, code, message):
    import torch

    if "cuda" in sets[0] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = call("run", "ppo.yaml", *[part for one in sets for part in ("--set", one)])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not Path("results/ppo/seed0").exists()


def test_check_reports_without_running(recipe_folder, call):
    assert call("check", "ppo.yaml", "dpo.yaml").output.count("fine") == 2
    assert "note" not in call("check", "ppo.yaml").output
    assert "but note: kl_coef is 0" in call("check", "ppo.yaml", "--set", "method.kl_coef=0").output
    result = call("check", "no_such_recipe")
    assert result.exit_code == 2
    assert "no_such_recipe" in result.output


def test_a_long_name_does_not_run_into_what_is_said_of_it(call, monkeypatch):
    monkeypatch.setattr("alignbench.methods.registry.known_methods", lambda: ["ppo", "a_method_of_24_letters__"])
    monkeypatch.setattr("alignbench.methods.registry.summary", lambda name: f"About {name}.")
    assert call("methods").output.splitlines() == [
        "ppo                       About ppo.",
        "a_method_of_24_letters__  About a_method_of_24_letters__.",
    ]


def test_methods(call):
    listing = call("methods").output
    assert all(name in listing for name in ("ppo", "dpo", "reward_model", "untrained"))
    shown = call("methods", "ppo").output
    assert "kl_coef: float >= 0 = 0.2" in shown
    assert "arXiv:1909.08593" in shown
    assert "words: tuple[str, ...] required\n" in call("methods", "word_filter").output
    assert call("methods", "pppo").exit_code == 2


def test_compare_of_nothing(tmp_path, call):
    result = call("compare", tmp_path)
    assert result.exit_code == 1
    assert "alignbench run" in result.output


def fresh_python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=os.environ)


@pytest.mark.parametrize("arguments", [["--help"], ["check", "quickstart"], ["methods", "ppo"]])
def test_light_commands_load_no_torch(arguments):
    code = (
        "import sys; from click.testing import CliRunner; from alignbench.cli import main; "
        f"r = CliRunner().invoke(main, {arguments!r}); assert r.exit_code == 0, r.output; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'pandas', 'scipy') if m in sys.modules])"
    )
    assert fresh_python("-c", code).stdout.strip() == "[]"


def test_compare_and_report_load_no_torch(recipe_folder, finished):
    finished("base", "dpo")
    code = (
        "import sys; from click.testing import CliRunner; from alignbench.cli import main; "
        "results = [CliRunner().invoke(main, [verb, 'results']) for verb in ('compare', 'report')]; "
        "assert [r.exit_code for r in results] == [0, 0], results; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets') if m in sys.modules])"
    )
    assert fresh_python("-c", code).stdout.strip() == "[]"


def test_exports():
    import alignbench

    assert dir(alignbench) == sorted(alignbench.__all__)
    for name in alignbench.__all__:
        assert getattr(alignbench, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = alignbench.nothing_such


def test_telemetry_is_off_unless_turned_on():
    code = "import alignbench, os; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_TELEMETRY"}
    for given, expected in (({}, "1"), ({"HF_HUB_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment | given
        )
        assert done.stdout.strip() == expected
