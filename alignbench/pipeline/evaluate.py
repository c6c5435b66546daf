"""The evaluation of what was trained, on held-out prompts: what the evaluator is given, and what it takes."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.pipeline.build import Components
from alignbench.pipeline.curve import cost_of_evaluation
from alignbench.pipeline.prompts import prompts_source
from alignbench.records import Cost, EvalReport, Prompt, Scorer, fingerprint
from alignbench.runtime.device import hardware_class
from alignbench.runtime.ledger import spending
from alignbench.runtime.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from alignbench.models.language_model import LanguageModel
    from alignbench.pipeline.pairs import Pairs
    from alignbench.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def evaluate_policy(
    recipe: Recipe,
    parts: Components,
    policy: Any,
    prompts: Sequence[Prompt],
    neutral: Sequence[str],
    scorers: Mapping[str, Scorer],
    device: torch.device,
    cost: Cost,
) -> tuple[EvalReport, dict[str, Any]]:
    """Measures a policy, and adds what that took to `cost`, seconds and memory apart.

    Returns the report, and what must be equal in every run beside it.
    """
    from alignbench.evaluation.evaluator import evaluate
    from alignbench.evaluation.protocols import comparability, get_protocol
    from alignbench.models.loading import weights_fingerprint

    protocol = get_protocol(recipe.evaluation.protocol)
    reference = parts.base_policy()
    spent_on = spending(policy, reference, *scorers.values())
    with spent_on as spent, progress_bar(f"evaluating under {protocol.name}", len(prompts)) as advance:
        report = evaluate(
            policy,
            reference,
            prompts,
            protocol,
            scorers,
            seed=recipe.seed,
            batch_prompts=max(1, recipe.evaluation.batch_size // protocol.samples_per_prompt),
            neutral=neutral,
            groups=_variants(prompts),
            progress=advance,
        )
    cost.charge(cost_of_evaluation(spent, report, len(scorers)))
    same = comparability(
        protocol,
        prompts,
        scorers,
        prompts_source=prompts_source(recipe),
        sees_prompt=parts.scorers_that_see_prompts(),
        neutral=neutral,
    )
    same |= {
        "base_model": weights_fingerprint(reference.model),
        "precision": recipe.policy.dtype,
        "hardware_class": hardware_class(device),
        "chat": recipe.chat.model_dump() if recipe.chat else None,
    }
    return _of_split(report, same, recipe)


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
    parts: Components,
    trained: Any,
    pairs: Pairs,
    heldout: Pairs,
    policy: LanguageModel,
    prompts: Sequence[Prompt],
    cost: Cost,
) -> tuple[EvalReport, dict[str, Any]]:
    """Does the same for a reward model, on the pairs that it was trained on and on held-out ones."""
    from alignbench.evaluation.probes.reward_model import evaluate_reward_model
    from alignbench.models.loading import weights_fingerprint

    with spending(trained.scorer) as spent:
        report = evaluate_reward_model(trained.scorer, pairs.items, heldout.items, _variants(prompts))
    cost.charge(dataclasses.replace(spent, reward_calls=2 * (len(pairs.items) + len(heldout.items))))
    same = {
        "protocol": report.protocol,
        "heldout_prompts": fingerprint([prompt.identity for prompt in prompts]),
        "labeller": parts.labeller().fingerprint,
        # How many prompts the training pairs come from is no matter of the held-out ones.
        "pairs": parts.recipe.pairs.model_dump(mode="json") | {"n_prompts": None},
        "start_policy": weights_fingerprint(policy.model),
    }
    return _of_split(report, same, parts.recipe)


@dataclass(frozen=True, slots=True)
class SavedRewardModel:
    """A reward model that a run has saved."""

    scorer: Scorer


def saved_reward_model(recipe: Recipe, artifact: Path, device: torch.device) -> SavedRewardModel:
    """Loads the reward model of a run, reading what it was trained to read."""
    from alignbench.scorers.reward_model import load_reward_scorer

    own_start = getattr(recipe.method, "model", None) is not None
    trusts = recipe.method.trust_remote_code if own_start else recipe.policy.trust_remote_code
    text = recipe.reward.text if recipe.reward else "completion"
    return SavedRewardModel(load_reward_scorer(artifact, text=text, device=device, trust_remote_code=trusts))
