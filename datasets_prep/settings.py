"""The blocks of a recipe for its data: `data`, `pairs`, `labelled_completions`, `demonstrations`. Pydantic only."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Strict, ValidationInfo, field_validator, model_validator

from alignbench.identity import OnlyIfChanged
from alignbench.records import Settings

UnitInterval = Annotated[float, Field(ge=0.0, le=1.0)]


def _checked_range(value: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= value[0] <= value[1]:
        raise ValueError("[lowest, highest] with 1 <= lowest <= highest")
    return value


PROMPT = "{prompt}"
"""Where a prompt stands in a template."""


def _checked_template(value: str | None) -> str | None:
    if value is not None and value.count(PROMPT) != 1:
        raise ValueError(f"a text with {PROMPT} in it once, where the prompt goes")
    return value


TokenRange = Annotated[tuple[int, int], Strict(False), AfterValidator(_checked_range)]  # YAML has lists, no tuples


Temperatures = Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Strict(False), Field(min_length=1)]


class ColumnMapping(Settings):
    """Where a row keeps what is needed; a dotted path such as `prompt.text` reaches into nested rows."""

    id: str | None = None
    """Column of the row's id; null: `id` where there is one, else a hash of the text."""
    prompt: str | None = None
    """Column of the prompt's text; null: the first of `prompt.text`, `prompt`, `text`."""
    toxicity: str | None = None
    """Column of the prompt's toxicity, 0 to 1; null: the first of `prompt.toxicity`, `toxicity`, where there is one."""
    group: str | None = None
    """Column whose value the variants of one text share: they fall into one split and count as one witness; null: near
    copies among the prompts of an evaluation are found by their texts."""


class PromptSettings(Settings):
    """Which prompts are used, how they are cut and how they are split."""

    prompts: str
    """A source by name (`real_toxicity_prompts`, `real_toxicity_prompts_nontoxic`, `wiki_toxic`, `embedded`), a .jsonl,
    .jsonl.gz, .json, .csv or .parquet file, a folder that `save_to_disk` wrote, or a hub data set."""
    config: str | None = None
    """Configuration (subset) of a hub data set that has several; null: its only one."""
    split: str | None = "train"
    """Split of a hub data set; null: `train`. Files have none, nor has a single saved `Dataset`."""
    revision: str | None = None
    """Revision of a hub data set (branch, tag or commit); null: the newest."""
    columns: ColumnMapping = ColumnMapping()
    """Names of the columns, where they are not the usual ones."""
    min_prompt_toxicity: UnitInterval | None = None
    """Keep prompts whose stated toxicity is at least this."""
    max_prompt_toxicity: UnitInterval | None = None
    """Keep prompts whose stated toxicity is at most this."""
    prompt_tokens: TokenRange | None = None
    """Cut each prompt to a length drawn uniformly from this range, both ends included; null: never cut."""
    template: Annotated[str | None, AfterValidator(_checked_template), OnlyIfChanged()] = None
    """What each prompt is put into, with `{prompt}` in its place, wherever it comes from: those of the evaluation, of
    demonstrations and of stored pairs too; null: prompts are as they are. Splits, duplicates, leaks and the lengths of
    `prompt_tokens` are those of prompts without it."""
    max_prompt_chars: int | None = Field(default=None, ge=1)
    """Skip prompts with more characters than this, before any cutting."""
    min_prompt_chars: Annotated[int | None, Field(ge=1), OnlyIfChanged()] = None
    """Skip prompts with fewer characters than this, before any cutting."""
    max_prompts: int | None = Field(default=None, ge=1)
    """Use at most this many prompts of `prompts`, all splits together, chosen by a hash of their ids."""
    validation_fraction: UnitInterval = 0.1
    """Share of the prompts in the validation split."""
    heldout_fraction: UnitInterval = 0.2
    """Share of the prompts in the held-out split; unused where `heldout` is given."""
    heldout: str | None = None
    """A second file or data set that is the held-out split, filtered and cut like the first."""
    heldout_config: str | None = None
    """Configuration of a hub data set in `heldout`; null: `config`, where both are the same data set."""
    heldout_split: str | None = "test"
    """Split of a hub data set in `heldout`; null: `train`. `revision` holds for it too if it is the same data set."""
    on_leak: Literal["refuse", "drop"] = "refuse"
    """What becomes of prompts for training that are held out as well, by `heldout`, `evaluation.prompts` or
    `evaluation.neutral`: `refuse` stops, `drop` leaves them out of training and counts them (`n_leaked`)."""
    split_seed: int = 0
    """Decides the split, the drawn lengths and the order; another seed is another experiment."""

    @field_validator("max_prompt_toxicity")
    @classmethod
    def _not_below_minimum(cls, value: float | None, info: ValidationInfo) -> float | None:
        minimum = info.data.get("min_prompt_toxicity")
        if value is not None and minimum is not None and value < minimum:
            raise ValueError(f"at least min_prompt_toxicity ({minimum})")
        return value

    @field_validator("min_prompt_chars")
    @classmethod
    def _not_above_maximum(cls, value: int | None, info: ValidationInfo) -> int | None:
        maximum = info.data.get("max_prompt_chars")
        if value is not None and maximum is not None and value > maximum:
            raise ValueError(f"at most max_prompt_chars ({maximum})")
        return value

    @field_validator("heldout_fraction")
    @classmethod
    def _fits_beside_validation(cls, value: float, info: ValidationInfo) -> float:
        validation = info.data.get("validation_fraction", 0.0)
        if value + validation > 1.0:
            raise ValueError(f"at most {1.0 - validation:g}, what validation_fraction leaves")
        return value


def named_source(source: str | PromptSettings) -> PromptSettings:
    """Returns the settings of a source that may be given by its name or path alone."""
    return PromptSettings(prompts=source) if isinstance(source, str) else source


def _without_template(value: str | PromptSettings | None) -> str | PromptSettings | None:
    if isinstance(value, PromptSettings) and value.template is not None:
        raise ValueError("template: left out here; data.template is for all prompts of a recipe")
    return value


OtherSource = Annotated[Annotated[str, Field(min_length=1)] | PromptSettings | None, AfterValidator(_without_template)]
"""A source of prompts beside `data`: its name or path, or settings like those of `data`."""


class PairSettings(Settings):
    """How completions and their rewards become preference pairs, or where pairs are read from."""

    completions_per_prompt: int = Field(default=4, ge=2)
    """Completions drawn per prompt; the best is set against the worst."""
    n_prompts: int | None = Field(default=None, ge=1)
    """Prompts to draw pairs from; null: what the budget of completions pays for."""
    completion_tokens: TokenRange = (20, 30)
    """Token limit of a completion: every one draws its own from this range, both ends included."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Sampling temperature."""
    temperatures: Annotated[Temperatures | None, OnlyIfChanged()] = None
    """Several in place of it, such as `[0.7, 0.8, 0.9, 1.0]`, each for as many of a prompt's completions; null: one."""
    take: Annotated[Literal["best_against_worst", "all"], OnlyIfChanged()] = "best_against_worst"
    """Of the completions of a prompt: the best against the worst, or every two, the better against the worse."""
    min_margin: float = Field(default=0.0, ge=0.0)
    """Drop pairs whose rewards differ by less than this; ties are always dropped."""
    max_length_ratio: float | None = Field(default=None, ge=1.0)
    """Drop pairs whose longer completion has more than this many times the tokens of the shorter; null: keep them."""
    source: Annotated[OtherSource, OnlyIfChanged()] = None
    """Stored pairs in place of drawn ones, from a source as `evaluation.prompts`, all of it for training; null: drawn.
    How completions are drawn then counts for the evaluation of a reward model alone."""
    chosen_column: Annotated[str | None, OnlyIfChanged()] = None
    """Column of the preferred text of a stored pair, or of its messages; null: `chosen`."""
    rejected_column: Annotated[str | None, OnlyIfChanged()] = None
    """Column of the other one; null: `rejected`."""
    max_tokens: Annotated[int | None, Field(ge=1), OnlyIfChanged()] = None
    """Cut the texts of stored pairs after so many tokens; null: never. What is not cut ends with the token for that."""

    @model_validator(mode="after")
    def _draws_as_many_at_each_temperature(self) -> Self:
        if self.temperatures is None:
            return self
        if self.temperature != 1.0:
            raise ValueError("temperature: left out beside temperatures")
        if self.completions_per_prompt % len(self.temperatures):
            raise ValueError(
                f"completions_per_prompt: a multiple of {len(self.temperatures)}, the number of temperatures, not "
                f"{self.completions_per_prompt}"
            )
        return self

    @model_validator(mode="after")
    def _speaks_of_stored_pairs(self) -> Self:
        if self.source is not None and self.take != "best_against_worst":
            raise ValueError("take: left out beside source: stored pairs are taken as they are")
        for name in ("chosen_column", "rejected_column", "max_tokens") if self.source is None else ():
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: null where source is null: it is of stored pairs")
        if (self.chosen_column or "chosen") == (self.rejected_column or "rejected"):
            raise ValueError("rejected_column: another column than that of the chosen text")
        return self


class LabelledCompletionSettings(Settings):
    """How completions become wanted or unwanted ones. They are drawn as the `pairs` block says: pairs use the same."""

    wanted_from: float | None = None
    """Lowest reward of a wanted completion; null: the median reward, so that about half are wanted."""


class DemonstrationSettings(Settings):
    """Which completions are imitated: those of the data, or the policy's own, drawn as the `pairs` block says."""

    take: Literal["data", "best", "worst", "all"] = "data"
    """`data`: the completions that the rows hold. Of the policy's own completions of each prompt: `best` and `worst`
    the one of highest, or lowest, reward, `all` every one."""
    source: OtherSource = None
    """Where `data` comes from, as `evaluation.prompts`, all of it for training; null: the training split of `data`."""
    column: str | None = None
    """Column of the completion, its text or its messages; null: the first of `continuation.text`, `completion`,
    `response`, `answer`, `continuation` and `messages`."""
    toxicity_column: str | None = None
    """Column of the completion's toxicity, 0 to 1; null: the first of `continuation.toxicity`, `completion_toxicity`,
    where there is one."""
    min_toxicity: UnitInterval | None = None
    """Take completions of the data whose stated toxicity is at least this."""
    max_toxicity: UnitInterval | None = None
    """Take completions of the data whose stated toxicity is at most this."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Cut completions of the data after so many tokens; null: never. What is not cut ends with the token for that."""
    min_reward: float | None = None
    """Take completions whose reward, by the reward block's classifier, is at least this."""
    max_reward: float | None = None
    """Take completions whose reward is at most this."""

    @model_validator(mode="after")
    def _speaks_of_what_it_takes(self) -> Self:
        of_data = ("source", "column", "toxicity_column", "min_toxicity", "max_toxicity", "max_tokens")
        for name in of_data if self.take != "data" else ():
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: null where take is {self.take}")
        for lowest, highest in ((self.min_toxicity, self.max_toxicity), (self.min_reward, self.max_reward)):
            if lowest is not None and highest is not None and highest < lowest:
                raise ValueError(f"a highest value of at least {lowest:g}, the lowest one, not {highest:g}")
        return self

    @property
    def go_by_reward(self) -> bool:
        """True where completions are chosen by their rewards, drawn or not."""
        return self.take != "data" or self.min_reward is not None or self.max_reward is not None

    def holds_reward(self, reward: float) -> bool:
        """Returns whether a completion of this reward may be taken."""
        lowest = -math.inf if self.min_reward is None else self.min_reward
        highest = math.inf if self.max_reward is None else self.max_reward
        return lowest <= reward <= highest
