"""Every family of classifiers of the installed transformers: it scores as its own forward does, or is refused."""

import re
from copy import deepcopy

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.scorers.text_classifier import ClassifierScorer

OUTCOMES = ("equal", "read alone", "refused", "not built")
WORDS = ["you", "are", "a", "very", "kind", "old", "man", "and", "the", "red", "dog", "sings", "now"]
TEXTS = ["you", "the dog runs", " ".join(WORDS), " ".join(WORDS[::-1] * 2), " ".join(WORDS * 4)]
"""Attention in a window, in blocks and in chunks has room for fewer than the longest: 54 tokens."""
NO_WORD = 64
"""A pad token that the tiny models have no embedding for."""


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    """Opens and closes every text, as some families count on."""
    from tokenizers import processors

    made = make_tokenizer(pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", cls_token="<cls>")
    ends = [("<cls>", made.cls_token_id), ("<eos>", made.eos_token_id)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A <eos>", special_tokens=ends)
    return made


@torch.no_grad()
def logits_alone(model, tokenizer, limit):
    """The second logit of each text by the bare forward of a model that has read nothing before.

    None for a text of more tokens than the scorer says that it reads.
    """
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS]
    return [
        deepcopy(model)(input_ids=torch.tensor([ids])).logits[0, 1].item() if len(ids) <= limit else None
        for ids in encoded
    ]


def outcome(model, name, tokenizer):
    """One of `OUTCOMES`; an assertion fails where a family that is let through gives other numbers."""
    if isinstance(model, str):
        return "not built"
    asked = deepcopy(model)
    try:
        scorer = ClassifierScorer(asked, tokenizer, name="s", label="LABEL_1", transform="logit")
    except ModelError as error:
        return "refused" if type(model).__name__ in str(error) else f"refused without its name: {error}"
    expected = logits_alone(model, tokenizer, scorer.reader.limit)
    read = [logit for logit in expected if logit is not None]
    assert max(read) - min(read) > 0.02, f"{name} does not tell the texts apart"
    for score, alone in zip(scorer.score(TEXTS, TEXTS), expected, strict=True):
        same = score is alone if alone is None else score == pytest.approx(alone, rel=0, abs=1e-3)
        assert same, f"{name} is silently wrong: {score} for {alone}"
    return "read alone" if scorer.reads_alone else "equal"


def documented(families_page):
    version, section = families_page
    found = {}
    for outcome_ in OUTCOMES:
        found |= dict.fromkeys(re.findall(r"`([\w-]+)`", section(f"classifiers: {outcome_}")), outcome_)
    return version, found


@pytest.mark.slow
def test_no_family_of_classifiers_is_silently_wrong(tiny_model, tokenizer, families_page):
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as FAMILIES

    transformers.logging.set_verbosity_error()
    found, reasons = {}, {}
    for name in FAMILIES:
        model = tiny_model("classifier", name)
        found[name] = outcome(model, name, tokenizer)
        if isinstance(model, str):
            reasons[name] = model
            continue
        model.config.pad_token_id = NO_WORD
        assert outcome(model, name, tokenizer) in (found[name], "read alone", "refused")
    for wanted in OUTCOMES:
        print(f"{wanted}:", ", ".join(f"`{name}`" for name, is_ in found.items() if is_ == wanted))
    print(reasons)
    version, expected = documented(families_page)
    if version == transformers.__version__:
        assert found == expected
