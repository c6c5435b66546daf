"""The model of a run as checkpoints that transformers loads by itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignbench.embedded import resolve
from alignbench.errors import ModelError
from alignbench.evaluation.protocols import get_protocol
from alignbench.export.folders import TakenAlong, without_folders
from alignbench.methods.registry import is_usable, method_class
from alignbench.models.adapters import merged
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_language_model
from alignbench.models.policy_file import FILE, LANGUAGE_MODEL, read_policy_file, write_policy_file
from alignbench.models.quantization import dequantized
from alignbench.pipeline.build import policy_options, saved_policy

if TYPE_CHECKING:
    from alignbench.methods.base import Facts
    from alignbench.recipe.recipe import Recipe

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(slots=True)
class Exported:
    """What an export has written."""

    kind: str
    """`language_model`, `reward_model`, or the method whose policy is more than one model."""
    models: list[str] = field(default_factory=list)
    """The folders of the checkpoints, `.` for the exported folder itself."""
    loader: str = "AutoModelForCausalLM"
    """The class of transformers that loads them."""
    base: str | None = None
    """The base model that an adapter needs; None where every checkpoint is whole."""
    notes: list[str] = field(default_factory=list)
    """What whoever uses it must know, and what could not be exported; a sentence each."""


def export_classifier(recipe: Recipe, artifact: Path, directory: Path) -> Exported:
    """Copies a reward model, which is saved as an ordinary classifier with one output."""
    shutil.copytree(artifact, directory, dirs_exist_ok=True)
    text = recipe.reward.text if recipe.reward else "completion"
    reads = {"completion": "the completion alone", "chat": "prompt and answer as a chat, by its own template"}
    note = f"It reads {reads.get(text, 'prompt and completion as one text')}; more is better."
    return Exported("reward_model", ["."], "AutoModelForSequenceClassification", notes=[note])


def export_policy(recipe: Recipe, artifact: Path, directory: Path, *, merge: bool) -> Exported:
    """Writes the checkpoints of a policy of any kind.

    One that is no single model keeps its `policy.json`, its parts in their folders, and everything that it has saved
    beside them, so that alignbench loads it as before, on any machine: what lies on this one and is named there, such
    as the reward of `best_of_n`, goes with it. What its models lack of it is said in the notes.
    """
    record = read_policy_file(artifact)
    if record["kind"] == LANGUAGE_MODEL:
        return _export_model(recipe, artifact, directory, record, merge=merge)
    exported = Exported(record["kind"])
    directory.mkdir(exist_ok=True)
    for path in sorted(artifact.iterdir()):
        if path.name == FILE:
            continue
        if not (path / FILE).is_file():
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, directory / path.name)
            continue
        part = export_policy(recipe, path, directory / path.name, merge=merge)
        exported.models += [f"{path.name}/{model}".removesuffix("/.") for model in part.models]
        exported.notes += [note for note in part.notes if note not in exported.notes]
        exported.base, exported.loader = exported.base or part.base, part.loader
    take = TakenAlong(directory, lambda policy, target: export_policy(recipe, policy, target, merge=merge))
    facts = method_class(record["kind"]).facts if is_usable(record["kind"]) else None
    write_policy_file(directory, **without_folders(facts.moved(record, take) if facts else record))
    exported.notes.insert(0, _what_is_lacking(record["kind"], facts, exported.models))
    if take.places:
        exported.notes.append(
            f"What {FILE} names and lay on the exporting machine is in {', '.join(take.places.values())}."
        )
    return exported


def _what_is_lacking(kind: str, facts: Facts | None, models: list[str]) -> str:
    how = f" {facts.beside_its_models}" if facts and facts.beside_its_models else ""
    what = f"the models in {', '.join(models)} are parts of it" if models else "no part of it is a model of its own"
    return (
        f"This policy is no single model: {what}, and how they make an answer is code of the method {kind}.{how} With "
        "alignbench `alignbench.load_policy` gives the whole policy."
    )


def _export_model(recipe: Recipe, artifact: Path, directory: Path, record: dict[str, Any], *, merge: bool) -> Exported:
    """Writes one language model: whole, or its adapter alone where there is one that is not to be merged."""
    exported = Exported(LANGUAGE_MODEL, ["."])
    quantization = recipe.policy.quantization
    if not record["adapter"]:
        policy = saved_policy(recipe, artifact, torch.device("cpu"))
    elif merge:
        policy = _merged(recipe, artifact, record)
        exported.notes += _notes_on_merging(recipe)
    else:
        policy = _base(recipe, record, quantization="none")
        base = resolve(record["model"])
        exported.base = str(Path(base).resolve()) if Path(base).is_dir() else base
        if quantization != "none":
            exported.notes.append(_loading_quantized(recipe))
        if Path(base).is_dir():
            exported.notes.append(
                f"Its base lies in a folder of the exporting machine, which {ADAPTER_CONFIG} names; on another one say "
                "there where it is (`base_model_name_or_path`)."
            )
    assert isinstance(policy, LanguageModel)
    if policy.is_encoder_decoder:
        exported.loader = "AutoModelForSeq2SeqLM"
    _write_settings(recipe, policy, directory)
    exported.notes += _notes_on_prompts(recipe, policy)
    if exported.base is None:
        policy.model.save_pretrained(directory)
    else:
        _copy_adapter(recipe, artifact, directory, exported.base)
    return exported


def _base(recipe: Recipe, record: dict[str, Any], **options: Any) -> LanguageModel:
    """The base model of an adapter."""
    settings = policy_options(recipe, torch.device("cpu"))
    return load_language_model(
        resolve(record["model"]), revision=recipe.policy.revision, shown_as=record["model"], **settings | options
    )


def _merged(recipe: Recipe, artifact: Path, record: dict[str, Any]) -> LanguageModel:
    """The base with its adapter merged into it, in float32: in less the adapter would be rounded away in part."""
    if recipe.policy.quantization == "8bit":
        raise ModelError(
            f"{artifact}: got --merge for an adapter on a base in 8 bits, which rounds what it multiplies too: no "
            "whole weights compute the same; export the adapter without --merge"
        )
    policy = _base(recipe, record, quantization=recipe.policy.quantization)
    policy.model = merged(dequantized(policy.model).float(), str(artifact), None, str(artifact))
    return policy


def _notes_on_merging(recipe: Recipe) -> list[str]:
    if recipe.policy.quantization != "none":
        return ["The base was trained on in 4 bits; these weights are what the 4 bits stand for, and the adapter."]
    if recipe.policy.dtype != "float32":
        return [f"Merged in float32, as {recipe.policy.dtype} would round the adapter."]
    return []


def _loading_quantized(recipe: Recipe) -> str:
    bits = "load_in_8bit=True"
    if recipe.policy.quantization == "4bit":
        bits = (
            'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
            f"bnb_4bit_compute_dtype=torch.{recipe.policy.dtype}"
        )
    return (
        f"The adapter was trained on its base in {recipe.policy.quantization.replace('bit', ' bits')}, and belongs to "
        f"these weights: load it with `quantization_config=BitsAndBytesConfig({bits})`."
    )


def _write_settings(recipe: Recipe, policy: LanguageModel, directory: Path) -> None:
    """Writes tokenizer and generation config: the run's chat template, its ends of a completion, its sampling."""
    from transformers import GenerationConfig

    from alignbench.models.forward import base_model

    if recipe.chat is not None and recipe.chat.template is not None:
        policy.tokenizer.chat_template = recipe.chat.template
    directory.mkdir(exist_ok=True)
    policy.tokenizer.save_pretrained(directory)
    inner = base_model(policy.model)
    own = getattr(inner, "generation_config", None) or GenerationConfig()
    decoding = get_protocol(recipe.evaluation.protocol).decoding
    config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
        eos_token_id=list(policy.eos_ids) or None,
        pad_token_id=policy.pad_id,
        do_sample=True,
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        min_new_tokens=decoding.min_new_tokens or None,
        max_new_tokens=decoding.max_new_tokens,
    )
    inner.generation_config = config
    config.save_pretrained(directory)


def _notes_on_prompts(recipe: Recipe, policy: LanguageModel) -> list[str]:
    """How a prompt becomes what the model has read, where that is not what the tokenizer alone makes of it."""
    notes = []
    if recipe.data.template is not None:
        notes.append(f"Prompts were written as {json.dumps(recipe.data.template, ensure_ascii=False)}.")
    if recipe.chat is not None:
        system = recipe.chat.system
        with_system = f", after the system message {json.dumps(system, ensure_ascii=False)}" if system else ""
        notes.append(f"A prompt is the user's turn of a chat, by the chat template of the tokenizer{with_system}.")
    elif tuple(policy.tokenizer("a")["input_ids"]) != tuple(policy.encode_prompt("a")):
        notes.append("What the tokenizer puts after a text is no part of a prompt: leave it out.")
    return notes


def _copy_adapter(recipe: Recipe, artifact: Path, directory: Path, base: str) -> None:
    """Copies an adapter, and has it name its base as whoever lacks alignbench finds it."""
    for path in artifact.glob("adapter_model.*"):
        shutil.copyfile(path, directory / path.name)
    config = json.loads((artifact / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": recipe.policy.revision}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
