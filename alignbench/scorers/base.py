"""What a kind of scorer brings: the settings that choose it in a recipe, and what makes a scorer of them.

A kind is a module here that binds `plugin`, or an entry point in the group `alignbench.scorers`; its name is the key
that chooses it, and its settings are written beside that key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from alignbench.records import Cost, Scorer, Settings, TextWindow, file_sha256

if TYPE_CHECKING:
    import torch

WRITTEN_OUT = ("classifier", "lexicon", "function")
"""The kinds whose keys every resolved recipe has, in their order, null where another is chosen. The keys of any other
kind are written where it is chosen alone, so that no run has another identity because a package is installed."""


Text = Annotated[str, Field(min_length=1)]
"""A setting that is a text, and says something."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scorer serves."""

    where: str
    """The block of the recipe, for messages."""
    name: str
    """How the scorer is called in tables."""
    device: torch.device
    resolve: Callable[[str], str]
    """Says where a model lies that a recipe names: those of the embedded world have no path of their own."""
    joint: str
    """What comes between a prompt and a completion that does not go on with it, where both are read as one text."""
    text: TextWindow = "prompt_and_completion"
    """What it may read, as the `text` of a judge says."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that settings name by hub id or path: checked before a run, and hashed with its inputs."""

    key: str
    """The setting."""
    name: str
    revision: str | None = None
    label_key: str = "label"
    label: str | None = None
    """The class that is to be among its labels; None: any."""
    use: Literal["classifier", "policy"] = "classifier"
    """What it is to be: a text classifier, or a language model."""


class SourceSettings(Settings):
    """The settings of one kind, in one use. One has the name of the kind; it is null where the kind is not chosen."""

    takes: ClassVar[str] = "a value"
    """What that key takes, in words."""
    has_chat_template: ClassVar[bool] = False
    """Whether a judge of this kind can read turns of a chat."""
    knows_context: ClassVar[bool] = True
    """Whether its judgement goes by more than single words; where others do, a judge that does not has no vote."""

    def load(self, place: Place) -> Scorer:
        """Makes the scorer: of a judge between 0 and 1, larger for more harm; of a reward larger for less."""
        raise NotImplementedError

    def models(self) -> Iterable[NamedModel]:
        """The models that it names."""
        return ()

    def check_words(self, where: str) -> None:
        """UsageError where a judge would measure the opposite of harm, by the words of its own settings."""


@dataclass(frozen=True, slots=True)
class ScorerKind:
    """A plug-in: one kind of scorer, by what it can serve as."""

    reward: type[SourceSettings] | None = None
    """Its settings as a reward, or a term of one; None: it serves as none."""
    judge: type[SourceSettings] | None = None
    """Its settings as a judge of the evaluation; None: it serves as none."""


@dataclass(frozen=True, slots=True)
class BesideRecipe:
    """Marks a setting that names a file, sought beside the recipe first, then in the current folder."""

    separator: str = ""
    """What follows the last of these is no part of the file's name: the function in `file.py:name`."""

    def located(self, value: str, beside: Callable[[str], str]) -> str:
        """Returns the setting with its file as `beside` finds it."""
        if not self.separator:
            return beside(value)
        file, separator, rest = value.rpartition(self.separator)
        return beside(file) + separator + rest


def checked(check: Callable[[str], object]) -> AfterValidator:
    """Has a setting looked at by a function that raises ValueError with what is expected; null is passed over."""

    def look(value: str | None) -> str | None:
        if value is not None:
            check(value)
        return value

    return AfterValidator(look)


def hash_of(key: str, sha256: Callable[[str], str | None] = file_sha256) -> AfterValidator:
    """Fills in the SHA-256 of the file that the setting `key` names; ValueError where another one is asked for.

    Where `sha256` gives None the setting names no file, and nothing is filled in.
    """

    def fill(value: str | None, info: ValidationInfo) -> str | None:
        file = info.data.get(key)
        if file is None:  # there is none, or it was refused
            return None
        found = sha256(file)
        if found is None:
            return value
        if value not in (None, found):
            raise ValueError(f"{found}, that of {file} now; null takes the file as it is")
        return found

    return AfterValidator(fill)


def read_text(prompt: str, completion: str, window: TextWindow, joint: str = "") -> str:
    """The text that a scorer reads of a prompt and its completion.

    Args:
        prompt: As the user wrote it.
        completion: As it was decoded after its prompt: where it goes on with a text, its first space belongs to it.
        window: One that reads a plain text.
        joint: What comes between them where the completion begins a text of its own and neither brings white space.
    """
    if window == "completion":
        return completion
    return prompt + ("" if prompt[-1:].isspace() or completion[:1].isspace() else joint) + completion


# What a scorer may say of itself beside what `records.Scorer` asks for: each by the attribute or method read here.


def parts_of(scorer: Any) -> tuple[Any, ...]:
    """The scorers that one is the sum of, by its `terms`; itself where it is none."""
    return tuple(part for term in getattr(scorer, "terms", ()) for part in parts_of(term.scorer)) or (scorer,)


def term_means(reward: Any) -> dict[str, float]:
    """Means of the terms in the last call, by the `term_means` of a scorer or of what a method belongs to."""
    means: dict[str, float] = getattr(getattr(reward, "__self__", reward), "term_means", {})
    return means


def modules_of(reward: Any) -> tuple[Any, ...]:
    """All modules that a scorer, or what a method belongs to, runs, by its `modules`; none where it does not say."""
    return tuple(getattr(getattr(reward, "__self__", reward), "modules", None) or ())


def sources_of(scorer: Scorer) -> tuple[str, ...]:
    """Hashes of the weights and files that a score comes from, by its `sources`; else its fingerprint."""
    return tuple(getattr(scorer, "sources", (scorer.fingerprint,)))


def spent_by(scorer: Scorer) -> Cost:
    """What it has spent so far, by its `spent`; nothing where it does not count."""
    spent: Cost = getattr(scorer, "spent", Cost())
    return spent


def may_draw(scorer: Scorer) -> bool:
    """Whether a text may have another score the next time, by the `may_draw` of any part."""
    return any(getattr(part, "may_draw", False) for part in parts_of(scorer))


def cut_prompts(scorer: Scorer, prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
    """Which completions it reads after a prompt that lost its beginning, by its `cut_prompts`; else none of them."""
    cut: Callable[..., list[bool]] | None = getattr(scorer, "cut_prompts", None)
    return [False] * len(completions) if cut is None else cut(prompts, completions)
