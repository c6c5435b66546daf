"""A pass that reads each prompt once gives the numbers of the one that reads all rows whole."""

import pytest
import torch

from alignbench.models import shared_prompts
from alignbench.models.forward import collate, completion_forward
from alignbench.models.shared_prompts import completion_logits

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


def tokens_read(model, batch, monkeypatch):
    read = []
    forward = type(model).forward

    def spied(self, *args, **options):
        read.append(options["input_ids"].numel())
        return forward(self, *args, **options)

    spied.__wrapped__ = forward
    monkeypatch.setattr(type(model), "forward", spied)
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
