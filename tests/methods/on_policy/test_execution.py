"""Fast execution changes no number: weights, losses and KL after several steps agree with plain execution."""

import pytest
import torch
from fixtures.cases import few_of_product

from alignbench.methods.on_policy import trainer as trainer_module
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.rollout import Rollout
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.fast import layers
from alignbench.models.sampling import growing_cache

CONFIG = {
    **{"batch_size": 8, "mini_batch_size": 4, "micro_batch_size": 2, "ppo_epochs": 2, "learning_rate": 1e-3},
    **{"completion_tokens": (3, 8), "log_completions_every": 100},
    "adam_epsilon": 1e-3,  # or the sign of a gradient that is 0 up to rounding moves a weight as far as any other
}
TIMES = ("time/", "memory/")


def build(policy, reward, prompts, **changes):
    return PPOTrainer(policy, reward, prompts, PPOConfig(**(CONFIG | changes)), seed=0)


CHANGES = {
    "defaults": {},
    "k3": {"temperature": 0.7, "min_completion_tokens": 2, "kl_estimator": "k3"},
    "k2 in the loss": {"kl_placement": "loss", "kl_estimator": "k2", "kl_target": 0.5, "whiten_over": "mini_batch"},
    "exact in the loss": {"kl_placement": "loss", "kl_estimator": "exact"},
    "separate": {"value_model": "separate"},
    "shared layer": {"shared_layers": 1},
    "top-k": {"top_k": 5},
    "stop": {"stop_strings": ("good",)},
}
KINDS = {name: name for name in ("gpt_neo", "llama", "llama-lora")}
FEW = [*(("gpt_neo", name) for name in CHANGES), ("llama", "defaults"), ("llama", "shared layer")]
FEW += [("llama-lora", "defaults"), ("llama-lora", "separate")]


@pytest.mark.parametrize(("family", "changes"), few_of_product(KINDS, CHANGES, FEW))
def test_fast_is_plain(sure_policy, reward, prompts, monkeypatch, take_kernel, family, changes):
    """Two steps, float32: the first one is measured by full passes in either case, the second is not."""
    name, _, lora = family.partition("-")
    logged, weights = {}, {}
    for execution in ("fast", "plain"):
        if execution == "plain":  # nor anything else that is shorter in both
            monkeypatch.setattr(layers, "SMALLEST", float("inf"))
            monkeypatch.setattr(layers, "SMALLEST_EMBEDDING", float("inf"))
            monkeypatch.setattr(Rollout, "trimmed", lambda rollout: rollout)
            monkeypatch.setattr(growing_cache, "has_plain_cache", lambda _model: False)
        else:
            take_kernel("onednn" if torch.backends.mkldnn.is_available() else "weight_first")
            monkeypatch.setattr(layers, "SMALLEST_EMBEDDING", 0)
        trainer = build(sure_policy(name, "fresh" if lora else None), reward, prompts, execution=execution, **changes)
        start = {name: p.detach().clone() for name, p in trainer.parameters.items()}
        logged[execution] = []
        trainer.train(2, log=lambda _, metrics, rows=logged[execution]: rows.append(metrics))
        weights[execution] = {name: p.detach() - start[name] for name, p in trainer.parameters.items()}
    for fast, plain in zip(logged["fast"], logged["plain"], strict=True):
        numbers = {key: value for key, value in plain.items() if not key.startswith(TIMES) and key in fast}
        assert {key: fast[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=2e-5)
    moved = sum(value.square().sum() for value in weights["plain"].values()).sqrt()
    apart = sum((weights["fast"][name] - value).square().sum() for name, value in weights["plain"].items()).sqrt()
    assert moved > 0.05
    assert apart < 1e-4 * moved


def test_what_is_captured(sure_policy, reward, prompts):
    """Log-probabilities, values and entropies of sampling against a full pass over the same completions."""
    trainer = build(sure_policy(), reward, prompts, value_init="normal", temperature=0.8, min_completion_tokens=1)
    trainer.step = 1  # the first step would do full passes
    for rows_at_once in (64, 3):  # one sampling batch, and several
        trainer.policy.batch_size = rows_at_once
        capture = trainer_module.Capture(trainer.networks.values_of)
        sampled = trainer.sample(2, capture)
        batch = trainer.policy.batch(*sampled)
        arguments = (trainer.networks, batch, trainer.decoding, trainer.policy.eos_id)
        fast, plain = trainer_module.measure(*arguments, capture), trainer_module.measure(*arguments)
        assert len({len(completion.token_ids) for completion in sampled[1]}) > 2  # some leave early
        for column in ("logprobs", "policy_logprobs", "reference_logprobs", "kl", "values", "entropy"):
            ours, theirs = (getattr(rollout, column) * batch.completion_mask for rollout in (fast, plain))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=column)
        assert fast.values[batch.completion_mask].std() > 0.01


def test_the_exact_kl_is_logged_where_completions_are_noted(sure_policy, reward, prompts):
    trainer = build(sure_policy(), reward, prompts, log_completions_every=2)
    seen = []
    trainer.train(4, log=lambda _, metrics: seen.append("objective/kl_exact" in metrics))
    assert seen == [True, False, True, False]


def test_a_policy_that_decodes_otherwise_is_measured_by_full_passes(sure_policy, reward, prompts, monkeypatch, caplog):
    """A model whose decoding does not give the numbers of its full pass must not be captured."""
    trainer = build(sure_policy(), reward, prompts, log_completions_every=1)
    see = trainer_module.Capture.see

    def shifted(self, *arguments):
        see(self, *arguments)
        self.logprobs[-1] -= 1e-3

    monkeypatch.setattr(trainer_module.Capture, "see", shifted)
    trainer.train(1)
    assert not trainer.captures
    assert "full passes from now on" in caplog.text
    seen = []
    trainer.train(3, log=lambda _, metrics: seen.append("objective/kl_exact" in metrics))
    assert seen == [True, True]


def test_a_resumed_run_goes_on_without_capture_too(sure_policy, reward, prompts, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer_module, "MAX_DRIFT", -1.0)
    logs = {"straight": [], "resumed": []}
    straight = build(sure_policy(), reward, prompts)
    straight.train(4, log=lambda _, metrics: logs["straight"].append(metrics["policy/loss"]))
    build(sure_policy(), reward, prompts).train(2, checkpoints=tmp_path)
    resumed = build(sure_policy(), reward, prompts)
    resumed.train(4, log=lambda _, metrics: logs["resumed"].append(metrics["policy/loss"]), checkpoints=tmp_path)
    assert not resumed.captures
    assert logs["resumed"] == logs["straight"][2:]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"execution": "plain"}, False),
        ({"top_k": 5}, False),
        ({"top_p": 0.9}, False),
        ({"kl_estimator": "exact", "kl_placement": "loss"}, False),
        ({"value_model": "separate"}, False),
        ({"shared_layers": 1}, True),
        ({"mixed_precision": True}, False),
    ],
)
def test_where_sampling_is_captured(sure_policy, reward, prompts, changes, expected):
    assert build(sure_policy(), reward, prompts, **changes).captures is expected


def test_bfloat16_weights_are_not_captured(sure_policy, reward, prompts):
    policy = sure_policy()
    policy.model.to(torch.bfloat16)
    assert not build(policy, reward, prompts).captures


def test_micro_batches_hold_rows_of_like_length(sure_policy, reward, prompts, monkeypatch):
    """Nothing but padding is cut: every real token of the batch is read exactly once an epoch."""
    trainer = build(sure_policy(), reward, prompts)
    shapes, n_tokens = [], []
    losses = trainer.updater.losses

    def spied(rollout, *arguments):
        shapes.append((rollout.batch.attention_mask.shape[1], int(rollout.batch.lengths.sum(dim=1).max())))
        n_tokens.append(int(rollout.mask.sum()))
        return losses(rollout, *arguments)

    monkeypatch.setattr(trainer.updater, "losses", spied)
    metrics = trainer.train_step()
    assert sum(n_tokens) == 2 * 8 * metrics["tokens/completion_mean"]
    assert len({width for width, _ in shapes}) > 1
