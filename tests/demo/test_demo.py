"""`alignbench demo`: what runs answer, and the page by Gradio's own client."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.demo.page import page, require_loopback
from alignbench.demo.side_by_side import SideBySide
from alignbench.errors import UsageError
from alignbench.models.loading import load_policy
from alignbench.records import Decoding, Prompt


@pytest.fixture
def bench(recipe_folder, finished):
    finished("base", "ppo")
    return SideBySide.load([Path("results")], [], torch.device("cpu"))


def test_each_run_answers_with_its_scores_and_costs(bench):
    answers = bench.answers("now the dog", 8, 3)
    assert [one.run for one in answers] == ["base", "ppo"]
    policy = load_policy("results/ppo/seed0/artifact")
    [drawn] = policy.generate([Prompt("demo", "now the dog")], Decoding(8), 1, (3, "demo"))
    ppo = answers[1]
    assert (ppo.text, ppo.n_tokens, ppo.generated_tokens) == (drawn.text, drawn.n_tokens, len(drawn.token_ids))
    assert ppo.flops == policy.spent.generation_flops > 0
    assert ppo.scores == {name: judge.score([""], [drawn.text])[0] for name, judge in bench.scorers.items()}
    with pytest.raises(UsageError, match="without text"):
        bench.answers("  ", 8, 3)


def test_the_page_answers_gradios_own_client(bench):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from gradio_client import Client

    blocks = page(bench)
    try:
        _, address, _ = blocks.launch(server_name="127.0.0.1", share=False, quiet=True, prevent_thread_lock=True)
        assert address.startswith("http://127.0.0.1:")
        table = Client(address, verbose=False).predict("now the dog", 8, 3, api_name="/answer")
    finally:
        blocks.close()
    expected = bench.answers("now the dog", 8, 3)
    assert table["headers"] == ["run", "answer", "reward", "judge", "tokens", "drawn tokens", "FLOPs", "seconds"]
    assert [row[:2] for row in table["data"]] == [[one.run, one.text] for one in expected]
    assert [row[3] for row in table["data"]] == [pytest.approx(one.scores["judge"], abs=1e-4) for one in expected]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org", ""])
def test_other_hosts_are_refused_unless_told(host):
    said = CliRunner().invoke(main, ["demo", "results", "--host", host])
    assert said.exit_code == 2
    assert "which other machines may reach, expected 127.0.0.1" in said.output
    require_loopback(host, allow_other_hosts=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_is_not(host):
    require_loopback(host, allow_other_hosts=False)


def test_what_cannot_be_shown_says_so(bench, monkeypatch):
    with pytest.raises(UsageError, match="--run: got 'pppo', expected one of base, ppo"):
        SideBySide.load([Path("results")], ["pppo"], torch.device("cpu"))
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(UsageError, match=r"pip install 'alignbench\[demo\]'"):
        page(bench)
