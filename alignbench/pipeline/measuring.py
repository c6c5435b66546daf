"""One measurement of a policy by what its recipe says: every evaluation of a run goes this way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignbench.evaluation.protocols import DIVERGENCE_TOKENS, get_protocol
from alignbench.pipeline.build import at_hand
from alignbench.records import Cost, EvalReport, Policy, Prompt
from alignbench.runtime.ledger import spending

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.pipeline.build import Parts, Yardsticks
    from alignbench.recipe.recipe import Recipe


def measure(
    parts: Parts, yardsticks: Yardsticks, policy: Policy, prompts: Sequence[Prompt], **asked: Any
) -> tuple[EvalReport, Cost]:
    """Returns what the evaluator measures, and what the policy, the reference and the judges have spent on it.

    `asked` is passed on to `evaluate`, beside protocol, judges, seed and batches, which are the recipe's.
    """
    from alignbench.evaluation.evaluator import evaluate

    recipe, reference, judges = parts.recipe, yardsticks.reference, yardsticks.judges
    assert reference is not None
    protocol = get_protocol(recipe.evaluation.protocol)
    with at_hand(reference, parts.device), spending(policy, reference, *judges.values()) as spent:
        n = drawn_at_once(recipe, reference, prompts)
        with rows_at_once(n, policy, reference):
            report = evaluate(
                policy,
                reference,
                prompts,
                protocol,
                judges,
                seed=recipe.seed,
                batch_prompts=max(1, n // protocol.samples_per_prompt),
                **asked,
            )
    return report, spent


def drawn_at_once(recipe: Recipe, model: LanguageModel, prompts: Sequence[Prompt]) -> int:
    """Completions that an evaluation of these prompts draws at once: what the recipe says, or as many as have room."""
    from alignbench.models.row_memory import completions_at_once

    if recipe.evaluation.batch_size is not None:
        return recipe.evaluation.batch_size
    protocol = get_protocol(recipe.evaluation.protocol)
    longest = max(map(len, model.encode_prompts(protocol.cut(prompts))))
    return completions_at_once(model, longest + max(protocol.decoding.max_new_tokens, DIVERGENCE_TOKENS))


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
