"""A prompt and its completion, put together again, are the text that the policy's own tokens are."""

import pytest
import torch

from alignbench.models.chat import Chat
from alignbench.models.language_model import LanguageModel
from alignbench.records import Decoding, Prompt
from alignbench.scorers.base import read_text
from alignbench.scorers.reading import joint_of

TEXTS = ["the old man runs and sings .", "a dog's bone is the dog's", "unbelievable birds walking", "schöne Grüße"]
DECODING = Decoding(max_new_tokens=12)


def inner_tokenizer(kind):
    """The inside of a tokenizer as GPT-2's, Llama's, BERT's or T5's, learned from a few texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if kind == "wordpiece":
        pieces = [
            "<unk>",
            "</s>",
            "the",
            "old",
            "man",
            "run",
            "##s",
            "un",
            "##believ",
            "##able",
            ".",
            ",",
            "'",
            "s",
            "n",
        ]
        inner = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
        inner.normalizer = normalizers.BertNormalizer(lowercase=True)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
        return inner
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "byte-level":
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:  # SentencePiece
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "byte-level" else []
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, special_tokens=["<unk>", "</s>"], initial_alphabet=alphabet)
    )
    return inner


@pytest.fixture
def policy():
    """A small random policy that says anything, over a tokenizer of some kind."""

    def make(kind, *, encoder_decoder=False, chat=None):
        from tokenizers import processors
        from transformers import (
            GPT2Config,
            GPT2LMHeadModel,
            PreTrainedTokenizerFast,
            T5Config,
            T5ForConditionalGeneration,
        )

        inner = inner_tokenizer(kind)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
        torch.manual_seed(0)
        if encoder_decoder:
            inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
            model = T5ForConditionalGeneration(
                T5Config(
                    vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
                    decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
                )
            )  # fmt: skip
        else:
            model = GPT2LMHeadModel(
                GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=1)
            )
        return LanguageModel(model.eval(), tokenizer, "policy", chat)

    return make


def joined(policy, prompt, completion):
    return read_text(prompt.text, completion.text, "prompt_and_completion", joint_of(policy))


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "wordpiece"])
def test_a_completion_goes_on_with_its_prompt_as_its_tokens_do(policy, kind):
    """BERT's tokenizer writes the prompt otherwise than the user did; the user's way stays."""
    made = policy(kind)
    texts = ["the", "the old", "the old man .", "un", "the old 's"] + ["the ", "schöne"] * (kind != "wordpiece")
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(texts)]
    for completion in made.generate(prompts, DECODING, 8, ("join",)):
        prompt = prompts[int(completion.prompt_id[1:])]
        own = made.encode_prompt(prompt.text)
        before, whole = (
            made.tokenizer.decode(ids, skip_special_tokens=True) for ids in (own, [*own, *completion.token_ids])
        )
        assert kind == "wordpiece" or before == prompt.text
        assert joined(made, prompt, completion) == prompt.text + whole.removeprefix(before)


def test_a_word_that_goes_on_and_a_word_that_begins(policy):
    made = policy("sentencepiece")
    ids = made.tokenizer("the old men ran", add_special_tokens=False)["input_ids"]
    pieces = made.tokenizer.convert_ids_to_tokens(ids)
    assert len(ids) > 4
    for k in range(1, len(ids)):
        assert made.decode(ids[k:], ids[:k]).startswith(" ") == pieces[k].startswith("▁")
    made = policy("wordpiece")
    believe = made.tokenizer.convert_tokens_to_ids(["un", "##believ", "##able", "man"])
    assert made.decode(believe[1:], believe[:1]) == "believable man"


def test_where_the_tokenizer_tidies_up_the_join_a_completion_stands_alone(policy):
    """ "man '" and then "man's old": what the second is longer by is no text."""
    made = policy("wordpiece")
    made.tokenizer.clean_up_tokenization_spaces = True
    prompt, own = (made.tokenizer.convert_tokens_to_ids(tokens) for tokens in (["man", "'"], ["s", "old"]))
    assert not made.tokenizer.decode([*prompt, *own]).startswith(made.tokenizer.decode(prompt))
    assert made.decode(own, prompt) == "s old"


def test_what_a_decoder_writes_stands_behind_a_space(policy):
    made = policy("sentencepiece", encoder_decoder=True)
    assert joint_of(made) == " "
    prompt = Prompt("p", "the old man")
    for completion in made.generate([prompt], DECODING, 8, ("join",)):
        ids = [*made.encode_prompt(prompt.text), *completion.token_ids]
        if completion.text.strip() and made.tokenizer.convert_ids_to_tokens(completion.token_ids[0]).startswith("▁"):
            assert joined(made, prompt, completion) == made.tokenizer.decode(ids, skip_special_tokens=True)
        assert joined(made, prompt, completion).startswith("the old man ")


def test_an_answer_to_a_chat_turn_begins_a_line(policy):
    template = "{% for m in messages %}the {{ m['content'] }} and {% endfor %}"
    made = policy("byte-level", chat=Chat(template=template))
    assert joint_of(made) == "\n"
    prompt = Prompt("p", "old man")
    [completion] = made.generate([prompt], DECODING, 1, ("join",))
    found = joined(made, prompt, completion)
    assert found.startswith("old man")
    assert found[len("old man")].isspace()
