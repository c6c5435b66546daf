"""What is exported gives the same in a process that has transformers, and no alignbench."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from alignbench.embedded import resolve
from alignbench.errors import ModelError
from alignbench.export.checkpoint import export_policy
from alignbench.methods.dexperts import Contrast
from alignbench.methods.steerlm import Steered
from alignbench.models.adapters import Lora
from alignbench.models.loading import load_language_model, load_policy
from alignbench.models.logit_ensemble import LogitEnsemble
from alignbench.plugins import METHODS
from alignbench.recipe.loading import load
from alignbench.records import Decoding, Prompt

TEXTS = ("now the dog", "a cat", "two birds and one man")
PLAIN = """
import json, sys
sys.modules["alignbench"] = None  # it cannot be imported
import torch, transformers

torch.set_num_threads(1)
answers = {}
for name, asked in json.load(open(sys.argv[1])).items():
    options = {"dtype": getattr(torch, asked["dtype"])} if asked["dtype"] else {}
    model = getattr(transformers, asked["loader"]).from_pretrained(asked["folder"], **options).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked["folder"])
    config = transformers.GenerationConfig.from_pretrained(asked["folder"])  # an adapter's base has one of its own
    answers[name] = []
    for text in asked["texts"]:
        batch = tokenizer(text, return_tensors="pt")
        if asked["chat"]:
            batch = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        how = {"generation_config": config, "do_sample": False}
        out = model.generate(**batch, **how, output_logits=True, return_dict_in_generate=True)
        ids = out.sequences[0][-len(out.logits) :]
        logprobs = torch.stack(out.logits)[:, 0].float().log_softmax(-1)
        answers[name].append([ids.tolist(), logprobs.gather(1, ids[:, None])[:, 0].tolist(), str(model.dtype)])
json.dump(answers, sys.stdout)
"""


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


def greedy(policy):
    """Token ids and log-probabilities as the run's policy has them."""
    prompts = [Prompt(text, text) for text in TEXTS]
    drawn = policy.generate(prompts, Decoding(16, top_k=1), 1, (0,))
    logprobs = policy.token_logprobs(prompts, drawn)
    return [[list(one.token_ids), row.tolist()] for one, row in zip(drawn, logprobs, strict=True)]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, checkpoints, enter, family):
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
    whole, whole_bf16 = moved(load_language_model(base)), moved(load_language_model(base, dtype="bfloat16"))
    kinds = {  # the policy as the run has it; its recipe; whether its adapter is merged
        "full": (whole, "float32", False),
        "adapter": (adapted(base), "float32", False),
        "merged": (adapted(base), "float32", True),
        "merged bf16": (adapted(base, dtype="bfloat16"), "bfloat16", True),
        "bf16": (whole_bf16, "bfloat16", False),
        "t5": (moved(load_language_model(str(folder / "t5"))), "t5", False),
        "steerlm": (Steered(moved(load_language_model(base)), "very good "), "float32", False),
    }
    exported, asked, expected = {}, {}, {}
    for name, (policy, recipe, merge) in kinds.items():
        artifact, out = folder / name / "artifact", folder / name / "out"
        policy.save(artifact)
        exported[name] = export_policy(recipes[recipe], artifact, out, merge=merge)
        within = {"folder": str(out / exported[name].models[0]), "loader": exported[name].loader, "chat": False}
        texts = [f"very good {text}" for text in TEXTS] if name == "steerlm" else TEXTS
        asked[name] = {**within, "texts": texts, "dtype": None if name != "bf16" else "float32"}
        # In bfloat16 the order of sums shows in every digit: both are asked in float32 then, of the same weights.
        precise = name in ("bf16", "merged bf16")
        expected[name] = greedy(policy if not precise else in_float32(policy, name))
    (folder / "asked.json").write_text(json.dumps(asked))
    said = subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder / "asked.json")], capture_output=True, text=True, cwd=folder
    )
    assert said.returncode == 0, said.stderr
    return exported, expected, json.loads(said.stdout), folder


def in_float32(policy, name):
    policy.model.float()
    return policy


@pytest.mark.parametrize("name", ["full", "adapter", "merged", "merged bf16", "bf16", "t5", "steerlm"])
def test_the_same_greedy_completions_and_log_probabilities(exports, name):
    _, expected, plain, _ = exports
    for (ids, logprobs), (other, others, _) in zip(expected[name], plain[name], strict=True):
        assert other == ids
        assert others == pytest.approx(logprobs, abs=1e-5)


def test_what_is_written_of_each_kind(exports):
    exported, _, plain, folder = exports
    assert {name for name, one in exported.items() if one.base} == {"adapter"}
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
