"""Classifier scorers: labels by name, transforms by hand, padding and caching without effect."""

import math
from types import SimpleNamespace

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.scorers.classifier import ClassifierScorer, label_index, label_score

CPU = torch.device("cpu")


def load(checkpoints, **options):
    settings = {"name": "s", "label": "hate", "transform": "probability"} | options
    return ClassifierScorer.load(str(checkpoints / "classifier"), where="reward", revision=None, device=CPU, **settings)


def test_transforms_by_hand():
    logits = torch.tensor([[1.0, 3.0]])
    odds = 2.0
    expected = {
        "logit": 3.0,
        "margin": odds,
        "probability": 1 / (1 + math.exp(-odds)),
        "logprob": -math.log(1 + math.exp(-odds)),
    }
    for transform, value in expected.items():
        assert label_score(logits, 1, transform, multi_label=False).item() == pytest.approx(value)
    # Several labels at once: each has a sigmoid of its own.
    assert label_score(logits, 1, "probability", multi_label=True).item() == pytest.approx(1 / (1 + math.exp(-3)))
    # Three classes: margin against the log-sum-exp of the others.
    three = torch.tensor([[0.0, 1.0, 2.0]])
    assert label_score(three, 1, "margin", multi_label=False).item() == pytest.approx(1 - math.log(1 + math.exp(2)))
    softmax = math.exp(1) / (1 + math.exp(1) + math.exp(2))
    assert label_score(three, 1, "probability", multi_label=False).item() == pytest.approx(softmax)


def test_labels_are_found_by_name():
    config = SimpleNamespace(id2label={0: "nothate", 1: "hate"})
    assert label_index(config, "hate", "reward") == 1
    assert label_index(config, "NotHate", "reward") == 0
    with pytest.raises(
        ModelError, match=r"reward\.label: got 'nothat', expected one of \['nothate', 'hate'\].*'nothate'"
    ):
        label_index(config, "nothat", "reward")


def test_probabilities_of_the_two_labels_are_complements(checkpoints):
    texts = ["the dog runs", "you are stupid", ""]
    hate = load(checkpoints).score(texts, texts)
    nothate = load(checkpoints, label="nothate").score(texts, texts)
    complement = load(checkpoints, label="nothate", complement=True).score(texts, texts)
    assert [a + b for a, b in zip(hate, nothate, strict=True)] == pytest.approx([1, 1, 1])
    assert complement == pytest.approx(hate)


def test_score_of_a_text_does_not_depend_on_its_company(checkpoints):
    texts = ["the dog runs", "you", "a very very good bird sings now", ""]
    together = load(checkpoints).score(texts, texts)
    alone = [load(checkpoints, batch_size=1).score([text], [text])[0] for text in texts]
    assert together == pytest.approx(alone, rel=1e-5)


def test_against_the_model_itself(checkpoints):
    """Oracle: tokenizer and model called directly, one text, no padding."""
    scorer = load(checkpoints, transform="logit")
    ids = scorer.tokenizer("you are stupid", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = scorer.model(ids).logits[0, 1].item()
    assert scorer.score(["x", "y"], ["you are stupid", "the"])[0] == pytest.approx(expected, rel=1e-5)


def test_text_window(checkpoints):
    seen = load(checkpoints, text="prompt_and_completion").score(["you are"], [" stupid"])
    assert seen == load(checkpoints).score(["-"], ["you are stupid"])
    assert seen != load(checkpoints).score(["you are"], [" stupid"])


def test_long_texts_are_cut_to_what_the_model_takes(checkpoints):
    scorer = load(checkpoints)
    assert scorer.score(["p"], ["the dog " * 500])[0] is not None


def test_fingerprint_tells_scorers_apart(checkpoints):
    prints = {
        load(checkpoints).fingerprint,
        load(checkpoints, label="nothate").fingerprint,
        load(checkpoints, transform="logit").fingerprint,
        load(checkpoints, text="prompt_and_completion").fingerprint,
    }
    assert len(prints) == 4
    assert load(checkpoints).fingerprint == load(checkpoints, batch_size=3, name="other").fingerprint


def test_missing_classifier_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"reward: got .*nowhere"):
        ClassifierScorer.load(
            str(tmp_path / "nowhere"), where="reward", revision=None, device=CPU, name="s", label="x", transform="logit"
        )
    with pytest.raises(ModelError, match="reward: cannot load 'no/such-model'"):
        ClassifierScorer.load(
            "no/such-model", where="reward", revision=None, device=CPU, name="s", label="x", transform="logit"
        )
