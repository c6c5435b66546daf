"""A Python function as a reward: what it may return, and what its author is told when it goes wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.errors import ScorerError
from alignbench.scorers.function import PythonFunction, check_function, function_sha256

PROMPTS, COMPLETIONS = ["you are", "the dog"], [" nice", " is good now"]


@pytest.fixture
def scorer(tmp_path, monkeypatch):
    """Writes rewards.py into the current folder and takes a function from it."""
    monkeypatch.chdir(tmp_path)

    def make(source, name="f", **options):
        Path("rewards.py").write_text(source)
        return PythonFunction(f"rewards.py:{name}", where="reward", name="reward", **options)

    return make


def test_prompts_and_completions_in_numbers_out(scorer):
    function = scorer(
        "def f(prompts, completions):\n    return [len(p) + 10 * len(c) for p, c in zip(prompts, completions)]"
    )
    assert function.score(PROMPTS, COMPLETIONS) == [57.0, 127.0]
    assert function.score([], []) == []


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("[1, 2.5]", [1.0, 2.5]),
        ("(None, -3)", [None, -3.0]),
        ("[True, False]", [1.0, 0.0]),
        ("np.array([1, 2])", [1.0, 2.0]),
        ("np.array([0.5, 0.25], dtype=np.float32)", [0.5, 0.25]),
        ("[np.float32(0.5), np.int64(2)]", [0.5, 2.0]),
        ("torch.tensor([0.5, 2.0], requires_grad=True)", [0.5, 2.0]),
        ("torch.tensor([0.5, 2.0], dtype=torch.bfloat16)", [0.5, 2.0]),
        ("[torch.tensor(0.5), None]", [0.5, None]),
    ],
)
def test_numbers_of_every_kind(scorer, returned, expected):
    scores = scorer(f"import numpy as np, torch\ndef f(prompts, completions): return {returned}").score(
        PROMPTS, COMPLETIONS
    )
    assert scores == expected
    assert {type(score) for score in scores} <= {float, type(None)}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "got nothing, expected a list of 2 numbers or None, one for each completion"),
        ("1.5", "got 1.5 (float), expected a list of 2"),
        ("'ab'", "got 'ab' (str), expected a list of 2"),
        ("torch.tensor(1.0)", "got tensor(1.) (Tensor), expected a list of 2"),
        ("(x for x in (1, 2))", "(generator), expected a list of 2"),
        ("[1.0]", "got 1 values, expected a list of 2 numbers"),
        ("[1.0, 2.0, 3.0]", "got 3 values, expected a list of 2 numbers"),
        ("[1.0, '2']", "got '2' (str) for ' is good now', expected a number or None"),
        ("np.zeros((2, 1))", "got [0.0] (list) for ' nice', expected a number or None"),
        ("[1.0, float('nan')]", "got nan for ' is good now', expected a finite number, or None for no score"),
        ("np.array([-np.inf, 1])", "got -inf for ' nice', expected a finite number"),
        ("[10**400, 1]", "expected a finite number"),
    ],
)
def test_wrong_results(scorer, returned, message):
    function = scorer(f"import numpy as np, torch\ndef f(prompts, completions): return {returned}")
    with pytest.raises(ScorerError) as caught:
        function.score(PROMPTS, COMPLETIONS)
    assert str(caught.value).startswith("reward.function: rewards.py:f: ")
    assert message in str(caught.value)


def test_an_exception_shows_the_users_own_last_line(scorer):
    """Also where it was raised inside a library that the user's code called."""
    function = scorer(
        "import json\n\n\ndef inner(text):\n    return json.loads(text)\n\n\n"
        "def f(prompts, completions):\n    return [inner(c) for c in completions]\n"
    )
    with pytest.raises(ScorerError) as caught:
        function.score(PROMPTS, COMPLETIONS)
    assert str(caught.value) == (
        "reward.function: rewards.py:f: the function raised JSONDecodeError: Expecting value: line 1 column 2 (char 1) "
        "(rewards.py:5: return json.loads(text))"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(): return []", "the function raised TypeError: f() takes 0 positional arguments but 2 were given"),
        ("import sys\ndef f(p, c): sys.exit(3)", "the function raised SystemExit: 3 (rewards.py:2: "),
    ],
)
def test_a_function_that_cannot_be_called(scorer, source, message):
    with pytest.raises(ScorerError, match=re.escape(message)):
        scorer(source).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(p, c) return 1", "the file cannot be run: SyntaxError: expected ':' (rewards.py, line 1)"),
        ("x = 1\ny = {}['no']\ndef f(p, c): ...", "KeyError: 'no' (rewards.py:2: y = {}['no'])"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' (rewards.py:1: "),
        ("f = 3", "got 3 (int), expected a function"),
        ("def g(p, c): ...", "got nothing, expected a function"),
    ],
)
def test_a_file_without_a_function_to_call(scorer, source, message):
    with pytest.raises(ScorerError, match=re.escape(message)) as caught:
        scorer(source)
    assert str(caught.value).startswith("reward.function: rewards.py:f: ")


def test_a_missing_file(scorer):
    with pytest.raises(ScorerError, match=r"reward\.function: no\.py:f: got no file .*No such file"):
        PythonFunction("no.py:f", where="reward", name="reward")


def test_a_file_may_hold_what_any_module_holds(scorer):
    """Dataclasses with deferred annotations look their module up; a file beside it is found by __file__."""
    function = scorer(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom pathlib import Path\n\n\n"
        "@dataclass\nclass Score:\n    value: float\n\n\n"
        "def f(prompts, completions):\n    words = (Path(__file__).parent / 'words.txt').read_text().split()\n"
        "    return [Score(sum(w in c for w in words)).value for c in completions]\n"
    )
    Path("words.txt").write_text("nice good now")
    assert function.score(PROMPTS, COMPLETIONS) == [1.0, 2.0]


def test_a_file_means_what_python_means_by_it(scorer):
    """Nothing of our own module, such as its __future__ imports, reaches into it."""
    function = scorer("def f(p: int, c): return [float(f.__annotations__['p'] is int)]")
    assert function.score(["p"], ["c"]) == [1.0]


def test_every_run_begins_with_a_fresh_module(scorer):
    source = "n = 0\ndef f(prompts, completions):\n    global n\n    n += 1\n    return [n] * len(completions)\n"
    first = scorer(source)
    assert [first.score(["p"], ["c"]), first.score(["p"], ["c"])] == [[1.0], [2.0]]
    assert scorer(source).score(["p"], ["c"]) == [1.0]


def test_the_callers_lists_stay_as_they_are(scorer):
    prompts, completions = [*PROMPTS], [*COMPLETIONS]
    scorer("def f(prompts, completions):\n    prompts.clear()\n    completions[0] = ''\n    return [0, 0]").score(
        prompts, completions
    )
    assert (prompts, completions) == (PROMPTS, COMPLETIONS)


def test_fingerprint_is_of_content_and_name(scorer):
    source = "def f(p, c): return [1.0]\ng = f\n"
    first = scorer(source).fingerprint
    assert scorer(source, "g").fingerprint != first
    assert scorer(source + "# more\n").fingerprint != first
    Path("elsewhere").mkdir()
    Path("elsewhere/other.py").write_text(source)
    assert PythonFunction("elsewhere/other.py:f", where="reward", name="x").fingerprint == first


def test_a_file_that_changed_under_way_is_refused(scorer):
    scorer("def f(p, c): return [1.0]")
    sha256 = function_sha256("rewards.py:f")
    assert PythonFunction("rewards.py:f", where="reward", name="x", sha256=sha256).score(["p"], ["c"]) == [1.0]
    with pytest.raises(ScorerError, match="the file has changed since the recipe was read"):
        scorer("def f(p, c): return [2.0]", sha256=sha256)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("rewards.py:politeness", None),
        ("rewards.py:imported", None),
        ("rewards.py:in_a_branch", None),
        ("rewards.py:assigned", None),
        (
            "rewards.py:polite",
            "one of the functions of rewards.py: politeness, in_a_branch, did you mean 'politeness'?",
        ),
        ("rewards.py:inner", "one of the functions of rewards.py: politeness, in_a_branch"),
        ("rewards.py", "file.py:function, such as rewards.py:politeness"),
        ("rewards.py:", "file.py:function, such as rewards.py:politeness"),
        ("rewards.txt:f", "file.py:function, such as rewards.py:politeness"),
        ("rewards.py:a.b", "file.py:function, such as rewards.py:politeness"),
        ("no.py:f", "a file beside the recipe or in the current folder (no.py: No such file or directory)"),
        ("broken.py:f", "a file that Python can read (line 2: expected ':')"),
        ("binary.py:f", "a file of Python in UTF-8"),
        ("empty.py:f", "a function, empty.py has none"),
    ],
)
def test_a_file_is_checked_without_running_it(tmp_path, monkeypatch, function, expected):
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(
        "\ufefffrom math import exp as imported\nopen('was_run', 'w').close()\n"
        "def politeness(p, c):\n    def inner(): ...\n"
        "if True:\n    def in_a_branch(p, c): ...\nassigned = lambda p, c: []\n"
    )
    Path("broken.py").write_text("x = 1\ndef f(p, c)\n    return 1\n")
    Path("binary.py").write_bytes(b"\xff\xfe\x00")
    Path("empty.py").write_text("")
    if expected is None:
        check_function(function)
    else:
        with pytest.raises(ValueError, match="^" + re.escape(expected)):
            check_function(function)
    assert not Path("was_run").exists()


def test_the_example_of_the_documentation(scorer):
    page = Path(__file__).parents[2] / "docs" / "scorers.md"
    [source] = [
        block for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if "(prompts, completions)" in block
    ]  # fmt: skip
    scores = scorer(source, "short_and_polite").score(["p"] * 3, ["thank you", "you fool", ""])
    assert scores == [pytest.approx(1 - 0.02), pytest.approx(-0.02), 0.0]


def test_the_module_loads_no_heavy_library():
    code = "import sys, alignbench.scorers.function; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_judge_of_completions_is_given_no_prompts(scorer):
    source = "def f(prompts, completions): return [len(p) + 10 * len(c) for p, c in zip(prompts, completions)]"
    seeing, blind = scorer(source), scorer(source, sees_prompts=False)
    assert seeing.score(PROMPTS, COMPLETIONS) == [57.0, 127.0]
    assert blind.score(PROMPTS, COMPLETIONS) == [50.0, 120.0]
    assert seeing.fingerprint != blind.fingerprint
    assert seeing.sources == blind.sources
