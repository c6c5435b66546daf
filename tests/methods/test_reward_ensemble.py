"""Ensembles of reward models: a bootstrap for each, the lowest or the mean as the reward, saved and gone on from."""

import dataclasses
import statistics

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.methods.base import TrainData
from alignbench.methods.reward_model import RewardModel, bootstrap, with_own_output
from alignbench.scorers.base import parts_of
from alignbench.scorers.reward_ensemble import ENSEMBLE_FILE, RewardEnsemble
from alignbench.scorers.reward_model import load_classifier_scorer, load_reward_scorer

METHOD = RewardModel(learning_rate=1e-2, batch_size=4, epochs=2, members=3)


class Fixed:
    """A scorer of known scores."""

    def __init__(self, name, scores):
        self.name = self.fingerprint = name
        self.scores = scores

    def score(self, prompts, completions):
        return self.scores


MEMBERS = [Fixed("a", [1.0, 4.0, None]), Fixed("b", [2.0, -1.0, 1.0]), Fixed("c", [6.0, 0.0, 1.0])]


def test_the_lowest_or_the_mean_is_the_score_and_none_where_any_is():
    lowest, mean = (RewardEnsemble(MEMBERS, how, name="r") for how in ("lowest", "mean"))
    assert lowest.score([""] * 3, ["x"] * 3) == [1.0, -1.0, None]
    assert mean.score([""] * 3, ["x"] * 3) == [pytest.approx(3.0), pytest.approx(1.0), None]
    assert mean.term_means == {"member0": 2.5, "member1": pytest.approx(2 / 3), "member2": pytest.approx(7 / 3)}
    assert lowest.fingerprint != mean.fingerprint
    assert parts_of(lowest) == tuple(MEMBERS)


def test_a_bootstrap_draws_with_replacement_for_each_member_anew():
    rows = [{"chosen_ids": [i]} for i in range(200)]
    first, second = bootstrap(rows, 0, 0), bootstrap(rows, 0, 1)
    assert len(first) == len(second) == 200
    shares = [len({row["chosen_ids"][0] for row in drawn}) / 200 for drawn in (first, second)]
    assert shares == pytest.approx([0.63, 0.63], abs=0.1)  # 1 - 1 / e
    assert first == bootstrap(rows, 0, 0)
    assert first != second
    assert first != bootstrap(rows, 1, 0)


def test_every_member_starts_from_an_output_of_its_own(run_context):
    """The same numbers in another order, so that none starts from larger weights; all below it is the same."""
    model, _ = run_context()[0].load_reward_model(None)
    one, other, again = (with_own_output(model, 0, member) for member in (1, 2, 1))
    head = model.score.weight
    for copied in (one, other):
        assert not copied.score.weight.equal(head)
        assert sorted(copied.score.weight[0].tolist()) == sorted(head[0].tolist())
        for mine, theirs in zip(copied.base_model.parameters(), model.base_model.parameters(), strict=True):
            assert mine.equal(theirs)
    assert not one.score.weight.equal(other.score.weight)
    assert one.score.weight.equal(again.score.weight)
    assert not one.score.weight.equal(with_own_output(model, 7, 1).score.weight)


def test_members_are_trained_one_after_another_and_saved_together(run_context, pairs, tmp_path):
    run, log = run_context()
    trained = METHOD.train(TrainData([], [], pairs, drawn_completions=24), run)
    assert list(log) == list(range(1, 19))
    assert [log[step]["reward_model/member"] for step in (1, 6, 7, 18)] == [0, 0, 1, 2]
    assert run.cost.optimizer_steps == 18
    prompts, texts = [pair.prompt.text for pair in pairs], [pair.chosen.text for pair in pairs]
    columns = [member.score(prompts, texts) for member in trained.members]
    assert len({tuple(column) for column in columns}) == 3
    assert trained.score(prompts, texts) == [min(row) for row in zip(*columns, strict=True)]
    trained.save(tmp_path / "artifact")
    options = {"text": "completion", "device": torch.device("cpu"), "name": "r"}
    loaded = load_reward_scorer(tmp_path / "artifact", **options)
    again = load_classifier_scorer(
        str(tmp_path / "artifact"), where="reward", revision=None, label="reward", transform="logit", **options
    )
    for one in (loaded, again):
        assert one.score(prompts, texts) == pytest.approx(trained.score(prompts, texts), rel=1e-5)
        assert one.score([""], [" "]) == [pytest.approx(min(member.blank_reward for member in trained.members))]
    (tmp_path / "artifact" / "member1" / "config.json").unlink()
    with pytest.raises(ModelError, match="lacks member1 of its ensemble"):
        load_reward_scorer(tmp_path / "artifact", **options)
    (tmp_path / "artifact" / ENSEMBLE_FILE).write_text("{}")
    with pytest.raises(ModelError, match="cannot be read as the record of an ensemble"):
        load_reward_scorer(tmp_path / "artifact", **options)


def test_the_mean_of_the_members(run_context, pairs):
    run, _ = run_context()
    method = dataclasses.replace(METHOD, members=2, combine="mean", epochs=1)
    trained = method.train(TrainData([], [], pairs), run)
    columns = [member.score(["x"], ["the dog"]) for member in trained.members]
    assert trained.score(["x"], ["the dog"]) == [pytest.approx(statistics.fmean(row[0] for row in columns))]


def test_an_ensemble_goes_on_where_it_was_cut_off(run_context, tiny_policy, pairs, tmp_path):
    class KilledError(Exception):
        """Stands for a process that dies."""

    def dies(step, metrics):
        if step == 9:
            raise KilledError

    run, straight = run_context()
    expected = METHOD.train(TrainData([], [], pairs, drawn_completions=24), run)
    killed, _ = run_context(tiny_policy(), checkpoints=tmp_path / "killed", log=dies)
    with pytest.raises(KilledError):
        METHOD.train(TrainData([], [], pairs, drawn_completions=24), killed)
    again, log = run_context(tiny_policy(), checkpoints=tmp_path / "killed")
    resumed = METHOD.train(TrainData([], [], pairs, drawn_completions=24), again)
    assert log == {step: straight[step] for step in range(7, 19)}  # the first member was done
    assert resumed.fingerprint == expected.fingerprint
    assert again.cost.counts() == pytest.approx(run.cost.counts())


def test_one_model_has_nothing_to_combine():
    with pytest.raises(ValueError, match="combine left out beside members 1"):
        RewardModel(combine="mean")
