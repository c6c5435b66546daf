"""GPT-Neo's attention of our own: the numbers and gradients of that of transformers."""

import torch
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from alignbench.models.fast.gpt_neo_attention import GPTNeoAttention
from alignbench.models.language_model import LanguageModel


def test_a_policy_has_it(family):
    model, tokenizer = family("gpt_neo")
    LanguageModel(model, tokenizer, "gpt_neo")
    assert sum(isinstance(module, GPTNeoAttention) for module in model.modules()) == 2


def test_the_same_numbers_and_gradients(family):
    """In both kinds of layers, beyond the window of 4, with padding, with and without a cache."""
    outcomes = []
    for kind in (GPTNeoSelfAttention, GPTNeoAttention):
        model, _ = family("gpt_neo")
        for module in model.modules():
            if isinstance(module, GPTNeoSelfAttention):
                module.__class__ = kind
        tokens, mask = torch.arange(3, 23).view(2, 10), torch.ones((2, 10), dtype=torch.long)
        mask[0, :3] = 0
        logits = model(tokens, attention_mask=mask).logits
        logits[:, 3:].square().sum().backward()
        first = model(tokens[:, :9], attention_mask=mask[:, :9], use_cache=True)
        last = model(tokens[:, 9:], attention_mask=mask, past_key_values=first.past_key_values).logits
        outcomes.append((logits[:, 3:], last, *(parameter.grad for parameter in model.parameters())))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_single_token_without_gradients(family):
    """What decoding reads: the numbers are those of the whole pass, within the window of 4 and beyond it."""
    model, _ = family("gpt_neo")
    LanguageModel(model.eval(), None, "gpt_neo")
    tokens, mask = torch.arange(3, 23).view(2, 10), torch.ones((2, 10), dtype=torch.long)
    mask[0, :2] = 0
    for n_before in (2, 3, 4, 9):
        read = slice(0, n_before + 1)
        with torch.no_grad():
            whole = model(tokens[:, read], attention_mask=mask[:, read], output_attentions=True)
            first = model(tokens[:, :n_before], attention_mask=mask[:, :n_before], use_cache=True)
            step = model(
                tokens[:, n_before : n_before + 1],
                attention_mask=mask[:, read],
                past_key_values=first.past_key_values,
                output_attentions=n_before == 9,
            )
        torch.testing.assert_close(step.logits[:, -1], whole.logits[:, -1], rtol=1e-5, atol=1e-5)
    for one, other in zip(step.attentions, whole.attentions, strict=True):
        torch.testing.assert_close(one[:, :, -1], other[:, :, -1])
