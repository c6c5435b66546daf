"""Imitation beside the objective: its gradient by definition, what it costs, and which recipes learn from what."""

import copy

import pytest
import torch
from fixtures.update_oracle import distance

from alignbench.errors import TrainingError
from alignbench.methods.base import learned_kinds
from alignbench.methods.on_policy import networks
from alignbench.methods.on_policy.imitation import Imitation
from alignbench.methods.on_policy.trainer import OnPolicyTrainer, PPOTrainer
from alignbench.methods.ppo import PPO
from alignbench.methods.rloo import RLOO
from alignbench.records import Completion, Decoding, Demonstration

SETTINGS = {
    **{"batch_size": 8, "mini_batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-3, "temperature": 0.7},
    **{"completion_tokens": (2, 6), "kl_coef": 0.0, "max_grad_norm": None, "min_completion_tokens": 1},
}


@pytest.fixture
def demonstrations(prompts, tiny_policy):
    drawn = tiny_policy().generate(prompts, Decoding(5), 1, ("shown",))
    return [Demonstration(prompt, one) for prompt, one in zip(prompts, drawn, strict=True)]


def gradients(trainer):
    kept, plain = [], trainer.optimizer.step
    trainer.optimizer.step = lambda: (kept.append({n: p.grad.clone() for n, p in trainer.parameters.items()}), plain())
    return kept


@pytest.mark.parametrize("execution", ["fast", "plain"])
def test_the_gradient_by_its_definition(sure_policy, prompts, demonstrations, execution):
    """Equal rewards and no KL leave 2.5 times the mean of -log pi over the tokens shown, at temperature 1."""
    policy, method = sure_policy(), RLOO(**SETTINGS, ptx_coef=2.5, execution=execution)
    model = copy.deepcopy(policy.model).double()
    trainer = OnPolicyTrainer(
        policy, lambda _, texts: [0.1] * len(texts), prompts, method, method, seed=3, demonstrations=demonstrations
    )
    kept = gradients(trainer)
    metrics = trainer.train_step()
    batch = trainer.updater.imitation.batch(0, 0)
    total, n_tokens = 0.0, batch.completion_mask.sum().item()
    for ids, mask, n in zip(batch.input_ids, batch.attention_mask.bool(), batch.lengths[:, 1].tolist(), strict=True):
        words = model(ids[mask].unsqueeze(0)).logits[0, -n - 1 : -1].log_softmax(-1)
        total = total - words[range(n), ids[mask][-n:]].sum() / n_tokens
    named = {f"policy.{name}": p for name, p in model.named_parameters()}
    expected = torch.autograd.grad(2.5 * total, [named[name] for name in kept[0]], allow_unused=True)
    expected = {name: g for name, g in zip(kept[0], expected, strict=True) if g is not None}
    assert distance(kept[0], expected) < 1e-5
    assert metrics["policy/dead_groups"] == 2
    assert 0 < metrics["policy/ptx_loss"] < 10
    assert trainer.step_cost["train"].trained_tokens > n_tokens


def test_passes_have_fewer_texts_where_logits_would_be_large(sure_policy, reward, prompts, demonstrations, monkeypatch):
    method = RLOO(**{**SETTINGS, "micro_batch_size": None}, ptx_coef=1.0)
    monkeypatch.setattr(networks, "rows_that_fit", lambda model, t: 1)
    sizes = []
    trainer = OnPolicyTrainer(sure_policy(), reward, prompts, method, method, seed=3, demonstrations=demonstrations)
    plain = trainer.networks.policy_and_values
    monkeypatch.setattr(
        trainer.networks, "policy_and_values", lambda batch, shared: sizes.append(len(batch)) or plain(batch, shared)
    )
    trainer.train_step()
    assert set(sizes) == {1}


def test_it_is_added_to_the_objective(sure_policy, reward, prompts, demonstrations):
    found = {}
    for ptx_coef in (0.0, 1.0, 2.0):
        config = PPO(**SETTINGS, ptx_coef=ptx_coef)
        trainer = PPOTrainer(sure_policy(), reward, prompts, config, demonstrations=demonstrations)
        kept = gradients(trainer)
        trainer.train_step()
        found[ptx_coef] = kept[0]
    for name, plain in found[0.0].items():
        once, twice = found[1.0][name] - plain, found[2.0][name] - plain
        torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-6)
    assert any((found[1.0][name] - plain).abs().max() > 1e-3 for name, plain in found[0.0].items())


def test_draws_are_a_function_of_seed_step_and_number(tiny_policy, demonstrations):
    policy = tiny_policy()
    drawn, same, later, few = (
        Imitation(policy, shown, 4, seed=1).batch(*key).input_ids
        for shown, key in (
            (demonstrations, (0, 0)), (demonstrations, (0, 0)), (demonstrations, (0, 1)), (demonstrations[:1], (0, 0)),
        )
    )  # fmt: skip
    assert torch.equal(drawn, same)
    assert drawn.shape != later.shape or not torch.equal(drawn, later)
    assert len(few) == 4  # over and over where there are fewer


def test_without_demonstrations_it_is_refused(tiny_policy, reward, prompts):
    with pytest.raises(TrainingError, match="ptx_coef: expected demonstrations to imitate, got none"):
        PPOTrainer(tiny_policy(), reward, prompts, PPO(**SETTINGS, ptx_coef=0.5))


def test_a_checkpoint_is_of_its_demonstrations(tiny_policy, reward, prompts, demonstrations, tmp_path):
    config = PPO(**SETTINGS, ptx_coef=0.5, checkpoint_every=1)
    PPOTrainer(tiny_policy(), reward, prompts, config, demonstrations=demonstrations).train(1, checkpoints=tmp_path)
    other = [*demonstrations[:-1], Demonstration(prompts[0], Completion(prompts[0].id, 0, " a", (3,), "length"))]
    with pytest.raises(TrainingError, match="demonstrations"):
        PPOTrainer(tiny_policy(), reward, prompts, config, demonstrations=other).train(2, checkpoints=tmp_path)


def test_a_method_learns_from_demonstrations_where_it_imitates():
    assert learned_kinds(PPO()) == {"prompts"}
    assert learned_kinds(PPO(ptx_coef=0.5)) == {"prompts", "demonstrations"}
    assert learned_kinds(RLOO(ptx_coef=0.5)) == {"prompts", "demonstrations"}
