"""Code that lies with a checkpoint runs only where the recipe says so, and nothing is ever asked on the terminal."""

import json
import shutil
from pathlib import Path

import pytest

from alignbench.errors import ModelError
from alignbench.models.loading import load_classifier, load_language_model, load_policy, load_tokenizer
from alignbench.pipeline import execute
from alignbench.recipe.loading import load

CODE = """
from pathlib import Path
from transformers import {config}, {model}
Path({sentinel!r}).touch()

class OwnConfig({config}):
    model_type = "own"

class OwnModel({model}):
    config_class = OwnConfig
"""


@pytest.fixture
def asked(monkeypatch):
    """What is asked on the terminal, where somebody says yes to everything."""
    questions = []

    def answers(question=""):
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answers)
    return questions


@pytest.fixture
def sentinel(tmp_path, monkeypatch):
    """The file that the checkpoints' code makes when it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "code-has-run"


@pytest.fixture
def own_code(checkpoints, tmp_path, sentinel):
    """Makes a copy of a checkpoint that is of no known kind and brings its own code."""

    def make(which):
        config, model, auto = {
            "policy": ("GPTNeoConfig", "GPTNeoForCausalLM", "AutoModelForCausalLM"),
            "classifier": ("RobertaConfig", "RobertaForSequenceClassification", "AutoModelForSequenceClassification"),
        }[which]
        folder = tmp_path / f"own_{which}"
        shutil.copytree(checkpoints / which, folder)
        (folder / "own_code.py").write_text(CODE.format(config=config, model=model, sentinel=str(sentinel)))
        file = folder / "config.json"
        own = {"AutoConfig": "own_code.OwnConfig", auto: "own_code.OwnModel"}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "own", "auto_map": own}))
        return folder

    return make


@pytest.fixture
def adapter(own_code, checkpoints, tmp_path):
    """A LoRA adapter whose base brings its own code."""
    from peft import LoraConfig, get_peft_model

    policy = load_language_model(str(checkpoints / "policy"))
    folder = tmp_path / "adapter"
    get_peft_model(policy.model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(own_code("policy"))}))
    return folder


@pytest.fixture
def own_tokenizer(checkpoints, tmp_path, sentinel):
    folder = tmp_path / "own_tokenizer"
    shutil.copytree(checkpoints / "policy", folder)
    code = CODE.format(config="GPTNeoConfig", model="GPTNeoForCausalLM", sentinel=str(sentinel))
    code += (
        "\nfrom transformers import PreTrainedTokenizerFast\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    (folder / "own_code.py").write_text(code)
    file = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own_code.OwnTokenizer"]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    return folder


def assert_refused(sentinel, asked, block, loading):
    with pytest.raises(ModelError, match=rf"brings Python code of its own.*`trust_remote_code: true`.*\({block}\)"):
        loading()
    assert not sentinel.exists()
    assert asked == []


def test_a_policy(own_code, sentinel, asked):
    folder = str(own_code("policy"))
    assert_refused(sentinel, asked, "policy", lambda: load_language_model(folder))
    policy = load_language_model(folder, trust_remote_code=True)
    assert sentinel.exists()
    assert type(policy.model).__name__ == "OwnModel"
    assert asked == []


def test_the_base_of_an_adapter(adapter, sentinel, asked):
    assert_refused(sentinel, asked, "policy", lambda: load_language_model(str(adapter)))
    load_language_model(str(adapter), trust_remote_code=True)
    assert sentinel.exists()


def test_a_classifier(own_code, sentinel, asked):
    folder = str(own_code("classifier"))
    where = "evaluation.scorers: judge"
    assert_refused(sentinel, asked, where, lambda: load_classifier(folder, where=where))
    assert_refused(sentinel, asked, "reward.also.0", lambda: load_classifier(folder, where="reward.also.0"))
    load_classifier(folder, where=where, trust_remote_code=True)
    assert sentinel.exists()


def test_a_tokenizer(own_tokenizer, sentinel, asked):
    """The library can read it without its code, as the tokenizer file that it is."""
    load_tokenizer(str(own_tokenizer))
    assert not sentinel.exists()
    assert asked == []
    load_tokenizer(str(own_tokenizer), trust_remote_code=True)
    assert sentinel.exists()


def test_an_artifact_keeps_its_code_and_asks_for_the_same_trust(own_code, sentinel, asked, tmp_path):
    load_language_model(str(own_code("policy")), trust_remote_code=True).save(tmp_path / "artifact")
    sentinel.unlink()
    with pytest.raises(ModelError):
        load_policy(tmp_path / "artifact")
    load_policy(tmp_path / "artifact", trust_remote_code=True)


@pytest.mark.parametrize(
    ("which", "key"),
    [
        ("policy", "policy.model"),
        ("classifier", "reward.classifier"),
        ("classifier", "evaluation.scorers"),
        ("classifier", "method.model"),
    ],
)
def test_through_recipes(recipe_folder, own_code, sentinel, asked, which, key):
    """Refused before anything is trained, by the block's name; with the key beside the model it runs."""
    folder, block = own_code(which), key.partition(".")[0]
    name = "reward_model" if block == "method" else "base"

    def sets(trust):
        if key == "evaluation.scorers":
            judge = {"name": "own", "classifier": str(folder), "label": "hate", "trust_remote_code": trust}
            return [f"evaluation.scorers={json.dumps([judge])}"]
        return [f"{key}={folder}", f"{block}.trust_remote_code={json.dumps(trust)}"]

    [outcome] = execute.run(load([f"{name}.yaml"], sets(False)), Path("results"))
    assert isinstance(outcome.error, ModelError)
    assert f"({'evaluation.scorers: own' if block == 'evaluation' else block})" in str(outcome.error)
    assert not sentinel.exists()
    [outcome] = execute.run(load([f"{name}.yaml"], sets(True)), Path("results"))
    assert outcome.state == "done", outcome.error
    assert sentinel.exists()
    assert asked == []


def test_it_is_part_of_the_identity(recipe_folder):
    [plain], [trusting] = load(["ppo.yaml"]), load(["ppo.yaml"], ["reward.trust_remote_code=true"])
    assert plain.run_hash != trusting.run_hash
