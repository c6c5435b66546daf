"""The blocks of a recipe that score texts: the reward, what is added to it, and the judges of the evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from alignbench.errors import UsageError
from alignbench.identity import NotIdentity
from alignbench.recipe.named_files import (
    FunctionFile,
    Name,
    Text,
    checked_function,
    checked_lexicon,
    hash_of_function,
    hash_of_lexicon,
)
from alignbench.records import Settings, TextWindow
from alignbench.scorers.labels import Outputs, polarity
from alignbench.scorers.lexicon import LexiconScore


class RewardTerm(Settings):
    """One score: of a classifier, or of a Python function."""

    classifier: Text | None = None
    """Hub id or local path of a classifier."""
    revision: Text | None = None
    """Branch, tag or commit of a hub classifier; null: the newest."""
    trust_remote_code: bool = False
    """Run Python code that the classifier brings with it; false: a model that needs its own is refused."""
    label: Text | None = None
    """Name of the class whose score is taken; of the reward block itself the harmless class."""
    harmful_label: Text | None = None
    """Instead of `label`, the harmful class; the score is that it does not hold."""
    outputs: Outputs | None = None
    """Whether the classifier's labels exclude each other (softmax) or not (a sigmoid each); null: as it says itself."""
    transform: Literal["logit", "logprob", "probability", "margin"] = "logit"
    """What of the class is the score; `margin` is its logit less the log-sum-exp of the others."""
    text: TextWindow = "completion"
    """What the classifier sees: `prompt_and_completion` is one text, `chat` a turn of each by its own template."""
    batch_size: Annotated[int, NotIdentity("texts in a forward pass")] = Field(default=64, ge=1)
    """Texts per forward pass."""
    function: FunctionFile = None
    """`file.py:name` of a function of prompts and completions, beside the recipe or in the current folder."""
    function_sha256: Text | None = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    weight: float = 1.0
    """What the score is multiplied by."""

    _is_there = field_validator("function")(checked_function)
    _is_of_the_file = field_validator("function_sha256")(hash_of_function)

    @model_validator(mode="after")
    def _has_a_label(self) -> Self:
        if self.classifier is not None and self.label is None and self.harmful_label is None:
            raise ValueError(
                "label: the classifier's name for the harmless class, such as nothate, or `harmful_label:` with that "
                "of the harmful one, such as toxic"
            )
        if self.label is not None and self.harmful_label is not None:
            raise ValueError("harmful_label: it left out beside `label`; null takes either of the two away")
        if self.harmful_label is not None and self.function is None and self.weight < 0:
            raise ValueError("weight: 0 or more: with `harmful_label` harm counts against a text already")
        if self.text == "chat" and self.function is not None and self.classifier is None:
            raise ValueError("text: it left out, a function gets prompts and completions apart")
        return self

    @property
    def reads(self) -> tuple[str | None, ...]:
        """The output of a classifier that is scored."""
        return self.classifier, self.revision, self.label or self.harmful_label

    @property
    def sign(self) -> int:
        """1 where a text with the label gains by it, -1 where it loses, 0 without any weight."""
        return ((self.weight > 0) - (self.weight < 0)) * (-1 if self.harmful_label is not None else 1)


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
            for key in (
                "revision",
                "trust_remote_code",
                "label",
                "harmful_label",
                "outputs",
                "transform",
                "text",
                "batch_size",
            ):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key}: it left out, a function has none")
        return self


class RewardSettings(RewardTerm):
    """What is maximised: the score of `run`, `function` or `classifier`, the first that is given, plus those in `also`.

    A classifier here always defines harm, by the one label that is named: it labels pairs and is the scorer `reward`.
    """

    run: Name | None = None
    """Recipe of a reward model to train on instead; the classifier stays the notion of harm."""
    also: tuple[AddedReward, ...] = ()
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
        if self.classifier is None and self.function is None and self.run is None:
            raise ValueError(
                "classifier: a hub id or path of a classifier, `function:` with a Python function, or `run:` with the "
                "recipe of a reward model"
            )
        if self.function is not None and self.run is not None:
            raise ValueError("function: nothing beside `run`; a second score goes into `also`")
        return self

    @model_validator(mode="after")
    def _has_one_sign(self) -> Self:
        """A function may count either way; whatever else is maximised says what is harmless by its label alone."""
        if self.weight < 0 and self.run is not None:
            raise ValueError("weight: 0 or more: a reward model gives more to what its pairs prefer")
        if self.weight < 0 and self.function is None:
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


class ScorerSettings(Settings):
    """What judges completions and takes no part in training: a classifier, a list of words, or a Python function.

    Its scores are between 0 and 1, larger is more harmful.
    """

    name: Name = "judge"
    """Its name in the results."""
    classifier: Text | None = None
    """Hub id or local path of a classifier: softmax, multi-label, or a regression head."""
    label: Text | None = None
    """Name of the harmful class, or of the output of a regression head; the score is its probability."""
    outputs: Outputs | None = None
    """Whether the classifier's labels exclude each other (softmax) or not (a sigmoid each); null: as it says itself."""
    scale: tuple[float, float] | None = None
    """The outputs of a regression head that mean 0 and 1, linear between, cut beyond; null: the probability."""
    revision: Text | None = None
    """Branch, tag or commit of a hub classifier; null: the newest."""
    trust_remote_code: bool = False
    """Run Python code that the classifier brings with it; false: a model that needs its own is refused."""
    lexicon: Annotated[Text | None, NotIdentity("where the list lies; `lexicon_sha256` says what is in it")] = None
    """A file with a word or phrase a line, beside the recipe or in the current folder."""
    lexicon_sha256: Text | None = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    lexicon_score: LexiconScore = "any"
    """`any`: 1 where the text holds an entry, else 0; `share`: the share of the text's words that are listed."""
    function: FunctionFile = None
    """`file.py:name` of a function of prompts and completions, beside the recipe or in the current folder."""
    function_sha256: Text | None = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    text: TextWindow = "completion"
    """What it sees: the completion, both as one text, or (a classifier) both as turns of a `chat` by its own template;
    with `completion` a function gets an empty text for every prompt."""

    _is_there = field_validator("function")(checked_function)
    _is_of_the_file = field_validator("function_sha256")(hash_of_function)
    _has_words = field_validator("lexicon")(checked_lexicon)
    _is_of_the_list = field_validator("lexicon_sha256")(hash_of_lexicon)

    @field_validator("scale")
    @classmethod
    def _has_two_ends(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] == value[1]:
            raise ValueError("two different outputs: the one that means 0 and the one that means 1")
        return value

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        sources = [key for key in ("classifier", "lexicon", "function") if getattr(self, key) is not None]
        if not sources:
            raise ValueError("classifier: a classifier, a `lexicon:` or a `function:`")
        if len(sources) > 1:
            raise ValueError(f"{sources[1]}: it left out beside `{sources[0]}`; a second judge is an entry of its own")
        if self.classifier is not None and self.label is None:
            raise ValueError("label: the classifier's name for the harmful class, such as toxic")
        if self.text == "chat" and self.classifier is None:
            raise ValueError(f"text: completion or prompt_and_completion, a {sources[0]} has no chat template")
        if self.outputs is not None and self.scale is not None:
            raise ValueError("outputs: it left out beside `scale`, which reads the label's own output as it is")
        keys = {
            "classifier": ("label", "outputs", "scale", "revision", "trust_remote_code"),
            "lexicon": ("lexicon_score",),
        }
        for key in (key for source, own in keys.items() if source != sources[0] for key in own):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: it left out, a {sources[0]} has none")
        return self

    def check_names(self) -> None:
        """UsageError where the class that is called harmful says the opposite by its own name."""
        if self.label is not None and self.scale is None and polarity(self.label) < 0:
            raise UsageError(
                f"evaluation.scorers: {self.name}.label: got {self.label!r}, no name of harm, expected the harmful "
                "class: a judge's score is the probability of harm, and less of it is better"
            )
