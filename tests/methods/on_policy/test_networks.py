"""Every family of policies through the trainer: identities, padding, dropout, resume, tokenizers as people have them.

The models are random, with 2 layers; dropout stands at 0.5 in every configuration.
"""

import pytest
import torch
from fixtures.cases import few_of, few_of_product

from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.adapters import Lora
from alignbench.models.chat import Chat
from alignbench.models.forward import completion_forward
from alignbench.models.language_model import LanguageModel
from alignbench.records import Decoding, Prompt

FAMILIES = (
    *("gpt2", "gpt_neo", "gptj", "opt", "opt_350m", "bloom", "llama", "qwen2", "pythia"),
    *("t5", "flan_t5", "bart"),
)
SHORT = ("gpt2", "llama", "t5")
EACH_KIND = few_of(FAMILIES, ("gpt2", "bloom", "llama", "t5"))
"""Positions that are learned, ALiBi's and rotary ones, and an encoder-decoder; the rest is slow."""
CONFIG = {
    "learning_rate": 1e-3,
    "batch_size": 4,
    "mini_batch_size": 4,
    "ppo_epochs": 1,
    "completion_tokens": (3, 6),
    "kl_target": None,
    "value_init": "normal",
    "checkpoint_every": 1,
}


@pytest.fixture
def build(family, reward, prompts):
    """Makes a trainer of a fresh policy."""

    def make(name, *, lora=False, chat=None, pad_token=None, config=CONFIG, **changes):
        model, tokenizer = family(name, dropout=0.5)
        if pad_token is not None:
            tokenizer.pad_token = pad_token
        policy = LanguageModel(model, tokenizer, name, chat)
        torch.manual_seed(0)
        if lora:
            policy.add_adapter(Lora(r=4))
        return PPOTrainer(policy, reward, prompts, PPOConfig(**config | changes))

    return make


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def untimed(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith(("time/", "memory/"))}


@pytest.mark.parametrize(
    ("name", "lora"),
    few_of_product(
        {name: name for name in FAMILIES},
        {"full": False, "lora": True},
        [*((name, "full") for name in FAMILIES), *((name, "lora") for name in SHORT)],
    ),
)
def test_a_first_step_starts_at_its_reference_and_moves_the_weights(build, name, lora):
    trainer = build(name, lora=lora)
    base = {key: value.clone() for key, value in trainer.model.state_dict().items() if "lora_" not in key}
    before = weights(trainer)
    metrics = trainer.train_step()
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/clip_fraction"] == 0
    moved = {key for key, value in weights(trainer).items() if not torch.equal(value, before[key])}
    assert {"value_head.weight", "value_head.bias"} < moved
    if lora:
        assert all("lora_" in key for key in before if key.startswith("policy."))
        assert any("lora_B" in key for key in moved)
        assert all(torch.equal(trainer.model.state_dict()[key], value) for key, value in base.items())
    else:
        assert len(moved) > len(before) / 2  # biases that do nothing (of keys, say) may stay
    # The second step is measured against the start, which has stayed where it was.
    assert trainer.train_step()["objective/kl"] != pytest.approx(0, abs=1e-7)


def of_one_rounding(trainer, batch):
    """How far log-probabilities move where every weight does by one rounding: what a sum in another order may do.

    Processors sum in different orders, and a flan-T5 of these weights makes a hundred times more of it than a GPT-2.
    """

    def measured():
        return trainer.networks.policy_and_values(batch, None)[0].log_softmax(-1)

    before, kept, draws = measured(), weights(trainer), torch.Generator().manual_seed(0)
    eps = torch.finfo(torch.float32).eps
    for parameter in trainer.parameters.values():
        parameter.mul_(1 + eps * torch.empty_like(parameter).bernoulli_(generator=draws))
    after = measured()
    for name, parameter in trainer.parameters.items():
        parameter.copy_(kept[name])
    return (after - before).abs().max().item()


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_never_matters(build, name):
    trainer = build(name, completion_tokens=(2, 12))
    policy, networks = trainer.policy, trainer.networks
    asked = [Prompt("a", "the"), Prompt("b", "a red bird sings now and you are very kind"), Prompt("c", "two dogs")]
    completions = policy.complete(asked, [0, 0, 0], [12, 7, 2], Decoding(12), (0,))
    with torch.no_grad():
        batch = policy.batch(asked, completions)
        logits, values = networks.policy_and_values(batch, None)
        rounding = 32 * of_one_rounding(trainer, batch)
        for row, (prompt, completion) in enumerate(zip(asked, completions, strict=True)):
            alone, value = networks.policy_and_values(policy.batch([prompt], [completion]), None)
            n = len(completion.token_ids)
            torch.testing.assert_close(logits[row, :n].log_softmax(-1), alone[0].log_softmax(-1), rtol=0, atol=rounding)
            torch.testing.assert_close(values[row, :n], value[0], rtol=0, atol=rounding)
    assert values.std() > 1e-3  # a head that says nothing would pass


@pytest.mark.parametrize("name", EACH_KIND)
def test_training_mode_computes_the_same(build, name):
    """Gradient checkpointing needs training mode, where dropout would be at work; the update must be the same."""
    plain, recomputing = build(name), build(name, gradient_checkpointing=True)
    batch = plain.policy.batch(*plain.sample(1))
    plain.model.train()
    first, second = (completion_forward(plain.model, batch)[0] for _ in range(2))
    assert torch.equal(first, second)
    plain.model.eval()
    assert untimed(plain.train_step()) == pytest.approx(untimed(recomputing.train_step()), rel=1e-5, abs=1e-6)
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(recomputing)[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EACH_KIND)
def test_a_resumed_run_gives_the_same_numbers_bit_for_bit(build, name, tmp_path):
    straight, stopped, resumed = (build(name, lora=name in SHORT) for _ in range(3))
    expected, found = {}, {}
    straight.train(2, log=expected.__setitem__, checkpoints=tmp_path / "straight")
    stopped.train(1, checkpoints=tmp_path / "stopped")
    resumed.train(2, log=found.__setitem__, checkpoints=tmp_path / "stopped")
    assert list(found) == [2]
    assert untimed(found[2]) == untimed(expected[2])
    after = weights(straight)
    assert all(torch.equal(value, after[key]) for key, value in weights(resumed).items())


@pytest.mark.parametrize("name", EACH_KIND)
def test_the_pad_token_does_not_matter(build, name):
    """None (all but T5 and BART), a token of its own, or the end-of-sequence token: the same update."""
    runs = [build(name), build(name, pad_token="bird"), build(name, pad_token="<eos>")]
    assert [run.policy.pad_id for run in runs[1:]] == [runs[0].policy.encode_prompt("bird")[0], 1]
    assert runs[0].policy.pad_id == (2 if runs[0].policy.is_encoder_decoder else 1)
    steps = [untimed(run.train_step()) for run in runs]
    for step in steps[1:]:
        assert step == pytest.approx(steps[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", EACH_KIND)
def test_an_end_that_is_also_the_pad_token_is_trained_on(build, name):
    policy = build(name, pad_token="<eos>").policy
    asked = [Prompt(f"p{i}", "the dog") for i in range(60)]
    completions = policy.generate(asked, Decoding(5), 1, (0,))
    ended = [len(c.token_ids) for c in completions if c.finish_reason == "eos"]
    assert ended
    assert min(ended) < 5
    batch = policy.batch(asked, completions)
    assert batch.completion_mask.sum(dim=1).tolist() == [len(c.token_ids) for c in completions]
    n_trained_ends = (batch.completion_mask & (batch.completion_ids == policy.eos_id)).sum().item()
    assert n_trained_ends == len(ended)


@pytest.mark.parametrize("name", SHORT)
def test_a_chat_template(build, name):
    template = "{% for m in messages %}now {{ m.content }} and{% endfor %}{% if add_generation_prompt %} you{% endif %}"
    trainer = build(name, chat=Chat(None, template))
    ids = trainer.policy.encode_prompt("the dog")
    assert trainer.policy.tokenizer.decode(ids, skip_special_tokens=True) == "now the dog and you"
    metrics = trainer.train_step()
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["objective/entropy"] != build(name).train_step()["objective/entropy"]


@pytest.mark.parametrize("name", few_of(["gpt2", "llama", "t5", "flan_t5"], ["gpt2", "t5"]))
@pytest.mark.parametrize(
    "changes",
    [
        {"value_model": "separate"},
        {"kl_estimator": "exact", "kl_placement": "loss"},
        {"top_k": 9, "top_p": 0.9, "min_completion_tokens": 2, "temperature": 0.7, "stop_strings": ("bird",)},
        {"micro_batch_size": 1},
        {"mixed_precision": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_options_work_for_both_kinds(build, name, changes):
    trainer = build(name, **changes)
    before = weights(trainer)
    metrics = trainer.train_step()
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=2e-2 if "mixed_precision" in changes else 1e-6)
    assert any(not torch.equal(value, before[key]) for key, value in weights(trainer).items())


def test_reward_goes_up_for_t5(build):
    """The bandit of the causal trainer: `good` pays."""
    rewards = []
    trainer = build(
        "t5", learning_rate=1e-2, kl_coef=0.0, batch_size=32, mini_batch_size=16, ppo_epochs=4, completion_tokens=(4, 4)
    )
    trainer.train(14, log=lambda _, metrics: rewards.append(metrics["objective/reward"]))
    assert rewards[0] < 0.2
    assert sum(rewards[-5:]) / 5 > 0.5  # most words
