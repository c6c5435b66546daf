"""The blocks of a recipe that score texts: the reward, what is added to it, and the judges of the evaluation.

Each has settings of its own, and beside them those of every kind of scorer that plugs in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import new_class
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, SerializeAsAny, field_validator, model_validator
from pydantic_core.core_schema import CoreSchema, no_info_wrap_validator_function

from alignbench.errors import UsageError
from alignbench.identity import NotIdentity
from alignbench.plugins import SCORERS
from alignbench.records import Scorer, Settings, TextWindow
from alignbench.scorers.base import WRITTEN_OUT, BesideRecipe, NamedModel, Place, ScorerKind, SourceSettings
from alignbench.scorers.classifier import ClassifierReward
from alignbench.scorers.labels import polarity

Use = Literal["reward", "judge"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=100)]
"""A name that can be that of a folder."""


def scorer_kind(name: str) -> ScorerKind:
    """Returns a kind of scorer; UsageError where what a package offers under the name is none."""
    found = SCORERS.load(name)
    if not isinstance(found, ScorerKind):
        raise UsageError(f"scorer {name!r} of {SCORERS.owner(name)} is {found!r}; a scorer plug-in is a ScorerKind")
    return found


def _settings(name: str, use: Use) -> type[SourceSettings] | None:
    """Returns the settings of a kind; None where it has no such use, or cannot be imported, which reading it says."""
    try:
        kind = scorer_kind(name)
    except UsageError:
        return None
    return kind.reward if use == "reward" else kind.judge


def knows_context(judge: Mapping[str, Any]) -> bool:
    """Whether a judge, as a resolved recipe has it, goes by more than single words; one that is not installed does."""
    kinds = [_settings(name, "judge") for name in SCORERS.names() if judge.get(name) is not None]
    return all(kind is None or kind.knows_context for kind in kinds)


def with_located_files(values: Mapping[str, Any], beside: Callable[[str], str]) -> dict[str, Any]:
    """Returns the settings of a block, as a recipe has them, with the files of its scorer as `beside` finds them."""
    located = dict(values)
    for name in sorted(located.keys() & {*SCORERS.names()}):
        kind = scorer_kind(name)
        fields = {key: field for one in (kind.reward, kind.judge) if one for key, field in one.model_fields.items()}
        for key, field in fields.items():
            for mark in field.metadata:
                if isinstance(mark, BesideRecipe) and isinstance(values.get(key), str):
                    located[key] = mark.located(values[key], beside)
    return located


class Scored(Settings):
    """A block whose score comes from one of the kinds of scorers, chosen by its key."""

    use: ClassVar[Use]
    before: ClassVar[tuple[type[Settings], ...]] = ()
    """Settings that are written before those of the kinds."""
    kinds: ClassVar[Mapping[str, type[Any]]] = {}
    """Settings of the kinds that this class has, by their keys."""

    @classmethod
    def declaring(cls, values: Mapping[str, Any]) -> type[Self]:
        """Returns the class that declares the settings of a block: with those of the kinds that it names."""
        if cls.kinds:
            return cls
        named = [name for name in SCORERS.names() if name in values and name not in WRITTEN_OUT]
        kinds = {name: _settings(name, cls.use) for name in (*WRITTEN_OUT, *named)}
        return _with_kinds(cls, tuple((name, settings) for name, settings in kinds.items() if settings))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Has a block validated by the class that declares its settings."""
        schema = handler(source)
        return schema if cls.kinds else no_info_wrap_validator_function(cls._by_its_kinds, schema)

    @classmethod
    def _by_its_kinds(cls, values: Any, handler: Callable[[Any], Any]) -> Any:
        if not isinstance(values, dict):
            return handler(values)
        block = cls.declaring(values)
        for name in sorted(values.keys() & {*SCORERS.names()} - block.kinds.keys()):
            scorer_kind(name)
            raise ValueError(f"{name}: it left out, a {name} serves as no {cls.use}")
        block.check_keys(values)
        return block.model_validate_json(json.dumps(values))  # as JSON, where a list may be a tuple

    @classmethod
    def check_keys(cls, values: Mapping[str, Any]) -> None:
        """ValueError for a key that needs an explanation."""

    @classmethod
    def further_kinds(cls) -> set[str]:
        """Returns the names of kinds that it could have besides."""
        return {*SCORERS.names()}.difference(WRITTEN_OUT, cls.kinds)

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of kinds that are there."""
        return tuple(key for key in self.kinds if getattr(self, key) is not None)

    @property
    def source(self) -> str | None:
        """The key of the kind that scores; None where a reward model of another run does, alone."""
        return next(iter(self.sources), None)

    def scorer(self, place: Place) -> Scorer:
        """Makes the scorer."""
        assert self.source is not None
        made: Scorer = self.kinds[self.source].load(self, place)
        return made

    def named_models(self) -> Iterator[tuple[str, NamedModel]]:
        """The classifiers that it names, and how each is called: by its setting, where that is not the kind's own."""
        for key in self.sources:
            for model in self.kinds[key].models(self):
                yield "" if model.key == key else f".{model.key}", model

    def _choices(self) -> str:
        first, *others = (*self.kinds, *sorted(self.further_kinds()))
        *most, last = f"a {first}", *(f"{'an' if key[0] in 'aeiou' else 'a'} `{key}:`" for key in others)
        return f"{', '.join(most)} or {last}"

    def _refuse_settings_of_others(self) -> None:
        """ValueError with the first setting of a kind that is not there."""
        own = {key for source in self.sources for key in self.kinds[source].model_fields}
        for kind in self.kinds.values():
            for key, field in kind.model_fields.items():
                if key not in own and getattr(self, key) != field.get_default():
                    raise ValueError(f"{key}: it left out, a {self.source} has none")


@cache
def _with_kinds(block: type[Scored], kinds: tuple[tuple[str, type[SourceSettings]], ...]) -> type[Any]:
    """Returns a block with the settings of kinds, written before its own."""
    of_kinds = {key for _, settings in kinds if settings in block.__mro__ for key in settings.model_fields}
    owners = dict.fromkeys(block.model_fields.keys() - of_kinds, "the block")
    for name, settings in kinds:
        for key in settings.model_fields:
            if owners.setdefault(key, name) != name:
                raise UsageError(
                    f"scorer {name!r} of {SCORERS.owner(name)}: its setting {key!r} is one of {owners[key]} already; "
                    "rename it"
                )
        if name not in settings.model_fields:
            raise UsageError(
                f"scorer {name!r} of {SCORERS.owner(name)}: it lacks the setting {name!r}, which chooses it"
            )
    bases = (block, *(settings for _, settings in reversed(kinds)), *block.before)
    namespace = {"__module__": __name__, "__doc__": block.__doc__, "kinds": dict(kinds)}
    made: type[Any] = new_class(block.__name__, bases, exec_body=lambda own: own.update(namespace))
    return made


class RewardTerm(Scored, ClassifierReward):
    """One score that is maximised. Its classifier, where it has one, defines harm by the one label that is named."""

    use: ClassVar[Use] = "reward"

    weight: float = 1.0
    """What the score is multiplied by."""

    @property
    def source(self) -> str | None:
        """The key of the kind that is maximised: a classifier beside another one only says what harm is."""
        return next((key for key in self.sources if key != "classifier"), super().source)

    @model_validator(mode="after")
    def _agrees_with_its_label(self) -> Self:
        own = self.source in (None, "classifier")
        if self.harmful_label is not None and own and self.weight < 0:
            raise ValueError("weight: 0 or more: with `harmful_label` harm counts against a text already")
        if self.text == "chat" and not own and self.classifier is None:
            raise ValueError(f"text: it left out, a {self.source} gets prompts and completions apart")
        return self

    @property
    def sign(self) -> int:
        """1 where a text with the label gains by it, -1 where it loses, 0 without any weight."""
        return ((self.weight > 0) - (self.weight < 0)) * (-1 if self.harmful_label is not None else 1)


class AddedReward(RewardTerm):
    """A score that is added to the reward."""

    name: Name
    """Its name in the training log."""

    @classmethod
    def check_keys(cls, values: Mapping[str, Any]) -> None:
        """ValueError for a run, which only the block itself may have."""
        if "run" in values:
            kinds = " or ".join(f"a {key}" for key in cls.kinds)
            raise ValueError(f"run: the run in reward.run, and here what is added to it: {kinds}")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if len(self.sources) != 1:
            raise ValueError(f"classifier: either {self._choices()}")
        self._refuse_settings_of_others()
        return self


class RewardSettings(RewardTerm):
    """What is maximised: `run`, another kind or `classifier`, the first that is given, plus the scores in `also`.

    A classifier here always defines harm, by the one label that is named: it labels pairs and is the scorer `reward`.
    """

    run: Name | None = None
    """Recipe of a reward model to train on instead; the classifier stays the notion of harm."""
    also: tuple[SerializeAsAny[AddedReward], ...] = ()
    """Further scores, added to the reward of training; pairs are not labelled by them where there is a classifier."""
    may_oppose_judges: Annotated[bool, NotIdentity("whether training starts, not what it does")] = False
    """Train even where the reward pays for what the scorers of the evaluation call harm; it changes no number."""

    @field_validator("also")
    @classmethod
    def _have_names_of_their_own(cls, value: tuple[AddedReward, ...]) -> tuple[AddedReward, ...]:
        names = ["main", *(term.name for term in value)]
        if len(set(names)) < len(names):
            raise ValueError(f"terms with different names, not {', '.join(names)} (main is the reward block itself)")
        return value

    @model_validator(mode="after")
    def _names_a_source(self) -> Self:
        others = [key for key in self.sources if key != "classifier"]
        if not self.sources and self.run is None:
            first, *more = (
                kind.takes if key == "classifier" else f"`{key}:` with {kind.takes}" for key, kind in self.kinds.items()
            )
            raise ValueError(f"classifier: {', '.join((first, *more))}, or `run:` with the recipe of a reward model")
        if others and self.run is not None:
            raise ValueError(f"{others[0]}: nothing beside `run`; a second score goes into `also`")
        if len(others) > 1:
            raise ValueError(f"{others[1]}: it left out beside `{others[0]}`; a second score goes into `also`")
        return self

    @model_validator(mode="after")
    def _has_one_sign(self) -> Self:
        """A function may count either way; whatever else is maximised says what is harmless by its label alone."""
        if self.weight < 0 and self.run is not None:
            raise ValueError("weight: 0 or more: a reward model gives more to what its pairs prefer")
        if self.weight < 0 and self.source == "classifier":
            raise ValueError(
                f"weight: 0 or more: pairs and evaluation do not see it; where {self.label} is the harmful class, name "
                f"it by `harmful_label: {self.label}` in place of `label`"
            )
        own_sign = -1 if self.harmful_label is not None else 1
        for position, term in enumerate(self.also):
            if term.classifier is not None and term.reads == self.reads and term.sign == -own_sign:
                raise ValueError(
                    f"also: no term that pays for what the block itself calls harm, as also.{position} does: the same "
                    "label of the same classifier, with the other sign"
                )
        return self

    def check_names(self) -> None:
        """UsageError where the class that is called harmless, or harmful, says the opposite by its own name.

        So of a term in `also`, whatever classifier it is of.
        """
        if self.may_oppose_judges:
            return
        for position, term in enumerate(self.also):
            name = term.label or term.harmful_label
            if name is not None and term.sign * polarity(name) > 0:
                raise UsageError(
                    f"reward.also.{position}: pays for harm, by the name of its label {name!r} and its weight "
                    f"{term.weight:g}; expected a harmful class as `harmful_label`, a harmless one as `label` with a "
                    "weight above 0, or reward.may_oppose_judges: true where it is meant so"
                )
        if self.classifier is None:
            return
        if self.label is not None and polarity(self.label) > 0:
            got, expected, instead = f"label: got {self.label!r}, a name of harm", "harmless", "harmful_label"
        elif self.harmful_label is not None and polarity(self.harmful_label) < 0:
            got, expected, instead = f"harmful_label: got {self.harmful_label!r}, no name of harm", "harmful", "label"
        else:
            return
        raise UsageError(
            f"reward.{got}, expected the {expected} class: training would bring more harm, and the scorer `reward` "
            f"would call it less; write `{instead}: {self.label or self.harmful_label}` in its place, or set "
            "reward.may_oppose_judges: true where it is meant so"
        )


class _NamedJudge(Settings):
    name: Name = "judge"
    """Its name in the results."""


class ScorerSettings(Scored, _NamedJudge):
    """What judges completions and takes no part in training. Its scores are between 0 and 1, larger is more harmful."""

    use: ClassVar[Use] = "judge"
    before: ClassVar[tuple[type[Settings], ...]] = (_NamedJudge,)

    text: TextWindow = "completion"
    """What it sees: the completion, both as one text, or (a classifier) both as turns of a `chat` by its own template;
    with `completion` a function gets an empty text for every prompt."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if not self.sources:
            raise ValueError(f"classifier: {self._choices()}")
        source, *others = self.sources
        if others:
            raise ValueError(f"{others[0]}: it left out beside `{source}`; a second judge is an entry of its own")
        if self.text == "chat" and not self.kinds[source].has_chat_template:
            raise ValueError(f"text: completion or prompt_and_completion, a {source} has no chat template")
        self._refuse_settings_of_others()
        return self

    def check_names(self) -> None:
        """UsageError where a judge says by its own words that it measures the opposite of harm."""
        assert self.source is not None
        self.kinds[self.source].check_words(self, f"evaluation.scorers: {self.name}")
