"""The loop of ranked completions: its passes, its order, its costs, and that it goes on where it was cut off."""

import dataclasses
import math

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.cpo import CPO
from alignbench.methods.orpo import ORPO
from alignbench.methods.rankings.batches import pairs_as_rankings, passes_of, rows_of_step, steps_of, token_rows
from alignbench.methods.rankings.training import RankingTrainer
from alignbench.methods.simpo import SimPO
from alignbench.models.adapters import Lora
from alignbench.models.flops import Tokens, weights_of
from alignbench.models.forward import token_logprobs
from alignbench.models.language_model import LanguageModel
from alignbench.records import Decoding, PreferencePair, RankedCompletions

LORA = Lora(r=4, target_modules=("q_proj", "v_proj"))
METHOD = ORPO(learning_rate=1e-2, batch_size=5, epochs=2, weight=1.0)


def weights(policy):
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_every_row_comes_once_an_epoch_in_an_order_of_the_seed():
    steps = steps_of(7, 3, 2)
    assert steps == 6
    seen = [rows_of_step(7, 3, step, seed=1) for step in range(steps)]
    assert [len(rows) for rows in seen] == [3, 3, 1] * 2
    first, second = ([i for rows in seen[part] for i in rows] for part in (slice(3), slice(3, 6)))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert seen == [rows_of_step(7, 3, step, seed=1) for step in range(steps)]
    assert seen != [rows_of_step(7, 3, step, seed=2) for step in range(steps)]


def test_a_pass_holds_all_completions_of_its_prompts(tiny_policy, pairs):
    policy = tiny_policy()
    three = RankedCompletions(pairs[0].prompt, (pairs[0].chosen, pairs[0].rejected, pairs[6].chosen), (0, 0, 1))
    ranked = [three, *pairs_as_rankings(pairs[1:4])]
    one, other = passes_of(token_rows(ranked, policy), 3, policy)
    assert one.places.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert one.ranks.tolist() == [[0, 0, 1], [0, 1, 3], [0, 1, 3]]
    assert (len(one.sequences), len(other.sequences)) == (7, 2)
    assert one.laid_out(torch.arange(1, 8)).tolist() == [[1, 2, 3], [4, 5, 0], [6, 7, 0]]


@pytest.mark.parametrize("method", [METHOD, CPO(learning_rate=1e-2, batch_size=5), SimPO(batch_size=5)])
def test_the_first_loss_is_that_of_the_log_probabilities_of_the_policy(tiny_policy, run_context, pairs, method):
    """An oracle by `token_logprobs`, without gradients, of the batch that comes first."""
    from alignbench.methods.rankings.losses import Ranking

    policy = tiny_policy()
    first = [pairs[i] for i in rows_of_step(len(pairs), 5, 0, seed=0)]
    sums = [
        [policy.token_logprobs([pair.prompt], [one])[0].sum().item() for one in (pair.chosen, pair.rejected)]
        for pair in first
    ]
    lengths = torch.tensor([[len(pair.chosen.token_ids), len(pair.rejected.token_ids)] for pair in first])
    expected = method.loss(Ranking(torch.tensor(sums), lengths, torch.tensor([[0, 1]] * 5))).mean().item()
    run, log = run_context(policy)
    method.train(TrainData([], [], pairs), run)
    assert log[1]["policy/loss"] == pytest.approx(expected, rel=1e-5)
    means = torch.tensor(sums) / lengths
    assert log[1]["objective/best_logprob"] == pytest.approx(means[:, 0].mean().item(), rel=1e-5)
    assert log[1]["objective/worst_logprob"] == pytest.approx(means[:, 1].mean().item(), rel=1e-5)
    assert log[1]["objective/pair_accuracy"] == pytest.approx((means[:, 0] > means[:, 1]).float().mean().item())


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_training_prefers_the_chosen(tiny_policy, run_context, pairs, lora):
    run, log = run_context(lora=lora)
    policy = dataclasses.replace(METHOD, epochs=6).train(TrainData([], [], pairs, drawn_completions=24), run)
    assert len(log) == run.cost.optimizer_steps == 6 * math.ceil(12 / 5)
    assert log[18]["objective/pair_accuracy"] > 0.75
    assert log[18]["objective/best_logprob"] > log[1]["objective/best_logprob"] + 0.1
    assert [log[i]["policy/learning_rate"] for i in (1, 10, 18)] == pytest.approx([1e-2, 5e-3, 1e-2 / 18])
    assert policy.has_adapter is (lora is not None)
    if lora:
        with policy.adapter_off():
            base = tiny_policy().token_logprobs([pairs[0].prompt], [pairs[0].chosen])[0]
            torch.testing.assert_close(policy.token_logprobs([pairs[0].prompt], [pairs[0].chosen])[0], base)


@pytest.mark.parametrize("changed", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_how_a_batch_is_passed_does_not_change_the_update(tiny_policy, run_context, pairs, changed):
    run, log = run_context()
    whole = METHOD.train(TrainData([], [], pairs), run)
    other, other_log = run_context(tiny_policy(), checkpoints=run.checkpoints.parent / "other")
    parts = dataclasses.replace(METHOD, **changed).train(TrainData([], [], pairs), other)
    for step, row in log.items():
        assert other_log[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert run.cost.counts() == pytest.approx(other.cost.counts())


def test_the_costs_are_those_of_the_real_tokens(tiny_policy, run_context, pairs):
    run, _ = run_context()
    METHOD.train(TrainData([], [], pairs), run)
    policy, completions = tiny_policy(), [one for pair in pairs for one in (pair.chosen, pair.rejected)]
    n_trained = 2 * sum(len(one.token_ids) for one in completions)
    n_prompt = 2 * sum(2 * len(policy.encode_prompt(pair.prompt)) for pair in pairs)
    flops = weights_of(policy.model).flops(Tokens(n_prompt, n_trained - 2 * len(completions), n_trained))
    assert run.cost.trained_tokens == n_trained
    assert run.cost.forward_flops == pytest.approx(flops)
    assert run.cost.backward_flops == pytest.approx(2 * flops)
    assert run.cost.trainable_parameters == sum(p.numel() for p in policy.model.parameters())


class KilledError(Exception):
    """Stands for a process that dies."""


def dies_at(last):
    def log(step, metrics):
        if step == last:
            raise KilledError

    return log


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_killed_run_goes_on_bit_for_bit(tiny_policy, run_context, pairs, tmp_path, lora):
    method, data = dataclasses.replace(METHOD, checkpoint_every=2), TrainData([], [], pairs)
    run, straight = run_context(lora=lora)
    expected = weights(method.train(data, run))
    killed, _ = run_context(tiny_policy(), lora=lora, checkpoints=tmp_path / "killed", log=dies_at(4))
    with pytest.raises(KilledError):
        method.train(data, killed)
    again, log = run_context(tiny_policy(), lora=lora, checkpoints=tmp_path / "killed")
    assert same(weights(method.train(data, again)), expected)
    assert log == {step: straight[step] for step in (3, 4, 5, 6)}
    assert again.cost.counts() == pytest.approx(run.cost.counts())
    done, nothing = run_context(tiny_policy(), lora=lora, checkpoints=tmp_path / "killed")
    assert same(weights(method.train(data, done)), expected)
    assert nothing == {}


def test_a_killed_run_goes_on_only_as_what_it_was(tiny_policy, run_context, pairs, tmp_path):
    method = dataclasses.replace(METHOD, checkpoint_every=2)
    killed, _ = run_context(checkpoints=tmp_path, log=dies_at(4))
    with pytest.raises(KilledError):
        method.train(TrainData([], [], pairs), killed)

    def go_on(method=method, pairs=pairs, **changes):
        run, log = run_context(tiny_policy(), checkpoints=tmp_path, **changes)
        method.train(TrainData([], [], pairs), run)
        return log

    with pytest.raises(TrainingError, match="the checkpoint is of pairs"):
        go_on(pairs=[*pairs[1:], pairs[0]])
    with pytest.raises(TrainingError, match=r"weight 1\.0 \(this run: 2\.0\)"):
        go_on(dataclasses.replace(method, weight=2.0))
    with pytest.raises(TrainingError, match=r"seed 0 \(this run: 1\)"):
        go_on(seed=1)
    assert min(go_on(dataclasses.replace(method, micro_batch_size=1, gradient_checkpointing=True))) == 3


def test_what_is_not_finite_stops_training(run_context, pairs):
    run, log = run_context()
    with pytest.raises(TrainingError, match=r"not finite|the (loss|gradient norm) is (nan|inf) at step \d+: lower"):
        dataclasses.replace(METHOD, learning_rate=1e30, checkpoint_every=1).train(TrainData([], [], pairs), run)
    assert len(log) < 6


def test_nothing_to_train_on_is_said(run_context):
    with pytest.raises(TrainingError, match="no prompt has completions that are ranked"):
        METHOD.train(TrainData([], []), run_context()[0])


def test_an_encoder_decoder_model_learns_too(family, run_context, pairs):
    model, tokenizer = family("t5")
    policy = LanguageModel(model.eval(), tokenizer, "t5")
    prompts = [pair.prompt for pair in pairs]
    drawn = policy.generate(prompts, Decoding(6), 2, ("pairs",))
    own = [PreferencePair(prompt, *drawn[2 * i : 2 * i + 2], 1.0, 0.0) for i, prompt in enumerate(prompts)]
    run, log = run_context(policy)
    trainer = RankingTrainer(METHOD, METHOD.loss, pairs_as_rankings(own), run)
    first = [own[i] for i in rows_of_step(len(own), 5, 0, seed=0)]
    means = [policy.token_logprobs([pair.prompt], [pair.chosen])[0].mean().item() for pair in first]
    trainer.train(title="ORPO", drawn_completions=24)
    assert log[1]["objective/best_logprob"] == pytest.approx(sum(means) / 5, rel=1e-5)
    assert log[6]["policy/loss"] < log[1]["policy/loss"]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_where_logits_would_be_large_the_numbers_are_the_same(tiny_policy, run_context, pairs, monkeypatch, lora):
    """A frozen output layer is then passed by, and never gives logits; one that is trained gives them whole."""
    run, log = run_context(lora=lora)
    METHOD.train(TrainData([], [], pairs), run)
    monkeypatch.setattr("alignbench.models.output_layer.MOST_BYTES", 0)
    called = []
    again, other = run_context(tiny_policy(), lora=lora, checkpoints=run.checkpoints.parent / "other")
    trainer = RankingTrainer(METHOD, METHOD.loss, pairs_as_rankings(pairs), again)
    monkeypatch.setattr(
        "alignbench.methods.rankings.training.token_logprobs",
        lambda *arguments: called.append(1) or token_logprobs(*arguments),
    )
    trainer.train(title="ORPO", drawn_completions=24)
    assert bool(called) is (lora is None)
    for step, row in log.items():
        assert other[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
