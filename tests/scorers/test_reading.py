"""What a classifier reads: the completion whole or not at all, of the prompt what there is room for on its right."""

import pytest

from alignbench.errors import ModelError
from alignbench.scorers.base import read_text
from alignbench.scorers.reading import Reader, longest_input
from alignbench.scorers.text_classifier import ClassifierScorer

PROMPT = " ".join(["the", "old", "man", "runs", "and", "two", "dogs"] * 20)
POLITE, RUDE = " you are very kind", " you are very rude"


def byte_pairs(texts, **special):
    """A byte-level BPE tokenizer like RoBERTa's, learned from a few texts: many words are several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    inner.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", **special)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_pairs([PROMPT, POLITE, RUDE])


@pytest.fixture
def scorer(classifier, tokenizer):
    """A classifier of 64 positions, made anew for a window."""

    def make(window="prompt_and_completion", **options):
        model = classifier("Bert", len(tokenizer), pad_token_id=0)
        return ClassifierScorer(model, tokenizer, name="s", label="hate", transform="margin", text=window, **options)

    return make


def test_the_prompt_gives_way_on_its_left_token_by_token(scorer, tokenizer):
    reading = scorer().reader.read(PROMPT, POLITE)
    tokenizer.truncation_side = "left"
    assert list(reading.ids) == tokenizer(PROMPT + POLITE, truncation=True, max_length=64)["input_ids"]
    assert (len(reading.ids), reading.is_cut) == (64, True)
    assert tokenizer.convert_ids_to_tokens([reading.ids[0], reading.ids[-1]]) == ["<s>", "</s>"]
    assert tokenizer.decode(reading.ids, skip_special_tokens=True).endswith("two dogs you are very kind")


def test_completions_behind_a_long_prompt_are_told_apart(scorer):
    made = scorer()
    polite, rude = made.score([PROMPT] * 2, [POLITE, RUDE])
    assert abs(polite - rude) > 0.01
    assert made.cut_prompts([PROMPT, "the man"], [POLITE, POLITE]) == [True, False]
    assert scorer("completion").cut_prompts([PROMPT], [POLITE]) == [False]


@pytest.mark.parametrize("window", ["completion", "prompt_and_completion"])
def test_a_text_of_any_length_is_read_whole_or_not_at_all(scorer, tokenizer, window):
    made = scorer(window)
    for n_words in range(0, 40, 3):
        for n_prompt in (0, 1, 30, 200):
            prompt, completion = " the" * n_prompt, " man" * n_words
            reading = made.reader.read(prompt, completion)
            own = tokenizer(completion, add_special_tokens=False)["input_ids"]
            if len(own) + 2 > 64:
                assert reading is None
                assert made.score([prompt], [completion]) == [None]
                continue
            assert len(reading.ids) <= 64
            assert list(reading.ids[-1 - len(own) : -1]) == own
            n_whole = len(tokenizer(prompt + completion if window != "completion" else completion)["input_ids"])
            assert reading.is_cut == (n_whole > 64)
            assert made.score([prompt], [completion])[0] is not None


def test_a_token_across_the_join_stays(classifier, make_tokenizer):
    """WordPiece-like trouble: prompt and completion meet inside one token, which is part of the completion."""
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    tokenizer.model_max_length = 3
    reader = Reader(classifier("Bert", len(tokenizer), pad_token_id=0), tokenizer, "prompt_and_completion")
    assert tokenizer.convert_ids_to_tokens(reader.read("the old ru", "ns and").ids) == ["old", "runs", "and"]
    assert reader.read("the ru", "ns and sings now") is None


def test_a_tokenizer_that_knows_no_offsets(classifier):
    """ByT5's is written in Python: bytes and an end."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(model_max_length=12)
    reader = Reader(classifier("Bert", len(tokenizer), pad_token_id=0), tokenizer, "prompt_and_completion")
    assert not tokenizer.is_fast
    assert tokenizer.decode(reader.read("abcdefghijk", "klmno").ids) == "efghijkklmno</s>"[1:]
    assert reader.read("abcdefghijk", "klmnopqrstuv") is None
    assert reader.read("", "klmno").is_cut is False


def test_settings_of_truncation_and_padding_in_the_file_are_not_followed(scorer, tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    reading = scorer().reader.read("the old man", POLITE)
    assert tokenizer.decode(reading.ids) == "<s>the old man you are very kind</s>"


TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}</s>{% endfor %}"


@pytest.fixture
def chat(classifier):
    def make(template=TEMPLATE, limit=64):
        tokenizer = byte_pairs([PROMPT, POLITE, RUDE, "<|user|><|assistant|>"], model_max_length=limit)
        tokenizer.chat_template = template
        return tokenizer, Reader(classifier("Bert", len(tokenizer)), tokenizer, "chat", where="judge")

    return make


def test_turns_of_a_chat_are_written_by_the_classifiers_own_template(chat):
    tokenizer, reader = chat()
    reading = reader.read("the old man ", " you are very kind")
    assert reading.text == "<|user|>the old man</s><|assistant|>you are very kind</s>"
    turns = [{"role": "user", "content": "the old man "}, {"role": "assistant", "content": " you are very kind"}]
    assert list(reading.ids) == tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"]
    assert reading.is_cut is False


def test_of_a_long_turn_the_beginning_is_cut_and_the_template_stays(chat):
    tokenizer, reader = chat()
    reading = reader.read(PROMPT, "you are very kind")
    text = tokenizer.decode(reading.ids)
    assert (len(reading.ids), reading.is_cut) == (64, True)
    assert text.startswith("<|user|>")
    assert text.endswith("two dogs</s><|assistant|>you are very kind</s>")
    assert reader.read(PROMPT, "you are very kind " * 20) is None


def test_chat_needs_a_template_that_renders_both_turns(chat):
    with pytest.raises(ModelError, match=r"^judge\.text: got chat, and .* has no chat template; expected"):
        chat(template=None)
    with pytest.raises(ModelError, match=r"^judge\.text: the chat template cannot render .*no assistant"):
        chat(template="{{ raise_exception('no assistant') }}")[1].read("the", "man")


@pytest.mark.parametrize(
    ("family", "config", "limit"),
    [
        ("Bert", {}, 64),
        ("DistilBert", {}, 64),
        ("Roberta", {"pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("Roberta", {"pad_token_id": 0, "max_position_embeddings": 66}, 65),
        ("MPNet", {"pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("GPT2", {}, 64),
        ("OPT", {}, 64),
        ("Llama", {}, 64),
        ("BigBird", {}, 28),
        ("BigBird", {"attention_type": "original_full"}, 64),
        ("Bart", {"pad_token_id": 1}, 64),
        ("T5", {"pad_token_id": 0}, int(1e30)),
        ("XLNet", {}, int(1e30)),
        ("Bloom", {}, int(1e30)),
        ("DebertaV2", {}, int(1e30)),
        ("DebertaV2", {"position_biased_input": True}, 64),
    ],
)
def test_the_longest_input_of_a_family(classifier, make_tokenizer, family, config, limit):
    """Its tokenizer names no length: the number of transformers for that is 1e30."""
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    tokenizer.model_max_length = int(1e30)
    model = classifier(family, len(tokenizer), **config)
    assert longest_input(model, tokenizer) == limit
    tokenizer.model_max_length = 20
    assert longest_input(model, tokenizer) == 20


@pytest.mark.parametrize("family", ["Bert", "BigBird", "Roberta", "GPT2", "OPT", "DebertaV2", "XLNet"])
def test_the_longest_input_can_be_read(classifier, make_tokenizer, family):
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    tokenizer.model_max_length = 100
    model = classifier(family, len(tokenizer))
    scorer = ClassifierScorer(model, tokenizer, name="s", label="hate", transform="margin")
    n = min(100, scorer.reader.limit)
    texts = ["the " * (n - 1) + "<eos>", "you <eos>", "the " * n + "<eos>"]
    longest, short, beyond = scorer.score([""] * 3, texts)
    assert None not in (longest, short)
    assert beyond is None


@pytest.mark.parametrize(
    ("prompt", "completion", "joint", "text"),
    [
        ("unbeliev", "able", "", "unbelievable"),
        ("a man", " runs", "", "a man runs"),
        ("a man", "he runs", "\n", "a man\nhe runs"),
        ("a man\n", "he runs", "\n", "a man\nhe runs"),
        ("a man", " he runs", "\n", "a man he runs"),
        ("ein Mann", "a man", " ", "ein Mann a man"),
        ("a man", "", "\n", "a man\n"),
    ],
)
def test_prompt_and_completion_as_one_text(prompt, completion, joint, text):
    assert read_text(prompt, completion, "prompt_and_completion", joint) == text
    assert read_text(prompt, completion, "completion", joint) == completion
