"""Two processes on the loopback device against one, with the same global batch."""

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures.cases import few_of

from alignbench.errors import ModelError, UsageError
from alignbench.methods.on_policy import placement
from alignbench.models.language_model import LanguageModel
from alignbench.runtime import distributed

PROGRAM = Path(__file__).with_name("several_processes.py")
_spec = importlib.util.spec_from_file_location("several_processes", PROGRAM)
work = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(work)

TOLERANCE = {"rtol": 2e-4, "atol": 2e-6}
"""Of metrics and weights after 3 steps of 4 updates in float32: sums in another order, and Adam after them."""


@pytest.mark.parametrize("longest", [0.5, 5.0, 100.0])
def test_clipping_is_torchs(longest):
    """Of a gradient of length 5 (3 and 4), to the bit: longer, as long, shorter than the most."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    outcomes = []
    for clip in (
        placement.OneProcess(SimpleNamespace(parameters=dict(enumerate(parameters)))).clip,
        lambda most: torch.nn.utils.clip_grad_norm_(parameters, most).item(),
    ):
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([-4.0])
        outcomes.append([clip(longest), parameters[0].grad.item(), parameters[1].grad.item()])
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 5


@pytest.fixture(scope="module")
def alone(checkpoints, tmp_path_factory):
    """What one process gives for each case, and the folder in which it leaves checkpoints after 2 steps."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.rollout, "MAX_UNSCORED", 0.5)
        cases = {**work.CASES, **work.GROUP_METHODS}
        found = {name: work.trained(checkpoints / "policy", **changes) for name, changes in cases.items()}
    for name in ("begun by one", "begun by one too"):
        work.trained(checkpoints / "policy", 2, checkpoints=folder / name)
    return found, folder


@pytest.fixture(scope="module")
def of_each(alone, checkpoints, in_two_processes):
    """What each of two processes gives of a part of the program."""
    _, folder = alone

    def of_each(part):
        codes, said = in_two_processes(PROGRAM, checkpoints / "policy", folder, part)
        assert codes == [0, 0], "\n".join(said)
        return [torch.load(folder / f"{part}{rank}.pt") for rank in (0, 1)]

    return of_each


@pytest.fixture(scope="module")
def both(of_each):
    return of_each("everything")


@pytest.fixture(scope="module")
def more_sharded(of_each):
    return of_each("more_sharded")


def assert_same(found, expected):
    assert found["log"].keys() == expected["log"].keys()
    for step, metrics in expected["log"].items():
        for key in metrics.keys() - found["log"][step].keys():
            raise AssertionError(key)
        for key, value in metrics.items():
            if not key.startswith(("time/", "memory/")):
                assert found["log"][step][key] == pytest.approx(value, rel=2e-4, abs=2e-5), (step, key)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, **TOLERANCE)


@pytest.mark.parametrize("case", work.CASES)
def test_two_processes_give_the_update_of_one(alone, both, case):
    """Weights, losses, KL and every other metric; completions are the same text by text."""
    assert_update_of_one(alone[0][case], *(found[case] for found in both))


@pytest.mark.parametrize("case", few_of(work.CASES, work.SHARDED))
def test_so_do_two_with_a_part_of_the_weights_each(alone, request, case):
    found = request.getfixturevalue("both" if case in work.SHARDED else "more_sharded")
    assert_update_of_one(alone[0][case], *(one[f"sharded, {case}"] for one in found))


@pytest.mark.parametrize("case", work.GROUP_METHODS)
def test_so_do_the_methods_without_values(alone, both, case):
    """A process draws every second completion, and a group is compared as a whole."""
    assert_update_of_one(alone[0][case], *(found[case] for found in both))
    assert alone[0][case]["log"][1]["policy/n_updates"] > 1


def assert_update_of_one(expected, first, second):
    assert_same(first, expected)
    assert first["texts"].keys() == expected["texts"].keys()
    for step, rows in expected["texts"].items():
        assert [row["completion"] for row in first["texts"][step]] == [row["completion"] for row in rows]
    assert first["cost"] == pytest.approx(expected["cost"])
    assert second["log"] == {}  # the first process alone writes
    for weight, other in zip(first["weights"].values(), second["weights"].values(), strict=True):
        assert torch.equal(weight, other)


def test_the_cases_are_what_their_names_say(alone):
    """Early stops happen, completions have different lengths and are unscored: or the comparison would not show it."""
    logs = {name: found["log"] for name, found in alone[0].items()}
    n_updates = {row["policy/n_updates"] for row in logs["mini-batches of their own"].values()}
    assert min(n_updates) < 4
    assert all(row["objective/n_unscored"] > 0 for row in logs["unscored completions"].values())
    assert all(row["tokens/completion_min"] < row["tokens/completion_max"] for row in logs["full weights"].values())
    assert all(row["policy/gradient_norm"] > work.CONFIG.max_grad_norm for row in logs["full weights"].values())


def test_no_prompt_is_drawn_twice(alone, both, checkpoints):
    """The processes together score the prompts that one would, and each half of them."""
    seen = work.prompts_seen(checkpoints / "policy")
    first, second = (found["prompts_seen"] for found in both)
    assert first == seen[::2]
    assert second == seen[1::2]


@pytest.mark.parametrize("name", ["resumed", "resumed, sharded"])
def test_two_processes_go_on_from_a_checkpoint_of_one(alone, both, name):
    expected = alone[0]["full weights"]
    assert set(both[0][name]["log"]) == {3}
    assert_same(both[0][name], {**expected, "log": {3: expected["log"][3]}})


@pytest.mark.parametrize("name", ["begun by two", "begun by two, sharded"])
def test_one_process_goes_on_from_a_checkpoint_of_two(alone, both, checkpoints, name):
    expected, folder = alone[0]["full weights"], alone[1]
    found = work.trained(checkpoints / "policy", checkpoints=folder / name)
    assert_same(found, {**expected, "log": {3: expected["log"][3]}})


def test_an_error_of_one_process_ends_both(both):
    first, second = (found["failing_reward"] for found in both)
    assert first == ("TrainingError", "process 1: no such word")
    assert second == ("ValueError", "no such word")


def test_unscored_completions_are_counted_over_all_processes(both):
    """A quarter is above the fifth that is let pass here, in both processes alike."""
    for found in both:
        assert found["many_unscored"].startswith("the reward left 2 of 8 completions unscored")


def test_metrics_are_those_of_all_processes(both, checkpoints):
    """In each of them; the peak is the largest, and what a reward says of its terms is the mean."""
    (first, *peak), (second, *other_peak) = (found["metrics_of_each"] for found in both)
    assert {k: v for k, v in first.items() if "time/" not in k} == {k: v for k, v in second.items() if "time/" not in k}
    assert max(peak[0], other_peak[0]) <= first["memory/peak_gib"] <= max(peak[1], other_peak[1])
    alone = work.metrics_of_each(checkpoints / "policy")[0]
    assert first["objective/reward/words"] == pytest.approx(alone["objective/reward/words"])
    assert first["objective/reward/words"] == pytest.approx(first["objective/reward"])


def test_processes_with_different_work_are_refused(both):
    for found in both:
        assert found["other_prompts"] == "process 1 has other prompts than process 0: give all the same"


def test_mini_batches_that_cannot_be_cut_evenly_are_refused(both):
    for found in both:
        assert found["uneven"].startswith("method.mini_batch_size: got 3 with 2 processes, expected a multiple of 2")


def test_the_first_process_can_evaluate_a_sharded_policy(both, checkpoints):
    trainer = work.build(checkpoints / "policy")
    first, second = (found["evaluated_while_sharded"] for found in both)
    expected = {}

    def log(step, _metrics):
        completions = trainer.policy.generate(work.PROMPTS[:2], work.Decoding(max_new_tokens=5), 1, (0, "evaluation"))
        expected[step] = [completion.text for completion in completions]

    trainer.train(2, log=log)
    assert first == expected
    assert second == {}


def test_sharding_takes_several_processes_and_a_causal_policy(checkpoints, family, monkeypatch):
    assert type(work.build(checkpoints / "policy", sharding="full").networks.placement) is placement.OneProcess
    policy = LanguageModel(*family("t5"), "t5")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ModelError, match=r"method\.sharding: got 'full' for an encoder-decoder policy"):
        work.PPOTrainer(policy, work.score, work.PROMPTS, dataclasses.replace(work.CONFIG, sharding="full"))


def test_a_process_that_dies_ends_the_other(in_two_processes, tmp_path):
    """Here the other sees the lost connection; under a launcher it is ended by that."""
    program = tmp_path / "dies.py"
    program.write_text(
        "import os, alignbench.runtime.distributed as d\n"
        "d.join()\n"
        "if os.environ['RANK'] == '1': raise SystemExit(3)\n"
        "d.gather('anybody there?')\n"
    )
    codes, said = in_two_processes(program)
    assert codes[1] == 3
    assert codes[0] != 0
    assert "RuntimeError" in said[0]


def test_a_launcher_that_does_not_say_who_is_who(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK"):
        distributed.join()
