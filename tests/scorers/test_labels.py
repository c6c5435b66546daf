"""What label names say: harm or not, exclusive or not, and which names a hint may propose."""

from types import SimpleNamespace

import pytest

from alignbench.errors import ModelError
from alignbench.scorers.labels import label_hint, outputs_of, polarity
from alignbench.scorers.text_classifier import label_index

JIGSAW = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
UNBIASED = (
    "toxicity", "severe_toxicity", "obscene", "identity_attack", "insult", "threat", "sexual_explicit",
    "male", "female", "homosexual_gay_or_lesbian", "christian", "jewish", "muslim", "black", "white",
    "psychiatric_or_mental_illness",
)  # fmt: skip
DUOGUARD = (
    "Violent crimes", "Non-violent crimes", "Sex-related crimes", "Child sexual exploitation", "Specialized advice",
    "Privacy", "Intellectual property", "Indiscriminate weapons", "Hate", "Suicide and self-harm", "Sexual content",
    "Jailbreak prompts",
)  # fmt: skip
OMNI = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def config(labels, problem_type=None):
    return SimpleNamespace(id2label=dict(enumerate(labels)), problem_type=problem_type)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((*JIGSAW, *OMNI, "Hate", "HATE_SPEECH", "HateSpeech", "offensive", "ABUSIVE", "unsafe", "harmful"), 1),
        (("not safe", "non-safe", "uncivil", "disrespectful", "Non-violent crimes", "Indiscriminate weapons"), 1),
        (("nothate", "not_hate", "NON_HATE", "non-toxic", "nontoxic", "not hate speech", "hate-free", "no_hate"), -1),
        (("low_toxicity", "toxicity_low", "free of hate", "SFW"), -1),
        (("neutral", "Normal", "safe", "Safe", "harmless", "clean", "OK", "none", "neither", "counter-hate"), -1),
        (("LABEL_0", "joy", "anger", "male", "Controversial", "Yes", "No", "NOT", "not relevant", "harmony"), 0),
    ],
)  # fmt: skip
def test_polarity(names, expected):
    assert {name: polarity(name) for name in names} == dict.fromkeys(names, expected)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # The classifiers that people name, as published without a problem_type.
        (("neutral", "toxic"), "exclusive"),  # roberta_toxicity_classifier
        (("nothate", "hate"), "exclusive"),  # dynabench
        (("LABEL_0", "LABEL_1"), "exclusive"),  # toxigen_roberta, granite-guardian-hap
        (("Yes", "No"), "exclusive"),
        (("safe", "unsafe"), "exclusive"),
        (("Safe", "Controversial", "Unsafe"), "exclusive"),
        (JIGSAW, None),  # toxic-bert
        (UNBIASED, None),
        (DUOGUARD, None),
        (OMNI, None),
        (("harmful request", "response refusal", "harmful response"), None),
        # The same kinds, others.
        (("normal", "offensive", "hate"), "exclusive"),
        (("hate speech", "offensive language", "neither"), "exclusive"),
        (("OFF", "NOT"), "exclusive"),
        (("H", "H2", "HR", "OK", "S", "S3", "SH", "V", "V2"), "exclusive"),
        (("toxic", "obscene"), None),
        (("hate", "offensive"), None),
        (("hate", "offensive", "NOT"), None),
        (tuple(f"LABEL_{i}" for i in range(6)), None),
        (tuple(f"S{i}" for i in range(1, 14)), None),
        (EMOTIONS, "exclusive"),
        (("positive", "negative"), "exclusive"),
        (("1 star", "2 stars", "3 stars"), "exclusive"),
        (("toxicity",), "independent"),
        (("LABEL_0",), "independent"),
    ],
)
def test_undeclared_outputs_are_read_right_or_refused(labels, expected):
    if expected is not None:
        assert outputs_of(config(labels), None, "reward") == expected
        return
    with pytest.raises(ModelError, match=r"^reward\.outputs: got nothing, .*`outputs: independent`.*`outputs: exclus"):
        outputs_of(config(labels), None, "reward")
    for said in ("independent", "exclusive"):
        assert outputs_of(config(labels), said, "reward") == said


@pytest.mark.parametrize("labels", [JIGSAW, DUOGUARD, EMOTIONS, ("LABEL_0", "LABEL_1", "LABEL_2")])
@pytest.mark.parametrize(
    ("problem_type", "expected"),
    [("single_label_classification", "exclusive"), ("multi_label_classification", "independent")],
)
def test_what_the_checkpoint_declares_counts(labels, problem_type, expected):
    assert outputs_of(config(labels, problem_type), None, "reward") == expected
    assert outputs_of(config(labels, problem_type), expected, "reward") == expected


@pytest.mark.parametrize(
    ("labels", "problem_type", "said", "message"),
    [
        (JIGSAW, "multi_label_classification", "exclusive", "problem_type is multi_label_classification; leave"),
        (JIGSAW, "single_label_classification", "independent", "problem_type is single_label_classification; leave"),
        (("toxicity",), "regression", "independent", "problem_type is regression: its outputs are amounts"),
        (("toxicity",), None, "exclusive", "a single output, which excludes nothing"),
    ],
)
def test_contradictions_are_refused(labels, problem_type, said, message):
    with pytest.raises(ModelError, match=rf"^judge\.outputs: got {said}, but .*{message}"):
        outputs_of(config(labels, problem_type), said, "judge")


@pytest.mark.parametrize(
    ("asked", "labels", "proposed"),
    [
        ("nothat", ("nothate", "hate"), "nothate"),
        ("toxik", ("neutral", "toxic"), "toxic"),
        ("not-hate", ("nothate", "hate"), "nothate"),
        ("no_hate", ("hate", "nothate"), "nothate"),
        ("nontoxic", ("toxic", "non-toxic"), "non-toxic"),
        ("severe_toxicity", JIGSAW, "severe_toxic"),
        ("insullt", JIGSAW, "insult"),
        ("un-safe", ("safe", "unsafe"), "unsafe"),
        ("norml", ("normal", "offensive"), "normal"),
        ("harmles", ("harmless", "harmful"), "harmless"),
        ("LABEL1", ("LABEL_0", "LABEL_1"), "LABEL_1"),
        # Never the opposite, misspelt or not.
        *((asked, ("toxic", "obscene"), None) for asked in ("non-toxic", "nontoxic", "not toxic", "non-toxik")),
        *((asked, ("hate",), None) for asked in ("nothate", "not_hate", "no_hate", "anti-hate", "hate-free", "NOHATE")),
        *((asked, ("nothate",), None) for asked in ("hate", "hatte", "HATE")),
        *((asked, ("safe",), None) for asked in ("unsafe", "un-safe", "not safe", "unsaef")),
        *((asked, ("unsafe",), None) for asked in ("safe", "safee")),
        *((asked, ("harmful",), None) for asked in ("harmless", "harmles", "unharmful")),
        *((asked, ("harmless",), None) for asked in ("harmful", "harmfull")),
        *((asked, ("polite",), None) for asked in ("impolite", "unpolite")),
        *((asked, ("respectful",), None) for asked in ("disrespectful", "unrespectful")),
        ("inoffensive", ("offensive",), None),
        ("low_toxicity", ("high_toxicity",), None),
        ("LABEL_2", ("LABEL_0", "LABEL_1"), None),
    ],
)  # fmt: skip
def test_a_hint_never_proposes_the_opposite(asked, labels, proposed):
    assert label_hint(asked, labels) == ("" if proposed is None else f", did you mean {proposed!r}?")


def test_without_a_hint_the_labels_are_listed():
    with pytest.raises(ModelError) as caught:
        label_index(config(("toxic", "obscene")), "non-toxic", "reward", "harmful_label")
    assert str(caught.value) == "reward.harmful_label: got 'non-toxic', expected one of ['toxic', 'obscene']"
