"""A recipe as settings, and its blocks that belong to no other package: policy, reward, evaluation, and so on."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    GetPydanticSchema,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from alignbench import plugins
from alignbench.errors import did_you_mean
from alignbench.evaluation.protocols import PROTOCOLS
from alignbench.identity import NotIdentity, OnlyIfGiven
from alignbench.methods.base import Method
from alignbench.recipe.feedback import FeedbackSettings, RevisionSettings
from alignbench.recipe.roles import BLOCKS, key_of
from alignbench.recipe.scorers import Name, RewardSettings, ScorerSettings
from alignbench.records import Settings
from alignbench.scorers.base import Text, checked
from alignbench.scorers.presets import written_out
from alignbench.tracking.trackers import TrackerName
from datasets_prep.neutral_texts import check_source
from datasets_prep.settings import (
    DemonstrationSettings,
    LabelledCompletionSettings,
    OtherSource,
    PairSettings,
    PromptSettings,
)


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
    """Hub id or local path of a model, or of an adapter, which is merged into its base model."""
    revision: Text | None = None
    """Branch, tag or commit of a hub model; null: the newest."""
    trust_remote_code: bool = False
    """Run Python code that the model brings with it; false: a model that needs its own is refused."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    lora: LoraSettings | None = None
    """Train an adapter; null: train every weight."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Keep the frozen weights under an adapter in 8 or 4 bits, by bitsandbytes."""
    run: Name | None = None
    """Recipe whose trained policy is the start; null: the model as it is."""

    @model_validator(mode="after")
    def _quantizes_what_is_frozen(self) -> Self:
        if self.quantization != "none" and self.lora is None:
            raise ValueError(
                f"quantization: none, not {self.quantization}, without an adapter: quantized weights cannot be "
                "trained; or set policy.lora"
            )
        if self.quantization != "none" and self.run is not None:
            raise ValueError(
                f"quantization: none, not {self.quantization}, beside policy.run: the adapter of the earlier run was "
                "trained on other weights than it would be merged into"
            )
        return self


class BudgetSettings(Settings):
    """What training may use."""

    completions: int = Field(default=8192, ge=1)
    """Completions drawn from the policy for training, pair drawing included."""


Judge = Annotated[Literal["reward"] | SerializeAsAny[ScorerSettings], BeforeValidator(written_out)]
"""A judge of the evaluation: the reward block's classifier, one with its settings, or, written out, a preset."""


class EvaluationSettings(Settings):
    """How the policy is measured."""

    protocol: str
    """Name of the protocol, which fixes decoding, samples per prompt and aggregation."""
    prompts: OtherSource = None
    """A source of prompts by name, or settings like those of `data`; null: the held-out split of `data`."""
    split: Literal["heldout", "validation"] = "heldout"
    """`validation` measures on the validation split of `data` instead, as the trials of a sweep do; `prompts` is unused
    then, and `n_prompts` the most that are taken."""
    n_prompts: int | None = Field(default=None, ge=1)
    """Use this many prompts; null: as many as the protocol says, or all where there are fewer."""
    batch_size: Annotated[int | None, NotIdentity("completions drawn at once")] = Field(default=None, ge=1)
    """Completions drawn at once; null: as many as there is room for, 32 to 512; it does not change the numbers."""
    evaluate_every: Annotated[int | None, NotIdentity("where the curve has points; training does not notice")] = Field(
        default=None, ge=0
    )
    """Completions of the budget between evaluations along training; null: an eighth of the budget; 0: none."""
    n_validation_prompts: int = Field(default=64, ge=1)
    """Prompts of the validation split that evaluations along training use, or all where there are fewer."""
    scorers: tuple[Judge, ...] = Field(min_length=1)
    """`reward` is the classifier of the reward block; the rest are held-out judges, each with its settings or by the
    name of a preset."""
    neutral: Annotated[Text | None, checked(check_source)] = None
    """Texts that the policy reads for its perplexity: `wikitext`, `embedded`, a .txt file with one a line, or a file
    with the column `text`; null: it is not measured."""

    probes: Annotated[dict[str, Any] | None, OnlyIfGiven()] = None
    """Further evaluations with prompts of their own, of installed packages: by the probe's name, its settings."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out the key of further probes where there are none, as `OnlyIfGiven` has it."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "probes" or value}

    @field_validator("probes")
    @classmethod
    def _are_probes(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        from alignbench.evaluation.probes.probe import Probe

        known = [name for name in plugins.PROBES.names() if name not in plugins.PROBES.built_in]
        made = {}
        for name, settings in (value or {}).items():
            if name not in known:
                installed = f"one of {', '.join(known)}" if known else "none: no package that is installed brings one"
                raise _not_a_probe(f"{installed}, not {name}{did_you_mean(name, known)}")
            plugin = plugins.PROBES.load(name)
            if not (isinstance(plugin, type) and issubclass(plugin, Probe)):
                raise _not_a_probe(f"a subclass of Probe as {name} of {plugins.PROBES.owner(name)}, not {plugin!r}")
            try:
                made[name] = plugin.model_validate_json(json.dumps(settings or {}))
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, (name, *first["loc"])))
                raise _not_a_probe(f"other settings: {place}: {first['msg']}") from error
        return made or None

    @field_validator("protocol")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in PROTOCOLS:
            raise ValueError(f"one of {', '.join(PROTOCOLS)}{did_you_mean(value, list(PROTOCOLS))}")
        return value

    @field_validator("prompts")
    @classmethod
    def _leaves_leaks_to_data(cls, value: str | PromptSettings | None) -> str | PromptSettings | None:
        if isinstance(value, PromptSettings) and value.on_leak != "refuse":
            raise ValueError("on_leak: it left out here; data.on_leak decides, as it is training that loses prompts")
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


def _not_a_probe(expected: str) -> PydanticCustomError:
    return PydanticCustomError("probe", "{expected}", {"expected": expected})


class ChatSettings(Settings):
    """How a prompt is put to a chat model."""

    system: str | None = None
    """System message; null: none."""
    template: Text | None = None
    """Jinja template; null: the tokenizer's own."""


class HardwareSettings(Settings):
    """Where a run computes."""

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        NotIdentity("where it computes; what was measured on different hardware shares no table"),
    ] = "auto"
    """`auto` is the GPU where there is one."""
    threads: Annotated[int | None, NotIdentity("CPU threads")] = Field(default=None, ge=1)
    """CPU threads; null: what torch chooses."""


class RecipeSettings(Settings):
    """Everything that a recipe says. Its method is declared by the class of the method's name."""

    name: Annotated[Name, NotIdentity("where the run is kept")]
    """Names the results directory."""
    description: Annotated[str, NotIdentity("words for people")] = ""
    """One line for people."""
    method: Annotated[Method, GetPydanticSchema(lambda _type, _handler: core_schema.any_schema())]
    """The method's dataclass with its hyperparameters."""
    policy: PolicySettings
    reward: SerializeAsAny[RewardSettings] | None = None
    data: PromptSettings
    pairs: PairSettings = PairSettings()
    labelled_completions: Annotated[LabelledCompletionSettings | None, OnlyIfGiven()] = None
    demonstrations: Annotated[DemonstrationSettings | None, OnlyIfGiven()] = None
    budget: BudgetSettings = BudgetSettings()
    builds_on: Annotated[dict[Name, Name] | None, OnlyIfGiven()] = None
    """Recipes whose policies the method uses beside the one that it starts from, by role: `{expert: sft_nontoxic}`."""
    feedback: Annotated[FeedbackSettings | None, OnlyIfGiven()] = None
    revisions: Annotated[RevisionSettings | None, OnlyIfGiven()] = None
    evaluation: EvaluationSettings
    chat: ChatSettings | None = None
    hardware: HardwareSettings = HardwareSettings()
    tracking: Annotated[
        tuple[TrackerName, ...] | None, OnlyIfGiven(), NotIdentity("who is told of the run while it is under way")
    ] = None
    """Trackers that are told of the run, in their order; each needs its client (`pip install 'alignbench[wandb]'`)."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides every draw; a run of each seed shows how much of a result is chance."""

    @field_validator("builds_on")
    @classmethod
    def _leaves_roles_of_blocks(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for role in value or ():
            if role in BLOCKS:
                raise ValueError(f"{role}: it left out here, and the recipe named by {key_of(role)}")
        return value
