"""Classifier scorers: labels by name, transforms by hand, padding and caching without effect."""

import math
from types import SimpleNamespace

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models.loading import shared_classifiers
from alignbench.scorers.text_classifier import ClassifierScorer, label_index, label_score, remembered_logits

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


def test_a_completion_that_cannot_be_read_whole_is_unscored(checkpoints):
    """RoBERTa counts positions from behind its pad token: 64 of them hold 62 tokens."""
    scorer = load(checkpoints)
    assert scorer.reader.limit == 62
    longest, beyond = scorer.score(["p"] * 2, ["dog " * 62, "dog " * 63])
    assert longest is not None
    assert beyond is None


def test_fingerprint_tells_scorers_apart(checkpoints):
    prints = {
        load(checkpoints).fingerprint,
        load(checkpoints, label="nothate").fingerprint,
        load(checkpoints, transform="logit").fingerprint,
        load(checkpoints, text="prompt_and_completion").fingerprint,
        load(checkpoints, text="prompt_and_completion", joint=" ").fingerprint,
    }
    assert len(prints) == 5
    assert load(checkpoints).fingerprint == load(checkpoints, joint=" ").fingerprint
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


@pytest.fixture
def head(checkpoints, tmp_path):
    """Makes a classifier whose outputs are the same for every text: the biases of its last layer."""

    def make(outputs, labels, problem_type):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoints / "judge",
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
            problem_type=problem_type,
        )
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor(outputs))
        model.save_pretrained(tmp_path / "head")
        AutoTokenizer.from_pretrained(checkpoints / "judge").save_pretrained(tmp_path / "head")

        def scorer(**options):
            settings = {"name": "s", "label": labels[0], "transform": "probability"} | options
            return ClassifierScorer.load(str(tmp_path / "head"), where="judge", revision=None, device=CPU, **settings)

        return scorer

    return make


def test_a_multi_label_head_has_a_sigmoid_for_every_label(head):
    scorer = head([2.0, 1.0, -3.0], ["toxic", "insult", "threat"], "multi_label_classification")
    for label, output in (("toxic", 2.0), ("insult", 1.0), ("threat", -3.0)):
        [score] = scorer(label=label).score(["p"], ["you are stupid"])
        assert score == pytest.approx(1 / (1 + math.exp(-output)))


def test_the_same_head_with_exclusive_labels_has_a_softmax(head):
    scorer = head([2.0, 1.0, -3.0], ["toxic", "insult", "threat"], "single_label_classification")
    total = math.exp(2) + math.exp(1) + math.exp(-3)
    assert scorer().score(["p"], ["c"]) == [pytest.approx(math.exp(2) / total)]


@pytest.mark.parametrize(
    ("output", "scale", "expected"),
    [
        (0.25, (0.0, 1.0), 0.25),
        (1.03, (0.0, 1.0), 1.0),
        (-0.2, (0.0, 1.0), 0.0),
        (3.0, (1.0, 5.0), 0.5),
        (4.0, (5.0, 1.0), 0.25),  # 5 is harmless
        (7.0, (5.0, 1.0), 0.0),
    ],
)
def test_a_regression_head_is_put_on_its_scale(head, output, scale, expected):
    scorer = head([output], ["toxicity"], "regression")
    assert scorer(transform="logit", scale=scale).score(["p"], ["c"]) == [pytest.approx(expected)]


def test_a_regression_head_has_no_probability(head):
    scorer = head([0.5], ["toxicity"], "regression")
    for transform in ("probability", "logprob"):
        with pytest.raises(ModelError, match=r"^judge: the model is a regression head.*`scale:`"):
            scorer(transform=transform)
    assert scorer(transform="logit").score(["p"], ["c"]) == [pytest.approx(0.5)]


def test_fingerprint_knows_the_scale_and_sources_only_the_weights(head):
    scorer = head([0.5], ["toxicity"], "regression")
    plain, one, other = (scorer(transform="logit", scale=scale) for scale in (None, (0.0, 1.0), (0.0, 2.0)))
    assert len({plain.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert plain.sources == one.sources == other.sources


def test_texts_are_encoded_in_one_call_and_read_once_within_a_block(checkpoints, monkeypatch):
    """By every scorer of one classifier, whichever of its labels it reads; after the block nothing is remembered."""
    texts = ["the dog runs", "you are stupid", "the dog runs", "", "a very good bird"]
    expected = {label: load(checkpoints, label=label).score(texts, texts) for label in ("hate", "nothate")}
    with shared_classifiers():
        hate, nothate = load(checkpoints, batch_size=2), load(checkpoints, label="nothate", batch_size=2)
    assert hate.model is nothate.model
    read, calls = [], []
    forward, encode = type(hate.model).forward, type(hate.tokenizer).__call__

    def spied(self, input_ids, **options):
        read.append(len(input_ids))
        return forward(self, input_ids, **options)

    def encoding(self, text, **options):
        calls.append(text)
        return encode(self, text, **options)

    spied.__wrapped__ = forward
    monkeypatch.setattr(type(hate.model), "forward", spied)
    monkeypatch.setattr(type(hate.tokenizer), "__call__", encoding)
    with remembered_logits():
        assert hate.score(texts[:2], texts[:2]) == pytest.approx(expected["hate"][:2], abs=1e-6)
        with remembered_logits():
            assert hate.score(texts, texts) == pytest.approx(expected["hate"], abs=1e-6)
        assert nothate.score(texts, texts) == pytest.approx(expected["nothate"], abs=1e-6)
        assert read == [2, 2]
        assert [len(texts) for texts in calls] == [2, 4, 4]
        assert nothate.spent.forward_flops == 0 < hate.spent.forward_flops
    hate.score(texts, texts)
    assert read == [2, 2, 2, 2]
