"""A pass that reads each prompt, or a common beginning, once gives the numbers of the one that reads all rows whole."""

import pytest
import torch

from alignbench.models import shared_prompts
from alignbench.models.forward import collate, completion_forward
from alignbench.models.shared_prompts import completion_logits, next_logits

CAUSAL = ("gpt2", "gpt_neo", "gptj", "opt", "opt_350m", "bloom", "llama", "mistral", "qwen2", "qwen3", "pythia")
PROMPTS = [[5, 6, 7, 8, 9, 4], [3], [5, 6], [1, 3]]
"""The second and the fourth look the same where padding is the token 1."""


def batch_of(owners, completions, **options):
    return collate([PROMPTS[i] for i in owners], completions, 1, torch.device("cpu"), **options)


@pytest.mark.parametrize("name", CAUSAL)
def test_numbers_are_those_of_whole_rows(name, family, monkeypatch):
    model, _ = family(name)
    owners = [0, 0, 1, 1, 2, 2, 3, 3, 0]
    completions = [[4, 5, 6], [7], [8, 9, 10, 11, 12], [3, 3], [6, 5, 4], [1], [9, 9, 9], [2, 4], [12, 3, 5, 7]]
    batch = batch_of(owners, completions)
    with torch.no_grad():
        expected, _ = completion_forward(model, batch)
        monkeypatch.setattr(shared_prompts, "completion_forward", None)
        found = completion_logits(model, batch)
    real = batch.completion_mask
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)


def tokens_spied(model, monkeypatch):
    """The tokens of every pass from now on."""
    read = []
    forward = type(model).forward

    def spied(self, *args, **options):
        read.append(options["input_ids"].numel())
        return forward(self, *args, **options)

    spied.__wrapped__ = forward
    monkeypatch.setattr(type(model), "forward", spied)
    return read


def tokens_read(model, batch, monkeypatch):
    read = tokens_spied(model, monkeypatch)
    with torch.no_grad():
        completion_logits(model, batch)
    return read


def test_each_prompt_is_read_once(family, monkeypatch):
    model, _ = family("llama")
    assert tokens_read(model, batch_of([0, 0, 0, 2, 2, 2], [[4, 5, 6]] * 6), monkeypatch) == [2 * 6, 6 * 2]


@pytest.mark.parametrize(
    ("owners", "n_tokens"), [([0, 1, 2], 3), ([0, 0, 0], 1)], ids=["prompts of their own", "one token each"]
)
def test_where_nothing_is_gained_rows_are_read_whole(owners, n_tokens, family, monkeypatch):
    model, _ = family("llama")
    batch = batch_of(owners, [[4] * n_tokens] * 3)
    assert tokens_read(model, batch, monkeypatch) == [3 * (6 + n_tokens - 1)]


def test_an_encoder_reads_every_row(family):
    model, _ = family("t5")
    batch = batch_of([0, 0, 0, 0], [[4, 5]] * 4, for_encoder=True)
    with torch.no_grad():
        torch.testing.assert_close(completion_logits(model, batch), completion_forward(model, batch)[0])


BEGINNING = [5, 6, 7, 8, 9, 4, 3, 11, 12, 10]
TEXTS = [[*BEGINNING, *rest] for rest in ([4, 5, 6], [7], [8, 9, 6], [3, 3], [4, 5, 6])]


def by_themselves(model, texts):
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in texts])


@pytest.mark.parametrize("name", CAUSAL)
def test_the_next_token_after_a_beginning_that_is_read_once(name, family, monkeypatch):
    model, _ = family(name)
    expected = by_themselves(model, TEXTS)
    monkeypatch.setattr(shared_prompts, "completion_forward", None)
    with torch.no_grad():
        found = next_logits(model, TEXTS, 1, torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_beginning_longer_than_a_layer_sees():
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4}
    layers = {"layer_types": ["sliding_attention", "full_attention"]}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3_text", **sizes, **heads, **layers)).eval()
    with torch.no_grad():
        found = next_logits(model, TEXTS, 1, torch.device("cpu"))
    torch.testing.assert_close(found, by_themselves(model, TEXTS), rtol=1e-5, atol=1e-5)


def test_a_beginning_is_read_once_and_texts_that_share_little_are_read_whole(family, monkeypatch):
    model, _ = family("llama")
    read = tokens_spied(model, monkeypatch)
    for texts in (TEXTS, [[5, 6, 7], [5, 8, 9]], TEXTS[:1]):
        with torch.no_grad():
            next_logits(model, texts, 1, torch.device("cpu"))
    assert sorted(read[:4]) == [1, 2, 9, 10]  # the beginning, and of texts of three lengths what follows it
    assert read[4:] == [6, 13]


def test_what_an_encoder_reads_is_read_whole(family):
    model, _ = family("t5")
    with torch.no_grad():
        found = next_logits(model, TEXTS, 0, torch.device("cpu"))
        each = [next_logits(model, [text], 0, torch.device("cpu"))[0] for text in TEXTS]
    torch.testing.assert_close(found, torch.stack(each))
