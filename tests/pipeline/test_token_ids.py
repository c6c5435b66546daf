"""A finished run is audited from the token ids that it has kept, by the models alone, without our evaluator."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import alignbench

EOS, N_EXACT = 1, 64
EVALUATIONS = Path("results/ppo/seed0/evaluations")


@torch.no_grad()
def distributions(model, prompt_ids, token_ids):
    """Log-probabilities of every word before each token: (len(token_ids), V), of one unpadded sequence, in float64."""
    logits = model(torch.tensor([[*prompt_ids, *token_ids]])).logits[0, len(prompt_ids) - 1 : -1]
    return logits.double().log_softmax(dim=-1).numpy()


def logprobs(model, prompt_ids, token_ids):
    return distributions(model, prompt_ids, token_ids)[np.arange(len(token_ids)), token_ids]


def perplexity(model, rows, prompt_ids):
    """exp of the mean over prompts of the mean over completions of the mean over tokens, the end's left out."""
    texts = [(row.prompt_id, row.token_ids[row.token_ids != EOS]) for row in rows.itertuples()]
    values = [(name, -logprobs(model, prompt_ids[name], ids).mean()) for name, ids in texts if len(ids)]
    return math.exp(pd.DataFrame(values).groupby(0)[1].mean().mean())


@pytest.fixture
def models(recipe_folder, finished, checkpoints):
    """The base and what PPO has made of it."""
    finished("ppo", sets=["evaluation.evaluate_every=32", "method.learning_rate=0.001"])
    return [AutoModelForCausalLM.from_pretrained(path).eval() for path in (checkpoints / "one_layer",
            "results/ppo/seed0/artifact")]  # fmt: skip


def test_perplexity_and_kl_of_a_finished_run_from_its_token_ids(models, checkpoints):
    base, trained = models
    metrics = alignbench.load_metrics("results").set_index("metric")["value"]
    texts, divergence = alignbench.load_completions("results"), alignbench.load_divergence("results")
    assert (len(texts), len(divergence)) == (12 * 4, 12)
    prompt_ids = divergence.set_index("prompt_id")["prompt_token_ids"]
    assert perplexity(base, texts, prompt_ids) == pytest.approx(metrics["perplexity"], rel=1e-5)
    for row in texts.head(20).itertuples():
        for model, kept in ((base, row.reference_logprob), (trained, row.logprob)):
            assert logprobs(model, prompt_ids[row.prompt_id], row.token_ids).sum() == pytest.approx(kept, rel=1e-4)

    k1, k3, exact = [], [], []
    for row in divergence.itertuples():
        own, other = (distributions(model, row.prompt_token_ids, row.token_ids) for model in (trained, base))
        difference = (own - other)[np.arange(len(row.token_ids)), row.token_ids]
        k1.append(difference.sum())
        k3.append((np.exp(-difference) - 1 + difference).sum())
        exact.append((np.exp(own) * (own - other)).sum())
    assert np.mean(k1) == pytest.approx(metrics["kl"], rel=1e-3, abs=1e-5)
    assert np.mean(k3) == pytest.approx(metrics["kl_k3"], rel=1e-3)
    assert np.mean(exact[:N_EXACT]) == pytest.approx(metrics["kl_exact"], rel=1e-3)
    assert metrics["kl_exact"] > 1e-4
    n_tokens = sum(map(len, divergence["token_ids"]))
    assert np.sum(k1) / n_tokens == pytest.approx(metrics["kl_per_token"], rel=1e-3, abs=1e-6)

    # Texts alone would not do: here a sampled `<unk>` leaves no trace in them.
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "one_layer")
    again = texts.assign(token_ids=[np.array(tokenizer(text)["input_ids"]) for text in texts["completion"]])
    differing = [list(a) != list(b[b != EOS]) for a, b in zip(again["token_ids"], texts["token_ids"], strict=True)]
    assert 0 < sum(differing) < len(texts)
    assert perplexity(base, again, prompt_ids) != pytest.approx(metrics["perplexity"], rel=1e-3)


def test_files_hold_what_was_sampled_and_read(models, checkpoints):
    """In final evaluations and along training; ends with the end's id where that was sampled."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "one_layer")
    folders = [file.parent for file in EVALUATIONS.rglob("metrics.json")]
    assert sorted(folder.name for folder in folders) == ["quickstart-v1.other-prompts", "step0", "step4"]
    for folder in folders:
        texts, divergence = (pd.read_parquet(folder / f"{name}.parquet") for name in ("completions", "divergence"))
        assert list(divergence["prompt_id"]) == list(texts["prompt_id"].unique())
        prompts = texts.groupby("prompt_id")["prompt"].first()
        for row in divergence.itertuples():
            assert list(row.prompt_token_ids) == tokenizer(prompts[row.prompt_id])["input_ids"]
        for row in [*texts.itertuples(), *divergence.itertuples()]:
            assert row.token_ids.dtype == np.int32
            assert (row.token_ids[-1] == EOS) == (row.finish_reason == "eos")
            assert tokenizer.decode(row.token_ids, skip_special_tokens=True).strip() == row.completion.strip()
        ends = texts["finish_reason"] == "eos"
        assert list(texts["token_ids"].map(len) - ends) == list(texts["n_tokens"])
        assert divergence["token_ids"].map(len).max() <= 8
