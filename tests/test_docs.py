"""What the documentation shows runs, and what it links to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
