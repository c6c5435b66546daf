"""Every method without values: each update's gradient against a float64 oracle, one completion at a time."""

import copy

import pytest
from fixtures.cases import few_of
from fixtures.group_oracle import SEED, GroupOracle
from fixtures.update_oracle import distance

from alignbench.methods.grpo import GRPO
from alignbench.methods.on_policy import rollout
from alignbench.methods.on_policy.trainer import OnPolicyTrainer
from alignbench.methods.online_dpo import OnlineDPO
from alignbench.methods.raft import RAFT
from alignbench.methods.reinforce_pp import ReinforcePlusPlus
from alignbench.methods.rloo import RLOO
from alignbench.models.language_model import LanguageModel

COMMON = {
    **{"batch_size": 12, "mini_batch_size": 6, "micro_batch_size": 2, "epochs": 2, "learning_rate": 3e-3},
    **{"completion_tokens": (2, 7), "temperature": 0.8, "kl_coef": 0.3, "max_grad_norm": None},
    "length_penalty": 0.05,
}
GROUPS = {"completions_per_prompt": 3, "clip_range": 0.04}
LOSS = {"kl_placement": "loss"}
SEQUENCE = {"clip_range": 0.2, "learning_rate": 3e-4}
"""So small a step that ratios of whole completions are not all clipped."""
CASES = {
    "rloo": (RLOO, {**GROUPS, **SEQUENCE}),
    "rloo, ratio of tokens, normalised": (RLOO, {**GROUPS, "ratio": "token", "normalize_advantages": True}),
    "rloo, k2 in the loss": (RLOO, {**GROUPS, **LOSS, **SEQUENCE, "kl_estimator": "k2"}),
    "grpo": (GRPO, GROUPS),
    "grpo, as published": (GRPO, {**GROUPS, **LOSS, "kl_estimator": "k3"}),
    "grpo, over tokens": (GRPO, {**GROUPS, "aggregation": "tokens"}),
    "dr. grpo": (  # with a penalty of length besides, a mini-batch would have no ratio that is not clipped
        GRPO, {**GROUPS, "scale_rewards": "none", "aggregation": "constant", "kl_coef": 0.0, "length_penalty": 0.0},
    ),
    "reinforce++": (ReinforcePlusPlus, {"clip_range": 0.04}),
    "reinforce++, baseline": (ReinforcePlusPlus, {**GROUPS, "baseline": "group"}),
    "reinforce++, baseline, k2 in the loss": (
        ReinforcePlusPlus, {**GROUPS, **LOSS, "baseline": "group", "kl_estimator": "k2"},
    ),
    "raft": (RAFT, {"completions_per_prompt": 3, "mini_batch_size": 2}),
    "raft, exact KL in the loss": (
        RAFT, {**LOSS, "completions_per_prompt": 3, "mini_batch_size": 2, "kl_estimator": "exact"},
    ),
    "online dpo": (OnlineDPO, {"completions_per_prompt": 2}),
    "online dpo, ipo": (OnlineDPO, {"completions_per_prompt": 3, "loss": "ipo", "mini_batch_size": 4, "beta": 0.5}),
}  # fmt: skip
LOSSES = {
    RLOO: lambda oracle, places: oracle.surrogate(places, oracle.rloo()),
    GRPO: lambda oracle, places: oracle.surrogate(places, oracle.grpo()),
    ReinforcePlusPlus: lambda oracle, places: oracle.surrogate(places, oracle.reinforce_pp()),
    RAFT: lambda oracle, places: oracle.raft(places),
    OnlineDPO: lambda oracle, places: oracle.online_dpo(places),
}


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


def score_with_a_hole(prompts, completions):
    return [None if i == 2 else value for i, value in enumerate(score(prompts, completions))]


def compare(policy, prompts, kind, options, reward=score):
    """Two steps; the oracle of the second one has a policy that is not the reference."""
    reference = copy.deepcopy(policy.model).double()
    method = kind(**(COMMON | options))
    trainer = OnPolicyTrainer(policy, reward, prompts, method, method, seed=SEED)
    trainer.train_step()
    oracle = GroupOracle(trainer, reference, reward)
    mini_batches, found = oracle.mini_batches(method.rows_of_an_update), []
    plain_step = trainer.optimizer.step

    def check():
        places = next(mini_batches)
        expected = oracle.gradients(trainer.parameters, lambda: LOSSES[kind](oracle, places))
        found.append(distance({name: p.grad for name, p in trainer.parameters.items()}, expected))
        plain_step()

    trainer.optimizer.step = check
    metrics = trainer.train_step()
    assert len(found) == metrics["policy/n_updates"] == len([*oracle.mini_batches(method.rows_of_an_update)])
    assert max(found) < 2e-5
    with trainer.networks.as_reference():  # an adapter may be off, its weights are no part of it
        for name, value in reference.named_parameters():
            assert "lora_" in name or trainer.model.get_parameter(name).double().equal(value), name
    return trainer, metrics


@pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES.keys())
def test_every_gradient(sure_policy, prompts, kind, options):
    trainer, metrics = compare(sure_policy(), prompts[:4], kind, options)
    assert abs(metrics["objective/kl"]) > 1e-3
    assert "clip_range" not in options or metrics["policy/clip_fraction"] > 0
    assert not any(key.startswith("value/") for key in metrics)
    assert trainer.value_head is None
    assert not any(name.startswith("value") for name in trainer.parameters)


@pytest.mark.parametrize("kind", [RLOO, GRPO, ReinforcePlusPlus])
def test_an_unscored_completion_is_as_if_it_had_not_been_drawn(sure_policy, prompts, monkeypatch, kind):
    monkeypatch.setattr(rollout, "MAX_UNSCORED", 0.5)
    options = GROUPS | {RLOO: SEQUENCE, GRPO: {}, ReinforcePlusPlus: {"baseline": "group"}}[kind]
    compare(sure_policy(), prompts[:4], kind, options, reward=score_with_a_hole)


def test_shared_layers(sure_policy, prompts):
    compare(sure_policy(), prompts[:4], RLOO, {**GROUPS, **SEQUENCE, "shared_layers": 1})


def test_adapters(sure_policy, prompts):
    options = {**GROUPS, **SEQUENCE, "learning_rate": 2e-3}
    trainer, _ = compare(sure_policy("llama", "fresh"), prompts[:4], RLOO, options)
    assert all("lora_" in name for name in trainer.parameters)


@pytest.mark.parametrize(
    "name",
    few_of(["rloo", "grpo, as published", "reinforce++, baseline", "raft", "online dpo"], ["rloo", "online dpo"]),
)
def test_encoder_decoder_models(family, prompts, name):
    """The prompt goes into the encoder, and a completion begins behind the decoder's own start."""
    compare(LanguageModel(*family("t5"), "t5"), prompts[:4], *CASES[name])


@pytest.mark.parametrize("kind", [OnlineDPO, RAFT])
@pytest.mark.parametrize("changes", [{"top_k": 40}, {"top_p": 0.9}])
def test_what_is_compared_or_imitated_is_no_part_of_a_distribution(kind, changes):
    with pytest.raises(ValueError, match=r"top_k and top_p: expected 0 and 1\.0, because"):
        kind(**changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (RLOO, {}),
        (RLOO, {"normalize_advantages": True}),
        (GRPO, {}),
        (GRPO, {"kl_placement": "loss", "kl_estimator": "k3"}),
        (ReinforcePlusPlus, {}),
        (ReinforcePlusPlus, {"baseline": "group", "completions_per_prompt": 4}),
        (RAFT, {"kl_coef": 0.5, "mini_batch_size": 1}),
        (OnlineDPO, {"kl_coef": 0.5}),
    ],
)
def test_equal_rewards_leave_the_weights_as_they_are(tiny_policy, prompts, kind, changes):
    """By rounding the KL of the second step is 1e-7 nats and not 0, of which Adam makes steps of full length."""
    policy = tiny_policy()
    before = copy.deepcopy(policy.model.state_dict())
    common = {"batch_size": 8, "mini_batch_size": 4, "learning_rate": 1e-3, "completion_tokens": (4, 6)}
    method = kind(**{**common, "kl_target": None, **changes})
    OnPolicyTrainer(policy, lambda _, completions: [0.3] * len(completions), prompts, method, method).train(3)
    for name, value in policy.model.state_dict().items():
        assert value.equal(before[name]), name
