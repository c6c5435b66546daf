"""What the documentation shows runs, and what it links to is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from alignbench.cli import main
from alignbench.pipeline.named_scorers import judge_settings
from alignbench.recipe.layers import find_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def shell_lines(text: str) -> Iterator[str]:
    """Lines for a shell: all of bash blocks, those with a prompt `$ ` of any other, indented ones outside of blocks."""
    language = None
    for line in text.replace("\\\n", " ").splitlines():
        if fence := re.match(r" *```(\w*)", line):
            language = fence[1] if language is None else None
        elif prompt := re.match(r" *\$ (.+)", line):
            yield prompt[1]
        elif language in ("bash", "sh", "shell") or (language is None and line.startswith("    alignbench ")):
            yield line.strip()


def commands(line: str) -> Iterator[list[str]]:
    """What is given to alignbench in a line for a shell, which may be a loop, and may start it by `python -m`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    statement: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) - set(";|&<>"):
            statement.append(word)
            continue
        for place, name in enumerate(statement):
            if Path(name).name == "alignbench" and (
                place == 0 or statement[place - 1] in ("do", "-m", "nohup", "time")
            ):
                yield statement[place + 1 :]
        statement = []


def parsed(words: list[str]) -> click.Context:
    """What click makes of a command; UsageError where there is no such verb, option or value. Nothing is run."""
    verb, command, given = main.resolve_command(click.Context(main, **main.context_settings), words)
    assert command is not None
    return command.make_context(verb, given, parent=click.Context(main, **main.context_settings))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_exists_and_takes_what_it_is_given(page):
    text = page.read_text(encoding="utf-8")
    for words in (words for line in shell_lines(text) for words in commands(line)):
        try:
            given = parsed(words).params
            for judge in given.get("scorers", ()):
                judge_settings(judge, "--scorer")
            for recipe in given.get("recipes", ()):
                assert recipe.endswith(".yaml") or find_recipe(recipe, ROOT / "recipes")
        except Exception as error:
            raise AssertionError(f"{page.name}: alignbench {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_and_options_that_a_sentence_names_exist(page):
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for said, verb in re.findall(r"`((?:[\w./]*/)?alignbench (\w[\w-]*)[^`]*)`", prose):
        assert verb in main.commands, f"{page.name}: {said}"
        _, command, _ = main.resolve_command(click.Context(main, **main.context_settings), [verb])
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", said)} <= known, f"{page.name}: {said}"


def test_commands_are_found_wherever_they_stand():
    text = """
```console
$ make quickstart      # alignbench run nothing
$ .venv/bin/alignbench run a --set x='1 2' \\
    --seed 0   # alignbench ls
$ for f in a b; do alignbench ls $f/*; done > out
alignbench prints this
```

```bash
pip install 'alignbench[demo]' && torchrun --nproc 2 -m alignbench check it
```

    alignbench score '{lexicon: words.txt}' it.txt | head
"""
    assert [words for line in shell_lines(text) for words in commands(line)] == [
        ["run", "a", "--set", "x=1 2", "--seed", "0"],
        ["ls", "$f/*"],
        ["check", "it"],
        ["score", "{lexicon: words.txt}", "it.txt"],
    ]


@pytest.mark.parametrize(
    "words", [["exprot", "a", "b"], ["export", "a", "b", "--mrge"], ["export", "a"], ["run", "a", "--seed", "x"]]
)
def test_a_command_that_is_none_is_found_out(words):
    with pytest.raises(click.UsageError):
        parsed(words)


def test_the_ppo_example_runs(checkpoints, monkeypatch, tmp_path, capsys):
    """The Python example of docs/ppo.md, with the tiny checkpoint in place of the hub's."""
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "EleutherAI/gpt-neo-125m" in example
    monkeypatch.chdir(tmp_path)
    example = example.replace("EleutherAI/gpt-neo-125m", str(checkpoints / "policy"))
    exec(compile(example, "docs/ppo.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert (tmp_path / "my_policy" / "adapter_model.safetensors").is_file()


def test_the_code_of_extending_is_that_of_the_example():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"\[`[\w/.]+`\]\((\.\./examples/[\w/.]+)\):\n\n```\w+\n(.*?)\n```", page, re.DOTALL)
    assert len(blocks) == len(re.findall("```(?:python|toml)", page))
    for file, block in blocks:
        assert block in (ROOT / "docs" / file).read_text(encoding="utf-8"), f"{file} has another text"
    package = ROOT / "examples" / "third_party" / "alignbench_example"
    shown = {Path(file).name for file, _ in blocks}
    assert {path.name for path in package.glob("*.py")} - shown == {"__init__.py"}


def test_every_logged_key_is_documented(tiny_policy):
    from alignbench.methods import dpo, reward_model
    from alignbench.methods.grpo import GRPO
    from alignbench.methods.on_policy.config import PPOConfig
    from alignbench.methods.on_policy.trainer import OnPolicyTrainer, PPOTrainer
    from alignbench.records import Prompt

    config = PPOConfig(
        batch_size=2, mini_batch_size=2, completion_tokens=(2, 3), kl_placement="loss", kl_estimator="exact"
    )
    trainer = PPOTrainer(tiny_policy(), lambda _, texts: [0.0] * len(texts), [Prompt("p", "the dog")], config)
    grouped = GRPO(batch_size=2, mini_batch_size=2, completions_per_prompt=2, completion_tokens=(2, 3))
    others = OnPolicyTrainer(tiny_policy(), trainer.reward, trainer.prompts, grouped, grouped)
    keys = {*trainer.train_step(), *others.train_step(), *dpo.LOG_NAMES.values(), *reward_model.LOG_NAMES.values()}
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_every_ppo_option_stands_in_its_page_with_a_test_that_exists():
    from dataclasses import fields

    from alignbench.methods.on_policy.config import PPOConfig

    page = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
    without_maths = {"checkpoint_every", "log_completions_every", "learning_rate"}
    assert [f.name for f in fields(PPOConfig) if f"`{f.name}" not in page and f.name not in without_maths] == []
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    named += [("tests/methods/on_policy/test_trl_agreement.py", test) for test in re.findall(r"\| `(test_\w+)`", page)]
    assert len(named) > 60
    tests = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named}
    assert [(file, test) for file, test in named if f"def {test}(" not in tests[file]] == []


def test_the_page_on_on_policy_methods_names_tests_that_exist():
    page = (ROOT / "docs" / "on_policy.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    groups = ("tests/methods/on_policy/test_trl_groups.py", "tests/methods/on_policy/test_group_methods.py")
    tests = {file: (ROOT / file).read_text(encoding="utf-8") for file in {*groups, *(file for file, _ in named)}}
    assert [(file, test) for file, test in named if f"def {test}(" not in tests[file]] == []
    alone = re.findall(r"\| `(test_\w+)`", page)
    assert [test for test in alone if not any(f"def {test}(" in tests[file] for file in groups)] == []
    assert len(named) + len(alone) > 6


def test_house_rules():
    files = [path for part in ("alignbench", "datasets_prep") for path in (ROOT / part).rglob("*.py")]
    assert not [path for path in files if path.name in ("utils.py", "common.py")]
    assert not [path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400]
