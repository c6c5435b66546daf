"""The reward block of a recipe: Python functions, several terms, problems, identity."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.errors import RecipeError
from alignbench.recipe.loading import load

BASE = """\
policy: {model: some/model}
data: {prompts: real_toxicity_prompts}
evaluation: {protocol: rtp-v1, scorers: [{classifier: some/judge, label: toxic}]}
"""
PPO = f"name: my_ppo\nmethod: {{name: ppo, batch_size: 8, mini_batch_size: 4}}\n{BASE}"
SOURCE = "def politeness(prompts, completions):\n    return [0.0] * len(completions)\n\n\nalias = politeness\n"
FUNCTION = "function: rewards.py:politeness"
CLASSIFIER = "classifier: some/classifier, label: nothate"
TERM = "name: x, classifier: other/classifier, label: good"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with a file of rewards in it."""
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(SOURCE)
    return tmp_path


def write(name, reward, rest=PPO):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{rest}reward: {{{reward}}}\n")
    return name


def one(*arguments, **options):
    (loaded,) = load(arguments, **options)
    return loaded.recipe


def problems(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        load(arguments, **options)
    return [str(problem) for problem in caught.value.problems]


# Reading


def test_a_function_is_a_reward():
    reward = one(write("ppo.yaml", FUNCTION)).reward
    assert (reward.function, reward.weight, reward.also, reward.classifier) == ("rewards.py:politeness", 1.0, (), None)
    assert reward.function_sha256 == sha256(SOURCE.encode()).hexdigest()


def test_terms_are_added():
    terms = "{name: x, classifier: c, label: good, transform: probability, weight: -2}, {name: y, %s, weight: 0.5}"
    reward = one(write("ppo.yaml", f"{CLASSIFIER}, weight: 3, also: [{terms % FUNCTION}]")).reward
    assert reward.weight == 3.0
    x, y = reward.also
    assert (x.name, x.classifier, x.label, x.transform, x.text, x.weight) == (
        "x", "c", "good", "probability", "completion", -2.0,
    )  # fmt: skip
    assert (y.name, y.function, y.classifier, y.weight) == ("y", "rewards.py:politeness", None, 0.5)
    assert y.function_sha256 == sha256(SOURCE.encode()).hexdigest()


def test_terms_beside_a_reward_model():
    Path("my_rm.yaml").write_text(
        PPO.replace("my_ppo", "my_rm").replace("ppo, batch_size: 8, mini_batch_size: 4", "reward_model")
        + f"reward: {{{CLASSIFIER}}}\n"
    )
    recipe = one(write("ppo.yaml", f"run: my_rm, also: [{{{TERM}}}]"))
    assert recipe.upstream_names() == {"reward": "my_rm"}
    assert [term.name for term in recipe.reward.also] == ["x"]


# Where the file is


def test_beside_the_file_that_names_it_comes_before_the_current_folder():
    write("mine/ppo.yaml", f"{FUNCTION}, also: [{{name: x, function: sub/more.py:f}}]")
    Path("mine/sub").mkdir()
    Path("mine/sub/more.py").write_text("def f(p, c): ...\n")
    Path("mine/rewards.py").write_text(SOURCE + "# beside\n")
    reward = one("mine/ppo.yaml").reward
    assert (reward.function, reward.also[0].function) == ("mine/rewards.py:politeness", "mine/sub/more.py:f")
    Path("mine/rewards.py").unlink()
    assert one("mine/ppo.yaml").reward.function == "rewards.py:politeness"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("extends", "blocks/rewards.py:politeness"),
        ("suite", "suites/rewards.py:politeness"),
        ("entry", "suites/rewards.py:politeness"),
        ("set", "rewards.py:politeness"),
    ],
)
def test_every_layer_names_files_beside_itself(layer, expected):
    for name in ("blocks", "suites", "mine"):
        Path(name).mkdir()
        Path(name, "rewards.py").write_text(SOURCE)
    write("blocks/shared.yaml", FUNCTION if layer == "extends" else CLASSIFIER, BASE)
    Path("mine/ppo.yaml").write_text("extends: ../blocks/shared.yaml\n" + PPO.removesuffix(BASE))
    change = f"{{reward: {{{FUNCTION}}}}}"
    Path("suites/s.yaml").write_text(
        f"name: s\noverrides: {change if layer == 'suite' else '{}'}\n"
        f"recipes: [{{recipe: ../mine/ppo.yaml, overrides: {change if layer == 'entry' else '{}'}}}]\n"
    )
    [loaded] = load(["suites/s.yaml"], [f"reward.{FUNCTION.replace(': ', '=', 1)}"] if layer == "set" else [])
    assert loaded.recipe.reward.function == expected


def test_a_file_above_the_current_folder(folder, monkeypatch):
    write("ppo.yaml", FUNCTION)
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")
    assert one("../ppo.yaml").reward.function == "../rewards.py:politeness"


def test_an_absolute_path_stays_as_given(folder):
    assert one(write("ppo.yaml", f"function: {folder}/rewards.py:politeness")).reward.function == (
        f"{folder}/rewards.py:politeness"
    )


# Problems


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("weight: 2", "reward.classifier: got nothing, expected a hub id or path of a classifier, `function:` with"),
        ("function: rewards.py", 'reward.function: got "rewards.py", expected file.py:function, such as'),
        ("function: no.py:f", 'reward.function: got "no.py:f", expected a file beside the recipe or in the current'),
        ("function: rewards.py:politenes", "expected one of the functions of rewards.py: politeness, did you mean"),
        ("function: broken.py:f", 'reward.function: got "broken.py:f", expected a file that Python can read (line 1:'),
        (f"{FUNCTION}, run: my_rm", 'reward.function: got "rewards.py:politeness", expected nothing beside `run`'),
        (
            f"{FUNCTION}, function_sha256: abc",
            'reward.function_sha256: got "abc", expected ' + "SHA, that of rewards.py:",
        ),
        (f"{FUNCTION}, weight: .nan", "reward.weight: got NaN, expected a finite number"),
        (f"{FUNCTION}, weight: '1'", 'reward.weight: got "1", expected a number'),
        (f"{FUNCTION}, also: {{}}", "reward.also: got {}, expected a list"),
        (f"{FUNCTION}, also: [a]", 'reward.also.0: got "a", expected a mapping'),
        (f"{FUNCTION}, also: [{{{CLASSIFIER}}}]", "reward.also.0.name: got nothing, expected a value"),
        (
            f"{FUNCTION}, also: [{{name: x}}]",
            "reward.also.0.classifier: got nothing, expected either a classifier, a `function:`, an",
        ),
        (
            f"{FUNCTION}, also: [{{{TERM}, {FUNCTION}}}]",
            'got "other/classifier", expected either a classifier, a `function:`',
        ),
        (
            f"{FUNCTION}, also: [{{name: x, classifier: c}}]",
            "reward.also.0.label: got nothing, expected the classifier's",
        ),
        (
            f"{FUNCTION}, also: [{{name: x, {FUNCTION}, label: a}}]",
            'reward.also.0.label: got "a", expected it left out',
        ),
        (f"{FUNCTION}, also: [{{name: x, {FUNCTION}, batch_size: 2}}]", "reward.also.0.batch_size: got 2, expected it"),
        (f"{FUNCTION}, also: [{{name: x, run: rm}}]", 'reward.also.0.run: got "rm", expected the run in reward.run'),
        (f"{FUNCTION}, also: [{{{TERM}}}, {{{TERM}}}]", "expected terms with different names, not main, x, x"),
        (f"{FUNCTION}, also: [{{{TERM.replace('x', 'main')}}}]", "with different names, not main, main (main is the"),
        (f"{FUNCTION}, also: [{{{TERM}}}, {{name: y, function: no.py:f}}]", 'reward.also.1.function: got "no.py:f"'),
        (
            f"{FUNCTION}, also: [{{{TERM}, wieght: 1}}]",
            "also.0.wieght: got an unknown key, expected one of batch_size,",
        ),
        (f"{FUNCTION}, also: [{{{TERM}, wieght: 1}}]", "did you mean 'weight'?"),
    ],
)
def test_problems_name_file_and_key(reward, expected):
    Path("broken.py").write_text("def f(p, c) return 1")
    found = problems(write("ppo.yaml", reward))
    expected = expected.replace("SHA", sha256(SOURCE.encode()).hexdigest())
    assert any(expected in problem for problem in found), found
    assert len(found) == 1
    assert found[0].startswith("ppo.yaml: reward.")


def test_check_reports_them_all_at_once_and_loads_nothing():
    write("ppo.yaml", f"function: no.py:f, also: [{{name: x, run: rm}}, {{name: y, {FUNCTION}x}}]")
    result = CliRunner().invoke(main, ["check", "ppo.yaml"])
    assert result.exit_code == 2
    assert [line.partition(": got")[0] for line in result.output.splitlines()] == [
        "Error: ppo.yaml: reward.function",
        "ppo.yaml: reward.also.0.run",
        "ppo.yaml: reward.also.1.function",
    ]
    write("ppo.yaml", f"{FUNCTION}, also: [{{{TERM}}}]")
    Path("rewards.py").write_text("open('was_run', 'w').close()\nimport torch\n" + SOURCE)
    code = (
        "import sys; from click.testing import CliRunner; from alignbench.cli import main; "
        "r = CliRunner().invoke(main, ['check', 'ppo.yaml']); assert r.exit_code == 0, r.output; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not Path("was_run").exists()


@pytest.mark.parametrize("reward", [FUNCTION, f"{FUNCTION}, also: [{{{TERM}}}]"])
def test_the_scorer_reward_needs_a_classifier_in_the_block_itself(reward):
    (problem,) = problems(write("ppo.yaml", reward, PPO.replace("scorers: [", "scorers: [reward, ")))
    assert problem == (
        "ppo.yaml: evaluation.scorers: got `reward` without a reward classifier, expected reward.classifier and "
        "reward.label, or `reward` left out of the scorers"
    )
    assert one(write("b.yaml", f"{reward}, {CLASSIFIER}", PPO.replace("scorers: [", "scorers: [reward, ")))


# The resolved recipe and the identity of the run


def test_the_resolved_recipe_runs_again_from_the_run_directory():
    """From the same current folder, without an absolute path in it."""
    write("mine/ppo.yaml", f"{FUNCTION}, also: [{{{TERM}, weight: 2}}, {{name: y, function: rewards.py:alias}}]")
    Path("mine/rewards.py").write_text(SOURCE)
    Path("rewards.py").unlink()
    recipe = one("mine/ppo.yaml")
    resolved = Path("results/my_ppo/seed0/recipe.resolved.yaml")
    resolved.parent.mkdir(parents=True)
    resolved.write_text(recipe.to_yaml())
    assert str(Path.cwd()) not in resolved.read_text()
    again = one(str(resolved))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert again.run_hash({}) == recipe.run_hash({})


def test_a_resolved_recipe_is_refused_once_the_file_has_changed():
    Path("resolved.yaml").write_text(one(write("ppo.yaml", FUNCTION)).to_yaml())
    Path("rewards.py").write_text(SOURCE + "# edited\n")
    (problem,) = problems("resolved.yaml")
    assert problem.startswith("resolved.yaml: reward.function_sha256: got ")
    assert problem.endswith("that of rewards.py:politeness now; null takes the file as it is")
    edited = one("resolved.yaml", sets=["reward.function_sha256=null"])
    assert edited.run_hash({}) == one("ppo.yaml").run_hash({})


def test_identity_is_the_files_content_and_not_its_place():
    before = one(write("ppo.yaml", FUNCTION)).run_hash({})
    Path("rewards.py").rename("moved.py")
    assert one(write("ppo.yaml", "function: moved.py:politeness")).run_hash({}) == before
    assert one(write("ppo.yaml", "function: moved.py:alias")).run_hash({}) != before
    Path("rewards.py").write_text(SOURCE + "# edited\n")
    assert one(write("ppo.yaml", FUNCTION)).run_hash({}) != before


def test_identity_sees_the_file_of_a_term():
    name = write("ppo.yaml", f"{CLASSIFIER}, also: [{{name: y, {FUNCTION}}}]")
    before = one(name).run_hash({})
    Path("rewards.py").write_text(SOURCE + "# edited\n")
    assert one(name).run_hash({}) != before


@pytest.mark.parametrize(
    "change",
    ["reward.weight=2", "reward.also=[]", f"reward.also=[{{{TERM}, weight: 2}}]", f"reward.also=[{{{TERM}, text: "
     "prompt_and_completion}]", "reward.function=rewards.py:alias"],
)  # fmt: skip
def test_identity_sees_weights_and_terms(change):
    name = write("ppo.yaml", f"{CLASSIFIER}, also: [{{{TERM}}}]")
    assert one(name).run_hash({}) != one(name, sets=[change]).run_hash({})
