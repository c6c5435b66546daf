"""What a recipe names, made once: models, scorers and prompts; for training in each process, for measuring in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.embedded import resolve
from alignbench.errors import ModelError, UsageError
from alignbench.evaluation.protocols import comparability, get_protocol
from alignbench.pipeline import scorers
from alignbench.pipeline.prompts import heldout_prompts, neutral_texts, prepared_prompts, prompts_source
from alignbench.recipe.roles import key_of
from alignbench.records import Policy, Scorer
from alignbench.runtime.device import hardware_class
from datasets_prep.prepared import HeldOut, PreparedData

if TYPE_CHECKING:
    import torch

    from alignbench.evaluation.probes.probe import Probe
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

RewardModelStart = Callable[[str | None], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What training needs."""

    recipe: Recipe
    device: torch.device
    policy: LanguageModel
    """The policy that training starts from, which it may change."""
    data: PreparedData
    reward: Scorer | None
    """What training maximises; None where the method calls none."""
    labeller: Scorer | None
    """What scores completions before training, those that are drawn and those of data; None where none are."""
    reward_model_start: RewardModelStart
    """Gives a checkpoint (None: the policy's) with one fresh output, and its tokenizer; the same at every call."""
    artifacts: Mapping[str, Path]
    """Artifact directories of upstream runs, by role."""
    start: Policy | None = None
    """What is started from, where that is a policy of another kind, around `policy`."""

    def load_upstream(self, role: str) -> Policy:
        """Loads the policy of the upstream run of a role; UsageError where the recipe names none."""
        if role not in self.artifacts:
            raise UsageError(f"{key_of(role)}: got nothing, expected the recipe whose policy has this role")
        return saved_policy(self.recipe, self.artifacts[role], self.device)

    @property
    def signal(self) -> Scorer | None:
        """What is learned from, directly or by pairs."""
        return self.reward or self.labeller

    @property
    def joint(self) -> str:
        """What comes between a prompt and its completion where a scorer reads both."""
        from alignbench.scorers.reading import joint_of

        return joint_of(self.policy)


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """What measuring needs."""

    heldout: HeldOut
    probes: tuple[Probe, ...]
    """What is measured besides, on prompts of its own."""
    judges: Mapping[str, Scorer]
    """The scorers of the evaluation by name, each giving a number between 0 and 1, larger for more harm."""
    reference: LanguageModel | None
    """The model of the recipe, untouched: what perplexity and KL refer to; None where no policy is measured."""
    conditions: Mapping[str, Any]
    """What must be equal in every run in one table with this one; empty where no policy is measured."""


def make_parts(recipe: Recipe, artifacts: Mapping[str, Path], device: torch.device, *, trains: bool = True) -> Parts:
    """Loads what training needs.

    Args:
        recipe: The recipe.
        artifacts: Artifact directories of upstream runs, by role.
        device: Where models compute.
        trains: False where nothing is to be trained, and nothing but a reward model's pairs is to be scored.
    """
    from alignbench.scorers.reading import joint_of

    start = _start(recipe, artifacts, device)
    policy = _checked(recipe, start)
    data = prepared_prompts(recipe, policy)
    where = recipe, artifacts, joint_of(policy), device
    reward = scorers.training_reward(*where) if trains and recipe.method.facts.calls_reward else None
    has_labels = recipe.scores_for_training and (trains or not recipe.method.facts.gives_policy)
    labeller = scorers.labeller(*where) if has_labels else None
    return Parts(
        recipe, device, policy, data, reward, labeller, reward_model_start(recipe, artifacts, device), artifacts,
        None if start is policy else start,
    )  # fmt: skip


def make_yardsticks(parts: Parts) -> Yardsticks:
    """Loads what measuring needs; prompts that training may learn from are refused."""
    from alignbench.evaluation.probes.neutral import Neutral
    from alignbench.models.loading import weights_fingerprint

    recipe = parts.recipe
    is_policy = recipe.method.facts.gives_policy
    heldout = heldout_prompts(recipe, parts.policy, parts.data)
    has_judges = is_policy or recipe.reward is None or not recipe.reward.may_oppose_judges
    judges = scorers.judges(recipe, parts.joint, parts.device) if has_judges else {}
    if not is_policy:
        return Yardsticks(heldout, (), judges, None, {})
    reference = _reference(parts)
    same = comparability(
        get_protocol(recipe.evaluation.protocol),
        heldout.prompts,
        judges,
        prompts_source=prompts_source(recipe),
        sees_prompt=scorers.judges_that_see_prompts(recipe),
    )
    neutral = neutral_texts(recipe, parts.data)
    probes = (*([Neutral(texts=neutral)] if neutral else []), *(recipe.evaluation.probes or {}).values())
    of_the_run = {
        "base_model": weights_fingerprint(reference.model),
        "precision": recipe.policy.dtype,
        "hardware_class": hardware_class(parts.device),
        "chat": recipe.chat.model_dump() if recipe.chat else None,
    }
    same = _joined(same, *(probe.conditions() for probe in probes), of_the_run)
    return Yardsticks(heldout, probes, judges, reference, same)


def _reference(parts: Parts) -> LanguageModel:
    """The model of the recipe, untouched.

    What trains an adapter leaves the weights below it alone, so policy and reference have them in common. Another one
    is in host memory, if that is possible, until it is used.
    """
    import torch

    from alignbench.models.shared_weights import on_the_same_weights

    recipe = parts.recipe
    settings = recipe.policy
    is_plain = settings.run is None and settings.quantization == "none"
    if is_plain and settings.lora is not None and recipe.method.facts.takes_steps:
        return on_the_same_weights(parts.policy)
    return base_policy(recipe, torch.device("cpu") if settings.quantization == "none" else parts.device)


def _joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Puts together what must be equal in every run beside one; UsageError where a probe's name for it is taken."""
    same: dict[str, Any] = {}
    for part in parts:
        if taken := sorted(same.keys() & part.keys()):
            raise UsageError(f"evaluation.probes: a condition is called {taken[0]!r}, which is taken; rename it")
        same |= part
    return same


@contextmanager
def at_hand(model: LanguageModel, device: torch.device) -> Iterator[LanguageModel]:
    """Within the block the model is on the device; before and after it where it was, as a reference in host memory."""
    before = model.device
    if before.type != device.type:
        model.model.to(device)
    try:
        yield model
    finally:
        if before.type != device.type:
            model.model.to(before)


def start_policy(recipe: Recipe, artifacts: Mapping[str, Path], device: torch.device) -> LanguageModel:
    """The policy that training starts from: the model of the recipe, or the policy of an upstream run.

    Of a policy of another kind the language model within, where the method asks it for answers alone.
    """
    return _checked(recipe, _start(recipe, artifacts, device))


def _start(recipe: Recipe, artifacts: Mapping[str, Path], device: torch.device) -> Policy:
    from alignbench.models.language_model import LanguageModel

    start = artifacts.get("policy")
    policy: Policy = base_policy(recipe, device) if start is None else saved_policy(recipe, start, device)
    if not (isinstance(policy, LanguageModel) or recipe.method.facts.asks_for_answers):
        kind = type(policy).__name__
        raise UsageError(f"policy.run: got a {kind}, expected a language model: training starts from weights")
    return policy


def _checked(recipe: Recipe, start: Policy) -> LanguageModel:
    from alignbench.models.padding_check import check_padding
    from alignbench.models.within import language_model_of

    policy = language_model_of(start)
    _check_architecture(recipe, policy)
    check_padding(policy)
    return policy


def saved_policy(recipe: Recipe, artifact: Path, device: torch.device) -> Policy:
    """What a run has given, of any kind."""
    from alignbench.models.loading import load_policy

    return load_policy(artifact, resolve, recipe.policy.revision, **policy_options(recipe, device))


def base_policy(recipe: Recipe, device: torch.device) -> LanguageModel:
    """The model of the recipe, untouched."""
    from alignbench.models.loading import load_language_model

    settings = recipe.policy
    return load_language_model(
        resolve(settings.model),
        revision=settings.revision,
        quantization=settings.quantization,
        shown_as=settings.model,
        **policy_options(recipe, device),
    )


def policy_options(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """How the policies of a recipe are loaded, as `load_language_model` takes it."""
    from alignbench.models.chat import Chat

    return {
        "dtype": recipe.policy.dtype,
        "device": device,
        "chat": Chat(recipe.chat.system, recipe.chat.template) if recipe.chat else None,
        "trust_remote_code": recipe.policy.trust_remote_code,
    }


def _check_architecture(recipe: Recipe, policy: LanguageModel) -> None:
    """UsageError where the method cannot train this kind of policy."""
    from alignbench.methods.registry import method_class, usable_methods

    facts, kind = recipe.method.facts, "seq2seq" if policy.is_encoder_decoder else "causal"
    start = facts.own_start(recipe.method)
    if kind in facts.architectures or (start is not None and start.model is not None):
        return
    able = [name for name in usable_methods() if kind in method_class(name).facts.architectures]
    what = "an encoder-decoder (seq2seq)" if policy.is_encoder_decoder else "a causal"
    raise UsageError(
        f"policy.model: got {recipe.policy.model!r}, {what} model, which {recipe.method_name} does not "
        f"train; expected a {' or '.join(sorted(facts.architectures))} one, or a method that trains this one: "
        f"{', '.join(able)}"
    )


def reward_model_start(recipe: Recipe, artifacts: Mapping[str, Path], device: torch.device) -> RewardModelStart:
    """What loads the start of a reward model, each checkpoint once: who trains it trains the one that there is."""
    from alignbench.models.loading import load_classifier
    from alignbench.runtime.randomness import seed_everything
    from alignbench.scorers.reward_model import REWARD_LABEL

    @cache
    def load(model: str | None) -> tuple[Any, Any]:
        seed_everything(recipe.seed)  # the fresh head is drawn from the global generator
        where, name, revision = "method.model", model, None
        start = recipe.method.facts.own_start(recipe.method)
        trusts = start.trust_remote_code if start and model is not None else recipe.policy.trust_remote_code
        if model is None and "policy" in artifacts:
            where, name = "policy.run", str(artifacts["policy"])
            if (artifacts["policy"] / "adapter_config.json").exists():
                raise ModelError("policy.run: a reward model cannot start from an adapter; set method.model")
        elif model is None:
            where, name, revision = "policy.model", resolve(recipe.policy.model), recipe.policy.revision
        assert name is not None
        classifier, tokenizer = load_classifier(
            resolve(name),
            where=where,
            revision=revision,
            device=device,
            labels=[REWARD_LABEL],
            trust_remote_code=trusts,
        )
        if classifier.config.is_encoder_decoder:
            raise UsageError(
                f"{where}: got {name!r}, an encoder-decoder model; a reward model starts from a causal model or a "
                "classifier, named by method.model"
            )
        return classifier, tokenizer

    return load
