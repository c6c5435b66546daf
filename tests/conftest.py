"""Fixtures shared by all tests: small random models made on the spot, one torch thread."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["ALIGNBENCH_KERNELS"] = "linear"  # no number depends on what is fastest here

import pytest
from fixtures.read_once import read_once

pytest_plugins = (
    *("fixtures.families", "fixtures.made_once", "fixtures.packages", "fixtures.processes", "fixtures.stored_runs"),
)

WORDS = (
    *("the", "a", "one", "two", "dog", "dogs", "cat", "bird", "man", "woman", "runs", "sings", "sleeps", "old", "red"),
    *("now", "good", "bad", "kind", "rude", "you", "are", "stupid", "nice", "very", "and"),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage():
    """What is imported by now is left out of garbage collections, which TRL's trainers ask for in every run."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def take_kernel(monkeypatch):
    """Makes one kernel multiply all products of at least `smallest` multiplications."""
    from alignbench.models.fast import layers

    with pytest.MonkeyPatch.context() as patch:

        def take(kernel, smallest=0):
            patch.setenv("ALIGNBENCH_KERNELS", kernel)
            monkeypatch.setattr(layers, "SMALLEST", smallest)
            layers.choice.begin()

        yield take
    layers.choice.begin()


class Clock:
    """Stands still until it is turned."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.cpu

    def wait(self, seconds):
        self.wall += seconds

    def work(self, seconds):
        self.wall += seconds
        self.cpu += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock by which costs are measured, turned by the test alone: how fast or busy the machine is counts not."""
    from alignbench.runtime import clock as clock_module

    clock = Clock()
    monkeypatch.setattr(clock_module, "time", clock)
    return clock


def word_tokenizer(words=WORDS, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)


@pytest.fixture(scope="session")
def make_tokenizer():
    """Makes a tokenizer over the 26 words with special tokens of one's own in front: `word_tokenizer`."""
    return word_tokenizer


@pytest.fixture(scope="session")
def checkpoints(made_once):
    """Directories of small random checkpoints: `policy` (GPT-Neo), `classifier` (RoBERTa), `judge` (DistilBERT).

    `one_layer` is a policy for whole runs, of which most of the time is passes of the policy, token by token.
    """
    from alignbench.embedded.world import SHIPPED

    root = made_once("checkpoints", save_checkpoints)
    with pytest.MonkeyPatch.context() as patch:
        read_once((root, SHIPPED), patch)
        yield root


def save_checkpoints(root):
    """Makes what `checkpoints` gives."""
    import torch
    from transformers import (
        DistilBertConfig,
        DistilBertForSequenceClassification,
        GPTNeoConfig,
        GPTNeoForCausalLM,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    policy_tokenizer = word_tokenizer(unk_token="<unk>", eos_token="<eos>")
    classifier_tokenizer = word_tokenizer(
        sorted(WORDS), bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    judge_tokenizer = word_tokenizer(
        WORDS[::-1], pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "max_position_embeddings": 64}
    neo = {"vocab_size": len(policy_tokenizer), "num_heads": 2, "bos_token_id": 1, "eos_token_id": 1, "window_size": 8}
    policy = GPTNeoForCausalLM(GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]], **neo, **shape))
    classifier = RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=len(classifier_tokenizer), num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            pad_token_id=1, id2label={0: "nothate", 1: "hate"}, label2id={"nothate": 0, "hate": 1}, **shape,
        )
    )  # fmt: skip
    judge = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=len(judge_tokenizer), n_layers=1, n_heads=2, dim=32, hidden_dim=32, max_position_embeddings=64,
            pad_token_id=0, id2label={0: "neutral", 1: "toxic"}, label2id={"neutral": 0, "toxic": 1},
        )
    )  # fmt: skip
    one_layer = GPTNeoForCausalLM(GPTNeoConfig(num_layers=1, attention_types=[[["global"], 1]], **neo, **shape))
    models = {
        "policy": (policy, policy_tokenizer),
        "one_layer": (one_layer, policy_tokenizer),
        "classifier": (classifier, classifier_tokenizer),
        "judge": (judge, judge_tokenizer),
    }
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)


@pytest.fixture(scope="session")
def prompt_file(made_once):
    """120 distinct prompts over the tiny vocabulary, with toxicities, as JSONL."""
    return made_once("prompts", save_prompts) / "prompts.jsonl"


def save_prompts(root):
    """Makes what `prompt_file` gives."""
    import itertools
    import json

    subjects = ["the dog", "a cat", "two birds", "one man", "the woman", "a rude bird"]
    rows = [
        {"id": f"p{i}", "prompt": f"{start} {subject} {verb} {end}", "toxicity": (i % 10) / 10}
        for i, (start, subject, verb, end) in enumerate(
            itertools.product(["now", "and"], subjects, ["runs", "sings"], ["red", "old", "good", "bad", "nice"])
        )
    ]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def write_recipes(checkpoints, prompt_file):
    """Writes a recipe per method on the tiny models into a folder.

    Points along training are left out, which take most of the time: a test that is about them switches them on.
    """
    import json

    shared = {
        "policy": {"model": str(checkpoints / "one_layer")},
        "reward": {"classifier": str(checkpoints / "classifier"), "label": "nothate"},
        "data": {"prompts": str(prompt_file), "heldout_fraction": 0.4},
        "pairs": {"completions_per_prompt": 2, "completion_tokens": [4, 6]},
        "budget": {"completions": 32},
        "evaluation": {
            "protocol": "quickstart-v1",
            "n_prompts": 12,
            "batch_size": 128,  # all prompts at once: what takes the time here is the number of batches
            "scorers": ["reward", {"name": "judge", "classifier": str(checkpoints / "judge"), "label": "toxic"}],
            "evaluate_every": 0,
        },
        "hardware": {"device": "cpu"},
    }
    ppo = {"name": "ppo", "batch_size": 8, "mini_batch_size": 4, "ppo_epochs": 2, "completion_tokens": [4, 6]}
    ppo |= {"checkpoint_every": 1}
    recipes = {
        "base": {"method": {"name": "untrained"}},
        "ppo": {"method": ppo},
        "dpo": {"method": {"name": "dpo", "batch_size": 4}},
        "reward_model": {"method": {"name": "reward_model", "batch_size": 4}},
        "ppo_learned_reward": {"method": ppo, "reward": {"run": "reward_model"}},
        "ppo_after_dpo": {"method": ppo, "policy": {"run": "dpo"}},
    }

    def write(folder):
        (folder / "shared.yaml").write_text(json.dumps(shared))  # JSON is YAML
        for name, recipe in recipes.items():
            (folder / f"{name}.yaml").write_text(json.dumps({"extends": "shared.yaml", "name": name, **recipe}))

    return write


@pytest.fixture(scope="session")
def measure_kl_on():
    """Has KL measured on completions of up to so many tokens, for the length of a patch; protocols say 30."""
    from alignbench.evaluation import protocols
    from alignbench.evaluation.probes import divergence

    def measure(n_tokens, patch):
        for reader in (protocols, divergence):
            patch.setattr(reader, "DIVERGENCE_TOKENS", n_tokens)

    return measure


@pytest.fixture(scope="session")
def enter(write_recipes, measure_kl_on):
    """Makes a folder the current one, with a recipe per method on the tiny models; nothing is cached outside it.

    KL is measured on short completions there: drawing those of 30 tokens took a quarter of a run.
    """

    def enter(folder, patch):
        patch.setenv("ALIGNBENCH_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        measure_kl_on(8, patch)
        write_recipes(folder)

    return enter


@pytest.fixture
def recipe_folder(enter, tmp_path, monkeypatch):
    """A folder, made the current one as `enter` says."""
    enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="session")
def finished(enter, in_turn):
    """Puts the runs of recipes of `recipe_folder`, and their cache, here; each is run once, whoever asks for it."""
    import hashlib
    import shutil
    from pathlib import Path

    def put(*names, sets=(), results="results"):
        with in_turn(f"finished {hashlib.sha256(repr([*sets]).encode()).hexdigest()[:8]}") as folder:
            if missing := [name for name in names if not (folder / "results" / name).exists()]:
                _run(missing, sets, folder, enter)
            for name in names:
                shutil.copytree(folder / "results" / name, Path(results, name))
            shutil.copytree(folder / "cache", "cache", dirs_exist_ok=True)

    return put


def _run(names, sets, folder, enter):
    from alignbench.pipeline import execute
    from alignbench.recipe.loading import load

    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        outcomes = execute.run(load([f"{name}.yaml" for name in names], sets), folder / "results")
    assert {outcome.state for outcome in outcomes} <= {"done", "kept"}, [outcome.error for outcome in outcomes]


@pytest.fixture
def tiny_policy(checkpoints):
    """Makes a fresh small random GPT-Neo policy over 30 words, without a pad token."""
    from alignbench.models.loading import load_language_model

    def make(batch_size=64, **options):
        policy = load_language_model(str(checkpoints / "policy"), **options)
        policy.batch_size = batch_size
        return policy

    return make
