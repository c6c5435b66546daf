"""What a run reads beside its recipe, found without loading a model."""

import json
import shutil
from pathlib import Path

import pytest

from alignbench.pipeline import inputs
from alignbench.pipeline.inputs import inputs_of
from alignbench.recipe.loading import load
from alignbench.results.recognition import changed_inputs


@pytest.fixture
def own(recipe_folder, checkpoints, prompt_file):
    """Copies of the models and prompts, and a function that loads a recipe on them."""
    for name in ("policy", "classifier", "judge"):
        shutil.copytree(checkpoints / name, name)
    shutil.copy(prompt_file, "prompts.jsonl")
    judge = {"name": "judge", "classifier": "./judge", "label": "toxic"}
    sets = [
        "policy.model=./policy", "reward.classifier=./classifier", "data.prompts=prompts.jsonl",
        f"evaluation.scorers={json.dumps(['reward', judge])}",
    ]  # fmt: skip

    def recipe(name="ppo", more=()):
        [one] = load([f"{name}.yaml"], [*sets, *more])
        return one.recipe

    return recipe


def halve(folder):
    from safetensors.torch import load_file, save_file

    file = Path(folder, "model.safetensors")
    save_file({name: value * 0.5 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def append(file, text="\n"):
    with Path(file).open("a") as opened:
        opened.write(text)


CHANGES = {
    "every row of the data": (lambda: append("prompts.jsonl", '{"prompt": "a dog"}\n'), "data.prompts, prompts.jsonl"),
    "weights of the policy": (lambda: halve("policy"), "policy.model, model.safetensors"),
    "weights of the reward": (lambda: halve("classifier"), "reward.classifier, model.safetensors"),
    "weights of a judge": (lambda: halve("judge"), "evaluation.scorers.judge, model.safetensors"),
    "tokenizer of a judge": (lambda: append("judge/tokenizer.json"), "evaluation.scorers.judge, tokenizer.json"),
    "configuration": (lambda: append("policy/config.json"), "policy.model, config.json"),
    "a template beside the model": (
        lambda: Path("policy/chat_template.jinja").write_text("{{ messages[0].content }}"),
        "policy.model, chat_template.jinja: was absent",
    ),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_what_changes_is_named(own, change, expected):
    before = inputs_of(own(), {})
    assert changed_inputs(before, inputs_of(own(), {})) == []
    change()
    lines = changed_inputs(before, inputs_of(own(), {}))
    assert any(expected in line for line in lines), lines


def test_what_is_not_read_does_not_count(own):
    before = inputs_of(own(), {})
    Path("policy/README.md").write_text("words")
    Path("policy/optimizer.pt").write_text("state")
    Path("policy/pytorch_model.bin").write_text("weights that stand behind the safetensors")
    assert inputs_of(own(), {}) == before


def test_every_key_that_names_something(own, checkpoints):
    second = {"name": "second", "classifier": "./judge", "label": "toxic"}
    Path("texts.txt").write_text("a dog\n")
    more = [
        f"reward.also={json.dumps([second])}", "data.heldout=prompts.jsonl", "evaluation.prompts=prompts.jsonl",
        "evaluation.neutral=texts.txt",
    ]  # fmt: skip
    found = inputs_of(own("reward_model", [*more, "method.model=./classifier"]), {"policy": Path("judge")})
    assert set(found) == {
        "data.prompts", "data.heldout", "evaluation.prompts", "evaluation.neutral", "policy.model", "method.model",
        "reward.classifier", "reward.also.second", "evaluation.scorers.reward", "evaluation.scorers.judge",
        "policy.run",
    }  # fmt: skip
    assert found["reward.also.second"] == found["evaluation.scorers.judge"] == found["policy.run"]


def test_the_base_of_an_adapter_is_read_too(own):
    from peft import LoraConfig, get_peft_model

    from alignbench.models.loading import load_language_model

    model = get_peft_model(load_language_model("./policy").model, LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = "./policy"
    model.save_pretrained("adapter")
    before = inputs_of(own(more=["policy.model=./adapter"]), {})
    halve("policy")
    [line] = changed_inputs(before, inputs_of(own(more=["policy.model=./adapter"]), {}))
    assert line.startswith("policy.model: base of the adapter, model.safetensors")


def test_a_folder_of_data_counts_with_all_its_files(own):
    Path("data/deep").mkdir(parents=True)
    shutil.copy("prompts.jsonl", "data/deep/train.jsonl")
    before = inputs_of(own(more=["data.prompts=./data"]), {})
    assert list(before["data.prompts"]) == ["deep/train.jsonl"]
    append("data/deep/train.jsonl")
    assert changed_inputs(before, inputs_of(own(more=["data.prompts=./data"]), {}))


def test_hub_names_count_by_what_this_machine_holds(own, monkeypatch, tmp_path):
    """A model by its files, a data set by its commit; what is not here is passed over, and nothing is fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    names = ["policy.model=some/model", "data.prompts=some/data"]
    assert {"policy.model", "data.prompts"}.isdisjoint(inputs_of(own(more=names), {}))
    for kind, commit in (("models--some--model", "a1"), ("datasets--some--data", "b2")):
        (tmp_path / "hub" / kind / "refs").mkdir(parents=True)
        (tmp_path / "hub" / kind / "refs" / "main").write_text(commit)
    shutil.copytree("policy", tmp_path / "hub" / "models--some--model" / "snapshots" / "a1")
    found = inputs_of(own(more=names), {})
    assert found["data.prompts"] == {"commit": "b2"}
    assert found["policy.model"] == inputs_of(own(), {})["policy.model"] | {"snapshot": "a1"}
    (tmp_path / "hub" / "datasets--some--data" / "refs" / "main").write_text("c3")
    assert changed_inputs(found, inputs_of(own(more=names), {})) == ["data.prompts, commit: was b2, is c3"]


def test_more_files_of_the_same_commit_are_no_change(own, monkeypatch, tmp_path):
    """Another recipe may fetch what this one has no use for; another commit counts by the files that it changes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = tmp_path / "hub" / "models--some--model"
    (hub / "refs").mkdir(parents=True)
    for commit in ("b2", "a1"):
        (hub / "refs" / "main").write_text(commit)
        shutil.copytree("policy", hub / "snapshots" / commit)
    named = own(more=["policy.model=some/model"])
    before = inputs_of(named, {})
    (hub / "snapshots" / "a1" / "fetched_later.json").write_text("{}")
    assert changed_inputs(before, inputs_of(named, {})) == changed_inputs(inputs_of(named, {}), before) == []
    (hub / "refs" / "main").write_text("b2")
    assert changed_inputs(before, inputs_of(named, {})) == []
    halve(hub / "snapshots" / "b2")
    [line] = changed_inputs(before, inputs_of(named, {}))
    assert line.startswith("policy.model, model.safetensors: was ")


@pytest.mark.parametrize("name", ["./none.jsonl", "/none/there", "../none", "~/none", "a/b/c", ""])
def test_what_is_not_there_is_passed_over(own, name):
    """Whatever reads it says so."""
    found = inputs_of(own(more=[f"data.prompts='{name}'", f"policy.model='{name or 'x'}'"]), {})
    assert set(found) == {"reward.classifier", "evaluation.scorers.reward", "evaluation.scorers.judge"}


def test_a_template_that_looks_at_the_date(own, monkeypatch):
    """It is rendered, not read: tomorrow's prompts are other prompts."""
    import datetime

    template = "'{{ strftime_now(\"%Y-%m-%d\") }} {{ messages[-1].content }}'"
    today = inputs_of(own(more=[f"chat.template={template}"]), {})
    assert today != inputs_of(own(), {})

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(days=1)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    [line] = changed_inputs(today, inputs_of(own(more=[f"chat.template={template}"]), {}))
    assert line.startswith("policy.model, prompts as encoded: was ")


def test_a_suite_reads_every_file_once(own, monkeypatch):
    read = []
    plain = inputs.file_sha256
    monkeypatch.setattr(inputs, "file_sha256", lambda path: read.append(path) or plain(path))
    inputs.sha_of_state.cache_clear()
    for seed in (0, 1, 2):
        inputs_of(own(more=[f"seed={seed}"]), {})
    assert len(read) == len(set(read)) > 5
