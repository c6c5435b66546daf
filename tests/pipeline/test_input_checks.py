"""What `check` and the start of `run` find without a model: files, folders, configurations, label names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.errors import InputsError
from alignbench.pipeline import tuning
from alignbench.pipeline.input_checks import check_inputs
from alignbench.recipe.loading import load


def problems(*names, sets=()):
    with pytest.raises(InputsError) as caught:
        check_inputs(load(names or ["ppo.yaml"], sets))
    return caught.value.problems


@pytest.fixture
def bad_csv(recipe_folder):
    Path("rows.csv").write_text("prompt,toxicity\nthe dog,0.5\na cat,high\nbird,,\n,0.1\nman,7\n")
    return recipe_folder


def test_a_bad_file_is_told_once_for_all_recipes_with_every_bad_row(bad_csv):
    sets = ["data.prompts=rows.csv", "data.min_prompt_toxicity=0.1"]
    (problem,) = problems("base.yaml", "ppo.yaml", "dpo.yaml", "reward_model.yaml", sets=sets)
    assert problem.splitlines()[0] == (
        "base, ppo, dpo and 1 more: data.prompts: rows.csv, line 4: has more fields than the header's 2: "
        "['bird', '', '']."
    )
    Path("rows.csv").write_text(Path("rows.csv").read_text().replace("bird,,", "bird,"))
    (problem,) = problems("base.yaml", "ppo.yaml", sets=sets)
    assert problem.splitlines() == [
        "base, ppo: data.prompts: rows.csv: 2 rows cannot be used:",
        "  line 3, row 2: column 'toxicity' holds 'high', expected a toxicity from 0 to 1",
        "  line 6, row 5: column 'toxicity' holds '7', expected a toxicity from 0 to 1",
        "Name another column with data.columns.toxicity.",
    ]


def test_check_and_run_say_the_same_and_run_begins_nothing(bad_csv):
    said = []
    for command in ("check", "run"):
        arguments = [command, "base.yaml", "ppo.yaml", "--set", "data.prompts=rows.csv"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert "fine" not in result.output
        said.append(result.output)
    assert said[0] == said[1]
    assert said[0].startswith("Error: base, ppo: data.prompts: rows.csv, line 4: has more fields")
    assert not Path("results").exists()


def test_every_kind_of_problem_at_once(recipe_folder, checkpoints):
    for name, change in {
        "no_config": lambda path: (path / "config.json").unlink(),
        "no_json": lambda path: (path / "config.json").write_text("{"),
        "no_weights": lambda path: (path / "model.safetensors").unlink(),
    }.items():
        shutil.copytree(checkpoints / "judge", recipe_folder / name)
        change(recipe_folder / name)
    Path("run/artifact").mkdir(parents=True)
    shutil.copy(checkpoints / "judge" / "config.json", "run/artifact")
    judges = [
        {"name": name, "classifier": f"./{name}", "label": "toxic"}
        for name in ("no_config", "no_json", "no_weights", "nowhere", "run")
    ]
    judges += [
        {"name": "other", "classifier": str(checkpoints / "policy"), "label": "toxic"},
        {"name": "label", "classifier": str(checkpoints / "judge"), "label": "toxicc"},
    ]
    sets = [
        f"policy.model={checkpoints / 'classifier'}",
        "data.heldout=gone.jsonl",
        "evaluation.prompts=./also_gone",
        "evaluation.neutral=none.txt",
        "reward.label=nothat",
        f"reward.also=[{{name: second, classifier: {checkpoints / 'judge'}, label: rude}}]",
        f"evaluation.scorers={json.dumps(judges)}",
    ]
    Path("none.txt").write_text("\n")
    found = problems("ppo.yaml", sets=sets)
    assert all(problem.startswith("ppo: ") for problem in found)
    expected = [
        ("policy.model: got ", "expected a language model; its config.json says RobertaForSequenceClassification"),
        ("reward.label: got 'nothat'", "expected one of ['nothate', 'hate'], did you mean 'nothate'?"),
        ("reward.also.0.label: got 'rude'", "expected one of ['neutral', 'toxic']"),
        ("evaluation.scorers: no_config: got './no_config'", "it has no config.json"),
        ("evaluation.scorers: no_json: got './no_json'", "whose config.json is not a JSON object"),
        ("evaluation.scorers: no_weights: got './no_weights'", "it has a config.json and no weights"),
        ("evaluation.scorers: nowhere: got './nowhere'", "there is none at that path"),
        ("evaluation.scorers: run: got './run'", "it has no config.json; perhaps run/artifact"),
        ("evaluation.scorers: other: got ", "expected a text classifier; its config.json says GPTNeoForCausalLM"),
        ("evaluation.scorers: label.label: got 'toxicc'", "did you mean 'toxic'?"),
        ("data.heldout: gone.jsonl: ", "there is no such file"),
        ("evaluation.prompts: data.prompts: also_gone: ", "there is no such file"),
        ("evaluation.neutral: none.txt: ", "holds no text"),
    ]
    assert len(found) == len(expected)
    for problem, (start, part) in zip(found, expected, strict=True):
        assert problem.removeprefix("ppo: ").startswith(start), problem
        assert part in problem


def test_an_adapter_needs_its_base_model(recipe_folder, checkpoints):
    Path("adapter").mkdir()
    for base, said in (("./gone", "an adapter of './gone'; there is no directory"), ("org/base", None), (None, None)):
        Path("adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        if said is None:
            assert check_inputs(load(["base.yaml"], ["policy.model=./adapter"])) == []
        else:
            assert said in problems("base.yaml", sets=["policy.model=./adapter"])[0]
    Path("adapter/adapter_config.json").write_text("[]")
    assert "adapter_config.json is not a JSON object" in problems("base.yaml", sets=["policy.model=./adapter"])[0]


def test_labels_without_names_and_in_another_case(recipe_folder, checkpoints):
    shutil.copytree(checkpoints / "classifier", "unnamed")
    config = json.loads(Path("unnamed/config.json").read_text())
    del config["id2label"], config["label2id"]
    Path("unnamed/config.json").write_text(json.dumps(config))
    sets = ["reward.classifier=./unnamed", "reward.label=LABEL_2"]
    (problem,) = problems(sets=sets)
    assert "reward.label: got 'LABEL_2', expected one of ['LABEL_0', 'LABEL_1']" in problem
    assert check_inputs(load(["ppo.yaml"], [sets[0], "reward.label=label_1"])) == []
    assert check_inputs(load(["ppo.yaml"], ["reward.label=NotHate"])) == []


def test_what_a_recipe_builds_on_is_checked_too(recipe_folder):
    recipe = json.loads(Path("reward_model.yaml").read_text())
    Path("reward_model.yaml").write_text(json.dumps(recipe | {"method": {**recipe["method"], "model": "./start"}}))
    (problem,) = problems("ppo_learned_reward.yaml")
    assert problem.startswith("reward_model: method.model: got './start', expected a directory")


def test_each_file_is_opened_once(recipe_folder, monkeypatch):
    from datasets_prep import local_files

    opened = Counter()
    read = local_files.read_rows
    monkeypatch.setattr(local_files, "read_rows", lambda path, key: opened.update([str(path)]) or read(path, key))
    assert check_inputs(load(["base.yaml", "ppo.yaml", "dpo.yaml"], seeds=[0, 1])) == []
    assert list(opened.values()) == [1]


def test_what_is_on_the_hub_is_named_and_not_looked_up(recipe_folder):
    sets = ["policy.model=no/such-model", "data.prompts=no/such-data", "evaluation.neutral=wikitext"]
    expected = ["policy.model no/such-model", "data.prompts no/such-data", "evaluation.neutral wikitext"]
    assert check_inputs(load(["base.yaml"], sets)) == expected
    result = CliRunner().invoke(main, ["check", "base.yaml", *(part for one in sets for part in ("--set", one))])
    assert result.output.splitlines()[-1] == f"not looked up, as it is no local file: {', '.join(expected)}"
    # One source of two is a file.
    (problem,) = problems("base.yaml", sets=["data.prompts=no/such-data", "data.heldout=gone.csv"])
    assert "data.heldout: gone.csv: there is no such file" in problem
    assert check_inputs(load(["ppo_detox"]))[:1] == ["policy.model EleutherAI/gpt-neo-125m"]


def test_conversations_need_a_chat_block_and_leaks_are_found(recipe_folder, prompt_file):
    rows = [{"prompt": [{"role": "user", "content": f"the dog {i}"}]} for i in range(5)]
    Path("chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (problem,) = problems(sets=["data.prompts=chat.jsonl"])
    assert "5 rows cannot be used" in problem
    assert "needs a `chat:` block" in problem
    assert (
        check_inputs(load(["ppo.yaml"], ["data.prompts=chat.jsonl", "chat={template: x}", "evaluation.n_prompts=null"]))
        == []
    )
    (problem,) = problems(sets=[f"data.heldout={prompt_file}"])
    assert "data.prompts and data.heldout share 120 prompts" in problem


def test_a_complete_run_needs_its_files_no_more(recipe_folder, prompt_file):
    shutil.copy(prompt_file, "own.jsonl")
    recipes = load(["base.yaml"], ["data.prompts=own.jsonl"])
    assert [one.state for one in tuning.run(recipes, Path("results"))] == ["done"]
    Path("own.jsonl").unlink()
    assert [one.state for one in tuning.run(recipes, Path("results"))] == ["kept"]
    with pytest.raises(InputsError, match="there is no such file"):
        tuning.run(recipes, Path("results"), force=True)


def test_files_are_checked_without_torch(recipe_folder):
    code = (
        "import sys; from click.testing import CliRunner; from alignbench.cli import main; "
        "r = CliRunner().invoke(main, ['check', 'ppo.yaml', 'dpo.yaml']); assert r.exit_code == 0, r.output; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("key", ["pairs.source", "demonstrations.source", "data.prompts"])
def test_leaks_of_every_source_are_found_without_a_tokenizer(recipe_folder, prompt_file, key):
    """The run would find them after its models are loaded, and refuse as well."""
    texts = [json.loads(line)["prompt"] for line in prompt_file.read_text().splitlines()]
    rows = [{"prompt": text, "chosen": " good", "rejected": " bad", "completion": " good"} for text in texts[:40]]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets, words = {
        "pairs.source": (["pairs.source=other.jsonl"], "what is measured on"),
        "demonstrations.source": (
            ["method={name: sft}", "demonstrations={source: other.jsonl}"],
            "what is measured on",
        ),
        "data.prompts": (["evaluation.prompts=other.jsonl"], "evaluation.prompts"),
    }[key]
    (problem,) = problems("dpo.yaml", sets=sets)
    assert f"dpo: {key} and {words} share" in problem
    assert "or set data.on_leak to drop" in problem
    assert check_inputs(load(["dpo.yaml"], [*sets, "data.on_leak=drop"])) == []
    apart = [f"data.{name}_fraction=0" for name in ("validation", "heldout")]
    apart += [f"evaluation.{name}=null" for name in ("prompts", "n_prompts")]
    if key != "data.prompts":
        assert check_inputs(load(["dpo.yaml"], [*sets, *apart])) == []


@pytest.mark.parametrize("sets", [[], ["data.prompts=embedded"], ["evaluation.prompts=other.jsonl"]])
def test_more_prompts_than_are_held_out_are_refused_before_anything_runs(recipe_folder, sets):
    """A run would find it after its models are loaded, once for every recipe."""
    Path("other.jsonl").write_text("".join(json.dumps({"prompt": f"dog {i} sings"}) + "\n" for i in range(20)))
    (problem,) = problems("base.yaml", "dpo.yaml", sets=[*sets, "evaluation.n_prompts=2000"])
    assert problem.startswith("base, dpo: evaluation.n_prompts: got 2000, expected at most ")
    n = int(problem.removesuffix(", the held-out prompts").rpartition(" ")[2])
    assert n == 20 or sets != ["evaluation.prompts=other.jsonl"]
    assert check_inputs(load(["base.yaml"], [*sets, f"evaluation.n_prompts={n}"])) == []
    assert check_inputs(load(["base.yaml"], [*sets, "evaluation.n_prompts=2000", "evaluation.split=validation"])) == []
