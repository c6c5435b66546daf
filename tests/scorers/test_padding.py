"""Scores in a batch are those of the model's own forward on one text, whatever pads, ends or is beside it."""

from copy import deepcopy

import pytest
import torch

from alignbench.errors import ModelError, ScorerError
from alignbench.scorers.reading import Reader
from alignbench.scorers.text_classifier import ClassifierScorer

TEXTS = ["the dog runs", "you", "a very very good bird sings now and the old man sleeps", "you are stupid <eos> <pad>"]
FAST = ("Roberta", "DistilBert", "GPT2", "Llama", "Bart")
SLOW = (
    *("Bert", "MPNet", "DebertaV2", "Electra", "Albert", "XLNet", "FNet", "GPTNeo", "GPTNeoX", "Mistral", "Qwen2"),
    *("Gemma", "OPT", "Bloom", "T5"),
)
NEEDS_ITS_PAD = {"Roberta", "MPNet", "Bart", "T5"}
"""Families that cannot read even one text without a pad token of their own: by it they find positions, or begin."""


def cases(families):
    pads = ("none", "of its own", "end", "beyond")
    return [(name, pad) for name in families for pad in pads if pad == "none" or name not in NEEDS_ITS_PAD]


@pytest.fixture
def tokenizer(make_tokenizer):
    """Closes every text with the end-of-sequence token, and knows a pad token beside it."""
    from tokenizers import processors

    made = make_tokenizer(unk_token="<unk>", eos_token="<eos>", pad_token="<pad>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", made.eos_token_id)]
    )
    return made


def check(family, pad, classifier, margins_alone, tokenizer):
    n_words = len(tokenizer) + 3
    own = 2 if family in NEEDS_ITS_PAD else None
    named = {"none": own, "of its own": n_words - 1, "end": 1, "beyond": n_words}[pad]
    model = classifier(family, n_words, pad_token_id=None if named == n_words else named)
    model.config.pad_token_id = named
    scorer = ClassifierScorer(model, tokenizer, name="s", label="hate", transform="margin")
    alone = margins_alone(model, [tokenizer(text)["input_ids"] for text in TEXTS])
    assert max(alone) - min(alone) > 0.1
    assert scorer.score(TEXTS, TEXTS) == pytest.approx(alone, abs=1e-4)
    assert scorer.score(TEXTS[:1], TEXTS[:1]) == pytest.approx(alone[:1], abs=1e-4)
    assert model.config.pad_token_id == named


@pytest.mark.parametrize(("family", "pad"), cases(FAST))
def test_a_batch_gives_what_a_text_has_alone(family, pad, classifier, margins_alone, tokenizer):
    check(family, pad, classifier, margins_alone, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "pad"), cases(SLOW))
def test_a_batch_gives_what_a_text_has_alone_in_every_family(family, pad, classifier, margins_alone, tokenizer):
    check(family, pad, classifier, margins_alone, tokenizer)


def test_a_model_that_cannot_read_one_text_is_refused(classifier, make_tokenizer):
    """BART reads the end-of-sequence token, and this tokenizer adds none."""
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>", pad_token="<pad>")
    with pytest.raises(ModelError, match=r"^judge: BartForSequenceClassification cannot read .*<eos>"):
        ClassifierScorer(
            classifier("Bart", len(tokenizer), pad_token_id=2), tokenizer, name="s", label="hate", transform="logit",
            where="judge",
        )  # fmt: skip


def test_a_family_that_reads_padding_gets_one_text_at_a_time(classifier, tokenizer):
    reads = {
        name: ClassifierScorer(classifier(name, len(tokenizer)), tokenizer, name="s", label="hate", transform="logit")
        for name in ("FNet", "DistilBert")
    }
    assert (reads["FNet"].reads_alone, reads["FNet"].batch_size) == (True, 1)
    assert (reads["DistilBert"].reads_alone, reads["DistilBert"].batch_size) == (False, 64)


def test_what_padding_changes_only_beyond_a_number_of_tokens_is_found(classifier, tokenizer):
    """Attention in chunks is full attention as long as a batch fits in one chunk."""
    model = classifier("DistilBert", len(tokenizer))
    model.distilbert.embeddings.register_forward_hook(lambda _, __, out: out * (2 if out.shape[1] > 25 else 1))
    assert ClassifierScorer(model, tokenizer, name="s", label="hate", transform="logit").reads_alone


def test_a_model_that_reads_a_text_otherwise_each_time_is_refused(classifier, tokenizer):
    model = classifier("DistilBert", len(tokenizer))
    model.distilbert.embeddings.register_forward_hook(lambda _, __, out: out + torch.randn_like(out))
    with pytest.raises(ModelError, match=r"^judge: DistilBertForSequenceClassification gives one text other outputs"):
        ClassifierScorer(model, tokenizer, name="s", label="hate", transform="logit", where="judge")


def test_a_long_text_is_read_as_a_fresh_model_reads_it(classifier, margins_alone, tokenizer):
    """After a short text BigBird's attention in blocks is full attention for good."""
    model = classifier("BigBird", len(tokenizer), pad_token_id=2)
    texts = ["you", "the dog sings " * 9, "the dog sings " * 10]
    alone = margins_alone(deepcopy(model), [tokenizer(texts[1])["input_ids"]])
    scorer = ClassifierScorer(model, tokenizer, name="s", label="hate", transform="margin")
    _, long, too_long = scorer.score([""] * 3, texts)
    assert long == pytest.approx(alone[0], abs=1e-4)
    assert too_long is None


def test_the_pad_token_that_the_configuration_names_is_kept(classifier, tokenizer, tmp_path, margins_alone):
    """Tokenizer without a pad token, every text closed by the end token: it is read there, not one token before."""
    n_words = len(tokenizer) + 3
    model = classifier("Llama", n_words, pad_token_id=n_words - 1)
    tokenizer.pad_token = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scorer = ClassifierScorer.load(
        str(tmp_path), where="judge", revision=None, device=torch.device("cpu"), name="s", label="hate",
        transform="margin",
    )  # fmt: skip
    assert scorer.model.config.pad_token_id == n_words - 1
    texts = TEXTS[:3]
    alone = margins_alone(model, [tokenizer(text)["input_ids"] for text in texts])
    early = margins_alone(model, [tokenizer(text)["input_ids"][:-1] for text in texts])
    assert scorer.score(texts, texts) == pytest.approx(alone, abs=1e-4)
    assert min(abs(a - b) for a, b in zip(alone, early, strict=True)) > 0.01


def test_a_text_that_uses_every_word_is_read_alone(classifier, margins_alone, make_tokenizer):
    """No word is left to pad with, and the model names none."""
    tokenizer = make_tokenizer(["a", "b"], unk_token="<unk>", eos_token="<eos>")
    model = classifier("Llama", len(tokenizer), pad_token_id=None)
    scorer = ClassifierScorer(model, tokenizer, name="s", label="hate", transform="margin")
    texts = ["a b c <eos>", "b"]
    alone = margins_alone(model, [tokenizer(text)["input_ids"] for text in texts])
    assert scorer.score(texts, texts) == pytest.approx(alone, abs=1e-4)


def test_a_token_without_an_embedding_leaves_a_text_unscored(classifier, make_tokenizer):
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    model = classifier("DistilBert", len(tokenizer), pad_token_id=0)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    scorer = ClassifierScorer(model, tokenizer, name="s", label="hate", transform="logit")
    known, unknown, _ = scorer.score([""] * 3, ["the dog", "the [PAD] dog", "you"])
    assert known is not None
    assert unknown is None


def test_an_empty_text_has_one_score_wherever_it_stands(classifier, make_tokenizer):
    """Without special tokens there is nothing to read, so the end-of-sequence token is."""
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    scorer = ClassifierScorer(
        classifier("GPT2", len(tokenizer), pad_token_id=None), tokenizer, name="s", label="hate", transform="margin"
    )
    [alone] = scorer.score(["p"], [""])
    for other in ("you", "the old man sleeps now", "a very very good bird sings now and the old man sleeps"):
        assert scorer.score(["p", "p"], ["", other])[0] == pytest.approx(alone, abs=1e-5)
    assert scorer.score(["p"], ["<eos>"])[0] == pytest.approx(alone, abs=1e-6)


def test_token_types_are_read_as_the_tokenizer_gives_them(classifier, make_tokenizer):
    """XLNet's tokenizer gives its last token a type of its own, and transformers hands types on to the model."""
    from tokenizers import processors

    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <eos>:2", special_tokens=[("<eos>", 1)]
    )
    model = classifier("Bert", len(tokenizer), pad_token_id=0, type_vocab_size=3)
    tokenizer.model_max_length = 6
    scorer = ClassifierScorer(
        model, tokenizer, name="s", label="hate", transform="margin", text="prompt_and_completion"
    )
    assert scorer.reader.read("the old man runs and", " sings").segments == (0, 0, 0, 0, 0, 2)
    texts = ["you are stupid", "you"]
    encoded = [tokenizer(text, return_tensors="pt") for text in texts]
    assert encoded[1]["token_type_ids"].tolist() == [[0, 2]]
    with torch.no_grad():
        alone = [model(**one).logits[0] for one in encoded]
    assert scorer.score([""] * 2, texts) == pytest.approx([(one[1] - one[0]).item() for one in alone], abs=1e-5)
    plain = Reader(classifier("DistilBert", len(tokenizer), pad_token_id=0), tokenizer, "completion")
    assert plain.read("", "you").segments == ()  # the model takes none


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_damaged_weights_are_told_from_outputs_that_change(classifier, make_tokenizer, weight):
    """NaN is no other output each time; whoever reads the scores says what may be the matter."""
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    model = classifier("GPT2", len(tokenizer), pad_token_id=0)
    torch.nn.init.constant_(model.score.weight, weight)
    scorer = ClassifierScorer(model, tokenizer, name="s", label="hate", transform="margin")
    with pytest.raises(ScorerError, match=r"expected a finite number; .* lower method\.learning_rate"):
        scorer.score([""] * 2, ["you", "the dog runs"])
