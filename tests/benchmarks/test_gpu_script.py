"""benchmarks/gpu.sh: what it keeps of its steps. What they measure is tested with them; a GPU is not needed here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
STEPS = (
    *("machine", "decoding", "ppo", "ppo_gptj_lora", "decoding_gptj", "tests", "rtp-v1", "ppo_bf16_lora", "trl_ppo"),
    *("drawing", "memory"),
)

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="timeout (coreutils) is not installed")


@pytest.fixture
def start(tmp_path):
    """Starts it with an interpreter that does what a shell script says, of which `$1` is the step's program."""

    def start(says, **environment):
        interpreter = tmp_path / "python"
        interpreter.write_text(f"#!/bin/sh\n{says}\n")
        interpreter.chmod(0o755)
        variables = {"PATH": os.environ["PATH"], "PYTHON": str(interpreter), **environment}
        everything = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([SCRIPT, tmp_path / "found.jsonl"], env=variables, **everything)

    return start


@pytest.fixture
def found(tmp_path):
    """Reads the lines that are kept."""
    return lambda: [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]


def test_every_step_says_what_it_found_or_why_it_found_nothing(start, found, tmp_path):
    process = start(
        """echo "loading {'a': 1}"
        case $1 in
        *decoding.py)
            echo '{"way": "growing"}'
            printf 'Traceback\\nValueError: got "a\\tb\\\\", expected c\\n' >&2
            exit 1 ;;
        *machine.py) exit 3 ;;
        -m) echo '{"tests": 2}' ;;
        *) echo '{"n": 1}'; echo '{"n": 2}' ;;
        esac"""
    )
    shown = process.communicate(timeout=60)[0]
    assert shown == (tmp_path / "found.jsonl").read_text()
    lines = found()
    assert list(dict.fromkeys(line["step"] for line in lines)) == list(STEPS)
    by_step = {step: [line for line in lines if line["step"] == step] for step in STEPS}
    assert by_step["machine"] == [{"step": "machine", "failed": "ended with code 3"}]
    assert "loading {'a': 1}" in (tmp_path / "found.jsonl.log").read_text()
    assert by_step["decoding"] == [
        {"step": "decoding", "way": "growing"},
        {"step": "decoding", "failed": 'ValueError: got "ab\\", expected c'},
    ]
    assert by_step["tests"] == [{"step": "tests", "tests": 2}]
    assert by_step["memory"] == [{"step": "memory", "n": 1}, {"step": "memory", "n": 2}]
    assert process.returncode == 0


def test_the_time_for_all_ends_a_step_and_leaves_none_to_others(start, found):
    process = start("""case $1 in *machine.py) echo '{"n": 1}' ;; *) echo '{"n": 2}'; sleep 60 ;; esac""", LIMIT="2")
    process.communicate(timeout=30)
    first, second, third, *others = found()
    assert (first, second) == ({"step": "machine", "n": 1}, {"step": "decoding", "n": 2})
    assert third["step"] == "decoding"
    assert third["failed"].startswith("not done after ")
    assert [line["failed"] for line in others] == ["no time was left"] * (len(STEPS) - 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_found_is_kept_where_it_is_ended(start, found, tmp_path, number):
    file = tmp_path / "pid"
    process = start(f"""case $1 in *machine.py) echo '{{"n": 1}}' ;; *) echo $$ > {file}; exec sleep 5 ;; esac""")
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(timeout=30)
    assert found() == [{"step": "machine", "n": 1}]
    if number == signal.SIGTERM:  # nothing goes on
        while Path(f"/proc/{int(file.read_text())}").exists():
            time.sleep(0.01)


def test_tests_that_fail_have_a_line_each_and_all_of_them_one(tmp_path):
    (tmp_path / "test_few.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2\ndef test_c(): pytest.skip('no GPU')\n"
        "@pytest.fixture\ndef broken(): raise ValueError('two\\nlines')\ndef test_d(broken): pass\n"
    )
    (tmp_path / "test_no_module.py").write_text("import a_package_that_is_not_there\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "json_lines", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--continue-on-collection-errors", "test_few.py", "test_no_module.py"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(SCRIPT.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')] == [
        {"test": "test_few.py::test_b", "failed": "assert 1 == 2"},
        {"test": "test_few.py::test_d", "failed": "ValueError: two"},
        {"tests": 4, "passed": 1, "failed": 2, "skipped": 1, "not_collected": 1},
    ]


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path):
    file = tmp_path / "found.jsonl"
    environment = os.environ | {"DEVICE": "cpu", "PYTHON": sys.executable, "LIMIT": "3600"}
    subprocess.run([SCRIPT, file], env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["step"] for line in lines if "failed" in line} <= {"trl_ppo"}  # TRL 1.12 is no requirement
    assert list(dict.fromkeys(line["step"] for line in lines)) == list(STEPS)
    drawn = [line for line in lines if line["step"].startswith("decoding")]
    assert [line["way"] for line in drawn] == ["growing", "fixed"] * 2
    assert [line["same_tokens"] for line in drawn[:2]] == [1, 1]
    [tests] = (line for line in lines if line["step"] == "tests")
    assert tests == {"step": "tests", "tests": 2, "passed": 2, "failed": 0, "skipped": 0, "not_collected": 0}
