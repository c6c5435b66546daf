"""SFT: the loss is that of the completions alone, whatever a pass holds and whatever the architecture."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from alignbench.errors import ModelError
from alignbench.methods.base import TrainData
from alignbench.methods.sft import SFT
from alignbench.methods.trl.arguments import trl_config
from alignbench.methods.trl.imitation import PackedTexts, PaddedTexts, check_packing, imitation_rows
from alignbench.models import output_layer
from alignbench.models.adapters import Lora
from alignbench.models.language_model import LanguageModel
from alignbench.records import Completion, Demonstration, Prompt

METHOD = SFT(learning_rate=1e-2, batch_size=5)
TEXTS = [("the dog", "runs now"), ("a cat", "sings"), ("one red bird sings", "and two old dogs"), ("you are", "kind"),
         ("the man", "sleeps now and")]  # fmt: skip


def policy_of(family, name):
    model, tokenizer = family(name)
    return LanguageModel(model.eval(), tokenizer, name)


def demonstrations_of(policy):
    """Completions of different lengths; all but the first end with the token that says so."""
    shown = []
    for i, (prompt, text) in enumerate(TEXTS):
        ids = (*policy.text_tokenizer.encode(text), *([policy.eos_id] if i else []))
        shown.append(
            Demonstration(Prompt(f"p{i}", prompt), Completion(f"p{i}", 0, text, ids, "eos" if i else "length"))
        )
    return shown


def oracle(policy, shown):
    """The mean of -log p over all tokens of the completions, each text alone in float64, and the model it is of."""
    model = copy.deepcopy(policy.model).double()
    nll, n_tokens = 0.0, 0
    for one in shown:
        prompt, completion = torch.tensor([policy.encode_prompt(one.prompt)]), torch.tensor(one.completion.token_ids)
        if policy.is_encoder_decoder:
            start = torch.tensor([[model.config.decoder_start_token_id, *completion[:-1].tolist()]])
            logits = model(input_ids=prompt, decoder_input_ids=start).logits[0]
        else:
            text = torch.cat((prompt, completion[None]), dim=1)
            logits = model(input_ids=text).logits[0, prompt.shape[1] - 1 : -1]
        nll = nll - logits.log_softmax(dim=-1)[torch.arange(len(completion)), completion].sum()
        n_tokens += len(completion)
    return nll / n_tokens, model


def test_a_policy_that_finds_all_words_alike_has_the_logarithm_of_their_number(family, run_context):
    policy = policy_of(family, "gpt2")
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.zero_()
    run, log = run_context(policy)
    METHOD.train(TrainData([], [], demonstrations=demonstrations_of(policy)), run)
    n_words = policy.model.config.vocab_size
    assert log[1]["policy/loss"] == pytest.approx(math.log(n_words), abs=1e-5)


APART, PACKED = {"micro_batch_size": 1}, {"packing": True}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, settings) for name in ("gpt2", "gpt_neo", "llama") for settings in ({}, APART, PACKED)),
        *(("t5", settings) for settings in ({}, APART)),
        ("bart", {}),  # adds to its logits, so that they are taken as they are
    ],
)
def test_loss_and_gradient_against_the_formula(family, run_context, name, settings):
    """The gradient by its norm and by Adam's first step, which goes a learning rate against its sign."""
    policy = policy_of(family, name)
    before, shown = copy.deepcopy(policy.model), demonstrations_of(policy)
    loss, double = oracle(policy, shown)
    loss.backward()
    run, log = run_context(policy)
    replace(METHOD, **settings).train(TrainData([], [], demonstrations=shown), run)

    assert log[1]["policy/loss"] == pytest.approx(loss.item(), rel=1e-5)
    gradients = {key: p.grad for key, p in double.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
    assert log[1]["policy/gradient_norm"] == pytest.approx(norm, rel=1e-4)
    was = dict(before.named_parameters())
    for key, now in policy.model.named_parameters():
        gradient = gradients[key]
        clear = gradient.abs() > 1e-4
        moved = (now - was[key]).detach().double()
        torch.testing.assert_close(moved[clear], -1e-2 * gradient[clear].sign(), rtol=2e-2, atol=1e-6)
    n_tokens = sum(len(one.completion.token_ids) for one in shown)
    assert run.cost.trained_tokens == n_tokens
    assert run.cost.optimizer_steps == 1


def test_the_loss_is_that_of_trl(family, run_context, tmp_path):
    """A change of TRL that changes its objective is seen here."""
    policy, other = policy_of(family, "llama"), policy_of(family, "llama")
    shown = demonstrations_of(policy)
    run, log = run_context(policy)
    METHOD.train(TrainData([], [], demonstrations=shown), run)
    trainer = SFTTrainer(
        model=other.model,
        args=trl_config(SFTConfig, METHOD, tmp_path / "trl", seed=0, on_cpu=True, save_strategy="no"),
        train_dataset=Dataset.from_list(imitation_rows(shown, other)),
        data_collator=PaddedTexts(other.pad_id),
        processing_class=other.tokenizer,
    )
    trainer.train()
    (theirs,) = (row for row in trainer.state.log_history if "loss" in row)
    assert log[1]["policy/loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert log[1]["policy/gradient_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_logits_that_would_fill_the_memory_are_not_made(family, run_context, tmp_path, monkeypatch):
    """Under a frozen output layer log-probabilities come from its input, a block of words at a time."""
    logs = []
    for most in (output_layer.MOST_BYTES, 0):
        monkeypatch.setattr(output_layer, "MOST_BYTES", most)
        policy = policy_of(family, "llama")
        run, log = run_context(policy, lora=Lora(r=4), checkpoints=tmp_path / str(most))
        shown = demonstrations_of(policy)
        replace(METHOD, batch_size=5, epochs=3).train(TrainData([], [], demonstrations=shown), run)
        logs.append(log)
    for step in (1, 2, 3):
        assert logs[1][step] == pytest.approx(logs[0][step], rel=1e-4)


@pytest.mark.parametrize(("name", "cuts"), [("gpt2", ({}, APART, PACKED)), ("t5", ({}, APART))])
def test_what_a_pass_holds_changes_no_cost(family, run_context, tmp_path, name, cuts):
    """Nor does it matter to an encoder-decoder model that a prompt is as long as its completion."""
    costs = []
    for number, settings in enumerate(cuts):
        policy = policy_of(family, name)
        run, _ = run_context(policy, checkpoints=tmp_path / str(number))
        replace(METHOD, **settings).train(TrainData([], [], demonstrations=demonstrations_of(policy)), run)
        costs.append(run.cost.counts())
    assert all(cost == costs[0] for cost in costs)


@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_training_makes_demonstrations_likelier(family, run_context, name, lora):
    policy = policy_of(family, name)
    shown = demonstrations_of(policy)
    was, _ = oracle(policy, shown)
    run, log = run_context(policy, lora=lora)
    trained = replace(METHOD, batch_size=2, epochs=4).train(TrainData([], [], demonstrations=shown), run)
    assert trained.has_adapter is (lora is not None)
    now = trained.token_logprobs([one.prompt for one in shown], [one.completion for one in shown])
    assert -torch.cat(now).mean().item() < was.item() - (0.02 if lora else 0.3)
    assert max(log) == 12


@pytest.mark.parametrize("name", ["opt", "bloom", "t5"])
def test_families_in_which_a_text_would_see_the_one_before_are_not_packed(family, run_context, name):
    policy = policy_of(family, name)
    run, _ = run_context(policy)
    with pytest.raises(ModelError, match=rf"{name}.* cannot be packed: .*set method.packing to false"):
        replace(METHOD, packing=True).train(TrainData([], [], demonstrations=demonstrations_of(policy)), run)


def test_the_check_of_packing_sees_a_model_that_heeds_positions_and_not_the_texts(family, monkeypatch):
    """One whose attention crosses the border: by tokens of the text before, though positions are right."""
    policy = policy_of(family, "gpt2")
    rows = imitation_rows(demonstrations_of(policy), policy)
    check_packing(policy, rows)
    forward = policy.model.forward

    def leaky(input_ids, position_ids, **options):
        mask = torch.ones_like(input_ids)  # a mask of one's own: transformers then looks for no borders
        return forward(input_ids=input_ids, position_ids=position_ids, attention_mask=mask, **options)

    monkeypatch.setattr(policy.model, "forward", leaky)
    with pytest.raises(ModelError, match="log-probabilities of a text move by"):
        check_packing(policy, rows)


def test_batches_by_hand():
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    padded = PaddedTexts(pad_id=0)(rows)
    assert padded["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded["labels"].tolist() == [[-100, 6, 7], [8, 9, -100]]
    packed = PackedTexts()(rows)
    assert packed["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert packed["labels"].tolist() == [[-100, 6, 7, -100, 9]]
