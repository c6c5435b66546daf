"""The blocks of a recipe that belong to no other package: policy, reward, evaluation, budget, chat, hardware."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from alignbench.errors import did_you_mean
from alignbench.evaluation.protocols import PROTOCOLS
from alignbench.records import Settings
from datasets_prep.settings import PromptSettings

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1)]
TextWindow = Literal["completion", "prompt_and_completion"]


class LoraSettings(Settings):
    """A low-rank adapter."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the adapter's output is multiplied by alpha / r."""
    target_modules: tuple[Text, ...] | None = None
    """Names of the layers that get an adapter; null: the ones that peft knows for the architecture."""


class PolicySettings(Settings):
    """The language model that is aligned."""

    model: Text
    """Hub id or local path."""
    revision: Text | None = None
    """Branch, tag or commit of a hub model; null: the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    lora: LoraSettings | None = None
    """Train an adapter; null: train every weight."""
    run: Name | None = None
    """Recipe whose trained policy is the start; null: the model as it is."""


class RewardSettings(Settings):
    """What is maximised."""

    classifier: Text | None = None
    """Hub id or local path of the classifier that defines harm: training reward, labeller of pairs, scorer `reward`."""
    revision: Text | None = None
    """Branch, tag or commit of a hub classifier; null: the newest."""
    label: Text | None = None
    """Name of the harmless class, whose score is maximised."""
    transform: Literal["logit", "logprob", "probability", "margin"] = "logit"
    """What of the class is the reward; `margin` is its logit less the best other one."""
    text: TextWindow = "completion"
    """What the classifier sees."""
    batch_size: int = Field(default=64, ge=1)
    """Texts per forward pass."""
    run: Name | None = None
    """Recipe of a reward model to train on instead; the classifier stays the notion of harm."""

    @model_validator(mode="after")
    def _names_a_source(self) -> RewardSettings:
        if self.classifier is None and self.run is None:
            raise ValueError(
                "classifier: a hub id or path of a classifier, or `run:` with the recipe of a reward model"
            )
        if self.classifier is not None and self.label is None:
            raise ValueError("label: the classifier's name for the harmless class, such as nothate")
        return self


class ScorerSettings(Settings):
    """A classifier that judges completions and takes no part in training."""

    name: Name = "judge"
    """Its name in the results."""
    classifier: Text
    """Hub id or local path."""
    label: Text
    """Name of the harmful class; the score is its probability."""
    revision: Text | None = None
    """Branch, tag or commit of a hub classifier; null: the newest."""
    text: TextWindow = "completion"
    """What the classifier sees."""


class BudgetSettings(Settings):
    """What training may use."""

    completions: int = Field(default=8192, ge=1)
    """Completions drawn from the policy for training, pair drawing included."""


class EvaluationSettings(Settings):
    """How the policy is measured."""

    protocol: str
    """Name of the protocol, which fixes decoding, samples per prompt and aggregation."""
    prompts: Text | PromptSettings | None = None
    """A source of prompts by name, or settings like those of `data`; null: the held-out split of `data`."""
    n_prompts: int | None = Field(default=None, ge=1)
    """Use this many prompts; null: as many as the protocol says, or all where there are fewer."""
    batch_size: int = Field(default=32, ge=1)
    """Completions drawn at once; it does not change the numbers."""
    scorers: tuple[Literal["reward"] | ScorerSettings, ...] = Field(min_length=1)
    """`reward` is the classifier of the reward block; the rest are held-out judges."""

    @field_validator("protocol")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in PROTOCOLS:
            raise ValueError(f"one of {', '.join(PROTOCOLS)}{did_you_mean(value, list(PROTOCOLS))}")
        return value

    @field_validator("scorers")
    @classmethod
    def _have_names_of_their_own(
        cls, value: tuple[Literal["reward"] | ScorerSettings, ...]
    ) -> tuple[Literal["reward"] | ScorerSettings, ...]:
        names = [scorer if isinstance(scorer, str) else scorer.name for scorer in value]
        if len(set(names)) < len(names):
            raise ValueError(f"scorers with different names, not {', '.join(names)} (the default name is judge)")
        return value


class ChatSettings(Settings):
    """How a prompt is put to a chat model."""

    system: str | None = None
    """System message; null: none."""
    template: Text | None = None
    """Jinja template; null: the tokenizer's own."""


class HardwareSettings(Settings):
    """Where a run computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is the GPU where there is one."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; null: what torch chooses."""
