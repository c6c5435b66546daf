"""The trainer: identities before the first update, equal updates however the batch is cut, exact resume, stopping."""

import dataclasses
import math

import pytest
import torch

from alignbench.errors import ModelError, TrainingError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.adapters import Lora
from alignbench.models.forward import completion_forward
from alignbench.records import Completion, Prompt

CONFIG = PPOConfig(
    learning_rate=1e-3,
    batch_size=8,
    mini_batch_size=4,
    ppo_epochs=2,
    completion_tokens=(3, 6),
    kl_coef=0.1,
    kl_target=None,
    checkpoint_every=2,
)


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def build(policy, reward, prompts, *, lora=False, seed=0, **changes):
    if lora:
        torch.manual_seed(0)
        policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
    return PPOTrainer(policy, reward, prompts, dataclasses.replace(CONFIG, **changes), seed=seed)


@pytest.mark.parametrize("lora", [False, True])
def test_before_the_first_update_kl_is_0_and_the_ratio_is_1(tiny_policy, reward, prompts, lora):
    trainer = build(tiny_policy(), reward, prompts, lora=lora, ppo_epochs=1, mini_batch_size=8)
    metrics = trainer.train_step()
    assert abs(metrics["objective/kl"]) < 1e-5
    assert metrics["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["policy/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/clip_fraction"] == 0.0


@pytest.mark.parametrize("lora", [False, True])
def test_a_step_moves_the_trainable_weights_and_nothing_else(tiny_policy, reward, prompts, lora):
    policy = tiny_policy()
    trainer = build(policy, reward, prompts, lora=lora)
    start = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    before = weights(trainer)
    trainer.train_step()
    moved = [name for name, value in weights(trainer).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("policy.") for name in moved)
    assert "value_head.weight" in moved
    if lora:
        assert all("lora_" in name for name in before if name.startswith("policy."))
        assert all(torch.equal(v, start[k]) for k, v in trainer.model.state_dict().items() if "lora_" not in k)
        return
    with trainer.networks.as_reference():
        assert all(torch.equal(value, start[k]) for k, value in trainer.model.state_dict().items())
    assert any(not torch.equal(value, start[k]) for k, value in trainer.model.state_dict().items())


def test_a_fresh_adapter_on_a_frozen_one_has_the_frozen_one_in_its_reference(tiny_policy, reward, prompts):
    """What `peft` calls stacked adapters: with all adapters off the reference would be the bare base."""
    from peft import LoraConfig

    policy = tiny_policy()
    policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    policy.model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    policy.model.base_model.set_adapter(["default", "second"])
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("second" in name)
    trainer = build(policy, reward, prompts)
    assert trainer.train_step()["objective/kl"] == 0.0
    assert all("second" in name or "value_head" in name for name in trainer.parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_placement": "rewards"}, "kl_placement: got 'rewards'"),
        ({"kl_coef": -1.0}, "kl_coef: got -1.0"),
        ({"top_p": 90}, "top_p: got 90"),
        ({"ppo_epochs": 0}, "ppo_epochs: got 0"),
        ({"completion_tokens": 20}, "completion_tokens: got 20"),
        ({"stop_strings": ". "}, "stop_strings: got '. '"),
        ({"learning_rate": math.nan}, "learning_rate: got nan"),
        ({"schedule": "lin", "value_model": "seperate"}, "schedule: got 'lin'.*value_model: got 'seperate'"),
    ],
)
def test_options_are_checked_from_python_too(changes, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**changes)


@pytest.mark.parametrize(
    ("rewrite", "error", "message"),
    [
        (lambda prompts: [prompt.text for prompt in prompts], TrainingError, "expected alignbench.records.Prompt"),
        (lambda prompts: [*prompts, prompts[0]], TrainingError, "2 have the id 'p0'; expected different ids"),
        (lambda prompts: [*prompts, Prompt("empty", "")], ModelError, "the prompt 'empty' has no tokens"),
        (lambda prompts: [*prompts, Prompt("long", "dog " * 60)], ModelError, "takes 64 tokens; .* together need 66"),
        (lambda prompts: [], TrainingError, "got no training prompts"),
    ],
)
def test_prompts_are_checked_before_anything_is_sampled(tiny_policy, reward, prompts, rewrite, error, message):
    with pytest.raises(error, match=message):
        build(tiny_policy(), reward, rewrite(prompts))


@pytest.mark.parametrize("given", [1.0, ["0.5"] * 8, [[1.0]] * 8, "12345678", [object()] * 8])
def test_a_reward_that_gives_no_numbers_is_named(tiny_policy, prompts, given):
    trainer = build(tiny_policy(), lambda *_: given, prompts)
    with pytest.raises(TrainingError, match="expected a sequence with a number or None for each completion"):
        trainer.train_step()


def test_an_adapter_starts_the_same_whatever_was_drawn_before(tiny_policy):
    starts = []
    for seed in (0, 0, 1):
        torch.rand(7)
        policy = tiny_policy()
        policy.add_adapter(Lora(r=4, target_modules=("q_proj",)), seed=seed)
        starts.append(torch.cat([p.flatten() for n, p in policy.model.named_parameters() if "lora_A" in n]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_reference_that_differs_from_the_policy_stops_the_run(tiny_policy, reward, prompts):
    trainer = build(tiny_policy(), reward, prompts)
    with torch.no_grad():
        next(trainer.model.parameters()).mul_(3.0)
    with pytest.raises(TrainingError, match=r"differ by .* nats per token"):
        trainer.train_step()


def test_an_adapter_that_the_policy_came_with_is_part_of_the_reference(tiny_policy, reward, prompts):
    """After supervised training of an adapter the reference is that adapter, not the bare base model."""
    policy = tiny_policy()
    torch.manual_seed(0)
    policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    batch = policy.batch(prompts, [Completion(p.id, 0, "", (3, 4, 5), "length") for p in prompts])
    adapted, _ = completion_forward(policy.model, batch)
    with policy.adapter_off():
        bare, _ = completion_forward(policy.model, batch)
    assert (adapted - bare).abs().max() > 0.05
    trainer = build(policy, reward, prompts)
    assert trainer.train_step()["objective/kl"] == 0.0
    torch.testing.assert_close(trainer.networks.reference_logits(batch, None), adapted, rtol=0, atol=0)
    assert abs(trainer.train_step()["objective/kl"]) > 0


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_micro_batches_give_the_same_update(tiny_policy, reward, prompts, micro_batch_size):
    whole = build(tiny_policy(), reward, prompts)
    parts = build(tiny_policy(), reward, prompts, micro_batch_size=micro_batch_size)
    first, second = whole.train_step(), parts.train_step()
    assert whole.cost.optimizer_steps == parts.cost.optimizer_steps == 4
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-4, atol=2e-6)
    for key in ("policy/loss", "value/loss", "policy/ratio_mean", "policy/gradient_norm"):
        assert second[key] == pytest.approx(first[key], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_and_resumed_run_gives_the_same_numbers_bit_for_bit(tiny_policy, reward, prompts, tmp_path, lora):
    logged, resumed_log = {}, {}
    straight = build(tiny_policy(), reward, prompts, lora=lora, kl_target=0.5)
    straight.train(5, log=logged.__setitem__)
    killed = build(tiny_policy(), reward, prompts, lora=lora, kl_target=0.5)
    killed.train(3, log=lambda *_: None, checkpoints=tmp_path)  # the last checkpoint is of step 3, its end
    resumed = build(tiny_policy(), reward, prompts, lora=lora, kl_target=0.5)
    resumed.train(5, log=resumed_log.__setitem__, checkpoints=tmp_path)
    assert sorted(resumed_log) == [4, 5]
    for step, metrics in resumed_log.items():
        for key, value in metrics.items():
            assert key.startswith(("time/", "memory/")) or value == logged[step][key], key
    assert all(torch.equal(value, weights(straight)[name]) for name, value in weights(resumed).items())
    assert resumed.controller.coef == straight.controller.coef
    assert resumed.cost.generated_tokens == straight.cost.generated_tokens


def test_resume_goes_back_to_the_last_checkpoint(tiny_policy, reward, prompts, tmp_path):
    calls = []

    def fails_later(asked, completions):
        calls.append(1)
        return [math.nan] * len(completions) if len(calls) == 4 else reward(asked, completions)

    trainer = build(tiny_policy(), fails_later, prompts)
    with pytest.raises(TrainingError, match="the reward is nan"):
        trainer.train(5, checkpoints=tmp_path)
    resumed = build(tiny_policy(), reward, prompts)
    steps = []
    resumed.train(5, log=lambda step, _: steps.append(step), checkpoints=tmp_path)
    assert steps == [3, 4, 5]  # checkpoints come every two steps


def test_a_damaged_checkpoint_is_named(tiny_policy, reward, prompts, tmp_path):
    build(tiny_policy(), reward, prompts).train(2, checkpoints=tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(TrainingError, match="damaged"):
        build(tiny_policy(), reward, prompts).train(3, checkpoints=tmp_path)


def test_checkpoint_of_another_seed_is_refused(tiny_policy, reward, prompts, tmp_path):
    build(tiny_policy(), reward, prompts).train(2, checkpoints=tmp_path)
    with pytest.raises(TrainingError, match=r"seed 0 \(this run: 1\)"):
        build(tiny_policy(), reward, prompts, seed=1).train(3, checkpoints=tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rewards_that_are_not_finite_stop_before_any_update(tiny_policy, prompts, value):
    trainer = build(tiny_policy(), lambda _, completions: [value] * len(completions), prompts)
    before = weights(trainer)
    with pytest.raises(TrainingError, match=f"the reward is {value}"):
        trainer.train_step()
    assert all(torch.equal(before[name], now) for name, now in weights(trainer).items())


def test_a_reward_that_leaves_too_much_unscored_stops(tiny_policy, prompts):
    trainer = build(tiny_policy(), lambda _, completions: [None, *[1.0] * (len(completions) - 1)], prompts)
    with pytest.raises(TrainingError, match="1 of 8 completions unscored"):
        trainer.train_step()


def test_an_unscored_completion_takes_no_part(tiny_policy, reward, prompts):
    """With 128 completions one may be unscored; what would have been its reward must not matter."""

    def with_hole(fill):
        def score(asked, completions):
            return [fill, *reward(asked, completions)[1:]]

        return score

    trainer = build(tiny_policy(), with_hole(None), prompts, batch_size=128, mini_batch_size=128, ppo_epochs=1)
    metrics = trainer.train_step()
    assert metrics["objective/n_unscored"] == 1
    scored = build(tiny_policy(), with_hole(0.0), prompts, batch_size=128, mini_batch_size=128, ppo_epochs=1)
    assert metrics["policy/loss"] != scored.train_step()["policy/loss"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tiny_policy, reward, prompts, tmp_path):
    trainer = build(tiny_policy(), reward, prompts)
    trainer.train(2, checkpoints=tmp_path)
    with torch.no_grad():
        trainer.value_head.bias.fill_(math.inf)
    with pytest.raises(TrainingError, match="the loss is"):
        trainer.train(3)
    resumed = build(tiny_policy(), reward, prompts)
    resumed.train(3, checkpoints=tmp_path)
    assert resumed.step == 3


def test_data_order_is_a_function_of_seed_and_step(tiny_policy, reward, prompts):
    trainer, same = build(tiny_policy(), reward, prompts), build(tiny_policy(), reward, prompts)
    other = build(tiny_policy(), reward, prompts, seed=1)
    drawn = [t.sample(1) for t in (trainer, same, other)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    # Eight places, six prompts: everyone comes once before anyone comes twice.
    assert len({prompt.id for prompt in drawn[0][0][:6]}) == 6


def test_draws_do_not_depend_on_the_sampling_batch(tiny_policy, reward, prompts):
    small = build(tiny_policy(batch_size=3), reward, prompts)
    assert small.sample(1) == build(tiny_policy(), reward, prompts).sample(1)


def test_some_completions_are_kept_for_reading(tiny_policy, reward, prompts):
    kept = {}
    trainer = build(tiny_policy(), reward, prompts, batch_size=12, log_completions_every=2)
    first = trainer.sample(1)
    trainer.train(5, log_completions=kept.__setitem__)
    assert sorted(kept) == [1, 3, 5]
    assert [row["prompt"] for row in kept[1]] == [prompt.text for prompt in first[0]][:8]
    assert [row["completion"] for row in kept[1]] == [completion.text for completion in first[1]][:8]
    assert [row["reward"] for row in kept[1]] == reward(None, [row["completion"] for row in kept[1]])
    assert all(row["kl"] == 0 for row in kept[1])
    assert all(row["kl"] != 0 for row in kept[5])


def test_a_kl_coef_of_0_is_warned_about(tiny_policy, reward, prompts, caplog):
    build(tiny_policy(), reward, prompts, kl_coef=0.0)
    assert "kl_coef is 0, and no kl_target changes that: nothing holds the policy near the reference" in caplog.text


@pytest.mark.slow  # `test_bandit.py` has the same of other options
def test_reward_goes_up_on_an_easy_task(tiny_policy, reward, prompts):
    """A bandit: `good` pays, nothing else does. Its share starts near 1 in 20 and must come to dominate."""
    rewards = {}
    trainer = build(
        tiny_policy(), reward, prompts, learning_rate=5e-3, kl_coef=0.0, batch_size=32, mini_batch_size=16,
        completion_tokens=(4, 4), value_coef=0.5,
    )  # fmt: skip
    trainer.train(18, log=lambda step, metrics: rewards.__setitem__(step, metrics["objective/reward"]))
    assert rewards[1] < 0.2
    assert sum(rewards[step] for step in range(14, 19)) / 5 > 0.5  # most words


@pytest.mark.slow  # `test_bandit.py` says by how much less
def test_more_kl_coef_means_less_kl(tiny_policy, reward, prompts):
    ends = []
    for kl_coef in (0.0, 0.1, 1.0):
        kl = []
        trainer = build(
            tiny_policy(), reward, prompts, learning_rate=5e-3, kl_coef=kl_coef, batch_size=32, mini_batch_size=16
        )
        trainer.train(10, log=lambda _, metrics, kl=kl: kl.append(metrics["objective/kl"]))
        ends.append(sum(kl[-3:]) / 3)
    assert ends[0] > ends[1] > ends[2]
