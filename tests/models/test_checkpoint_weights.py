"""Weights that are not there, in every way in which they can be elsewhere."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignbench.errors import ModelError
from alignbench.models.loading import load_classifier, load_language_model


@pytest.fixture
def altered(checkpoints, tmp_path):
    """Makes a copy of a tiny checkpoint with other names of weights (None drops one), and other settings."""

    def make(name, rename=lambda key: key, add=None, **settings):
        directory = tmp_path / f"{name}-altered"
        shutil.copytree(checkpoints / name, directory)
        weights = load_file(directory / "model.safetensors")
        kept = {rename(key): value for key, value in weights.items() if rename(key) is not None} | (add or {})
        save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | settings))
        return str(directory)

    return make


def start_of_a_reward_model(name):
    return load_classifier(name, where="method.model", labels=["reward"])[0]


def judge(name):
    return load_classifier(name, where="judge")[0]


def policy(name):
    return load_language_model(name).model


LOADERS = {"policy": policy, "classifier": judge, "reward start": start_of_a_reward_model}
CHECKPOINTS = {"policy": "policy", "classifier": "classifier", "reward start": "classifier"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "base_model.model."])
@pytest.mark.parametrize("use", LOADERS)
def test_wrapped_weights_are_refused_with_a_hint(altered, use, prefix):
    directory = altered(CHECKPOINTS[use], lambda key: prefix + key)
    said = rf"has no weights for .* \((\d+) of the (\d+) of \w+\).*all begin with '{prefix}'.*save the model inside"
    with pytest.raises(ModelError, match=said):
        LOADERS[use](directory)


@pytest.mark.parametrize("use", LOADERS)
def test_renamed_layers_are_refused_with_what_is_there_instead(altered, use):
    directory = altered(CHECKPOINTS[use], lambda key: key.replace(".0.", "_0."))
    with pytest.raises(
        ModelError, match=r"has no weights for \S+\.0\..* What it has .* \S+_0\.\S+ and the like \(\d+\)"
    ):
        LOADERS[use](directory)


@pytest.mark.parametrize("use", LOADERS)
def test_one_missing_weight_of_the_body_is_refused(altered, use):
    last = {"policy": "ln_f.bias"}.get(use, "LayerNorm.bias")
    directory = altered(CHECKPOINTS[use], lambda key: None if key.endswith(last) else key)
    with pytest.raises(ModelError, match=rf"has no weights for \S*{last}"):
        LOADERS[use](directory)


@pytest.mark.parametrize("use", LOADERS)
def test_other_shapes_are_refused(altered, use):
    directory = altered(CHECKPOINTS[use], vocab_size=40)
    with pytest.raises(ModelError, match=r"has weights of other shapes .* is \(\d+, 32\), expected \(40, 32\)"):
        LOADERS[use](directory)


def test_a_fresh_head_may_be_missing_and_nothing_else(checkpoints, altered):
    """From a language model, from a classifier with other labels, from one without its head: the body is the file's."""
    for name, directory in (
        ("policy", str(checkpoints / "policy")),
        ("judge", str(checkpoints / "judge")),
        ("classifier", altered("classifier", lambda key: None if key.startswith("classifier.") else key)),
    ):
        model = start_of_a_reward_model(directory)
        file = load_file(checkpoints / name / "model.safetensors")
        body = {key: value for key, value in model.state_dict().items() if not key.startswith(("score", "classifier"))}
        assert all(torch.equal(value, file[key]) for key, value in body.items() if not key.startswith("pre_"))
        assert model.config.num_labels == 1


def test_a_pooler_belongs_to_a_fresh_head(tmp_path, make_tokenizer):
    """Masked language models have none, and every classifier of BERT starts with a fresh one."""
    from transformers import BertConfig, BertForMaskedLM

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = make_tokenizer(unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert start_of_a_reward_model(str(tmp_path)).config.num_labels == 1
    with pytest.raises(ModelError, match=r"judge: .* has no weights for bert\.pooler"):
        judge(str(tmp_path))
    with pytest.raises(ModelError, match="a BertForMaskedLM, expected a language model that continues texts"):
        policy(str(tmp_path))


def test_tied_weights_are_not_missing(checkpoints):
    assert "lm_head.weight" not in load_file(checkpoints / "policy" / "model.safetensors")
    model = policy(str(checkpoints / "policy"))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("use", ["policy", "classifier", "reward start"])
def test_a_layer_more_than_the_configuration_says_is_refused(altered, checkpoints, use):
    """The model would be cut off without a word."""
    name = CHECKPOINTS[use]
    weights = load_file(checkpoints / name / "model.safetensors")
    last = "h.1." if name == "policy" else "layer.0."
    more = last.replace("1", "2").replace("0", "1")
    add = {key.replace(last, more): value.clone() for key, value in weights.items() if last in key}
    with pytest.raises(ModelError, match=rf"has weights for \S+\.{more[:-1]}\..* would leave aside"):
        LOADERS[use](altered(name, add=add))


def test_a_bias_that_the_configuration_denies_is_refused(altered):
    add = {"transformer.h.0.attn.attention.q_proj.bias": torch.ones(32)}
    with pytest.raises(ModelError, match=r"has weights for transformer\.h\.0\.attn\.attention\.q_proj\.bias \(1\)"):
        policy(altered("policy", add=add))


def test_the_head_of_another_task_may_be_left_aside(altered, checkpoints):
    add = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    file = load_file(checkpoints / "policy" / "model.safetensors")
    state = policy(altered("policy", add=add)).state_dict()
    assert all(torch.equal(state[key], value) for key, value in file.items())


def test_a_classifier_is_no_policy_even_where_its_weights_would_do(checkpoints, tmp_path):
    """GPT-Neo's output layer is tied, so nothing would be missing."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoints / "policy", num_labels=2)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoints / "policy").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a GPTNeoForSequenceClassification, expected a language model"):
        policy(str(tmp_path))
