"""The one small interface between a method and everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from alignbench.records import (
    Cost,
    Demonstration,
    LabelledCompletion,
    Policy,
    PreferencePair,
    Prompt,
    Scorer,
    TextWindow,
)
from alignbench.runtime.ledger import Ledger

if TYPE_CHECKING:
    from alignbench.models.adapters import Lora
    from alignbench.models.language_model import LanguageModel

DataKind = Literal["prompts", "preference_pairs"]
Architecture = Literal["causal", "seq2seq", "classifier"]


@dataclass(frozen=True, slots=True)
class TrainData:
    """What a method may learn from. Held-out prompts are not in it, so they cannot leak."""

    prompts: Sequence[Prompt]
    validation_prompts: Sequence[Prompt]
    pairs: Sequence[PreferencePair] = ()
    """Filled for methods that learn from `preference_pairs`."""
    demonstrations: Sequence[Demonstration] = ()
    """Filled for methods that learn from `demonstrations`."""
    labelled_completions: Sequence[LabelledCompletion] = ()
    """Filled for methods that learn from `labelled_completions`."""
    drawn_completions: int = 0
    """Completions drawn from the policy to make all these: the part of the budget that they stand for."""


@dataclass(slots=True)
class RunContext:
    """What surrounds one training run."""

    seed: int
    budget_completions: int
    """Completions that may be drawn from the policy for training, those behind the pairs included."""
    policy: LanguageModel
    """The policy to start from, without an adapter, on the run's device; the method may change it."""
    load_reward_model: Callable[[str | None], tuple[Any, Any]]
    """Loads a checkpoint (None: the policy's) with a fresh one-output head, and its tokenizer."""
    lora: Lora | None
    reward: Scorer | None
    """The training signal; None for methods that need none."""
    reward_text: TextWindow
    """What a reward reads."""
    checkpoints: Path
    """A directory for the method's own state; what lies in it from a killed run is resumed."""
    log: Callable[[int, Mapping[str, float]], None]
    """Writes one step of the training log."""
    log_completions: Callable[[int, Sequence[Mapping[str, object]]], None] = lambda _step, _rows: None
    """Keeps a sample of a step's completions."""
    evaluate_at: Callable[[int, int, Policy], None] = lambda _step, _completions, _policy: None
    """Called after every step with its number, the completions of the budget spent so far, and the policy as it is.
    Measures the policy where a point of `evaluation.evaluate_every` was passed, and leaves training as it was."""
    ledger: Ledger = field(default_factory=Ledger)
    """Where the method books what its steps cost; seconds and memory are the pipeline's."""

    @property
    def cost(self) -> Cost:
        """What has been booked for training so far."""
        return self.ledger.cost


class Trained(Protocol):
    """A policy or a reward model, ready to be saved."""

    def save(self, directory: Path) -> None:
        """Writes the trained model as an artifact."""
        ...


class Method(Protocol):
    """A way of aligning a policy: a frozen dataclass whose fields are its hyperparameters.

    A class with `takes_several_processes = True` can be started by torchrun: `train` is then called in each process.
    """

    needs: ClassVar[frozenset[DataKind]]
    """The data it learns from; prepared before it is called."""
    needs_reward: ClassVar[bool]
    """True where it calls the reward while training."""
    architectures: ClassVar[frozenset[Architecture]]
    """The kinds of model it can train."""
    produces: ClassVar[Literal["policy", "reward_model"]]
    """What `train` returns, and therefore how it is evaluated."""

    def train(self, data: TrainData, run: RunContext) -> Trained:
        """Trains and returns what was trained."""
        ...
