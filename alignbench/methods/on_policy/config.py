"""The hyperparameters of the on-policy engine, and of PPO on it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from alignbench.identity import NotIdentity, OnlyIfChanged

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


Aggregation = Literal["tokens", "sequences", "token_sums", "constant"]
"""How losses of tokens become that of a mini-batch: `losses.token_weights`."""


@dataclass(frozen=True)
class OnPolicyConfig:
    """What every method on the engine has: batches, sampling, reward, KL, optimizer; docs/ppo.md gives the sources."""

    # Batches
    batch_size: Count = 64
    """Completions sampled for one training step."""
    mini_batch_size: Count = 16
    """Completions behind one optimizer step."""
    micro_batch_size: Annotated[Count | None, NotIdentity("completions in a pass; the update is of a mini-batch")] = (
        None
    )
    """Completions in one pass; None is the mini-batch, or less where logits would be large. Changes memory alone."""
    early_stop_kl: Positive | None = None
    """Ends the passes before an update whose mini-batch has moved this far, in nats per token; None never does."""

    # Sampling
    completion_tokens: Annotated[tuple[Count, Count], Field(strict=False)] = (20, 30)
    """Shortest and longest token limit; every completion draws its own limit, both ends included."""
    min_completion_tokens: CountOrZero = 0
    """The end-of-sequence token and stop strings cannot end a completion before it has this many tokens."""
    temperature: Positive = 1.0
    """Sampling temperature; log-probabilities are those of the distribution at this temperature."""
    top_k: CountOrZero = 0
    """Sample among this many most likely tokens; 0 among all. Ratios are those of the truncated distribution."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample among the fewest tokens whose probability reaches this. Ratios are those of the truncated distribution."""
    stop_strings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """A completion ends with the token that completes one of these."""

    # Reward
    reward_scaling: Literal["none", "std", "mean_std"] = "none"
    """`std` divides rewards by their running standard deviation; `mean_std` takes their running mean off first."""
    reward_clip: Positive | None = None
    """Rewards are cut to plus and minus this, after scaling."""
    missing_eos_penalty: NonNegative = 0.0
    """Taken off the reward of a completion that ran into its token limit."""
    length_penalty: float = 0.0
    """Taken off the reward for every token of the completion; below 0 it rewards length."""

    # KL to the reference
    kl_coef: NonNegative = 0.2
    """Weight of the KL penalty; the start value where `kl_target` is set."""
    kl_target: Positive | None = 6.0
    """Target of the adaptive controller in nats per completion; None keeps `kl_coef` fixed."""
    kl_horizon: Positive = 10_000.0
    """Completions over which the adaptive controller reacts."""
    kl_controller: Literal["linear", "log"] = "linear"
    """How the adaptive controller moves the weight: by a factor 1 + change (Ziegler et al.), or exp(change)."""
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = "k1"
    """Per-token estimator of the KL that is penalised; `exact` sums over the vocabulary."""
    kl_placement: Literal["reward", "loss"] = "reward"
    """Penalise in the token rewards, or as a term of the loss, through which gradients flow."""
    shared_layers: CountOrZero = 0
    """Freeze the embeddings and this many bottom layers; policy and reference share them and their activations."""

    # Updates
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps the running moments in 8 bits, by bitsandbytes."""
    learning_rate: Positive = 1.41e-5
    """Learning rate of AdamW at its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate over the training steps of the run: constant, or falling to 0."""
    warmup_steps: CountOrZero = 0
    """Training steps over which the learning rate rises from 0 before the schedule begins."""
    adam_betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = (0.9, 0.999)
    """Decay of AdamW's running moments."""
    adam_epsilon: Positive = 1e-8
    """Epsilon of AdamW."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of AdamW."""
    ptx_coef: Annotated[NonNegative, OnlyIfChanged()] = 0.0
    """Weight of the imitation of demonstrations beside the objective, against forgetting; 0 without any."""
    max_grad_norm: Positive | None = 1.0
    """Longest gradient before it is scaled down; None leaves it as it is."""
    mixed_precision: bool = False
    """Forward passes in bfloat16 where that is safe, weights and optimizer as they are."""
    gradient_checkpointing: Annotated[bool, NotIdentity("memory against time")] = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""

    sharding: Annotated[Literal["none", "full"], NotIdentity("what each of several processes holds")] = "none"
    """Of several processes each holds all weights, or a part of every weight, gradient and moment of the optimizer."""
    execution: Annotated[Literal["fast", "plain"], NotIdentity("speed; the same numbers to float rounding")] = "fast"
    """`fast` takes log-probabilities and values down while sampling and fuses passes over the vocabulary, where other
    options allow it; `plain` computes each by a full pass. The same numbers to float rounding."""

    # Records
    checkpoint_every: Annotated[Count, NotIdentity("how much work a kill can cost")] = 10
    """Training steps between checkpoints."""
    log_completions_every: Annotated[Count, NotIdentity("how many completions are kept for reading")] = 10
    """Training steps between samples of completions in the training record."""

    def cautions(self) -> list[str]:
        """What is allowed and probably not meant."""
        found = []
        if self.kl_coef == 0:
            found.append("kl_coef is 0, and no kl_target changes that: nothing holds the policy near the reference")
        elif self.kl_placement == "reward" and self.kl_estimator != "k1":
            found.append(
                f"kl_estimator {self.kl_estimator} in the reward hardly holds the policy: there a token's own KL has "
                "no gradient to the reference; take k1, or kl_placement loss"
            )
        elif self.kl_placement == "loss" and self.kl_estimator == "k3":
            found.append(
                "kl_estimator k3 in the loss has the gradient of KL(ref || pi): take k2 or exact for KL(pi || ref)"
            )
        return found

    @property
    def epochs_of_a_step(self) -> int:
        """Passes over the sampled batch in one step."""
        return 1

    @property
    def group_size(self) -> int:
        """Completions of one prompt in a batch; they stand beside each other."""
        return 1

    @property
    def rows_together(self) -> int:
        """Completions that one loss has in it, and which are in one pass; they stand beside each other."""
        return 1

    @property
    def rows_of_an_update(self) -> int:
        """Completions of a batch that are trained on."""
        return self.batch_size

    @property
    def loss_aggregation(self) -> Aggregation:
        """How losses of tokens become that of a mini-batch."""
        return "tokens"

    @property
    def targets_of_a_mini_batch(self) -> bool:
        """True where targets depend on the mini-batch that they are of."""
        return False

    @property
    def values(self) -> PPOConfig | None:
        """How values are computed and trained; None where the method has none."""
        return None

    @property
    def fuses(self) -> bool:
        """True where log-probabilities of the sampled tokens are all that is needed of the distributions."""
        needs_whole = self.kl_placement == "loss" and self.kl_estimator == "exact"
        return self.execution == "fast" and self.top_k == 0 and self.top_p == 1.0 and not needs_whole

    @property
    def captures(self) -> bool:
        """True where what sampling sees is what a full pass would give: float32, and nothing else asked of the pass."""
        return self.fuses and self.kl_estimator != "exact" and not self.mixed_precision

    @property
    def rows_at_once(self) -> int:
        """Completions in one forward pass."""
        return self.micro_batch_size or self.mini_batch_size

    def __post_init__(self) -> None:
        self._check_each()
        if self.batch_size % self.group_size:
            raise ValueError(f"completions_per_prompt {self.group_size} must divide batch_size {self.batch_size}")
        if (n := self.rows_of_an_update) % self.mini_batch_size:
            of_them = f"batch_size {n}" if n == self.batch_size else f"the {n} completions of a batch trained on"
            raise ValueError(f"mini_batch_size {self.mini_batch_size} must divide {of_them}")
        if self.micro_batch_size is not None and self.mini_batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} must divide mini_batch_size {self.mini_batch_size}"
            )
        shortest, longest = self.completion_tokens
        if shortest > longest:
            raise ValueError(f"completion_tokens [{shortest}, {longest}] must be [shortest, longest]")
        if self.min_completion_tokens > shortest:
            raise ValueError(
                f"min_completion_tokens {self.min_completion_tokens} must be at most the shortest limit, {shortest}"
            )
        if self.kl_target is not None and self.kl_controller == "linear" and 0.2 * self.batch_size >= self.kl_horizon:
            raise ValueError(
                f"kl_horizon {self.kl_horizon:g} must be more than a fifth of batch_size {self.batch_size}: the linear "
                "controller would make kl_coef negative; or take kl_controller log"
            )
        if "" in self.stop_strings:
            raise ValueError("stop_strings must not be empty texts")
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator k1 in the loss has a gradient of mean 0 and penalises nothing: take k2, k3 or exact, "
                "or kl_placement reward"
            )

    def require_whole_distributions(self, why: str) -> None:
        """ValueError where top-k or top-p cut what the loss is of; `why` ends its message."""
        if self.top_k or self.top_p < 1:
            raise ValueError(f"top_k and top_p: expected 0 and 1.0, because {why}")

    def _check_each(self) -> None:
        """ValueError with every option that is not of its type or out of its range."""
        try:
            checked = _options(type(self)).model_validate(vars(self))  # type: ignore[arg-type]  # a class is hashable
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: got {e['input']!r}, {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(problems)) from None
        for name, value in checked:
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Hyperparameters of PPO with a KL penalty; docs/ppo.md gives the source of each default."""

    # Updates
    ppo_epochs: Count = 4
    """Passes over the sampled batch in one PPO step."""
    clip_range: Positive = 0.2
    """How far the probability ratio may leave 1 before its gradient is cut."""

    # Advantages and values
    whiten_rewards: bool = False
    """Scale token rewards, KL penalty included, to variance 1, keeping their mean."""
    gamma: UnitInterval = 1.0
    """Discount."""
    gae_lambda: UnitInterval = 0.95
    """Lambda of generalised advantage estimation."""
    whiten_advantages: bool = True
    """Shift advantages to mean 0 and scale them to variance 1."""
    whiten_over: Literal["batch", "mini_batch"] = "batch"
    """The tokens whose mean and variance whitening uses."""
    value_model: Literal["head", "separate"] = "head"
    """A head on the policy's last hidden state, or a network of its own that starts as a copy of the policy."""
    value_init: Literal["zero", "normal"] = "zero"
    """Weights of the value head: 0, or normal with standard deviation 1 / sqrt(hidden size + 1)."""
    value_coef: NonNegative = 0.1
    """Weight of the value loss."""
    value_clip_range: Positive | None = 0.2
    """How far a new value may leave the old one before its gradient is cut; None does not clip."""
    value_learning_rate: Positive | None = None
    """Learning rate of the value head and of a separate value model; None is `learning_rate`."""

    @property
    def epochs_of_a_step(self) -> int:
        """Passes over the sampled batch in one step."""
        return self.ppo_epochs

    @property
    def targets_of_a_mini_batch(self) -> bool:
        """True where targets depend on the mini-batch that they are of."""
        return self.whiten_over == "mini_batch"

    @property
    def values(self) -> PPOConfig:
        """How values are computed and trained."""
        return self

    @property
    def captures(self) -> bool:
        """As of every method, and the values are of the policy's own hidden states."""
        return super().captures and self.value_model == "head"


@dataclass(frozen=True)
class GroupConfig(OnPolicyConfig):
    """What methods without values have: completions of one prompt to compare, and a fixed KL penalty."""

    completions_per_prompt: Count = 1
    """Completions of each prompt: a group."""
    epochs: Count = 1
    """Passes over the sampled batch in one training step."""
    kl_target: Positive | None = None
    """Target of the adaptive controller in nats per completion; None keeps `kl_coef` fixed."""

    @property
    def group_size(self) -> int:
        """Completions of one prompt in a batch; they stand beside each other."""
        return self.completions_per_prompt

    @property
    def epochs_of_a_step(self) -> int:
        """Passes over the sampled batch in one step."""
        return self.epochs


@cache
def _options(kind: type[Any]) -> type[BaseModel]:
    hints = get_type_hints(kind, include_extras=True)
    config = ConfigDict(strict=True, allow_inf_nan=False)
    options: dict[str, Any] = {field.name: (hints[field.name], ...) for field in fields(kind)}
    return create_model("Options", __config__=config, **options)
