"""The evaluation of what was trained, on held-out prompts: what the evaluator is given, and what it takes."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import UsageError
from alignbench.identity import identity_values
from alignbench.models.loading import shared_classifiers
from alignbench.pipeline.build import Parts, Yardsticks, make_parts, make_yardsticks, saved_policy
from alignbench.pipeline.curve import cost_of_evaluation
from alignbench.pipeline.found_prompts import refuse_own_prompts
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.measuring import measure
from alignbench.pipeline.pairs import heldout_pairs, training_pairs
from alignbench.records import Cost, EvalReport, Policy, Prompt, Scorer, fingerprint
from alignbench.runtime.clock import measured
from alignbench.runtime.ledger import spending
from alignbench.runtime.progress import progress_bar
from alignbench.runtime.randomness import seed_everything
from alignbench.scorers.base import sources_of
from datasets_prep.settings import PairSettings

if TYPE_CHECKING:
    import torch

    from alignbench.pipeline.job import Job
    from alignbench.pipeline.pairs import Pairs
    from alignbench.recipe.recipe import Recipe
    from alignbench.results.writer import RunDirectory

logger = logging.getLogger(__name__)


def evaluate_trained(
    job: Job, directory: RunDirectory, parts: Parts, yardsticks: Yardsticks, pairs: Pairs | None, trained: Any
) -> None:
    """Measures a policy, or a reward model as a scorer, on held-out prompts, and writes it down."""
    heldout, cost, sources = yardsticks.heldout, job.evaluation, {}
    if yardsticks.reference is not None:
        with measured(cost, job.device):
            measures = evaluate_policy(parts, yardsticks, trained, cost)
        sources = {name: sources_of(scorer) for name, scorer in yardsticks.judges.items()}
    else:
        assert pairs is not None
        assert parts.labeller is not None
        other, heldout = heldout_pairs(job.recipe, parts.policy, parts.labeller, heldout)
        cost.charge(dataclasses.replace(other.cost, training_completions=0))  # with its seconds
        with measured(cost, job.device):
            measures = evaluate_trained_reward_model(parts, trained, pairs, other, heldout.prompts, cost)
    directory.write_evaluation(*measures, sources, prompt_rows=heldout.rows)


def evaluate_again(job: Job, directory: RunDirectory) -> None:
    """Evaluates a complete run, of whose evaluation files are gone, from its saved artifact."""
    recipe, device = job.recipe, job.device
    if recipe.policy.quantization != "none":
        raise UsageError(
            f"{directory.path} lost files of its evaluation, and an adapter on a quantized model cannot be loaded as "
            "it was trained; run it again with --force"
        )
    seed_everything(recipe.seed)
    job.evaluation = Cost()
    with measured(job.evaluation, device), shared_classifiers():
        parts = make_parts(recipe, job.artifacts, device, trains=False)
        yardsticks = make_yardsticks(parts)
    directory.record_inputs(inputs_of(recipe, job.artifacts))
    pairs: Pairs | None = None
    trained: Any
    if recipe.method.facts.gives_policy:
        trained = saved_policy(recipe, directory.artifact, device)
    else:
        assert parts.labeller is not None
        trained = saved_reward_model(recipe, directory.artifact, device)
        pairs = training_pairs(recipe, parts.policy, parts.labeller, parts.data, yardsticks.heldout.prompts)
    evaluate_trained(job, directory, parts, yardsticks, pairs, trained)
    directory.complete_again(job.evaluation)


def evaluate_policy(
    parts: Parts, yardsticks: Yardsticks, policy: Policy, cost: Cost
) -> tuple[EvalReport, dict[str, Any]]:
    """Measures a policy, and adds what that took to `cost`, seconds and memory apart.

    Returns the report, and what must be equal in every run beside it.
    """
    recipe, prompts = parts.recipe, yardsticks.heldout.prompts
    refuse_own_prompts(recipe, policy)
    with progress_bar(f"evaluating under {recipe.evaluation.protocol}", len(prompts)) as advance:
        report, spent = measure(
            parts,
            yardsticks,
            policy,
            prompts,
            probes=yardsticks.probes,
            groups=_variants(prompts),
            progress=advance,
        )
    assert spent is not None  # it was measured here
    cost.charge(cost_of_evaluation(spent, report, len(yardsticks.judges)))
    return _of_split(report, dict(yardsticks.conditions), recipe)


def _variants(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Returns the groups of prompts that are variants of one text, and says so where there are any."""
    from datasets_prep.near_copies import variants

    groups = variants(prompts)
    if groups:
        name, size = Counter(groups.values()).most_common(1)[0]
        example = next(prompt.text for prompt in prompts if groups.get(prompt.id) == name)
        n_texts = len(set(groups.values()))
        logger.info(
            "%d held-out prompts are variants of %d texts, and count as %d; the largest group has %d, like %r "
            "(data.columns.group says otherwise where they are not)",
            *(len(groups), n_texts, n_texts, size, example),
        )
    return groups


def _of_split(report: EvalReport, same: dict[str, Any], recipe: Recipe) -> tuple[EvalReport, dict[str, Any]]:
    """Says in protocol and comparability where an evaluation was on validation prompts."""
    if recipe.evaluation.split == "validation":
        same |= {"protocol": f"{same['protocol'].rstrip('*')}@validation", "split": "validation"}
    return dataclasses.replace(report, protocol=same["protocol"]), same


def evaluate_trained_reward_model(
    parts: Parts, trained: Scorer, pairs: Pairs, heldout: Pairs, prompts: Sequence[Prompt], cost: Cost
) -> tuple[EvalReport, dict[str, Any]]:
    """Does the same for a reward model, on the pairs that it was trained on and on held-out ones."""
    from alignbench.evaluation.probes.reward_model import evaluate_reward_model
    from alignbench.models.loading import weights_fingerprint

    assert parts.labeller is not None
    with spending(trained) as spent:
        report = evaluate_reward_model(trained, pairs.items, heldout.items, _variants(prompts))
    cost.charge(dataclasses.replace(spent, reward_calls=2 * (len(pairs.items) + len(heldout.items))))
    same = {
        "protocol": report.protocol,
        "heldout_prompts": fingerprint([prompt.identity for prompt in prompts]),
        "labeller": parts.labeller.fingerprint,
        "pairs": pair_conditions(parts.recipe.pairs),
        "start_policy": weights_fingerprint(parts.policy.model),
    }
    return _of_split(report, same, parts.recipe)


def pair_conditions(settings: PairSettings) -> dict[str, Any]:
    """What must be equal where reward models are compared on held-out pairs; of later settings only those that act."""
    # How many prompts the training pairs come from is no matter of the held-out ones.
    return identity_values(PairSettings, settings.model_dump(mode="json")) | {"n_prompts": None}


def saved_reward_model(recipe: Recipe, artifact: Path, device: torch.device) -> Scorer:
    """Loads the reward model of a run, reading what it was trained to read."""
    from alignbench.scorers.reward_model import load_reward_scorer

    start = recipe.method.facts.own_start(recipe.method)
    trusts = start.trust_remote_code if start and start.model is not None else recipe.policy.trust_remote_code
    text = recipe.reward.text if recipe.reward else "completion"
    return load_reward_scorer(artifact, text=text, device=device, trust_remote_code=trusts)
