"""A policy beside a reference of another tokenizer, on words whose ids can be counted out."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from alignbench.models.foreign_tokens import fitted, retold
from alignbench.models.language_model import LanguageModel
from alignbench.records import Completion, Decoding, Prompt

WORDS = ("the", "dog", "runs", "now", "good")


@pytest.fixture
def model(make_tokenizer):
    """Makes a small model over some words: 0 <unk>, 1 <eos>, 2 the, and so on; `more` rows stand for no token."""

    def make(words=WORDS, more=0, eos=1, n_positions=16, **special):
        torch.manual_seed(0)
        tokenizer = make_tokenizer(words, unk_token="<unk>", eos_token="<eos>")
        tokenizer.add_special_tokens(special)
        config = GPT2Config(
            vocab_size=len(tokenizer) + more, n_embd=8, n_layer=1, n_head=1, n_positions=n_positions, eos_token_id=eos
        )
        return LanguageModel(GPT2LMHeadModel(config), tokenizer, "m")

    return make


def test_the_same_tokens(model):
    policy = model()
    before = policy.model.get_input_embeddings().weight
    assert fitted(policy, model()) == "same"
    assert policy.model.get_input_embeddings().weight is before


def test_what_a_policy_has_more_is_left_out(model, caplog):
    policy, reference = model(pad_token="<pad>", more=3), model()
    prompt = Prompt("p", "the dog")
    expected = policy.next_token_logprobs([prompt], [Completion("p", 0, "", (2, 3), "length")])[0][:, :7]
    assert fitted(policy, reference) == "same"
    assert "answers without tokens that m lacks: <pad>" in caplog.text
    got = policy.next_token_logprobs([prompt], [Completion("p", 0, "", (2, 3), "length")])[0]
    # Of the words that both have each is as likely as before, beside the others.
    torch.testing.assert_close(got, expected - expected.logsumexp(-1, keepdim=True), rtol=1e-5, atol=1e-5)
    drawn = policy.generate([prompt], Decoding(8), 50, (0,))
    assert max(token for one in drawn for token in one.token_ids) < 7


def test_rows_of_the_reference_that_stand_for_nothing_leave_no_common_distribution(model):
    assert fitted(model(), model(more=3)) == "same but padding"


@pytest.mark.parametrize(
    ("words", "special", "eos"),
    [(WORDS[::-1], {}, 1), (WORDS[:3], {}, 1), (WORDS, {"pad_token": "<end>"}, [1, 7])],
    ids=["other order", "fewer words", "an end of its own"],
)
def test_other_tokens(model, words, special, eos, caplog):
    assert fitted(model(words, eos=eos, **special), model()) == "other"
    assert "KL and neutral perplexity are withheld" in caplog.text


@pytest.mark.parametrize(
    ("finish", "most", "text", "ids", "ended"),
    [
        ("eos", None, "dog runs now", (3, 4, 5, 1), "eos"),
        ("length", None, "dog runs now", (3, 4, 5), "length"),
        ("eos", 2, "dog runs", (3, 4), "length"),
        ("eos", 3, "dog runs now", (3, 4, 5, 1), "eos"),
    ],
)
def test_a_text_is_told_in_the_readers_tokens(model, finish, most, text, ids, ended):
    completion = Completion("p", 0, "dog runs now", (9, 9), finish)
    got = retold(model(), Prompt("p", "the"), completion, most)
    assert (got.text.strip(), got.token_ids, got.finish_reason) == (text, ids, ended)


def test_no_more_is_told_than_the_reader_has_room_for(model):
    reader = model(n_positions=4)
    got = retold(reader, Prompt("p", "the dog"), Completion("p", 0, "runs now good", (), "eos"))
    assert (got.token_ids, got.finish_reason) == ((4, 5), "length")
    assert len(reader.token_logprobs([Prompt("p", "the dog")], [got])[0]) == 2
