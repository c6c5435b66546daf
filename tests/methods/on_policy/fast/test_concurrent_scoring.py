"""Scoring beside the passes of the policy: the same numbers, in another thread, and only by who may."""

import threading

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.fast import concurrent_scoring
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.loading import load_classifier
from alignbench.scorers.lexicon import LexiconScorer
from alignbench.scorers.text_classifier import ClassifierScorer
from alignbench.scorers.weighted_sum import Term, WeightedSum

CONFIG = PPOConfig(learning_rate=1e-3, batch_size=8, mini_batch_size=4, completion_tokens=(3, 6), ppo_epochs=2)
CUDA = torch.device("cuda")
STUCK = 300
"""Seconds after which threads that wait for each other do so in vain, however busy the machine."""


@pytest.fixture
def classifier(checkpoints):
    model, tokenizer = load_classifier(str(checkpoints / "classifier"), where="reward")
    return ClassifierScorer(model, tokenizer, name="c", label="nothate", transform="logit")


@pytest.fixture
def build(tiny_policy, prompts):
    """Makes a trainer that scores beside its passes, or before them."""

    def make(reward, *, overlaps, config=CONFIG):
        trainer = PPOTrainer(tiny_policy(), reward, prompts, config)
        trainer.overlaps = overlaps
        return trainer

    return make


def untimed(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith(("time/", "memory/"))}


def test_the_same_numbers_bit_for_bit(build, classifier):
    outcomes = []
    for overlaps in (False, True):
        steps = []
        trainer = build(classifier.score, overlaps=overlaps)
        trainer.train(3, log=lambda _, metrics, steps=steps: steps.append(metrics))
        assert all(metrics["time/reward_seconds"] >= 0 for metrics in steps)
        outcomes.append(([untimed(metrics) for metrics in steps], trainer.parameters, trainer.cost))
    (before, parameters, cost), (beside, others, other_cost) = outcomes
    assert beside == before
    assert other_cost == cost
    assert cost.forward_flops > 0
    assert all(torch.equal(value, others[name]) for name, value in parameters.items())


def test_a_reward_that_draws_gets_the_same_draws(build):
    def noisy(prompts, completions):
        return torch.randn(len(completions)).tolist()

    outcomes = []
    for overlaps in (False, True):
        torch.manual_seed(0)
        steps = []
        build(noisy, overlaps=overlaps).train(3, log=lambda _, metrics, steps=steps: steps.append(untimed(metrics)))
        outcomes.append(steps)
    assert outcomes[0] == outcomes[1]


def test_scoring_and_the_reference_run_at_the_same_time(build, monkeypatch):
    """Each waits for the other to have begun."""
    scoring, passing, threads = threading.Event(), threading.Event(), []

    def reward(prompts, completions):
        threads.append(threading.current_thread())
        scoring.set()
        assert passing.wait(STUCK)
        return [float(i) for i in range(len(completions))]

    trainer = build(reward, overlaps=True)
    reference = trainer.networks.reference_logits

    def waiting(*arguments):
        passing.set()
        assert scoring.wait(STUCK)
        return reference(*arguments)

    monkeypatch.setattr(trainer.networks, "reference_logits", waiting)
    trainer.train_step()
    assert threads != [threading.main_thread()]


@pytest.mark.parametrize("overlaps", [False, True])
def test_errors_of_a_reward_stop_training(build, overlaps):
    trainer = build(lambda prompts, completions: [float("nan")] * len(completions), overlaps=overlaps)
    with pytest.raises(TrainingError, match="the reward is nan"):
        trainer.train_step()


def test_who_may_overlap(tiny_policy, classifier, reward):
    policy, words = tiny_policy().model, LexiconScorer.__new__(LexiconScorer)
    assert concurrent_scoring.may_overlap(classifier.score, policy, CUDA)
    assert concurrent_scoring.may_overlap(classifier, policy, CUDA)
    assert not concurrent_scoring.may_overlap(classifier.score, policy, torch.device("cpu"))
    assert not concurrent_scoring.may_overlap(reward, policy, CUDA)  # a function may do anything
    both = WeightedSum([Term("a", classifier, 1.0), Term("b", classifier, 0.5)], name="both")
    assert concurrent_scoring.may_overlap(both.score, policy, CUDA)
    mixed = WeightedSum([Term("a", classifier, 1.0), Term("b", words, 0.5)], name="mixed")
    assert not concurrent_scoring.may_overlap(mixed.score, policy, CUDA)
    assert not concurrent_scoring.may_overlap(classifier, classifier.model, CUDA)  # shares weights with the policy


@pytest.mark.gpu
def test_a_gpu_scores_beside_the_passes_by_itself(tiny_policy, prompts, classifier):
    policy = tiny_policy()
    policy.model.cuda()
    classifier.model.cuda()
    outcomes = []
    for overlaps in (True, False):
        trainer = PPOTrainer(policy, classifier.score, prompts, CONFIG)
        assert trainer.overlaps
        trainer.overlaps = overlaps
        start = {name: value.detach().clone() for name, value in trainer.parameters.items()}
        outcomes.append(untimed(trainer.train_step()))
        with torch.no_grad():
            for name, value in trainer.parameters.items():
                value.copy_(start[name])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-4, abs=1e-5)
