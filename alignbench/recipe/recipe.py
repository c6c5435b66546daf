"""A recipe as a value: its settings, its resolved form, and what makes its run the same as another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from pydantic import ValidationError, create_model

from alignbench.errors import Problem, RecipeError, TrainingError, UsageError, did_you_mean
from alignbench.identity import only_if_given
from alignbench.methods.base import Facts, learned_kinds
from alignbench.methods.registry import known_methods, method_class
from alignbench.recipe.blocks import RecipeSettings
from alignbench.recipe.identity import run_hash
from alignbench.recipe.layers import Layer, merge
from alignbench.recipe.problems import schema_problems, shown, where
from alignbench.recipe.roles import BLOCKS, key_of, upstream_names
from alignbench.recipe.use import least_budget, unread_blocks, unspent_budget
from alignbench.recipe.yaml import dump_yaml
from alignbench.scorers.llm_judge import AskedModel


class Recipe(RecipeSettings):
    """One run, with everything that decides its numbers. Files of recipes are read by `loading.load`."""

    method_name: ClassVar[str] = ""
    """The method's name, as in the file: `method.name`."""

    def resolved(self) -> dict[str, Any]:
        """Returns the recipe as it would be in a file, with every default written out but those of `OnlyIfGiven`."""
        optional = only_if_given(RecipeSettings)
        values = self.model_dump(mode="json")
        values = {key: value for key, value in values.items() if value is not None or key not in optional}
        return values | {"method": {"name": self.method_name, **values["method"]}}

    def to_yaml(self) -> str:
        """Returns the resolved recipe as YAML; loading it gives an equal recipe."""
        return dump_yaml(self.resolved())

    @property
    def draws_for_training(self) -> bool:
        """True where completions are drawn and scored before training, for the method to learn from."""
        take = self.demonstrations.take if self.demonstrations else "revisions" if self.revisions else "data"
        facts = replace(self.method.facts, learns_from=learned_kinds(self.method))
        return _draws(facts, take, stored_pairs=self.pairs.source is not None)

    @property
    def scores_for_training(self) -> bool:
        """True where completions are scored before training, drawn or of the data."""
        by_reward = self.demonstrations is not None and self.demonstrations.go_by_reward
        return self.draws_for_training or (by_reward and "demonstrations" in learned_kinds(self.method))

    def upstream_names(self) -> dict[str, str]:
        """Returns the names of the recipes that must have run before this one, by role.

        `policy` is where training starts, `reward` gives its reward; the method knows what it does with others.
        """
        return upstream_names(self.model_dump(include={*BLOCKS, "builds_on"}))

    def asked_models(self) -> Iterator[tuple[str, AskedModel]]:
        """Yields the blocks that name a model which is asked in words before training."""
        if self.feedback is not None:
            yield "feedback", self.feedback
        if self.revisions is not None:
            yield "revisions", self.revisions

    def run_hash(self, upstream_hashes: Mapping[str, str]) -> str:
        """Returns the identity of the run: the hash of the settings that are declared to belong to it.

        Args:
            upstream_hashes: Run hash of each upstream recipe by role; they take the place of these recipes' names.
        """
        return run_hash(self.resolved(), upstream_hashes)

    def require_same_data(self, role: str, other: Recipe) -> None:
        """UsageError where an upstream recipe may train on prompts that this one holds out."""
        another = None
        if other.data != self.data:
            another = "`data` block"
        elif self.data.on_leak == "drop" and any(
            getattr(other.evaluation, key) != getattr(self.evaluation, key) for key in ("prompts", "neutral")
        ):
            another = "evaluation.prompts or evaluation.neutral, which data.on_leak goes by"
        elif (
            other.pairs.source is not None or (other.demonstrations and other.demonstrations.source is not None)
        ) and self.evaluation.prompts not in (None, other.evaluation.prompts):
            another = "evaluation.prompts, which its demonstrations, or stored pairs, are held apart from"
        if another is not None:
            raise UsageError(
                f"{self.name}: {key_of(role)}: {other.name} has another {another}, so it may have trained on prompts "
                f"that {self.name} holds out; give both the same"
            )

    def cautions(self) -> list[str]:
        """Returns what the recipe says and is probably not meant: blocks that nothing reads, budget that is left."""
        return [*unread_blocks(self, self.method_name), *unspent_budget(self)]

    def check_budget(self) -> None:
        """TrainingError where the budget pays for no step of training."""
        given, least = self.budget.completions, least_budget(self)
        if given < least[0]:
            raise TrainingError(
                f"{self.name}: budget.completions: got {given}, expected at least {least[0]}: {least[1]}"
            )

    def check_names(self) -> None:
        """UsageError where a label that is called harmless, or harmful, says the opposite by its own name."""
        if self.reward is not None:
            self.reward.check_names()
        for scorer in self.evaluation.scorers:
            if not isinstance(scorer, str):
                scorer.check_names()


@cache
def _schema(method: str) -> type[Recipe]:
    """Returns the model of recipes of a method, so that its hyperparameters are validated with all the rest."""
    schema = create_model(method, __base__=Recipe, method=(method_class(method), ...))
    schema.method_name = method
    return schema


def recipe_of(layers: Sequence[Layer]) -> Recipe:
    """Validates what layers say together, the lowest first; RecipeError with all its problems."""
    values = merge(layers)
    problems = [Problem(where(path, layers), got, expected) for path, got, expected in _rule_breaks(values)]
    schema = Recipe
    method = values.get("method")
    if isinstance(method, dict) and isinstance(method.get("name"), str) and method["name"] in known_methods():
        schema = _schema(method["name"])
        values = values | {"method": {key: value for key, value in method.items() if key != "name"}}
    try:
        # As JSON, because there a list may stand for a tuple while everything else stays strict.
        recipe = schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError([*problems, *schema_problems(error, values, schema, layers)]) from error
    if problems:
        raise RecipeError(problems)
    return recipe


def _rule_breaks(values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yields key, got and expected for every rule across blocks that is broken; wrong types are left to the schema."""
    method, reward, evaluation = values.get("method"), values.get("reward"), values.get("evaluation")
    if isinstance(method, dict):
        yield from _method_rule_breaks(method.get("name"), reward, values)
    elif "method" in values:
        name = method if method in known_methods() else "ppo"
        yield ("method",), shown(method), f"a mapping with the method's name, such as {{name: {name}}}"
    scorers = evaluation.get("scorers") if isinstance(evaluation, dict) else None
    classifier = reward.get("classifier") if isinstance(reward, dict) else None
    if isinstance(scorers, list) and "reward" in scorers and classifier is None:
        expected = "reward.classifier and reward.label, or `reward` left out of the scorers"
        yield ("evaluation", "scorers"), "`reward` without a reward classifier", expected
    yield from _upstream_rule_breaks(values)
    yield from _feedback_rule_breaks(values)


def _feedback_rule_breaks(values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    method, pairs = values.get("method"), values.get("pairs")
    name = method.get("name") if isinstance(method, dict) else None
    given = [block for block in ("feedback", "revisions") if values.get(block) is not None]
    if not given or name not in known_methods():
        return
    path, kinds = (given[-1],), {"preference_pairs"} | ({"demonstrations"} if given == ["revisions"] else set())
    words = " or ".join(sorted(kind.replace("_", " ") for kind in kinds))
    if len(given) > 1:
        yield path, "a block beside `feedback`", "one of the two: pairs of revisions are ordered already"
    elif kinds.isdisjoint(method_class(name).facts.learns_from):
        yield path, f"a block, and the method {name}", f"it left out, or a method that learns from {words}"
    elif isinstance(pairs, dict) and pairs.get("source") is not None:
        yield path, "a block beside pairs.source", "it left out: stored pairs are ordered already"
    elif "revisions" in given and values.get("demonstrations") is not None:
        yield ("demonstrations",), "a block beside `revisions`", "it left out: the revisions are what is imitated"


def _upstream_rule_breaks(values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    method = values.get("method")
    name = method.get("name") if isinstance(method, dict) else None
    roles = sorted(method_class(name).facts.roles) if name in known_methods() else None
    blocks = {block: values[block] for block in (*BLOCKS, "builds_on") if isinstance(values.get(block), dict)}
    for role, run in upstream_names(blocks).items():
        path = tuple(key_of(role).split(".", 1))
        if run == values.get("name"):
            yield path, shown(run), "another recipe: a run cannot depend on itself"
        if roles is not None and role not in roles and not (role in BLOCKS and path[0] == "builds_on"):
            taken = ", ".join(key_of(one) for one in roles) or "none"
            yield path, f"a role that the method {name} does not take{did_you_mean(role, roles)}", f"one of {taken}"


def _method_rule_breaks(
    name: object, reward: object, values: dict[str, Any]
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    known = known_methods()
    if not isinstance(name, str):
        yield ("method", "name"), "nothing" if name is None else shown(name), f"one of {', '.join(known)}"
    elif name not in known:
        yield ("method", "name"), shown(name), f"one of {', '.join(known)}{did_you_mean(name, known)}"
    elif reward is None:
        facts = method_class(name).facts
        blocks = {key: block for key, block in values.items() if isinstance(block, dict)}
        taken, pairs = blocks.get("demonstrations", {}), blocks.get("pairs", {})
        by_reward = taken.get("min_reward") is not None or taken.get("max_reward") is not None
        take = "what has a reward" if by_reward or "revisions" in blocks else taken.get("take", "data")
        if facts.calls_reward or _draws(facts, take, stored_pairs=pairs.get("source") is not None):
            yield ("reward",), "nothing", f"a reward block, for the method {name}"


def _draws(facts: Facts, take: object, *, stored_pairs: bool) -> bool:
    """True where data are drawn from the policy, also to evaluate a reward model on them.

    `take` is `demonstrations.take`, or whatever else needs a reward.
    """
    from_pairs = [] if stored_pairs and facts.gives_policy else ["preference_pairs"]
    drawn = {"labelled_completions", "ranked_completions", *from_pairs}
    return not drawn.isdisjoint(facts.learns_from) or ("demonstrations" in facts.learns_from and take != "data")
