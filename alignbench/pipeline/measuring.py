"""One measurement of a policy by what its recipe says: every evaluation of a run goes this way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignbench.evaluation.protocols import get_protocol
from alignbench.pipeline.build import at_hand
from alignbench.records import Cost, EvalReport, Policy, Prompt
from alignbench.runtime.device import evaluations_directory
from alignbench.runtime.ledger import spending

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.pipeline.build import Parts, Yardsticks
    from alignbench.recipe.recipe import Recipe


def measure(
    parts: Parts,
    yardsticks: Yardsticks,
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    purpose: str | None = None,
    is_first: bool = False,
    **asked: Any,
) -> tuple[EvalReport, Cost | None]:
    """Returns what the evaluator measures, and what the policy, the reference and the judges have spent on it.

    None in place of that where another run has measured it.

    Args:
        parts: The recipe, and the device.
        yardsticks: The reference and the judges.
        policy: What is measured.
        prompts: What it answers.
        purpose: As `evaluate` takes it.
        is_first: The policy is as training finds it: what another run has measured of it is taken from there.
        asked: Passed on to `evaluate`.
    """
    from alignbench.evaluation.evaluator import evaluate
    from alignbench.pipeline.kept_evaluations import kept, key_of

    recipe, reference, judges = parts.recipe, yardsticks.reference, yardsticks.judges
    assert reference is not None
    protocol = get_protocol(recipe.evaluation.protocol)
    n = drawn_at_once(recipe, reference, prompts)
    how: dict[str, Any] = {
        "seed": recipe.seed,
        "purpose": purpose,
        "batch_prompts": max(1, n // protocol.samples_per_prompt),
    }

    def measured() -> tuple[EvalReport, Cost]:
        with (
            at_hand(reference, parts.device),
            rows_at_once(n, policy, reference),
            spending(policy, reference, *judges.values()) as spent,
        ):
            report = evaluate(policy, reference, prompts, protocol, judges, **how, **asked)
        return report, spent

    key = key_of(policy, reference, protocol.cut(prompts), protocol, judges, **how, rows=n) if is_first else None
    return kept(evaluations_directory(), key, measured)


def drawn_at_once(recipe: Recipe, model: LanguageModel, prompts: Sequence[Prompt]) -> int:
    """Completions that an evaluation of these prompts draws at once: what the recipe says, or as many as have room."""
    from alignbench.models.row_memory import completions_at_once

    if recipe.evaluation.batch_size is not None:
        return recipe.evaluation.batch_size
    protocol = get_protocol(recipe.evaluation.protocol)
    longest = max(map(len, model.encode_prompts(protocol.cut(prompts))))
    return completions_at_once(model, longest + protocol.longest_completion)


@contextmanager
def rows_at_once(n: int, *policies: Policy) -> Iterator[None]:
    """Within the block those that are language models take `n` sequences in a pass."""
    from alignbench.models.language_model import LanguageModel

    models = {id(policy): policy for policy in policies if isinstance(policy, LanguageModel)}
    before = {key: model.batch_size for key, model in models.items()}
    for model in models.values():
        model.batch_size = n
    try:
        yield
    finally:
        for key, model in models.items():
            model.batch_size = before[key]
