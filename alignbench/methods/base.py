"""The one small interface between a method and everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from alignbench.errors import TrainingError, UsageError
from alignbench.records import (
    Cost,
    Demonstration,
    LabelledCompletion,
    Policy,
    PreferencePair,
    Prompt,
    RankedCompletions,
    Scorer,
    TextWindow,
)
from alignbench.runtime.ledger import Ledger

if TYPE_CHECKING:
    from alignbench.models.adapters import Lora
    from alignbench.models.language_model import LanguageModel

DataKind = Literal["prompts", "preference_pairs", "demonstrations", "labelled_completions", "ranked_completions"]
Architecture = Literal["causal", "seq2seq", "classifier"]
Gives = Literal["language_model", "policy", "reward_model"]


@dataclass(frozen=True, slots=True)
class OwnStart:
    """The model that a method trains in place of the policy."""

    model: str | None
    """Hub id or path; None is the policy's checkpoint."""
    text: TextWindow | None
    """What it reads; None is what the recipe's reward reads."""
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a method is, for everything that is not the method. The functions are given a method with its settings."""

    architectures: frozenset[Architecture]
    """The kinds of model it can train."""
    learns_from: frozenset[DataKind] = frozenset()
    """The training data that is prepared before it is called."""
    also_learns_from: Callable[[Any], frozenset[DataKind]] = lambda _method: frozenset()
    """Training data that its settings ask for besides."""
    reads_labels: bool = True
    """False where of labelled completions it reads the rewards alone: then one kind will do."""
    takes_steps: bool = True
    """False where what it learns from is read once, without a gradient: it does not call `step_done`."""
    asks_for_answers: bool = False
    """True where it asks the policy it starts from for answers alone: `policy.run` may then be a policy of any kind."""
    calls_reward: bool = False
    """True where it calls the reward while training, or its policy when it answers."""
    gives: Gives = "language_model"
    """What `train` returns: a `LanguageModel`, another `records.Policy`, which is evaluated like one, or a `Scorer`."""
    several_processes: bool = False
    """True where torchrun may start it: `train` is then called in each process."""
    roles: frozenset[str] = frozenset({"policy", "reward"})
    """What it can build on: the roles of upstream runs."""
    completions_of_a_step: Callable[[Any], int] = lambda _method: 1
    """Completions of the budget that each training step spends; 1 where data are drawn before training."""
    longest_completion: Callable[[Any], int | None] = lambda _method: None
    """The most tokens that training draws for a prompt; None where it draws none. Settings of pairs are not its own."""
    tokens_before_a_prompt: Callable[[Any, LanguageModel], int] = lambda _method, _policy: 0
    """The most tokens that the `policy` it makes of a language model reads before every prompt that it answers."""
    texts_in_a_pass: Callable[[Any], int] = lambda _method: 1
    """Texts in one forward and backward pass; 1 where passes are made smaller than their texts are."""
    texts_of_a_prompt: Callable[[Any, int], int] = lambda _method, _n_completions: 1
    """By how many that is to be multiplied where so many completions are drawn of each prompt, and read together."""
    cuts_logits: bool = False
    """True where passes have fewer texts than that where their logits would be large (`models.output_layer`)."""
    cautions: Callable[[Any], list[str]] = lambda _method: []
    """What its settings allow and is probably not meant."""
    own_start: Callable[[Any], OwnStart | None] = lambda _method: None
    """What it trains in place of the policy; None where it trains the policy, or nothing."""
    is_made_elsewhere: bool = False
    """True where its policy does not come from the recipe's, which is its reference alone: there is nothing to measure
    along training, and what its training has cost and seen is not known."""
    reads: Callable[[Any], Mapping[str, str]] = lambda _method: {}
    """Models and files that its settings name, by setting: what lies there belongs to the inputs of a run."""
    load_policy: Callable[[Path, Callable[[Path], Policy]], Policy] | None = None
    """Reads what the policy has saved, where it gives a `policy`. `policy.json` names the method there, as its `kind`.
    The second argument loads a policy that lies in a folder of the first one, such as the language model within."""
    moved: Callable[[dict[str, Any], Callable[[str], str]], dict[str, Any]] = lambda record, _move: record
    """Returns what such a policy's `policy.json` says, with a function applied to each model and file that it names:
    an export takes along what lies on this machine."""
    beside_its_models: str = ""
    """Of such a policy: what makes an answer besides the models that it saves in folders of its own, in sentences for
    those who take these models away."""

    @property
    def trains(self) -> bool:
        """True where it trains: what learns from nothing leaves weights as they are, and has seen no prompt."""
        return bool(self.learns_from)

    @property
    def gives_policy(self) -> bool:
        """True where what it gives answers prompts, and is evaluated by that."""
        return self.gives != "reward_model"


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
    ranked_completions: Sequence[RankedCompletions] = ()
    """Filled for methods that learn from `ranked_completions`."""
    drawn_completions: int = 0
    """Completions drawn from the policy to make all these: the part of the budget that they have used."""


class StepDone(Protocol):
    """What `RunContext.step_done` is."""

    def __call__(
        self,
        step: int,
        completions: int,
        metrics: Mapping[str, float],
        cost: Mapping[str, Cost],
        policy: Policy | None,
    ) -> None:
        """Logs a training step, books what it cost, and measures the policy at points of `evaluation.evaluate_every`.

        Args:
            step: Its number, from 1.
            completions: Of the budget, how many are spent with it.
            metrics: A row of the training log.
            cost: By what was done, in a word: counts and FLOPs. Seconds and memory are the pipeline's.
            policy: As it is now, and as training leaves it; None where no policy is trained.
        """
        ...


def _nothing_upstream(role: str) -> Policy:
    raise UsageError(f"builds_on.{role}: got nothing, expected the recipe whose policy has this role")


@dataclass(slots=True)
class RunContext:
    """What surrounds one training run."""

    seed: int
    budget_completions: int
    """Completions that may be drawn from the policy for training, those that pairs are made from included."""
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
    step_done: StepDone
    """To be called after each training step, the last one included."""
    load_upstream: Callable[[str], Policy] = _nothing_upstream
    """Loads the policy of the run that `builds_on` names for a role, onto the run's device."""
    start: Policy | None = None
    """The policy to start from where that is one of another kind, around `policy`; given to methods that ask it for
    answers alone."""
    kept_reward: Sequence[Mapping[str, Any]] = ()
    """The reward as JSON, for a policy that asks it: saved with it, `methods.kept_reward.load_reward` reads it."""
    log_completions: Callable[[int, Sequence[Mapping[str, object]]], None] = lambda _step, _rows: None
    """Keeps a sample of a step's completions."""
    keep_rows: Callable[[str, Sequence[Mapping[str, object]]], None] = lambda _name, _rows: None
    """Keeps rows for people, and for other recipes, to read, as `NAME.jsonl` of the run."""
    ledger: Ledger = field(default_factory=Ledger)
    """What training has cost so far. A method books here what belongs to no step, and `restore`s what a checkpoint of
    its own says before it goes on from there."""

    def load_language_model(self, role: str) -> LanguageModel:
        """Loads the same where its weights or logits are needed; UsageError where it is a policy of another kind."""
        from alignbench.models.language_model import LanguageModel

        policy = self.load_upstream(role)
        if isinstance(policy, LanguageModel):
            return policy
        kind = type(policy).__name__
        raise UsageError(f"builds_on.{role}: got a {kind}, expected a recipe that gives a language model")

    @property
    def cost(self) -> Cost:
        """What has been booked for training so far."""
        return self.ledger.cost


class TrainedScorer(Scorer, Protocol):
    """A reward model, ready to be saved."""

    def save(self, directory: Path) -> None:
        """Writes it as an artifact."""
        ...


Trained = Policy | TrainedScorer


@runtime_checkable
class Method(Protocol):
    """A way of aligning a policy: a frozen dataclass whose fields are its hyperparameters."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    facts: ClassVar[Facts]
    """What it is, for everything else: nothing but these is read from outside, no field by its name."""

    def train(self, data: TrainData, run: RunContext) -> Trained:
        """Trains and returns what was trained."""
        ...


def learned_kinds(method: Method) -> frozenset[DataKind]:
    """Returns the training data that a method with its settings learns from."""
    return method.facts.learns_from | method.facts.also_learns_from(method)


def require_policy(trained: object, method: str) -> Policy:
    """Returns what a method gave; TrainingError where a policy has more to it."""
    parts = ("generate", "token_logprobs", "save", "spent")
    if isinstance(trained, Policy):
        return trained
    lacking = [part for part in parts if not hasattr(trained, part)]
    raise TrainingError(
        f"{method} gave a {type(trained).__name__} without {', '.join(lacking)}, expected a policy "
        "(alignbench.records.Policy)"
    )
