"""What TRL's trainers read of completions, at the positions of their tokens alone: equal numbers, fewer products."""

import copy

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from alignbench.methods.trl import scoring
from alignbench.methods.trl.scoring import IGNORED, score_completions_alone
from alignbench.models import output_layer
from alignbench.models.adapters import Lora
from alignbench.models.forward import base_model

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def labelled_batch(policy):
    """Three texts of 9 tokens, padded on the right; completions of 4, 1 and 6 tokens have labels."""
    torch.manual_seed(0)
    ids = torch.randint(4, policy.model.config.vocab_size, (3, 9))
    labels = torch.full_like(ids, IGNORED)
    mask = torch.ones_like(ids)
    for row, (start, end) in enumerate([(5, 9), (3, 4), (2, 8)]):
        labels[row, start:end] = ids[row, start:end]
        mask[row, end:] = 0
    return {"input_ids": ids, "attention_mask": mask}, labels


@pytest.mark.parametrize("most_bytes", [output_layer.MOST_BYTES, 1], ids=["small", "large"])
@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["full", "lora"])
def test_log_probabilities_and_gradients_are_those_of_trl(tiny_policy, monkeypatch, lora, most_bytes):
    """Also where the output layer takes a gradient of large logits, which TRL's own pieces are for."""
    monkeypatch.setattr(output_layer, "MOST_BYTES", most_bytes)
    policy = tiny_policy()
    if lora:
        policy.add_adapter(lora)
        with torch.no_grad():
            for name, one in policy.model.named_parameters():
                if "lora_B" in name:
                    one.normal_(std=0.1)
    read, labels = labelled_batch(policy)
    found = {}
    n_positions, make = [], scoring.States
    monkeypatch.setattr(
        scoring, "States", lambda values, layer: n_positions.append(values.shape[1]) or make(values, layer)
    )
    for name in ("theirs", "ours"):
        model = copy.deepcopy(policy.model)
        add_fused_lm_head(base_model(model), outputs=OUTPUTS)
        if name == "ours":
            score_completions_alone(model)
        logprobs = model(**read, use_cache=False, labels=labels, fused_lm_head=True).log_probs
        (logprobs * torch.arange(1.0, 9.0)).sum().backward()
        found[name] = logprobs, {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found["ours"][0], found["theirs"][0], rtol=1e-5, atol=1e-5)
    assert found["ours"][1].keys() == found["theirs"][1].keys()
    for key, gradient in found["ours"][1].items():
        torch.testing.assert_close(gradient, found["theirs"][1][key], rtol=1e-4, atol=1e-5, msg=key)
    is_left_to_trl = lora is None and most_bytes == 1
    assert n_positions == ([] if is_left_to_trl else [11]), "4 + 1 + 6 completion tokens, of 27"


def test_a_pass_without_labels_gives_the_logits(tiny_policy):
    model = tiny_policy().model
    read, _ = labelled_batch(tiny_policy())
    expected = model(**read).logits
    add_fused_lm_head(model)
    score_completions_alone(model)
    once = model.forward
    score_completions_alone(model)
    assert model.forward is once
    assert torch.equal(model(**read).logits, expected)


def test_an_output_layer_that_must_be_run_as_it_is_stays_with_trl(tiny_policy):
    model = tiny_policy().model
    add_fused_lm_head(model)
    theirs = model.forward
    model.get_output_embeddings().register_forward_hook(lambda *seen: None)
    score_completions_alone(model)
    assert model.forward == theirs


def test_a_loss_of_the_router_is_left_to_trl(tiny_policy):
    """A mixture of experts has one beside its log-probabilities."""
    model, asked = tiny_policy().model, []
    plain = model.forward

    def theirs(*args, output_router_logits=False, **options):
        return asked.append(options) if output_router_logits else plain(*args, **options)

    model.forward = theirs
    score_completions_alone(model)
    read, labels = labelled_batch(tiny_policy())
    assert model(**read, labels=labels, fused_lm_head=True, output_router_logits=True) is None
    assert asked[0]["fused_lm_head"]
    assert asked[0]["labels"] is labels
    assert model(**read, labels=labels, fused_lm_head=True).log_probs.shape == (3, 8)
