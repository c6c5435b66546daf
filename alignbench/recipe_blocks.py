"""The blocks of a recipe that belong to no other package: policy, reward, evaluation, budget, chat, hardware."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from alignbench.errors import did_you_mean
from alignbench.evaluation.protocols import PROTOCOLS
from alignbench.records import Settings
from alignbench.scorers.python_function import check_function, file_sha256
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
    """Hub id or local path of a model, or of a LoRA adapter, which is merged into its base model."""
    revision: Text | None = None
    """Branch, tag or commit of a hub model; null: the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    lora: LoraSettings | None = None
    """Train an adapter; null: train every weight."""
    run: Name | None = None
    """Recipe whose trained policy is the start; null: the model as it is."""


class RewardTerm(Settings):
    """One score: of a classifier, or of a Python function."""

    classifier: Text | None = None
    """Hub id or local path of a classifier."""
    revision: Text | None = None
    """Branch, tag or commit of a hub classifier; null: the newest."""
    label: Text | None = None
    """Name of the class whose score is taken."""
    transform: Literal["logit", "logprob", "probability", "margin"] = "logit"
    """What of the class is the score; `margin` is its logit less the log-sum-exp of the others."""
    text: TextWindow = "completion"
    """What the classifier sees."""
    batch_size: int = Field(default=64, ge=1)
    """Texts per forward pass."""
    function: Text | None = None
    """`file.py:name` of a function of prompts and completions, beside the recipe or in the current folder."""
    function_sha256: Text | None = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    weight: float = 1.0
    """What the score is multiplied by."""

    @field_validator("function")
    @classmethod
    def _is_there(cls, value: str | None) -> str | None:
        if value is not None:
            check_function(value)
        return value

    @field_validator("function_sha256")
    @classmethod
    def _is_of_the_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        function = info.data.get("function")  # absent where it was refused
        if function is None:
            return None
        found = file_sha256(function)
        if value not in (None, found):
            raise ValueError(f"{found}, that of {function} now; null takes the file as it is")
        return found

    @model_validator(mode="after")
    def _has_a_label(self) -> Self:
        if self.classifier is not None and self.label is None:
            raise ValueError("label: the classifier's name for the class to score, such as nothate")
        return self


class AddedReward(RewardTerm):
    """A score that is added to the reward."""

    name: Name
    """Its name in the training log."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_run(cls, values: Any) -> Any:
        if isinstance(values, dict) and "run" in values:
            raise ValueError("run: the run in reward.run, and here what is added to it: a classifier or a function")
        return values

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.classifier is None) == (self.function is None):
            raise ValueError("classifier: either a classifier or a `function:`")
        if self.function is not None:
            for key in ("revision", "label", "transform", "text", "batch_size"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key}: it left out, a function has none")
        return self


class RewardSettings(RewardTerm):
    """What is maximised: the score of `run`, `function` or `classifier`, the first that is given, plus those in `also`.

    A classifier here always defines harm: it labels pairs and is the scorer `reward`, `label` being its harmless class.
    """

    run: Name | None = None
    """Recipe of a reward model to train on instead; the classifier stays the notion of harm."""
    also: tuple[AddedReward, ...] = ()
    """Further scores, added to the reward of training; pairs are not labelled by them where there is a classifier."""

    @field_validator("also")
    @classmethod
    def _have_names_of_their_own(cls, value: tuple[AddedReward, ...]) -> tuple[AddedReward, ...]:
        names = ["main", *(term.name for term in value)]
        if len(set(names)) < len(names):
            raise ValueError(f"terms with different names, not {', '.join(names)} (main is the reward block itself)")
        return value

    @model_validator(mode="after")
    def _names_a_source(self) -> Self:
        if self.classifier is None and self.function is None and self.run is None:
            raise ValueError(
                "classifier: a hub id or path of a classifier, `function:` with a Python function, or `run:` with the "
                "recipe of a reward model"
            )
        if self.function is not None and self.run is not None:
            raise ValueError("function: nothing beside `run`; a second score goes into `also`")
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
