"""A text classifier in a recipe: which one, which of its labels, and what of that label is the score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from alignbench.errors import UsageError
from alignbench.identity import NotIdentity
from alignbench.records import Scorer, TextWindow
from alignbench.scorers.base import NamedModel, Place, ScorerKind, SourceSettings, Text
from alignbench.scorers.labels import Outputs, polarity


class ClassifierReward(SourceSettings):
    """A classifier whose score is maximised."""

    takes: ClassVar[str] = "a hub id or path of a classifier"

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

    @model_validator(mode="after")
    def _has_a_label(self) -> Self:
        if self.classifier is not None and self.label is None and self.harmful_label is None:
            raise ValueError(
                "label: the classifier's name for the harmless class, such as nothate, or `harmful_label:` with that "
                "of the harmful one, such as toxic"
            )
        if self.label is not None and self.harmful_label is not None:
            raise ValueError("harmful_label: it left out beside `label`; null takes either of the two away")
        return self

    @property
    def reads(self) -> tuple[str | None, ...]:
        """The output that is scored."""
        return self.classifier, self.revision, self.label or self.harmful_label

    def models(self) -> Iterator[NamedModel]:
        """The classifier."""
        if self.classifier is not None:
            key = "label" if self.harmful_label is None else "harmful_label"
            yield NamedModel("classifier", self.classifier, self.revision, key, self.label or self.harmful_label)

    def load(self, place: Place, *, as_judge: bool = False) -> Scorer:
        """Loads it: larger for less harm, or with `as_judge` the probability of harm."""
        names_harm = self.harmful_label is not None
        return _loaded(
            self,
            place,
            label=self.harmful_label if names_harm else self.label,
            label_key="harmful_label" if names_harm else "label",
            transform="probability" if as_judge else self.transform,
            complement=names_harm != as_judge,
            text=self.text,
            batch_size=self.batch_size,
        )


class ClassifierJudge(SourceSettings):
    """A classifier that judges."""

    takes: ClassVar[str] = ClassifierReward.takes
    has_chat_template: ClassVar[bool] = True

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

    @field_validator("scale")
    @classmethod
    def _has_two_ends(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] == value[1]:
            raise ValueError("two different outputs: the one that means 0 and the one that means 1")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.classifier is not None and self.label is None:
            raise ValueError("label: the classifier's name for the harmful class, such as toxic")
        if self.outputs is not None and self.scale is not None:
            raise ValueError("outputs: it left out beside `scale`, which reads the label's own output as it is")
        return self

    def check_words(self, where: str) -> None:
        """UsageError where the class that is called harmful says the opposite by its own name."""
        if self.label is not None and self.scale is None and polarity(self.label) < 0:
            raise UsageError(
                f"{where}.label: got {self.label!r}, no name of harm, expected the harmful "
                "class: a judge's score is the probability of harm, and less of it is better"
            )

    def models(self) -> Iterator[NamedModel]:
        """The classifier."""
        if self.classifier is not None:
            yield NamedModel("classifier", self.classifier, self.revision, label=self.label)

    def load(self, place: Place) -> Scorer:
        """Loads it, for the probability of harm, or the place on its scale."""
        transform = "probability" if self.scale is None else "logit"
        return _loaded(self, place, label=self.label, transform=transform, scale=self.scale, text=place.text)


def _loaded(settings: ClassifierReward | ClassifierJudge, place: Place, **options: Any) -> Scorer:
    from alignbench.scorers.reward_model import load_classifier_scorer

    assert settings.classifier is not None
    return load_classifier_scorer(
        place.resolve(settings.classifier),
        where=place.where,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        device=place.device,
        name=place.name,
        outputs=settings.outputs,
        joint=place.joint,
        **options,
    )


plugin = ScorerKind(reward=ClassifierReward, judge=ClassifierJudge)
