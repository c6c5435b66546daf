"""How long a prompt may be, so that it and what follows it fit the policy's context. In tokens, template left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.evaluation.protocols import get_protocol

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe


def longest_measured(recipe: Recipe, policy: LanguageModel) -> int:
    """The longest prompt that is measured on: a matter of policy and protocol, the same for every method."""
    protocol = get_protocol(recipe.evaluation.protocol)
    return _longest_prompt(policy, protocol.longest_completion)


def longest_trained_on(recipe: Recipe, policy: LanguageModel) -> int:
    """The longest prompt that is trained on, or that pairs are drawn for: the completions of training fit as well."""
    return min(longest_measured(recipe, policy), _longest_prompt(policy, longest_completion(recipe) or 0))


def longest_completion(recipe: Recipe) -> int | None:
    """The most tokens that are drawn for a prompt to train on, before training or in it; None where none are."""
    before = recipe.pairs.completion_tokens[1] if recipe.draws_for_training else None
    own = recipe.method.facts.longest_completion(recipe.method)
    return max((n for n in (before, own) if n is not None), default=None)


def _longest_prompt(policy: LanguageModel, n_new_tokens: int) -> int:
    template_tokens = len(policy.encode_prompt("x")) - len(policy.text_tokenizer.encode("x"))
    return policy.longest_prompt(n_new_tokens) - template_tokens
