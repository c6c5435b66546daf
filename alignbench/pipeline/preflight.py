"""A check at the start of everything that a run needs later: seconds then, in place of hours before a failure.

What a recipe has loaded goes once, and small, through what it will go through: each scorer reads an empty, a short and
a very long text, alone and together; the policy answers the shortest and the longest prompt with the longest completion
and says the same of both alone and together; one training step's shapes are passed through; and everything that will be
saved but the weights is saved. Nothing is left of it: no gradient, no random state; its seconds count, its tokens do
not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from alignbench.errors import AlignbenchError, ModelError, ScorerError, TrainingError
from alignbench.evaluation.protocols import get_protocol
from alignbench.models.forward import base_model, completion_forward, token_logprobs
from alignbench.models.output_layer import rows_that_fit
from alignbench.models.padding_check import ROUNDED_TOLERANCE, TOLERANCE
from alignbench.pipeline.curve import undisturbed
from alignbench.pipeline.prompt_limits import longest_completion
from alignbench.records import Completion, Decoding, Prompt, Scorer
from alignbench.scorers.base import may_draw
from alignbench.scorers.room import without_room

if TYPE_CHECKING:
    from alignbench.methods.base import OwnStart
    from alignbench.models.language_model import LanguageModel
    from alignbench.pipeline.build import Parts, Yardsticks
    from alignbench.recipe.recipe import Recipe

_LONG = "one more word " * 400
"""Longer than most classifiers read."""
_KINDS = ("an empty text", "a short text", "a very long text", "a short text after a very long prompt")
_TEXTS = ("", "a", _LONG, "a")
_SCORE_TOLERANCE = 1e-3
"""What rounding may change of a score; of one above 1, relative to it."""


def check_before_start(parts: Parts, yardsticks: Yardsticks) -> None:
    """Raises what a run would meet later: a ModelError, ScorerError or UsageError that names the recipe's key."""
    policy, reward, data = parts.policy, parts.signal, parts.data
    measured_on = _shortest_and_longest(policy, (*data.validation, *yardsticks.heldout.prompts))
    n_trained, n_measured = _longest_completions(parts)
    judges = {f"evaluation.scorers: {name}": judge for name, judge in yardsticks.judges.items()}
    scorers = {"reward": reward, **judges}
    with undisturbed(policy):
        for where, scorer in scorers.items():
            if scorer is not None:
                check_scorer(scorer, where, measured_on[0].text, is_judge=where != "reward")
        check_policy(policy, measured_on, n_measured)
        facts = parts.recipe.method.facts
        n_before = facts.tokens_before_a_prompt(parts.recipe.method, policy)
        check_room_before(policy, measured_on[-1], n_before, n_measured)
        if facts.trains:
            # Apart: a prompt that is measured on need not have room for what training draws.
            trained_on = _shortest_and_longest(policy, data.train)
            completions = check_policy(policy, trained_on, n_trained)
        if facts.calls_reward and reward is not None:
            check_room(reward, policy, data.train, n_trained)
        if (start := facts.own_start(parts.recipe.method)) is not None:
            check_reward_model_start(parts, start)
        elif facts.trains and facts.takes_steps and parts.recipe.policy.lora is None:
            method, n_drawn = parts.recipe.method, parts.recipe.pairs.completions_per_prompt
            n_rows = facts.texts_in_a_pass(method) * facts.texts_of_a_prompt(method, n_drawn)
            if facts.cuts_logits:
                n_rows = min(n_rows, max(1, rows_that_fit(policy.model, n_trained)))
            check_step(policy, trained_on[-1], completions[-1], n_rows)
        check_saving(policy)


def check_by_loading(recipe: Recipe, device: torch.device) -> list[str]:
    """Loads what a recipe names and checks it as the start of a run does; returns what has to be trained before that.

    Raises:
        AlignbenchError: As the run would.
    """
    from alignbench.models.loading import shared_classifiers
    from alignbench.pipeline import build, prompts, scorers

    policy = build.start_policy(recipe, {}, device)
    data, start = prompts.prepared_prompts(recipe, policy), build.reward_model_start(recipe, {}, device)
    heldout = prompts.heldout_prompts(recipe, policy, data)
    parts = build.Parts(recipe, device, policy, data, None, None, start, {})
    with shared_classifiers():
        if recipe.reward is not None and (recipe.reward.run is None or recipe.reward.classifier is not None):
            make = scorers.training_reward if recipe.reward.run is None else scorers.labeller
            parts = replace(parts, reward=make(recipe, {}, parts.joint, device))
        judges = scorers.judges(recipe, parts.joint, device)
    check_before_start(parts, build.Yardsticks(heldout, (), judges, None, {}))
    return sorted(recipe.upstream_names().values())


def check_scorer(scorer: Scorer, where: str, prompt: str, *, is_judge: bool) -> None:
    """ScorerError where odd texts have no score that is a finite number or None, or another one beside other texts."""
    prompts = [prompt, prompt, prompt, _LONG]
    together = scorer.score(prompts, _TEXTS)
    alone = [scorer.score([one], [text])[0] for one, text in zip(prompts, _TEXTS, strict=True)]
    for kind, one, other in zip(_KINDS, alone, together, strict=True):
        for score in (one, other):
            if score is not None and (not math.isfinite(score) or (is_judge and not 0.0 <= score <= 1.0)):
                expected = "a number between 0 and 1" if is_judge else "a finite number"
                raise ScorerError(f"{where}: got {score} for {kind}, expected {expected}, or None for no score")
        same = one == other or (one is not None and other is not None and _nearly_equal(one, other))
        if not same and not may_draw(scorer):
            raise ScorerError(
                f"{where}: {kind} has the score {one} alone and {other} beside other texts; use a classifier of "
                "another family"
            )


def check_policy(policy: LanguageModel, prompts: Sequence[Prompt], n_tokens: int) -> list[Completion]:
    """ModelError where prompts with completions of `n_tokens` have other log-probabilities together than alone.

    Returns a completion of this length for each prompt.
    """
    where = f"policy.model: {policy.name!r}"
    with _explained(f"{where} cannot answer its longest prompt with {n_tokens} tokens"):
        completions = policy.generate(prompts, Decoding(n_tokens, min_new_tokens=n_tokens), 1, ("before the start",))
        together = policy.token_logprobs(prompts, completions)
        alone = [policy.token_logprobs([one], [other])[0] for one, other in zip(prompts, completions, strict=True)]
    for mine, theirs in zip(together, alone, strict=True):
        if not (mine.isfinite().all() and theirs.isfinite().all()):
            raise ModelError(f"{where}: got log-probabilities that are not finite; its weights may be damaged")
        is_whole = all(p.dtype == torch.float32 for p in policy.model.parameters())
        difference = (mine - theirs).abs().max() if is_whole else (mine - theirs).square().mean().sqrt()
        if difference > (TOLERANCE if is_whole else ROUNDED_TOLERANCE):
            raise ModelError(
                f"{where}: log-probabilities beside a longer text differ by {difference:.2g} nats from those alone; "
                "use a model of another family"
            )
    return completions


def check_room_before(policy: LanguageModel, prompt: Prompt, n_before: int, n_tokens: int) -> None:
    """ModelError where what a method's policy reads before a prompt leaves no room for it, and `n_tokens` after it."""
    n, most = len(policy.encode_prompt(prompt)), policy.longest_prompt(n_tokens) - n_before
    if n_before and n > most:
        raise ModelError(
            f"policy.model: {policy.name!r} takes {policy.context_tokens} tokens: {n_before} that the method has "
            f"before each prompt and {n_tokens} of a completion leave {most}, and the longest prompt that is measured "
            f"on has {n}: shorten the prompts (data.prompt_tokens), or leave long ones out (data.max_prompt_chars)"
        )


def check_room(reward: Scorer, policy: LanguageModel, prompts: Sequence[Prompt], n_tokens: int) -> None:
    """TrainingError where the reward cannot read completions as long as training draws them."""
    if lacking := without_room(reward, policy, prompts, n_tokens):
        raise TrainingError(f"method.completion_tokens: expected shorter completions: {lacking[0]}")


def check_step(policy: LanguageModel, prompt: Prompt, completion: Completion, n_rows: int = 1) -> None:
    """ModelError where no gradient comes back through a pass of `n_rows` of the longest text; it is thrown away."""
    where = f"policy.model: {policy.name!r}"
    with _explained(f"{where} cannot be trained on its longest text"), torch.enable_grad():
        batch = policy.batch([prompt] * n_rows, [completion] * n_rows)
        loss = token_logprobs(completion_forward(policy.model, batch)[0], batch.completion_ids).mean()
        try:
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in policy.model.parameters() if p.grad is not None]
        finally:
            policy.model.zero_grad(set_to_none=True)
    if not gradients:
        raise ModelError(f"{where}: none of its weights can be trained; set policy.lora, or use weights that are whole")


def check_reward_model_start(parts: Parts, start: OwnStart) -> None:
    """ModelError where what a reward model starts from cannot be loaded, or be trained on the texts that it is to read.

    That would come to light only after all pairs were drawn.
    """
    from alignbench.methods.reward_model import training_reader

    reward = parts.recipe.reward
    text = start.text or (reward.text if reward else "completion")
    training_reader(*parts.reward_model_start(start.model), text, parts.joint)


def check_saving(policy: LanguageModel) -> None:
    """ModelError where the tokenizer or a configuration cannot be saved, which a run would find out at its end."""
    model = base_model(policy.model)
    with TemporaryDirectory() as folder, _explained(f"policy.model: {policy.name!r} cannot be saved"):
        policy.tokenizer.save_pretrained(folder)
        model.config.save_pretrained(folder)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(folder)


def _shortest_and_longest(policy: LanguageModel, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompt of the fewest characters, and of the twenty with the most the one of the most tokens."""
    ordered = sorted(prompts, key=lambda prompt: len(prompt.text))
    return [ordered[0], max(ordered[-20:], key=lambda prompt: len(policy.encode_prompt(prompt)))]


def _nearly_equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SCORE_TOLERANCE, abs_tol=_SCORE_TOLERANCE)


def _longest_completions(parts: Parts) -> tuple[int, int]:
    """The most tokens that training and evaluation draw for a prompt."""
    recipe = parts.recipe
    measured = get_protocol(recipe.evaluation.protocol).longest_completion
    return longest_completion(recipe) or measured, measured


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns whatever a library raises into a ModelError that begins with `what`."""
    try:
        yield
    except AlignbenchError:
        raise
    except torch.OutOfMemoryError as error:
        hint = "set method.micro_batch_size or policy.lora, or take a smaller model"
        raise ModelError(f"{what}: the device has too little memory; {hint}") from error
    except Exception as error:  # what a model or a tokenizer raises has no common type
        first = str(error).strip().partition("\n")[0]
        raise ModelError(f"{what}: {type(error).__name__}: {first}") from error
