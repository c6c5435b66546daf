"""The blocks of a recipe for what models say of completions: `feedback` compares them, `revisions` betters them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from alignbench.identity import NotIdentity
from alignbench.records import Settings
from alignbench.scorers.base import BesideRecipe, Text, checked, hash_of
from alignbench.scorers.llm_judge import RUBRICS, AskedModel, GradeWords
from alignbench.scorers.templates import read_template, read_text_file, unchanged

PLACES = {"pairwise": ("first", "second"), "listwise": ("answers",), "graded": ("completion",)}
"""What a rubric needs, by what is compared."""


class FeedbackSettings(AskedModel):
    """A model that says which completions are better; preference pairs go by its word, not by the classifier's."""

    compare: Literal["pairwise", "listwise", "graded"] = "pairwise"
    """Every two completions of a prompt, in both orders; all of them at once, shuffled: the best and the worst; or each
    by itself, for its grade."""
    rubric: Annotated[
        Text | None, NotIdentity("where the rubric lies; `rubric_sha256` says what is in it"), BesideRecipe()
    ] = None
    """A file with `{first}` and `{second}` in it, or `{answers}`, or `{completion}`, and perhaps `{prompt}`; null: the
    shipped one."""
    rubric_sha256: Annotated[Text | None, hash_of("rubric")] = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    answer_tokens: int = Field(default=16, ge=1)
    """The most tokens of an answer."""
    grades: tuple[float, float] = (0.0, 10.0)
    """Where graded: the numbers that mean no harm and the most."""
    grade_words: GradeWords = None
    """Where graded: words that an answer may begin with and the harm that each means, for grades by probabilities, as
    models that have only learned to continue texts can give them; null: a number is read from the text."""
    may_be_at_chance: Annotated[bool, NotIdentity("whether training starts, not what it does")] = False
    """Train even where the model agrees with the classifier no more often than chance."""

    @model_validator(mode="after")
    def _asks_somebody(self) -> Self:
        if self.llm_judge is None:
            raise ValueError("llm_judge: the model that compares completions")
        if self.rubric is not None:
            try:
                read_template(self.rubric, PLACES[self.compare], ["prompt"])
            except ValueError as error:
                raise ValueError(f"rubric: {error}") from error
        return self

    def rubric_text(self, where: str) -> str:
        """What is asked; ScorerError where the file is another one by now."""

        def read(file: str) -> str:
            return read_template(file, PLACES[self.compare], ["prompt"])

        if self.rubric is None:
            return read(str(RUBRICS / f"{self.compare}.txt"))
        return unchanged(self.rubric, self.rubric_sha256, read, f"{where}.rubric")


def read_principles(file: str) -> tuple[str, ...]:
    """The principles of a file in UTF-8, numbered from 1, one a line.

    Such as `1. Nobody is insulted.` Empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: with what was expected.
    """
    lines = read_text_file(file).splitlines()
    found: list[str] = []
    for line in (one.strip() for one in lines):
        if not line or line.startswith("#"):
            continue
        number, dot, text = line.partition(".")
        if not dot or number != str(len(found) + 1) or not text.strip():
            raise ValueError(
                f"principles numbered from 1, one a line, such as `1. Nobody is insulted.` ({file}: {line!r})"
            )
        found.append(text.strip())
    if not found:
        raise ValueError(f"a file with one principle or more, {file} has none")
    return tuple(found)


class RevisionSettings(AskedModel):
    """A model that criticises and revises the policy's drafts under written principles; revisions are learned."""

    principles: Annotated[
        Text | None,
        NotIdentity("where the principles lie; `principles_sha256` says what is in them"),
        BesideRecipe(),
        checked(read_principles),
    ] = None
    """A file of numbered principles, one a line; each turn draws one of them."""
    principles_sha256: Annotated[Text | None, hash_of("principles")] = Field(default=None, validate_default=True)
    """SHA-256 of that file; null: filled in. With any other file the recipe is refused."""
    turns: int = Field(default=1, ge=1)
    """Criticisms with their revisions, one after the other, of each draft."""
    criticism_tokens: int = Field(default=64, ge=1)
    """The most tokens of a criticism."""

    @model_validator(mode="after")
    def _asks_somebody(self) -> Self:
        if self.llm_judge is None:
            raise ValueError("llm_judge: the model that criticises and revises")
        if self.principles is None:
            raise ValueError("principles: a file of numbered principles, one a line")
        return self

    def read(self) -> tuple[str, ...]:
        """The principles; ScorerError where the file is another one by now."""
        assert self.principles is not None
        unchanged(self.principles, self.principles_sha256, read_text_file, "revisions.principles")
        return read_principles(self.principles)


BLOCKS: Mapping[str, type[Settings]] = {"feedback": FeedbackSettings, "revisions": RevisionSettings}
"""The blocks by their keys."""


def with_located_files(block: str, values: Mapping[str, Any], beside: Callable[[str], str]) -> dict[str, Any]:
    """Returns the settings of one of these blocks, as a recipe has them, with their files as `beside` finds them."""
    located = dict(values)
    for key, field in BLOCKS[block].model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, BesideRecipe) and isinstance(values.get(key), str):
                located[key] = mark.located(values[key], beside)
    return located
