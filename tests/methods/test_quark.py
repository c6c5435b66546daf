"""Quark: quantiles, tokens that are read and never written, and a step against its definition in float64."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from alignbench.methods.on_policy.pool import PoolTrainer, drawn_evenly, quantiles
from alignbench.methods.quark import AsksForTheBest, Quark, load_asking
from alignbench.models.adapters import Lora
from alignbench.models.control_tokens import ControlledModel, new_controls
from alignbench.models.forward import completion_forward, decoder_start, is_encoder_decoder, token_logprobs
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_language_model, load_policy
from alignbench.records import Decoding, Demonstration, Prompt

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(["the dog runs", "a cat", "one red bird sings", "two dogs"])]
SETTINGS = {
    **{"batch_size": 10, "mini_batch_size": 5, "micro_batch_size": 5, "epochs": 1, "learning_rate": 1e-3},
    **{"completion_tokens": (2, 6), "kl_coef": 0.3, "max_grad_norm": None, "execution": "plain"},
    "length_penalty": 0.05,
}


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


@pytest.fixture
def policy_of(tiny_policy, family):
    """Makes a policy of a family: a causal one, or one whose encoder reads the prompts."""

    def make(name):
        return tiny_policy() if name == "gpt_neo" else LanguageModel(*family(name), name)

    return make


@pytest.fixture
def trainer(tiny_policy):
    method, policy = Quark(**SETTINGS), tiny_policy()
    controlled = ControlledModel(policy, new_controls(policy, 5, 0))
    return PoolTrainer(controlled, score, PROMPTS, method, method, seed=3)


def test_quantiles_by_hand():
    assert quantiles([0.3, 0.9, 0.1, 0.5], 2) == [0, 1, 0, 1]
    assert quantiles([1.0, 1.0, 1.0, 0.0], 4) == [1, 2, 3, 0]
    assert quantiles([5.0, 4.0, 3.0, 2.0, 1.0], 3) == [2, 1, 1, 0, 0]


@pytest.mark.parametrize("size", [10, 13, 99])
def test_quantiles_are_equally_frequent(size):
    found = Counter(quantiles(np.random.default_rng(size).normal(size=size).tolist(), 5))
    assert set(found) == set(range(5))
    assert max(found.values()) - min(found.values()) <= 1


def test_draws_of_a_pool():
    groups = [0, 0, 0, 1, 1, 1]
    places = drawn_evenly(groups, 2, 6, np.random.default_rng(0))
    assert sorted(places) == [0, 1, 2, 3, 4, 5]
    assert [groups[i] for i in places] == [0, 1, 0, 1, 0, 1]
    assert Counter(drawn_evenly([0, 1], 2, 6, np.random.default_rng(0))) == {0: 3, 1: 3}
    assert drawn_evenly([1, 1], 5, 3, np.random.default_rng(0))[0] in (0, 1)  # a pool of fewer than quantiles


@pytest.mark.parametrize("name", ["gpt_neo", "t5", "bart"])
def test_words_are_read_as_before_and_a_token_changes_what_comes(policy_of, name):
    plain, policy = policy_of(name), policy_of(name)
    controlled = ControlledModel(policy, new_controls(policy, 5, 0))
    drawn = plain.generate(PROMPTS, Decoding(5), 1, ("a",))
    assert controlled.generate(PROMPTS, Decoding(5), 1, ("a",)) == drawn
    before = plain.token_logprobs(PROMPTS, drawn)
    assert all(map(torch.equal, controlled.token_logprobs(PROMPTS, drawn), before))
    controlled.control = 4
    behind = controlled.token_logprobs(PROMPTS, drawn)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(behind, before, strict=True))
    batch = controlled.without_controls(controlled.batch(PROMPTS, drawn))  # as the reference sees it
    found = token_logprobs(completion_forward(controlled.model, batch)[0], batch.completion_ids)
    for row, n, expected in zip(found, batch.lengths[:, 1].tolist(), before, strict=True):
        torch.testing.assert_close(row[:n], expected, rtol=1e-5, atol=1e-5)


def test_a_token_is_no_word(trainer):
    """The output layer has words alone, and the token is in no text."""
    policy = trainer.controlled
    answers = AsksForTheBest(policy)
    for one in answers.generate(PROMPTS, Decoding(6), 2, ("a",)):
        assert max(one.token_ids) < policy.n_words
        assert one.text.strip() == policy.tokenizer.decode(one.token_ids, skip_special_tokens=True)
    assert policy.control == 4


def test_steps(trainer):
    """The first one samples without a token; the pool grows, and what is trained on has all tokens equally often."""
    seen, measured = [], trainer.choose

    def choose(*arguments):
        chosen = measured(*arguments)
        seen.append(Counter(chosen.batch.input_ids[chosen.batch.input_ids >= trainer.controlled.n_words].tolist()))
        return chosen

    trainer.choose = choose
    first = trainer.train_step()
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert first["policy/ratio_mean"] == pytest.approx(1, abs=0.2)
    assert trainer.controlled.control is None
    second = trainer.train_step()
    assert trainer.controlled.control == 4
    assert abs(second["objective/kl"]) > 1e-2
    assert len(trainer.kept["pool"]) == 20
    for row in trainer.kept["pool"]:
        [score_of_text] = score([""], [trainer.controlled.tokenizer.decode(row["tokens"], skip_special_tokens=True)])
        assert row["reward"] == pytest.approx(score_of_text - 0.05 * len(row["tokens"]))
    assert [sorted(one.values()) for one in seen] == [[2] * 5] * 2
    assert trainer.step_cost["forward"].forward_flops > trainer.passes.rollout(trainer.policy.batch(
        *trainer.sample(2))).forward_flops  # fmt: skip


def test_what_is_imitated_besides_stands_behind_the_best_token_from_the_first_step_on(tiny_policy):
    policy, seen = tiny_policy(), []
    drawn = policy.generate(PROMPTS, Decoding(5), 1, ("shown",))
    shown = [Demonstration(prompt, one) for prompt, one in zip(PROMPTS, drawn, strict=True)]
    method = Quark(**SETTINGS, ptx_coef=0.5)
    controlled = ControlledModel(policy, new_controls(policy, 5, 0))
    trainer = PoolTrainer(controlled, score, PROMPTS, method, method, seed=3, demonstrations=shown)
    drawing = trainer.updater.imitation.batch
    trainer.updater.imitation.batch = lambda *place: seen.append(drawing(*place)) or seen[-1]
    for _ in range(2):
        trainer.train_step()
    assert len(seen) == 4
    for batch in seen:
        assert batch.input_ids[batch.input_ids >= controlled.n_words].tolist() == [controlled.n_words + 4] * 5


def logits_of(model, prompt, tokens):
    """Logits (t, V) by which a model predicts the tokens of a completion."""
    if not is_encoder_decoder(model):
        return model(torch.tensor([[*prompt, *tokens]])).logits[0, -len(tokens) - 1 : -1]
    written = torch.tensor([[decoder_start(model), *tokens[:-1]]])
    return model(input_ids=torch.tensor([prompt]), decoder_input_ids=written).logits[0]


@pytest.mark.parametrize(("name", "estimator"), [("gpt_neo", "exact"), ("gpt_neo", "k2"), ("bart", "exact")])
def test_a_gradient_by_its_definition(policy_of, name, estimator):
    """Of the first update: mean over tokens of -log pi(y | x, q) + 0.3 KL(pi(. | x, q) || ref(. | x))."""
    method, policy = Quark(**{**SETTINGS, "mini_batch_size": 10, "kl_estimator": estimator}), policy_of(name)
    reference = copy.deepcopy(policy.model).double()
    controlled = ControlledModel(policy, new_controls(policy, 5, 0))
    model = copy.deepcopy(controlled.model).double()
    trainer = PoolTrainer(controlled, score, PROMPTS, method, method, seed=3)
    kept, plain = {}, trainer.optimizer.step
    trainer.optimizer.step = lambda: (kept.update({n: p.grad.clone() for n, p in trainer.parameters.items()}), plain())
    trainer.train_step()
    pool = trainer.kept["pool"]
    levels = quantiles([row["reward"] for row in pool], 5)
    total, n_tokens = 0.0, sum(len(row["tokens"]) for row in pool)
    for row, level in zip(pool, levels, strict=True):
        prompt = controlled.encode_controlled([trainer.by_id[row["prompt"]]], [None])[0]
        ours = logits_of(model, [controlled.n_words + level, *prompt], row["tokens"]).log_softmax(-1)
        theirs = logits_of(reference, prompt, row["tokens"]).detach().log_softmax(-1)
        n = len(row["tokens"])
        chosen, of_reference = (words[range(n), row["tokens"]] for words in (ours, theirs))
        kls = {"exact": (ours.exp() * (ours - theirs)).sum(-1), "k2": (chosen - of_reference) ** 2 / 2}
        total = total + (-chosen + 0.3 * kls[estimator]).sum() / n_tokens
    named = {f"policy.{key}": p for key, p in model.named_parameters()}
    expected = torch.autograd.grad(total, [named[name] for name in kept])
    error = sum(((kept[n].double() - g) ** 2).sum() for n, g in zip(kept, expected, strict=True))
    assert (error / sum((g**2).sum() for g in expected)).sqrt() < 1e-5
    [controls] = [gradient for key, gradient in kept.items() if key.endswith(".controls")]
    assert controls.abs().amax(dim=1).min() > 0


def test_what_an_encoder_decoder_model_has_learned_is_saved_and_comes_back(policy_of, tmp_path):
    policy, method = policy_of("t5"), Quark(**SETTINGS)
    controlled = ControlledModel(policy, new_controls(policy, 5, 0))
    trainer = PoolTrainer(controlled, score, PROMPTS, method, method, seed=3)
    for _ in range(2):
        trainer.train_step()
    answers = AsksForTheBest(controlled)
    answers.save(tmp_path / "quark")
    again = load_policy(tmp_path / "quark")
    drawn = answers.generate(PROMPTS, Decoding(6), 2, ("a",))
    assert again.generate(PROMPTS, Decoding(6), 2, ("a",)) == drawn


def test_under_an_adapter_the_tokens_are_trained_besides(tiny_policy, checkpoints, tmp_path):
    policy = load_language_model(str(checkpoints / "policy"))
    policy.add_adapter(Lora(r=4))
    method = Quark(**SETTINGS)
    controlled = ControlledModel(policy, new_controls(policy, 5, 0))
    trainer = PoolTrainer(controlled, score, PROMPTS, method, method, seed=3)
    trainer.train_step()
    trained = {name for name in trainer.parameters if "lora_" not in name}
    assert [name.rpartition(".")[2] for name in trained] == ["controls"]
    answers = AsksForTheBest(controlled)
    answers.save(tmp_path / "quark")
    again = load_asking(tmp_path / "quark", lambda folder: load_language_model(str(folder)))
    assert again.generate(PROMPTS, Decoding(6), 1, ("a",)) == answers.generate(PROMPTS, Decoding(6), 1, ("a",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_placement": "reward"}, "kl_placement: got reward, expected loss"),
        ({"shared_layers": 1}, "shared_layers: got 1, expected 0"),
        ({"sharding": "full"}, "sharding: got full, expected none"),
        ({"quantiles": 1}, "quantiles: got 1"),
        ({"top_k": 40}, "top_k and top_p: expected 0 and 1"),
        ({"reward_scaling": "std"}, "reward_scaling: got std, expected none"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Quark(**changes)
