"""DPO: the reference is right for every kind of policy, and training moves what it should."""

import dataclasses
import math
import os
from contextlib import contextmanager

import pytest
import torch
from transformers import GPTNeoModel
from trl import DPOTrainer

from alignbench.errors import TrainingError
from alignbench.methods import dpo
from alignbench.methods.base import TrainData
from alignbench.methods.dpo import DPO
from alignbench.methods.trl.collator import SampledTokensCollator, preference_rows
from alignbench.models.adapters import Lora
from alignbench.models.fast.kernel_choice import VARIABLE
from alignbench.models.fast.layers import choice
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_policy, weights_fingerprint

LORA = Lora(r=4, target_modules=("q_proj", "v_proj"))
METHOD = DPO(learning_rate=1e-2, batch_size=4, epochs=6)


def after_sft(tiny_policy, checkpoints, tmp_path, *, lora):
    """A policy that was trained before and saved, as an upstream run leaves it."""
    policy = tiny_policy(shown_as="base")
    torch.manual_seed(0)
    if lora:
        policy.add_adapter(LORA)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if not lora or "lora_B" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    policy.save(tmp_path / "sft")
    return load_policy(tmp_path / "sft", {"base": str(checkpoints / "policy")}.__getitem__)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("start", ["base", "sft", "sft_adapter"])
def test_first_loss_is_ln_2(tiny_policy, checkpoints, tmp_path, run_context, pairs, lora, start):
    policy = tiny_policy() if start == "base" else after_sft(
        tiny_policy, checkpoints, tmp_path, lora=start == "sft_adapter"
    )  # fmt: skip
    run, log = run_context(policy, lora=lora)
    DPO(learning_rate=1e-3, batch_size=4).train(TrainData([], [], pairs), run)
    assert log[1]["policy/loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.0099},
        {"rewards/chosen": -5.7e-4, "rewards/rejected": -5.7e-4},  # wrong on both alike: the loss is still ln 2
    ],
)
def test_a_first_step_with_another_reference_is_refused(wrong):
    right = {"loss": math.log(2), "rewards/chosen": 0.0, "rewards/rejected": 0.0}
    METHOD.check_first_step(right)
    with pytest.raises(TrainingError, match=r"expected ln 2 .* policy and reference differ"):
        METHOD.check_first_step(right | wrong)


@pytest.mark.parametrize("epochs", [1, 6])
def test_a_wrong_reference_stops_training_at_its_first_step(epochs, monkeypatch, run_context, pairs):
    """And the same command again does not get past it; nor where the reference was asked before."""
    copy_of, ask = LanguageModel.frozen_copy, DPOTrainer.compute_ref_log_probs

    def slightly_off(self):
        other = copy_of(self)
        with torch.no_grad():
            next(other.model.parameters()).mul_(1.05)
        return other

    monkeypatch.setattr(LanguageModel, "frozen_copy", slightly_off)
    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", lambda *asked: [one * 1.01 for one in ask(*asked)])
    run, log = run_context()
    for _ in range(2):
        with pytest.raises(TrainingError, match="policy and reference differ"):
            dataclasses.replace(METHOD, epochs=epochs).train(TrainData([], [], pairs), run)
    assert log == {}


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_training_prefers_the_chosen(tiny_policy, run_context, pairs, lora):
    run, log = run_context(lora=lora)
    base = tiny_policy()
    policy = METHOD.train(TrainData([], [], pairs), run)
    assert log[max(log)]["policy/loss"] < math.log(2) - 0.03
    prompts = [pair.prompt for pair in pairs]

    def margin(model):
        chosen = model.token_logprobs(prompts, [pair.chosen for pair in pairs])
        rejected = model.token_logprobs(prompts, [pair.rejected for pair in pairs])
        return sum((c.sum() - r.sum()).item() for c, r in zip(chosen, rejected, strict=True))

    assert margin(policy) > margin(base)
    assert run.cost.optimizer_steps == 18
    assert policy.has_adapter is (lora is not None)
    if lora:
        with policy.adapter_off():
            torch.testing.assert_close(
                policy.token_logprobs(prompts[:1], [pairs[0].chosen])[0],
                base.token_logprobs(prompts[:1], [pairs[0].chosen])[0],
            )
    else:
        assert weights_fingerprint(policy.model) != weights_fingerprint(base.model)


def test_the_logged_loss_against_the_formula(tiny_policy, run_context, pairs):
    """Oracle: -log sigmoid(beta * margin) from our own log-probabilities, after one step of a batch with all pairs."""
    run, log = run_context()
    two_passes = DPO(learning_rate=1e-3, batch_size=len(pairs), epochs=2, beta=0.3)
    one_pass = dataclasses.replace(two_passes, epochs=1)
    two_passes.train(TrainData([], [], pairs), run)
    other, _ = run_context(tiny_policy(), checkpoints=run.checkpoints.parent / "other")
    # A linear schedule gives the first of two steps the full rate, the only one of one step too.
    policy, base = one_pass.train(TrainData([], [], pairs), other), tiny_policy()
    prompts = [pair.prompt for pair in pairs]
    margins = []
    for kind, sign in (("chosen", 1), ("rejected", -1)):
        completions = [getattr(pair, kind) for pair in pairs]
        new, old = policy.token_logprobs(prompts, completions), base.token_logprobs(prompts, completions)
        margins.append([sign * (n.double().sum() - o.double().sum()).item() for n, o in zip(new, old, strict=True)])
    expected = sum(math.log1p(math.exp(-0.3 * sum(both))) for both in zip(*margins, strict=True)) / len(pairs)
    assert log[2]["policy/loss"] == pytest.approx(expected, rel=1e-3)


def test_trained_tokens_are_the_sampled_ones(tiny_policy, pairs):
    policy = tiny_policy()
    rows = preference_rows(pairs[:2], policy)
    batch = SampledTokensCollator(policy.pad_id)(rows)
    for row, (pair, kind) in enumerate((p, k) for k in ("chosen", "rejected") for p in pairs[:2]):
        mask = batch["completion_mask"][row].bool()
        assert tuple(batch["input_ids"][row][mask].tolist()) == getattr(pair, kind).token_ids
        n_prompt = int(batch["attention_mask"][row].sum() - mask.sum())
        assert batch["input_ids"][row][:n_prompt].tolist() == policy.encode_prompt(pair.prompt.text)


def test_micro_batches_give_the_same_policy(tiny_policy, run_context, pairs):
    run, _ = run_context()
    whole = METHOD.train(TrainData([], [], pairs), run)
    other, _ = run_context(tiny_policy(), checkpoints=run.checkpoints.parent / "other")
    parts = dataclasses.replace(METHOD, micro_batch_size=2).train(TrainData([], [], pairs), other)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_in_several_epochs_the_reference_is_asked_once(tiny_policy, run_context, pairs, lora, monkeypatch):
    """The numbers are those of a reference that is asked in every step; the passes and what they cost are fewer."""
    method = dataclasses.replace(METHOD, epochs=2, learning_rate=1e-3)
    run, log = run_context(lora=lora)
    passes, forward = [], GPTNeoModel.forward

    def spied(self, *args, **options):
        if len(options["input_ids"]) > 1:  # one row is the look at the output layer, before anything is asked
            passes.append(torch.is_grad_enabled())
        return forward(self, *args, **options)

    spied.__wrapped__ = forward
    monkeypatch.setattr(GPTNeoModel, "forward", spied)
    policy = method.train(TrainData([], [], pairs), run)
    n_steps = 2 * math.ceil(len(pairs) / method.batch_size)
    assert (passes.count(True), passes.count(False)) == (n_steps, n_steps // 2)
    monkeypatch.setattr(dpo, "SEVERAL", 3)
    other, other_log = run_context(tiny_policy(), lora=lora, checkpoints=run.checkpoints.parent / "other")
    expected = method.train(TrainData([], [], pairs), other)
    for step, row in other_log.items():
        assert log[step] == pytest.approx(row, rel=1e-5, abs=1e-6)
    for a, b in zip(policy.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    once, always = run.cost, other.cost
    assert once.backward_flops == always.backward_flops
    assert once.forward_flops == pytest.approx(always.forward_flops * 3 / 4)  # 2 of the policy and 1, not 2, beside
    assert "TQDM_DISABLE" not in os.environ


def test_the_reference_of_a_resumed_run_is_asked_by_the_kernels_of_the_checkpoint(
    tiny_policy, run_context, pairs, monkeypatch
):
    """Else its numbers would differ in their last digits from those of a run that was never killed."""
    multiplied_by, precompute = [], DPOTrainer._precompute_ref_logps

    def spied(*args):
        multiplied_by.append(choice.state()["all"])
        return precompute(*args)

    monkeypatch.setattr(DPOTrainer, "_precompute_ref_logps", spied)
    for kernel in ("weight_first", "linear"):
        monkeypatch.setenv(VARIABLE, kernel)
        choice.begin()
        run, _ = run_context(tiny_policy())
        DPO(batch_size=12, epochs=2).train(TrainData([], [], pairs), run)
    monkeypatch.undo()
    choice.begin()
    assert multiplied_by == ["weight_first"] * 2


def test_freed_memory_stays_while_trl_trains(run_context, pairs, monkeypatch):
    """It makes logits in large pieces, each of which would be mapped anew."""
    kept = []

    @contextmanager
    def keeping():
        kept.append(True)
        yield
        kept.clear()

    monkeypatch.setattr("alignbench.methods.trl.training.keeping_freed_memory", keeping)
    seen = []
    run, _ = run_context(log=lambda step, metrics: seen.append(bool(kept)))
    DPO(batch_size=12).train(TrainData([], [], pairs), run)
    assert seen == [True]
    assert not kept


@pytest.mark.parametrize(("epochs", "lora"), [(1, LORA), (2, None)], ids=["lora", "full, asked once"])
def test_training_is_that_of_trl_to_rounding(tiny_policy, run_context, pairs, monkeypatch, epochs, lora):
    """Log-probabilities are of completion positions alone; the rest is TRL's."""
    method = DPO(learning_rate=1e-3, batch_size=4, epochs=epochs)
    run, log = run_context(lora=lora)
    policy = method.train(TrainData([], [], pairs), run)
    monkeypatch.setattr("alignbench.methods.trl.scoring.score_completions_alone", lambda model: None)
    other, other_log = run_context(tiny_policy(), lora=lora, checkpoints=run.checkpoints.parent / "other")
    expected = method.train(TrainData([], [], pairs), other)
    assert log.keys() == other_log.keys()
    for step, row in other_log.items():
        assert log[step] == pytest.approx(row, rel=1e-4, abs=1e-6)
    for a, b in zip(policy.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_pass_of_the_reference_is_booked_with_the_first_step(run_context, pairs):
    """So a killed run has it in its record, and in its checkpoint: it was made before that step."""
    booked = []

    def step_done(step, completions, metrics, cost, policy):
        booked.append({name: amounts.forward_flops for name, amounts in cost.items()})

    run, _ = run_context(step_done=step_done)
    DPO(batch_size=6, epochs=2).train(TrainData([], [], pairs), run)
    assert [sorted(one) for one in booked] == [["forward", "train"], ["train"], ["train"], ["train"]]
    assert booked[0]["forward"] == pytest.approx(booked[0]["train"] + booked[1]["train"])  # every pair once
