"""The first recipes of a project: what its model, prompts and classifiers are, looked at and written down."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignbench.embedded import resolve
from alignbench.errors import AlignbenchError, DataError, UsageError
from alignbench.evaluation.protocols import PROTOCOLS, get_protocol
from alignbench.models.facts import ModelFacts, labels_of, look_at_policy
from alignbench.recipe.yaml import dump_yaml
from alignbench.scorers.labels import polarity
from datasets_prep import local_files, sources
from datasets_prep.columns import PROMPT_COLUMNS, cell, find_column, missing
from datasets_prep.demonstrations import COMPLETION_COLUMNS
from datasets_prep.prepare import is_local

_BYTES_PER_WEIGHT = 20
"""Of training in float32: weights, gradients, two moments of Adam, and the frozen copy."""
_BYTES_WITH_ADAPTER = 4
"""The weights alone: gradients and moments are those of an adapter, and the copy is the model without it."""
_SMALLEST_BATCH = 4


@dataclass(slots=True)
class Wanted:
    """What a user has said."""

    model: str
    prompts: str
    classifier: str
    label: str
    """The class of the classifier that is harmful, or the harmless one."""
    budget: int
    judge: str | None = None
    judge_label: str | None = None
    protocol: str | None = None
    methods: Sequence[str] = ("ppo",)
    prompt_column: str | None = None


@dataclass(slots=True)
class Found:
    """What was seen of it."""

    said: list[str] = field(default_factory=list)
    """A sentence on each thing, for the terminal and as comments of the recipe."""
    policy: ModelFacts | None = None
    needs_adapter: bool = False
    has_chat: bool = False
    has_answers: bool = True
    """False where the rows of the prompts have no completions that could be imitated."""


def harm_label(classifier: str, label: str | None, key: str) -> str:
    """Returns the class that says what harm is; where none is named, the one whose name speaks of harm.

    UsageError where no name, or more than one, does.
    """
    try:
        labels = labels_of(resolve(classifier))
    except AlignbenchError:
        if label is None:
            raise
        return label
    if label is not None:
        if label not in labels:
            raise UsageError(f"{key}: got {label!r}, expected one of {', '.join(labels)}, the classes of {classifier}")
        return label
    harmful = [one for one in labels if polarity(one) > 0]
    if len(harmful) != 1:
        raise UsageError(f"{key}: got nothing, expected one of {', '.join(labels)}, the classes of {classifier}")
    return harmful[0]


def look(wanted: Wanted) -> Found:
    """Looks at model, prompts and memory.

    What is on the hub and not on this machine is said to be unseen. DataError where prompts cannot be read.
    """
    found = Found()
    try:
        found.policy = look_at_policy(resolve(wanted.model))
    except AlignbenchError as error:
        found.said.append(f"The model was not looked at: {error}.")
    else:
        found.said += _of_policy(found.policy)
        room, needed = _memory(), found.policy.n_parameters * _BYTES_PER_WEIGHT
        found.needs_adapter = needed > 0.7 * room
        gib = f"{needed / 2**30:.2g} GiB of {room / 2**30:.3g}"
        adapter = f"{found.policy.n_parameters * _BYTES_WITH_ADAPTER / 2**30:.2g} GiB with an adapter"
        less = f"; an adapter is trained instead, {adapter}" if found.needs_adapter else ""
        found.said.append(f"Memory to train every weight in float32: {gib}, activations apart{less}.")
        found.has_chat = found.policy.has_chat_template
    found.said += _of_prompts(wanted, found)
    return found


def _of_policy(facts: ModelFacts) -> Iterator[str]:
    kind = "an encoder-decoder" if facts.is_encoder_decoder else "a causal"
    context = f"{facts.context_tokens} tokens of context" if facts.context_tokens else "no limit of context"
    yield f"{facts.architecture}: {kind} model of {facts.n_parameters:,} parameters, {context}."
    if not facts.has_pad_token:
        yield "It has no pad token, and needs none: padding is masked."
    if facts.has_chat_template:
        yield "Its tokenizer has a chat template, so a prompt is put as a user's turn."


def _of_prompts(wanted: Wanted, found: Found) -> Iterator[str]:
    path = Path(wanted.prompts)
    if wanted.prompts == "embedded" or not is_local(wanted.prompts) or path.is_dir():
        known = wanted.prompts == "embedded" or sources.find(wanted.prompts, "prompts") is not None
        yield f"Prompts of {wanted.prompts}" + ("." if known else ", which were not looked at.")
        return
    rows = local_files.read_rows(path, "--prompts")
    column = find_column(rows, wanted.prompt_column, PROMPT_COLUMNS)
    if column is None:
        raise missing(rows, "prompt", wanted.prompt_column, PROMPT_COLUMNS, f"--prompts: {path}", "--prompt-column")
    found.has_answers = find_column(rows, None, COMPLETION_COLUMNS) is not None
    texts = [one for row in rows if isinstance(one := cell(row, column), str) and one.strip()]
    if not texts:
        raise DataError(f"--prompts: {path}: the column {column!r} holds no text")
    yield f"{len(texts)} prompts in the column {column!r} of {path.name}."
    if found.policy is None or found.policy.context_tokens is None:
        return
    longest = max(len(found.policy.tokenizer(text)["input_ids"]) for text in sorted(texts, key=len)[-20:])
    room = found.policy.context_tokens - get_protocol(protocol_of(wanted)).longest_completion
    if longest > room:
        yield f"The longest has {longest} tokens; prompts of more than {room} leave no room for an answer: left out."


def _memory() -> int:
    """Bytes of the GPU, or of this machine where it has none."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def protocol_of(wanted: Wanted) -> str:
    """The protocol that was asked for, else the one whose own prompts these are, else that of one short answer each."""
    own = [name for name, one in PROTOCOLS.items() if one.prompts_source == wanted.prompts]
    return wanted.protocol or (own[0] if own else "trl-detox-v1")


def write(wanted: Wanted, found: Found, directory: Path) -> list[Path]:
    """Writes shared settings, a recipe for each method and a suite of them; UsageError where one is there already."""
    files = {
        "shared.yaml": _shared(wanted, found),
        "base.yaml": _recipe("base", "The policy as it is: what the others are compared with.", {"name": "untrained"}),
    }
    for name in wanted.methods:
        said = "alignbench keys method." + name + " lists every setting; those left out have their defaults."
        more = _own_answers(name, found)
        files[f"{name}.yaml"] = _recipe(name, said, {"name": name, **_sizes(name, wanted.budget)}, **more)
    names = ["base", *wanted.methods]
    files["suite.yaml"] = (
        f"# Run all of it from where init was called, which relative paths start at:  alignbench run "
        f"{(directory / 'suite.yaml').as_posix()}\n# and then:  alignbench compare results/\n"
        "# More seeds say how much the method's luck counts: from two on verdicts are about the method.\n"
        + dump_yaml({"name": "suite", "recipes": [f"{name}.yaml" for name in names], "seeds": [0]})
    )
    there = [name for name in files if (directory / name).exists()]
    if there:
        raise UsageError(f"{directory / there[0]}: it is there already; name another folder, or move it away")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in files]


def _sizes(method: str, budget: int) -> dict[str, int]:
    """Batches that a budget has room for, of a method that has such settings."""
    from dataclasses import fields

    from alignbench.methods.registry import method_class

    known = {one.name: one.default for one in fields(method_class(method))}
    most = max(_SMALLEST_BATCH, budget // 4)
    sizes = {name: known.get(name) for name in ("batch_size", "mini_batch_size")}
    return {name: most for name, n in sizes.items() if isinstance(n, int) and n > most}


def _own_answers(method: str, found: Found) -> dict[str, object]:
    """What a method imitates where the data have nothing: the policy's own completions, those of the best reward."""
    from alignbench.methods.registry import method_class

    imitates = "demonstrations" in method_class(method).facts.learns_from
    return {"demonstrations": {"take": "best"}} if imitates and not found.has_answers else {}


def _recipe(name: str, said: str, method: dict[str, object], **more: object) -> str:
    return f"# {said}\n" + dump_yaml({"extends": "shared.yaml", "name": name, "method": method, **more})


def _shared(wanted: Wanted, found: Found) -> str:
    """What all recipes share, each block under a comment."""
    policy: dict[str, object] = {"model": wanted.model}
    if found.needs_adapter:
        policy["lora"] = {"r": 16}
    key = "harmful_label" if polarity(wanted.label) >= 0 else "label"
    data: dict[str, object] = {"prompts": wanted.prompts}
    if wanted.prompt_column is not None:
        data["columns"] = {"prompt": wanted.prompt_column}
    scorers: list[object] = ["reward"]
    if wanted.judge is not None:
        scorers.append({"name": "judge", "classifier": wanted.judge, "label": wanted.judge_label})
    held = "the judge takes no part in training: the score to believe"
    none = "only the training reward's own classifier: add a held-out judge, or reward hacking goes unseen"
    blocks: list[tuple[str, dict[str, object]]] = [
        ("The model that is aligned." + "".join(f"\n# {one}" for one in found.said), {"policy": policy}),
        (
            f"What harm is: {wanted.label!r} of this classifier, which training is rewarded to "
            + ("avoid." if key == "harmful_label" else "reach."),
            {"reward": {"classifier": wanted.classifier, key: wanted.label}},
        ),
        ("Split by a hash of the text into train, validation and held out.", {"data": data}),
        ("Completions drawn for training, the same for every method.", {"budget": {"completions": wanted.budget}}),
        (
            f"How all are measured (docs/protocols.md); {none if wanted.judge is None else held}.",
            {"evaluation": {"protocol": protocol_of(wanted), "scorers": scorers}},
        ),
    ]
    if found.has_chat:
        blocks.append(("The tokenizer's own chat template, without a system message.", {"chat": {"system": None}}))
    head = "# What the recipes of this folder share, so that they differ in the method alone.\n"
    return head + "".join(f"\n# {said}\n{dump_yaml(block)}" for said, block in blocks)
