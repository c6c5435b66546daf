"""The model card of an exported run: what it is, how to use it, what was measured and how surely, data and licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from alignbench._version import __version__
from alignbench.comparison.comparability import group_key
from alignbench.comparison.numbers import number
from alignbench.export.checkpoint import Exported
from alignbench.export.folders import without_folders
from alignbench.export.licences import data_licence, model_licence
from alignbench.recipe.recipe import Recipe
from alignbench.recipe.yaml import dump_yaml
from alignbench.records import MetricKey
from alignbench.results.layout import RECIPE_FILE
from alignbench.results.reader import StoredEvaluation, StoredRun, scan_runs
from alignbench.results.schema import StoredMetric
from datasets_prep.settings import named_source

UNTRAINED = "untrained"


def model_card(run: StoredRun, recipe: Recipe, exported: Exported) -> str:
    """Returns README.md for what was exported of a run."""
    sections = {
        "Use": _use(recipe, exported),
        "Measured": _measured(run),
        "Trained": _trained(run, recipe),
        "Data and models": _data(recipe),
        "Recipe": [
            f"The whole recipe is in `{RECIPE_FILE}`: `alignbench run {RECIPE_FILE}` trains it again, where the models "
            "and files are that it names without their folders.",
            f"```yaml\n{dump_yaml(without_folders(recipe.resolved()['method']))}```",
        ],
    }
    title = [_front_matter(recipe, exported), f"# {recipe.name}", *_what(run, recipe, exported)]
    parts = [part for name, body in sections.items() for part in (f"## {name}", *body)]
    return "\n\n".join([*title, *parts]) + "\n"


def _front_matter(recipe: Recipe, exported: Exported) -> str:
    values: dict[str, object] = {
        "library_name": "peft" if exported.base else "transformers",
        "tags": ["alignbench", recipe.method_name],
    }
    if exported.kind != "reward_model":
        values["pipeline_tag"] = "text-generation" if "Causal" in exported.loader else "text2text-generation"
    if not _is_local(recipe.policy.model):
        values["base_model"] = recipe.policy.model
    licence = model_licence(recipe.policy.model, recipe.policy.revision)
    if licence is not None:
        values["license"] = licence
    return f"---\n{dump_yaml(values)}---"


def _what(run: StoredRun, recipe: Recipe, exported: Exported) -> Iterator[str]:
    status = run.status
    what = "A reward model" if exported.kind == "reward_model" else "A language model"
    described = f": {recipe.description}" if recipe.description else ""
    yield (
        f"{what}, {_public(recipe.policy.model)} after `{recipe.method_name}`{described} (seed {status.seed}, run "
        f"{status.run_hash}, alignbench {status.alignbench}; exported by {__version__})."
    )
    yield from exported.notes


def _use(recipe: Recipe, exported: Exported) -> list[str]:
    if not exported.models:
        return ["`alignbench.load_policy(FOLDER)` loads it."]
    lines = [_code(recipe, exported)]
    if exported.base is not None:
        lines.append(
            f"It is an adapter, and peft loads its base {_public(exported.base)} with it; the base has a generation "
            'config of its own, so pass `generation_config=GenerationConfig.from_pretrained("FOLDER")` to `generate`.'
        )
    if exported.kind != "reward_model":
        lines.append(
            f"The generation config samples as the protocol {recipe.evaluation.protocol} does, and ends where the "
            "run's completions end. Dropout is 0 in the configuration."
        )
    return lines


def _code(recipe: Recipe, exported: Exported) -> str:
    loader, place = exported.loader, exported.models[0]
    options = "" if place == "." else f', subfolder="{place}"'
    batch = 'tokenizer("a prompt", return_tensors="pt")'
    if recipe.chat is not None and exported.kind != "reward_model":
        turns = f'{{"role": "system", "content": {recipe.chat.system!r}}}, ' if recipe.chat.system is not None else ""
        batch = (
            f'tokenizer.apply_chat_template(\n    [{turns}{{"role": "user", "content": "a prompt"}}],\n'
            '    add_generation_prompt=True, return_tensors="pt", return_dict=True,\n)'
        )
    last = "print(tokenizer.decode(model.generate(**batch)[0]))"
    if exported.kind == "reward_model":
        last = "print(model(**batch).logits)"
    return (
        f"```python\nfrom transformers import {loader}, AutoTokenizer\n\n"
        f'model = {loader}.from_pretrained("FOLDER"{options})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{options})\n'
        f"batch = {batch}\n{last}\n```"
    )


def _measured(run: StoredRun) -> list[str]:
    if not run.evaluations:
        return ["Nothing was measured."]
    return [part for evaluation in run.evaluations for part in _evaluation(run, evaluation)]


def _evaluation(run: StoredRun, evaluation: StoredEvaluation) -> list[str]:
    record, untrained = evaluation.record, _untrained(run, evaluation)
    beside = ["untrained"] if untrained else []
    header = ["metric", "scorer", "better", "value", "95 % interval", *beside, "measured on"]
    said = [
        f"Under {record.protocol}: {record.n_prompts} prompts, {record.samples_per_prompt} completions of each.",
        _table(header, [_row(metric, untrained) for metric in record.metrics]),
        "Intervals cover the choice of prompts; they do not cover the training seed, and another seed may come out "
        "differently. A difference between two rows is tested by `alignbench compare`, not by looking at intervals.",
    ]
    reasons = sorted({f"{metric.key}: {metric.reason}." for metric in record.metrics if metric.reason})
    diagnosis = run.status.reward_hacking
    if diagnosis is not None:
        said.append(f"Reward hacking: {diagnosis.word}. {' '.join(diagnosis.evidence)}")
    return said + [f"- {reason}" for reason in reasons]


def _row(metric: StoredMetric, untrained: dict[MetricKey, StoredMetric]) -> list[str]:
    interval = "-" if metric.ci_low is None else f"{number(metric.ci_low)} to {number(metric.ci_high)}"
    other = untrained.get(metric.key)
    beside = [number(other.value if other else None)] if untrained else []
    better = metric.direction if metric.direction != "none" else ""
    n = f"{metric.n_scored}" + (f" ({metric.n_unscored} not)" if metric.n_unscored else "")
    return [metric.metric, metric.scorer or "", better, number(metric.value), interval, *beside, n]


def _untrained(run: StoredRun, evaluation: StoredEvaluation) -> dict[MetricKey, StoredMetric]:
    """The metrics of the one untrained recipe beside the run that was measured alike; nothing where there is none."""
    if run.status.method == UNTRAINED:
        return {}
    beside, _ = scan_runs(run.path.parent.parent)
    found = [
        one
        for other in beside
        if other.status.method == UNTRAINED
        for one in other.evaluations
        if group_key(one) == group_key(evaluation)
    ]
    return dict(found[0].metrics) if found else {}


def _trained(run: StoredRun, recipe: Recipe) -> list[str]:
    cost, reward = run.charged_cost, recipe.reward
    said = []
    if cost.training_completions or cost.optimizer_steps:
        said.append(
            f"With {cost.training_completions} completions drawn for training, {cost.optimizer_steps} optimizer steps "
            f"and {cost.reward_calls} texts scored by the reward, what it builds on included."
        )
    if reward is not None and reward.source == "classifier":
        label = reward.label or f"anything but {reward.harmful_label}"
        said.append(f"The reward is the score of `{label}` by {_public(str(reward.classifier))}.")
    elif reward is not None:
        model = f"the reward model of {without_folders(reward.run)}" if reward.run else f"a {reward.source}"
        said.append(f"The reward is {model}.")
    said += [f"Built on {one.recipe}, seed {one.seed} ({one.role})." for one in run.status.upstream]
    return said or ["It was not trained."]


def _data(recipe: Recipe) -> list[str]:
    rows = [("base model", recipe.policy.model, model_licence(recipe.policy.model, recipe.policy.revision))]
    rows.append(("prompts", recipe.data.prompts, data_licence(recipe.data.prompts)))
    if recipe.evaluation.prompts is not None:
        held = named_source(recipe.evaluation.prompts).prompts
        rows.append(("evaluation prompts", held, data_licence(held)))
    if recipe.reward is not None and recipe.reward.classifier is not None:
        rows.append(
            ("reward", recipe.reward.classifier, model_licence(recipe.reward.classifier, recipe.reward.revision))
        )
    for scorer in recipe.evaluation.scorers:
        name = None if isinstance(scorer, str) else getattr(scorer, "classifier", None)
        if not isinstance(scorer, str) and name is not None:
            rows.append((f"judge {scorer.name}", name, model_licence(name, getattr(scorer, "revision", None))))
    lines = _table(
        ["what", "name", "licence"], [[what, _public(name), said or "not stated"] for what, name, said in rows]
    )
    return [
        lines,
        "Licences are what the copies on the exporting machine state; `not stated` is no permission. A model trained "
        "from these is bound by all of them.",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def _is_local(name: str) -> bool:
    return name.startswith("embedded/") or Path(name).expanduser().exists() or re.match(r"[.~/]", name) is not None


def _public(name: str) -> str:
    """A name without the folders of this machine."""
    is_path = not name.startswith("embedded/") and _is_local(name)
    return f"`{Path(name).name}` (a local copy)" if is_path else f"`{name}`"
