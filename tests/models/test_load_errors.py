"""Each way in which a model cannot be loaded has a sentence that is true of it, and names the recipe key."""

import json
import shutil

import pytest

from alignbench.errors import ModelError
from alignbench.models.load_errors import why_not_loaded
from alignbench.models.loading import load_classifier, load_language_model


def write(file, text):
    return lambda directory: (directory / file).write_text(text)


def remove(*files):
    return lambda directory: [(directory / file).unlink() for file in files]


def configure(**settings):
    def change(directory):
        config = json.loads((directory / "config.json").read_text()) | settings
        kept = {key: value for key, value in config.items() if value is not None}
        (directory / "config.json").write_text(json.dumps(kept))

    return change


def cut(directory):
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(weights[:1000])


def lose_a_shard(directory):
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_garbage(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"garbage")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
FAULTS = {
    "no config": (remove("config.json"), r"the folder has no config\.json; it has .*model\.safetensors"),
    "broken config": (write("config.json", '{"a": 1,'), r"config\.json in it is no valid JSON: .*line 1"),
    "broken tokenizer config": (write("tokenizer_config.json", "{"), r"tokenizer_config\.json in it is no valid JSON"),
    "no model type": (configure(model_type=None, architectures=None), r"its config\.json has no model_type"),
    "unknown model type": (configure(model_type="foo9"), r"the model_type 'foo9', which transformers [\d.]+ does not"),
    "an image model": (write("config.json", '{"model_type": "vit"}'), r"'vit', a family of which there is no such"),
    "a wrong setting": (configure(num_layers="two"), r"Field 'num_layers' expected int, got str"),
    "no weights": (
        remove("model.safetensors"),
        r"the folder has no weights: no model\.safetensors or pytorch_model\.bin",
    ),
    "cut weights": (cut, r"model\.safetensors, of 1,000 bytes, is damaged"),
    "a pointer": (write("model.safetensors", LFS), r"is damaged or not a weight file .*Git LFS"),
    "a lost shard": (lose_a_shard, r"a file that belongs to it is not there: model-00001-of-00002\.safetensors"),
    "a broken pickle": (pickle_garbage, r"pytorch_model\.bin, of 7 bytes, is damaged"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), r"has no tokenizer: none of .*tokenizer\.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder(checkpoints, tmp_path, fault):
    break_it, said = FAULTS[fault]
    shutil.copytree(checkpoints / "policy", tmp_path / "policy")
    break_it(tmp_path / "policy")
    with pytest.raises(ModelError, match=said) as caught:
        load_language_model(str(tmp_path / "policy"))
    assert str(caught.value).startswith("policy.model: ")
    assert "hub" not in str(caught.value)


def test_what_is_nowhere():
    with pytest.raises(ModelError, match="there is no folder no/such-model, and it is not in the local hub cache"):
        load_language_model("no/such-model")
    with pytest.raises(ModelError, match=r"judge: .*there is no folder a/b/c, and a hub id has the form owner/model"):
        load_classifier("a/b/c", where="judge")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("GatedRepoError", "the hub gives it only to those who asked for access"),
        ("RepositoryNotFoundError", "the hub knows no model of that name, or shows it to its owners only"),
        ("RevisionNotFoundError", "the hub has the model, but not this revision"),
        ("LocalEntryNotFoundError", "not in the local hub cache"),
    ],
)
def test_what_the_hub_says(error, said):
    from huggingface_hub import errors

    kind = getattr(errors, error)
    wrapped = OSError("You are trying to access ...")
    wrapped.__cause__ = kind.__new__(kind)  # to make one properly takes an answer of the hub
    assert said in why_not_loaded(wrapped, "owner/model")


def test_a_missing_package_is_named():
    error = ValueError("cannot convert")
    error.__cause__ = ModuleNotFoundError("No module named 'sentencepiece'", name="sentencepiece")
    assert why_not_loaded(error, "owner/model").startswith("it needs a package that is not installed (sentencepiece)")


def test_what_is_not_known_is_quoted(tmp_path, checkpoints):
    assert why_not_loaded(RuntimeError("strange\nmore"), str(checkpoints / "policy")) == "RuntimeError: strange"
