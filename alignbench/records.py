"""The nouns that cross borders between packages. Nothing heavy is imported here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import total_ordering
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pandas as pd
    import torch

FinishReason = Literal["eos", "stop", "length", "unknown"]
"""The end-of-sequence token, a stop string, or the token limit; `unknown` of texts that were stored without it."""
Direction = Literal["lower", "higher", "none"]
HackingWord = Literal["none", "suspected", "evident"]
"""From best to worst."""
TextWindow = Literal["completion", "prompt_and_completion", "chat"]
"""What a scorer reads; with `chat` a user's turn and the answer to it, by the scorer's own chat template."""


class Settings(BaseModel):
    """Base of every block of a recipe: typed strictly, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


def fingerprint(value: object) -> str:
    """Returns the first 16 hex digits of the SHA-256 of a JSON-like value (keys sorted, Settings dumped)."""

    def plain(item: object) -> object:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json")
        raise TypeError(f"cannot fingerprint {type(item).__name__}")

    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Messages = tuple[tuple[str, str], ...]
"""Roles (`system`, `user`, `assistant`) and contents of the messages of a conversation."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. `text` is what the user wrote, before any chat template."""

    id: str
    text: str
    toxicity: float | None = None
    """The toxicity that the data set states for this prompt, 0 to 1."""
    whole_text_hash: str | None = field(default=None, compare=False, repr=False)
    """Hash of the text before it was cut to any length; None where `text` was never cut."""
    group: str | None = field(default=None, compare=False, repr=False)
    """What it shares with the other variants of one text; None where it is the only one."""
    messages: Messages | None = None
    """The conversation that a chat model answers, where it is more than one user message; `text` is what it says."""

    def __post_init__(self) -> None:
        """Makes tuples of what JSON has as lists."""
        if self.messages is not None:
            object.__setattr__(self, "messages", tuple((role, content) for role, content in self.messages))

    @property
    def identity(self) -> list[object]:
        """What makes it this prompt, JSON-like: id, text and, where there are several, messages."""
        return [self.id, self.text] if self.messages is None else [self.id, self.text, self.messages]


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of one prompt."""

    prompt_id: str
    sample: int
    """0 to k - 1 within its prompt."""
    text: str
    """Decoded without special tokens; what scorers see."""
    token_ids: tuple[int, ...]
    """As sampled; ends with the end-of-sequence token where `finish_reason` is `eos`, and with the token that completed
    a stop string where it is `stop`."""
    finish_reason: FinishReason

    @property
    def n_tokens(self) -> int:
        """Number of tokens without the end-of-sequence token."""
        return len(self.token_ids) - (self.finish_reason == "eos")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two completions of one prompt, the first one preferred."""

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    chosen_reward: float
    rejected_reward: float


@dataclass(frozen=True, slots=True)
class RankedCompletions:
    """Two or more completions of one prompt, best first; ranks are 0 for the best, and equal of what is as good."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A completion of a prompt that is to be imitated."""

    prompt: Prompt
    completion: Completion


@dataclass(frozen=True, slots=True)
class LabelledCompletion:
    """A completion of a prompt that is known to be wanted or unwanted, without another one to compare it with."""

    prompt: Prompt
    completion: Completion
    is_wanted: bool
    reward: float
    """What the label was made from."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How completions are sampled."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    top_p: float = 1.0
    stop_strings: tuple[str, ...] = ()
    """A completion ends with the token that completes one of these, though not before `min_new_tokens`."""

    def keeps_all(self, n_words: int) -> bool:
        """True where neither top-k nor top-p takes a word out of a vocabulary of this size."""
        return self.top_p >= 1.0 and not 0 < self.top_k < n_words


@runtime_checkable
class Policy(Protocol):
    """Whatever answers prompts: a trained model, best-of-n, a decoding-time ensemble.

    What it may offer besides is in `GivesDistributions` and `ReadsTexts`; the metrics that need those are withheld
    where it does not.
    """

    @property
    def spent(self) -> Cost:
        """Tokens and FLOPs of all that it has computed so far, with what it asks models and scorers to; it only grows.

        What an answer costs is read from it: of a best-of-n the tokens of all n, and the FLOPs of scoring them.
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        """Samples `n_samples` completions for every prompt, prompt-major. `key` and the prompt id fix every draw."""
        ...

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[torch.Tensor] | None:
        """Log-probabilities in nats at temperature 1, one float32 tensor of shape (len(token_ids),) per completion.

        `prompts[i]` is the prompt of `completions[i]`. None where the policy has no such thing (best-of-n).
        """
        ...

    def save(self, directory: Path) -> None:
        """Writes the policy so that `models.load_policy(directory)` gives it back."""
        ...


@runtime_checkable
class GivesDistributions(Protocol):
    """A policy that knows its whole next-token distributions: the exact KL needs them."""

    def next_token_logprobs(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[torch.Tensor] | None:
        """Log-probabilities in nats at temperature 1 of every word before each token: (len(token_ids), V) each.

        Called with a few completions at a time. None where there is no such thing after all.
        """
        ...


@runtime_checkable
class EncodesPrompts(Protocol):
    """A policy that can say which tokens it reads of a prompt: the reference's are kept with an evaluation."""

    def encode_prompt(self, prompt: Prompt | str) -> list[int]:
        """Returns the token ids of a prompt, or of its text, as the model sees it: with template and special tokens."""
        ...


@runtime_checkable
class ReadsTexts(Protocol):
    """A policy that can say how likely it finds a text that answers no prompt: perplexity on neutral texts needs it."""

    def text_logprobs(self, texts: Sequence[str], max_tokens: int) -> list[torch.Tensor] | None:
        """Log-probabilities in nats of the first `max_tokens` tokens of each text; None of an encoder-decoder model."""
        ...


class Scorer(Protocol):
    """Text to number. None means: could not be scored; never 0.0. What it may say besides is in `scorers.base`."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the score: weights, label, transform, text window."""
        ...

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores completions[i] given prompts[i]."""
        ...


@total_ordering
@dataclass(frozen=True, slots=True)
class MetricKey:
    """A metric, and the scorer whose scores it is taken over; written `metric` or `metric@scorer`."""

    metric: str
    scorer: str | None = None

    @classmethod
    def parse(cls, text: str) -> MetricKey:
        """Reads what `str` writes; ValueError where a name is empty."""
        metric, at, scorer = text.partition("@")
        if not metric or (at and not scorer):
            raise ValueError(f"{text!r}: the name of a metric, or METRIC@SCORER")
        return cls(metric, scorer or None)

    def __str__(self) -> str:
        return self.metric if self.scorer is None else f"{self.metric}@{self.scorer}"

    def __lt__(self, other: MetricKey) -> bool:
        return (self.metric, self.scorer or "") < (other.metric, other.scorer or "")


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One metric of one run. A metric that could not be measured has value None and a reason."""

    metric: str
    scorer: str | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    direction: Direction
    n_scored: int
    n_unscored: int
    reason: str | None = None
    replicates: tuple[float | None, ...] | None = None
    """For corpus metrics: the value with hash group 0, 1, ... 19 deleted, as the logarithm that it was measured as, if
    so. None for means over prompts."""
    group_sizes: tuple[int, ...] | None = None
    """For corpus metrics: prompts, or texts, in each of these groups that the metric was measured on."""
    n_cut: int = 0
    """Completions that the scorer read after a prompt that lost its beginning, to fit."""

    @property
    def key(self) -> MetricKey:
        """Metric and scorer."""
        return MetricKey(self.metric, self.scorer)


@dataclass(frozen=True, slots=True)
class AnswerCost:
    """What a policy spends on one answer, on average over the completions of an evaluation."""

    generated_tokens: float
    """Tokens drawn for it, those of answers that were thrown away included."""
    flops: float
    """Of drawing them, and of everything else that the policy does to answer."""
    reward_calls: float = 0.0
    """Answers that it has a reward score, to choose among them."""


@dataclass(frozen=True, slots=True)
class EvalReport:
    """What the evaluator measured on one policy under one protocol."""

    protocol: str
    metrics: tuple[MetricValue, ...]
    prompt_values: pd.DataFrame
    """Index `prompt_id`; a column per metric that is a mean over prompts, named by its `MetricKey`.
    `perplexity` holds log-perplexity. NaN where the prompt could not be measured."""
    completions: pd.DataFrame
    """One row per completion; columns in docs/results.md."""
    divergence: pd.DataFrame | None = None
    """One row per prompt, with the completion that KL is measured on; columns in docs/results.md."""
    prompt_groups: Mapping[str, str] = field(default_factory=dict)
    """Group by prompt id, of the prompts that are variants of one text."""
    answer_cost: AnswerCost | None = None
    """None where nothing answers (a reward model), and where the policy does not count what it spends."""


@dataclass(frozen=True, slots=True)
class HackingDiagnosis:
    """Whether training has learned to please its reward instead of lowering harm."""

    word: HackingWord
    onset_completions: int | None
    """Completions of the budget after which reward and held-out judges part; None where they do not."""
    evidence: tuple[str, ...]
    """Sentences with the numbers."""


@dataclass(slots=True)
class Cost:
    """What a run, or a piece of one, has cost. FLOPs are estimates from counts, by the formulas of `flops`."""

    wall_seconds: float = 0.0
    peak_memory_gib: float = 0.0
    training_completions: int = 0
    """Completions drawn from the policy for training, pair drawing included."""
    generated_tokens: int = 0
    reward_calls: int = 0
    optimizer_steps: int = 0
    trainable_parameters: int = 0
    prompts_seen: int = 0
    """Prompts that completions were drawn for, counted again each time they come up; once for several completions."""
    trained_tokens: int = 0
    """Tokens that a loss was taken on with a gradient, counted again in every pass over them."""
    generation_flops: float = 0.0
    """Of sampling, the reading of the prompts included."""
    forward_flops: float = 0.0
    """Of every other forward pass: of training passes, reference, old log-probabilities, values, rewards, labels."""
    backward_flops: float = 0.0
    device_seconds: float = 0.0
    """On a CPU the seconds of all its cores that this process used, on a GPU the wall seconds that it was held."""
    judge_tokens: int = 0
    """Tokens that models which are asked in words have read and written, as they count them."""
    money: float = 0.0
    """What these tokens cost, at the price that the recipe names."""

    def charge(self, other: Cost) -> None:
        """Adds another piece of work to this one: sums, and the maximum of the peaks."""
        for name, amount in other.amounts().items():
            own = getattr(self, name)
            setattr(self, name, max(own, amount) if name in _PEAKS else own + amount)

    def since(self, earlier: Cost) -> Cost:
        """What has come to these sums since they were `earlier`; peaks as they are now."""
        now, before = asdict(self), asdict(earlier)
        return Cost(**{name: now[name] - (0 if name in _PEAKS else before[name]) for name in now})

    def amounts(self) -> dict[str, int | float]:
        """The fields that are not 0."""
        return {name: amount for name in self.__dataclass_fields__ if (amount := getattr(self, name))}

    def counts(self) -> dict[str, int | float]:
        """What depends on the work alone, not on the machine: every field but seconds and memory."""
        return {name: amount for name, amount in asdict(self).items() if name not in _OF_THE_MACHINE}


_PEAKS = frozenset({"peak_memory_gib", "trainable_parameters"})
_OF_THE_MACHINE = frozenset({"wall_seconds", "device_seconds", "peak_memory_gib"})


def total(costs: Iterable[Cost]) -> Cost:
    """Returns several pieces of work as one."""
    whole = Cost()
    for cost in costs:
        whole.charge(cost)
    return whole
