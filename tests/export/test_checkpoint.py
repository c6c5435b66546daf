"""What is exported gives the same in a process that has transformers, and no alignbench."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignbench.embedded import resolve
from alignbench.errors import ModelError
from alignbench.export.checkpoint import export_policy
from alignbench.export.folders import without_folders
from alignbench.methods.best_of_n import BestOf
from alignbench.methods.dexperts import Contrast
from alignbench.methods.kept_reward import load_reward
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.methods.steerlm import Steered
from alignbench.models.adapters import Lora
from alignbench.models.loading import load_language_model, load_policy
from alignbench.models.logit_ensemble import LogitEnsemble
from alignbench.models.policy_file import write_policy_file
from alignbench.plugins import METHODS
from alignbench.recipe.loading import load
from alignbench.records import Decoding, Prompt

BITSANDBYTES = find_spec("bitsandbytes") is not None
TEXTS = ("now the dog", "a cat", "two birds and one man")
PLAIN = Path(__file__).parents[1] / "fixtures" / "plain_transformers.py"


def recipe_of(folder, **policy):
    sets = [f"policy.{key}={json.dumps(value)}" for key, value in policy.items()]
    [loaded] = load([str(folder / "base.yaml")], sets)
    return loaded.recipe


def moved(policy, scale=0.05):
    """A policy with other weights than those that it was loaded with."""
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            parameter.data += scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return policy


def adapted(base, **options):
    policy = load_language_model(base, **options)
    policy.add_adapter(Lora(r=2, target_modules=("q_proj", "v_proj")))
    return moved(policy, 0.3)


def above_shared_layers(base):
    """A policy after a step of PPO, its first layer frozen and shared with the reference."""
    config = PPOConfig(shared_layers=1, batch_size=4, mini_batch_size=4, completion_tokens=(4, 6), learning_rate=0.05)
    policy = load_language_model(base)
    prompts = [Prompt(text, text) for text in TEXTS]
    PPOTrainer(policy, lambda _, texts: [float(len(text)) for text in texts], prompts, config).train_step()
    return policy


def best_of(base, reward):
    """The best of three answers by a classifier that lies in a folder."""
    settings = {"classifier": str(reward), "label": "nothate"}
    kept = [{"name": "main", "weight": 1.0, "kind": "classifier", "settings": settings}]
    policy = moved(load_language_model(base), 0.1)
    return BestOf(policy, 3, load_reward(kept, policy), kept)


def greedy(policy):
    """Token ids and log-probabilities as the run's policy has them."""
    prompts = [Prompt(text, text) for text in TEXTS]
    drawn = policy.generate(prompts, Decoding(16, top_k=1), 1, (0,))
    logprobs = policy.token_logprobs(prompts, drawn)
    return [[list(one.token_ids), row.tolist()] for one, row in zip(drawn, logprobs, strict=True)]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, checkpoints, enter, family, fork):
    """Policies of every kind: what alignbench makes of each, and what a plain process makes of its export."""
    folder = tmp_path_factory.mktemp("exports")
    base = str(checkpoints / "policy")
    model, tokenizer = family("t5")
    for part in (model, tokenizer):
        part.save_pretrained(folder / "t5")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "recipes").mkdir()
        enter(folder / "recipes", patch)
        recipes = {
            "float32": recipe_of(folder / "recipes", model=base),
            "bfloat16": recipe_of(folder / "recipes", model=base, dtype="bfloat16"),
            "t5": recipe_of(folder / "recipes", model=str(folder / "t5")),
        }
        if BITSANDBYTES:
            lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
            recipes["4 bits"] = recipe_of(folder / "recipes", model=base, lora=lora, quantization="4bit")
    shutil.copytree(checkpoints / "classifier", folder / "reward")
    parts = [moved(load_language_model(base), scale) for scale in (0.05, 0.1, 0.15)]
    whole, whole_bf16 = moved(load_language_model(base)), moved(load_language_model(base, dtype="bfloat16"))
    kinds = {  # the policy as the run has it; its recipe; whether its adapter is merged
        "full": (whole, "float32", False),
        "adapter": (adapted(base), "float32", False),
        "merged": (adapted(base), "float32", True),
        "merged bf16": (adapted(base, dtype="bfloat16"), "bfloat16", True),
        "bf16": (whole_bf16, "bfloat16", False),
        "t5": (moved(load_language_model(str(folder / "t5"))), "t5", False),
        "steerlm": (Steered(moved(load_language_model(base)), "very good "), "float32", False),
        "shared layers": (above_shared_layers(base), "float32", False),
        "best_of_n": (best_of(base, folder / "reward"), "float32", False),
        "dexperts": (Contrast(LogitEnsemble(*parts, 2.0, 0.9)), "float32", False),
    }
    if BITSANDBYTES:
        four_bits = adapted(base, quantization="4bit", device=torch.device("cpu"))
        kinds["adapter on 4 bits"] = (four_bits, "4 bits", False)
    exported, asked, expected = {}, {}, {}
    for name, (policy, recipe, merge) in kinds.items():
        artifact, out = folder / name / "artifact", folder / name / "out"
        policy.save(artifact)
        exported[name] = export_policy(recipes[recipe], artifact, out, merge=merge)
        place = out if name == "dexperts" else out / exported[name].models[0]
        within = {"folder": str(place), "loader": exported[name].loader}
        within |= {"contrast": name == "dexperts", "4 bits": name == "adapter on 4 bits"}
        texts = [f"very good {text}" for text in TEXTS] if name == "steerlm" else TEXTS
        asked[name] = {**within, "texts": texts, "dtype": None if name != "bf16" else "float32"}
        # In bfloat16 the order of sums shows in every digit: both are asked in float32 then, of the same weights.
        precise = name in ("bf16", "merged bf16")
        asked_here = policy.base if name == "best_of_n" else policy
        expected[name] = greedy(asked_here if not precise else in_float32(policy, name))
    drawn = draw(kinds["best_of_n"][0])
    (folder / "reward").rename(folder / "elsewhere")
    (folder / "asked.json").write_text(json.dumps(asked))
    [said] = fork([PLAIN, folder / "asked.json"], [dict(os.environ)], folder)
    assert said.code == 0, said.errors
    return exported, expected | {"drawn by best_of_n": drawn}, json.loads(said.output), folder


def draw(policy):
    return policy.generate([Prompt(text, text) for text in TEXTS], Decoding(16), 2, (0,))


def in_float32(policy, name):
    policy.model.float()
    return policy


EVERY_KIND = [
    *("full", "adapter", "merged", "merged bf16", "bf16", "t5", "steerlm", "shared layers", "best_of_n", "dexperts"),
    pytest.param(
        "adapter on 4 bits", marks=pytest.mark.skipif(not BITSANDBYTES, reason="bitsandbytes is not installed")
    ),
]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_same_greedy_completions_and_log_probabilities(exports, name):
    _, expected, plain, _ = exports
    for (ids, logprobs), (other, others, _) in zip(expected[name], plain[name], strict=True):
        assert other == ids
        assert others == pytest.approx(logprobs, abs=1e-5)


def test_what_is_written_of_each_kind(exports):
    exported, _, plain, folder = exports
    assert {name for name, one in exported.items() if one.base} == {"adapter"} | {"adapter on 4 bits"} & {*exported}
    config = json.loads((folder / "adapter/out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == exported["adapter"].base == str(Path(exported["adapter"].base))
    assert not list((folder / "merged/out").glob("adapter*"))
    assert exported["merged bf16"].notes == ["Merged in float32, as bfloat16 would round the adapter."]
    assert plain["merged bf16"][0][2] == "torch.float32"
    saved = json.loads((folder / "bf16/out/config.json").read_text())
    assert saved["dtype"] == "bfloat16"
    assert exported["t5"].loader == "AutoModelForSeq2SeqLM"
    assert exported["full"].notes == []


def test_what_is_no_single_model_says_what_it_lacks_and_loads_whole_with_alignbench(exports):
    exported, expected, _, folder = exports
    steered = exported["steerlm"]
    assert (steered.kind, steered.models) == ("steerlm", ["base"])
    assert "no single model" in steered.notes[0]
    assert "Before every prompt stands the text `words`" in steered.notes[0]
    whole = load_policy(folder / "steerlm/out")
    assert greedy(whole) == expected["steerlm"]


def test_only_layers_above_the_shared_ones_have_changed(exports, checkpoints):
    _, _, _, folder = exports
    after = load_file(folder / "shared layers/out/model.safetensors")
    before = load_file(checkpoints / "policy/model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not {name for name in changed if ".h.0." in name or "wte" in name or "wpe" in name}


def test_the_reward_of_best_of_n_goes_with_it(exports):
    """It was moved away since then: what is exported asks its own copy."""
    exported, expected, _, folder = exports
    one = exported["best_of_n"]
    assert (one.kind, one.models) == ("best_of_n", ["base"])
    assert "Of n answers the one is given that the reward likes best" in one.notes[0]
    assert one.notes[1:] == ["What policy.json names and lay on the exporting machine is in named/reward."]
    record = json.loads((folder / "best_of_n/out/policy.json").read_text())
    assert record["reward"][0]["settings"]["classifier"] == "{here}/named/reward"
    assert draw(load_policy(folder / "best_of_n/out")) == expected["drawn by best_of_n"]


def test_the_hand_worked_contrast_leaves_tokens_out(exports):
    _, _, plain, folder = exports
    n_words = json.loads((folder / "dexperts/out/base/config.json").read_text())["vocab_size"]
    assert all(0 < n_kept < n_words for _, _, n_kept in plain["dexperts"])


@pytest.mark.parametrize("name", EVERY_KIND)
def test_no_file_names_a_folder_of_this_machine(exports, name, checkpoints):
    exported, _, _, folder = exports
    texts = texts_of(folder / name / "out")
    if exported[name].base:
        assert any("adapter_config.json names" in note for note in exported[name].notes)
        config = json.loads(texts.pop("adapter_config.json"))
        base = config.pop("base_model_name_or_path")
        assert base == exported[name].base
        texts["the rest of it"] = json.dumps(config)
    for file, text in texts.items():
        for place in (folder, checkpoints, Path.home()):
            assert f"{place}/" not in text, file
    assert not [note for note in exported[name].notes if str(checkpoints) in note]


def texts_of(folder):
    """The files of a folder that are texts, by their paths in it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize("adapter", [None, "adapter"])
def test_a_model_of_elsewhere_goes_with_it(tmp_path, enter, monkeypatch, checkpoints, adapter):
    enter(tmp_path, monkeypatch)
    for place in ("model", "reference"):
        shutil.copytree(checkpoints / "policy", tmp_path / place)
    trained = adapted(str(checkpoints / "policy"))
    trained.name = "model"
    trained.save(tmp_path / "adapter")
    (tmp_path / "adapter/policy.json").unlink()  # as peft would write it
    saved = {"model": str(tmp_path / "model"), "adapter": adapter, "reference": str(tmp_path / "reference")}
    write_policy_file(tmp_path / "artifact", "external", **saved)
    expected = greedy(load_policy(tmp_path / "artifact"))
    exported = export_policy(
        recipe_of(tmp_path, model=str(checkpoints / "policy")), tmp_path / "artifact", tmp_path / "out", merge=False
    )
    assert not [text for text in texts_of(tmp_path / "out").values() if str(tmp_path) in text]
    for place in ("model", "reference", "adapter"):
        shutil.rmtree(tmp_path / place)
    assert greedy(load_policy(tmp_path / "out")) == expected
    assert "named/model" in exported.notes[-1]


def test_texts_of_a_recipe_are_no_folders():
    values = {"a": "/no_think {prompt}", "b": ["/", "a/b", "gpt2"], "c": None, "d": 1, "e": "/tmp/a\nb"}
    assert without_folders(values) == values
    of_here = {"a": ["/tmp/x/model"], "b": "/tmp/x/score.py:toxic", "c": "~/x", "d": "../../me/y"}
    assert without_folders(of_here) == {"a": ["model"], "b": "score.py:toxic", "c": "x", "d": "y"}


def test_three_models_together_are_three_checkpoints(tmp_path, enter, monkeypatch, checkpoints):
    enter(tmp_path, monkeypatch)
    base = str(checkpoints / "policy")
    parts = [moved(load_language_model(base), scale) for scale in (0.05, 0.1, 0.15)]
    contrast = Contrast(LogitEnsemble(*parts, 2.0, 1.0))
    contrast.save(tmp_path / "artifact")
    recipe = recipe_of(tmp_path, model=base)
    exported = export_policy(recipe, tmp_path / "artifact", tmp_path / "out", merge=False)
    assert (exported.kind, exported.models) == ("dexperts", ["anti_expert", "base", "expert"])
    assert "alpha times the difference of expert and anti-expert" in exported.notes[0]
    assert greedy(load_policy(tmp_path / "out")) == greedy(contrast)
    for name, part in zip(("base", "expert", "anti_expert"), parts, strict=True):
        assert greedy(load_language_model(str(tmp_path / "out" / name))) == greedy(part)


def test_every_policy_that_is_no_single_model_says_what_it_lacks():
    facts = {name: METHODS.load(name).facts for name in METHODS.built_in}
    several = {name for name, one in facts.items() if one.gives == "policy"}
    assert {name for name, one in facts.items() if one.beside_its_models} == several
    assert {"best_of_n", "dexperts", "quark", "steerlm"} <= several


def test_an_adapter_on_an_embedded_base_names_where_that_lies(tmp_path, enter, monkeypatch):
    """`embedded/policy` means nothing to other programs."""
    enter(tmp_path, monkeypatch)
    recipe = recipe_of(tmp_path, model="embedded/policy")
    policy = load_language_model(resolve("embedded/policy"), shown_as="embedded/policy")
    policy.add_adapter(Lora(r=2, target_modules=("q_proj",)))
    policy.save(tmp_path / "artifact")
    exported = export_policy(recipe, tmp_path / "artifact", tmp_path / "out", merge=False)
    assert Path(exported.base).is_dir()


def test_a_chat_template_of_the_recipe_goes_with_the_tokenizer(tmp_path, enter, monkeypatch, checkpoints):
    enter(tmp_path, monkeypatch)
    base, template = str(checkpoints / "policy"), "{% for m in messages %}{{ m.content }} {% endfor %}now"
    [loaded] = load(
        ["base.yaml"], [f"policy.model={base}", "chat=" + json.dumps({"template": template, "system": "be kind"})]
    )
    load_language_model(base).save(tmp_path / "artifact")
    exported = export_policy(loaded.recipe, tmp_path / "artifact", tmp_path / "out", merge=False)
    assert any('after the system message "be kind"' in note for note in exported.notes)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_on_four_bits_is_merged_into_what_they_stand_for(tmp_path, enter, monkeypatch, checkpoints):
    enter(tmp_path, monkeypatch)
    base = str(checkpoints / "policy")
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    policy = adapted(base, quantization="4bit", device=torch.device("cpu"))
    expected = greedy(policy)
    policy.save(tmp_path / "artifact")
    recipe = recipe_of(tmp_path, model=base, lora=lora, quantization="4bit")
    export_policy(recipe, tmp_path / "artifact", tmp_path / "merged", merge=True)
    for (ids, logprobs), (other, others) in zip(expected, greedy(load_policy(tmp_path / "merged")), strict=True):
        assert other == ids
        assert others == pytest.approx(logprobs, abs=1e-5)
    alone = export_policy(recipe, tmp_path / "artifact", tmp_path / "alone", merge=False)
    assert "BitsAndBytesConfig(load_in_4bit=True" in alone.notes[0]
    eight = recipe_of(tmp_path, model=base, lora=lora, quantization="8bit")
    with pytest.raises(ModelError, match="in 8 bits, which rounds what it multiplies too"):
        export_policy(eight, tmp_path / "artifact", tmp_path / "eight", merge=True)
