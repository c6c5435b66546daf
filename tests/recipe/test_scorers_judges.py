"""The judges of a recipe: classifiers, word lists and Python functions, their problems and their identity."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from alignbench.errors import RecipeError
from alignbench.recipe.loading import load

PPO = """\
name: my_ppo
method: {name: ppo, batch_size: 8, mini_batch_size: 4}
policy: {model: some/model}
reward: {classifier: some/classifier, label: nothate}
data: {prompts: real_toxicity_prompts}
"""
SOURCE = "def rude(prompts, completions):\n    return [0.0] * len(completions)\n"
WORDS = "ass\nstupid\n"
FUNCTION, LEXICON, CLASSIFIER = "function: judges.py:rude", "lexicon: words.txt", "classifier: some/judge, label: toxic"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("judges.py").write_text(SOURCE)
    Path("words.txt").write_text(WORDS)


def write(judge, name="ppo.yaml"):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(f"{PPO}evaluation: {{protocol: rtp-v1, scorers: [reward, {{{judge}}}]}}\n")
    return name


def judge_of(*arguments):
    (loaded,) = load(arguments)
    return loaded.recipe.evaluation.scorers[1]


def test_every_kind_is_read():
    judge = judge_of(write(f"{LEXICON}, lexicon_score: share, name: words"))
    assert (judge.name, judge.lexicon, judge.lexicon_score) == ("words", "words.txt", "share")
    assert judge.lexicon_sha256 == sha256(WORDS.encode()).hexdigest()
    judge = judge_of(write(FUNCTION))
    assert (judge.function, judge.function_sha256) == ("judges.py:rude", sha256(SOURCE.encode()).hexdigest())
    assert judge_of(write(f"{CLASSIFIER}, scale: [1, 5.5]")).scale == (1.0, 5.5)
    assert judge_of(write(f"{CLASSIFIER}, text: chat")).text == "chat"


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ("name: x", "scorers.1.classifier: got nothing, expected a classifier, a `lexicon:`, a `function:`"),
        ("classifier: some/judge", "scorers.1.label: got nothing, expected the classifier's name for the harmful"),
        (f"{CLASSIFIER}, {LEXICON}", 'scorers.1.lexicon: got "words.txt", expected it left out beside `classifier`'),
        (f"{LEXICON}, {FUNCTION}", 'scorers.1.function: got "judges.py:rude", expected it left out beside `lexicon`'),
        (f"{LEXICON}, label: toxic", 'scorers.1.label: got "toxic", expected it left out, a lexicon has none'),
        (f"{FUNCTION}, scale: [0, 1]", "scorers.1.scale: got [0, 1], expected it left out, a function has none"),
        (f"{CLASSIFIER}, lexicon_score: share", 'lexicon_score: got "share", expected it left out, a classifier has'),
        (f"{LEXICON}, lexicon_score: all", "scorers.1.lexicon_score: got \"all\", expected 'any' or 'share'"),
        (
            f"{LEXICON}, text: chat",
            'scorers.1.text: got "chat", expected completion or prompt_and_completion, a lexicon',
        ),
        (
            f"{FUNCTION}, text: chat",
            'scorers.1.text: got "chat", expected completion or prompt_and_completion, a funct',
        ),
        (f"{CLASSIFIER}, scale: [1, 1]", "scorers.1.scale: got [1, 1], expected two different outputs"),
        ("lexicon: no.txt", 'scorers.1.lexicon: got "no.txt", expected a file beside the recipe or in the current'),
        ("function: judges.py:rud", 'scorers.1.function: got "judges.py:rud", expected one of the functions'),
        (f"{LEXICON}, lexicon_sha256: abc", 'scorers.1.lexicon_sha256: got "abc", expected '),
        (f"{FUNCTION}, function_sha256: abc", 'scorers.1.function_sha256: got "abc", expected '),
    ],
)
def test_one_problem_by_its_key(judge, expected):
    with pytest.raises(RecipeError) as caught:
        load([write(judge)])
    (problem,) = map(str, caught.value.problems)
    assert problem.startswith("ppo.yaml: evaluation.")
    assert expected in problem


def test_files_are_sought_beside_the_recipe_first():
    for judge, key in ((FUNCTION, "function"), (LEXICON, "lexicon")):
        recipe = write(judge, "mine/ppo.yaml")
        plain = getattr(judge_of(recipe), key)
        assert not plain.startswith("mine/")
        file = plain.partition(":")[0]
        Path("mine", file).write_bytes(Path(file).read_bytes())
        assert getattr(judge_of(recipe), key) == f"mine/{plain}"


@pytest.mark.parametrize(("judge", "file"), [(FUNCTION, "judges.py"), (LEXICON, "words.txt")])
def test_identity_is_content_and_not_place(judge, file):
    (here,) = load([write(judge)])
    Path("mine").mkdir()
    Path("mine", file).write_bytes(Path(file).read_bytes())
    (there,) = load([write(judge, "mine/ppo.yaml")])
    assert here.recipe.evaluation != there.recipe.evaluation
    assert here.run_hash == there.run_hash
    Path("mine", file).write_text(Path(file).read_text() + "# more\n")
    assert load(["mine/ppo.yaml"])[0].run_hash != here.run_hash
    Path("resolved.yaml").write_text(here.recipe.to_yaml())
    assert load(["resolved.yaml"])[0] == here


def test_no_model_library_is_loaded():
    write(f"{LEXICON}, label: x")
    code = (
        "import sys\nfrom alignbench.recipe.loading import load\nfrom alignbench.errors import RecipeError\n"
        "try:\n    load(['ppo.yaml'])\nexcept RecipeError:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
