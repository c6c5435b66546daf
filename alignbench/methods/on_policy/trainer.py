"""The on-policy engine: sampling, scoring, measuring and updating as one explicit loop, and PPO on it.

    maximise E[r(x, y)] - kl_coef * KL(pi(y | x) || ref(y | x))

What a method adds to it is an `Objective`. PPO: Schulman et al. 2017 (arXiv:1707.06347); Ziegler et al. 2019
(arXiv:1909.08593). docs/ppo.md has a table of every implementation detail with its option and its source.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignbench.errors import TrainingError
from alignbench.identity import identity_values
from alignbench.methods.on_policy import checkpoint
from alignbench.methods.on_policy.advantages import Targets
from alignbench.methods.on_policy.checks import check_equal, check_prompts, check_reference
from alignbench.methods.on_policy.config import OnPolicyConfig, PPOConfig
from alignbench.methods.on_policy.costs import PassCosts
from alignbench.methods.on_policy.fast import concurrent_scoring
from alignbench.methods.on_policy.groups import n_dead_groups
from alignbench.methods.on_policy.imitation import Imitation
from alignbench.methods.on_policy.kl import KLController
from alignbench.methods.on_policy.metrics import Metrics, completion_sample, mean_by_name, rollout_metrics, timed
from alignbench.methods.on_policy.networks import Networks
from alignbench.methods.on_policy.objective import Objective
from alignbench.methods.on_policy.ppo import PPOObjective
from alignbench.methods.on_policy.rewards import (
    RunningMoments,
    masked_mean,
    shaped_rewards,
)
from alignbench.methods.on_policy.rollout import (
    RewardFunction,
    Rollout,
    as_wide,
    check_scored,
    collect_rewards,
    measure,
)
from alignbench.methods.on_policy.schedule import adamw, learning_rate_factor
from alignbench.methods.on_policy.update import Updater
from alignbench.models.forward import SequenceBatch, to_device
from alignbench.models.language_model import LanguageModel
from alignbench.models.sampling.capture import Capture
from alignbench.records import Completion, Cost, Decoding, Demonstration, Prompt, fingerprint, total
from alignbench.runtime import distributed
from alignbench.runtime.allocator import keeping_freed_memory
from alignbench.runtime.clock import peak_memory_gib
from alignbench.runtime.ledger import spending
from alignbench.runtime.randomness import generator
from alignbench.scorers.base import term_means

logger = logging.getLogger(__name__)

MAX_DRIFT = 1e-4
"""Nats per token that sampling and a full pass may differ by on average, in float32."""

Log = Callable[[int, Mapping[str, float]], None]
CompletionLog = Callable[[int, Sequence[Mapping[str, object]]], None]


class OnPolicyTrainer:
    """Trains a policy against any reward function, towards what a method has as its objective.

    The reference is the policy as it is when the trainer is built, an adapter that it came with included.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reward: RewardFunction,
        prompts: Sequence[Prompt],
        config: OnPolicyConfig,
        objective: Objective,
        *,
        seed: int = 0,
        demonstrations: Sequence[Demonstration] = (),
    ) -> None:
        """Prepares training; nothing is sampled yet.

        Args:
            policy: What is trained, in place. Attach a LoRA adapter first to train that alone.
            reward: Called with the texts of prompts and completions of a batch.
            prompts: What completions are drawn for.
            config: Hyperparameters.
            objective: What the method trains towards.
            seed: With the prompts' ids it fixes every draw.
            demonstrations: What is imitated besides, with `ptx_coef`.
        """
        distributed.join()
        check_prompts(policy, prompts, config.completion_tokens[1])
        for caution in config.cautions():
            logger.warning(caution)
        self.policy, self.reward, self.prompts, self.config, self.seed = policy, reward, prompts, config, seed
        self.objective = objective
        self.networks = Networks(policy, config, seed)
        self.model, self.value_head = self.networks.model, self.networks.value_head
        self.parameters = self.networks.parameters
        self.optimizer = adamw(self.parameters, config)
        self.controller = KLController(config.kl_coef, config.kl_target, config.kl_horizon, config.kl_controller)
        self.moments = RunningMoments()
        self.decoding = Decoding(
            max_new_tokens=config.completion_tokens[1],
            min_new_tokens=config.min_completion_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            stop_strings=config.stop_strings,
        )
        self.updater = Updater(self.networks, objective, self.optimizer, self.decoding, policy.eos_ids, seed)
        if config.ptx_coef:
            self.updater.imitation = Imitation(policy, demonstrations, config.mini_batch_size, seed)
        self.captures = config.captures and all(p.dtype == torch.float32 for p in self.model.parameters())
        alone = distributed.world_size() == 1
        self.overlaps = alone and concurrent_scoring.may_overlap(reward, self.model, policy.device)
        """True where completions are scored beside the passes over them."""
        self.step = 0
        self.passes = PassCosts(self.networks)
        self.cost = Cost(trainable_parameters=self.passes.n_parameters)
        """What training has cost so far, without seconds and memory."""
        self.kept: dict[str, Any] = {}
        """What a method keeps from step to step, as JSON can hold it."""
        self.step_cost: dict[str, Cost] = {}
        """What the last step has cost, by what was done."""
        self._resumed: tuple[Path, int] | None = None
        check_equal(self._identity(0))

    def train(
        self,
        n_steps: int,
        *,
        log: Log | None = None,
        log_completions: CompletionLog | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        """Runs training steps until `n_steps` are done in all; resumes from `checkpoints` where it holds a state.

        Args:
            n_steps: Steps in all, each on `batch_size` fresh completions; the learning rate's schedule ends there.
            log: Called after every step with its number and its metrics.
            log_completions: Called every `log_completions_every` steps, the first one included, with some completions.
            checkpoints: Where the state is kept every `checkpoint_every` steps.

        Raises:
            TrainingError: a reward, loss or gradient that is not finite, a reward that leaves more than 1 % unscored,
                or a first step at which policy and reference differ. The last checkpoint stays.
        """
        if checkpoints is not None and self._resumed != (checkpoints, n_steps):
            self.resume(checkpoints, n_steps)
        with keeping_freed_memory(), self.networks.placement.training(self.policy):
            while self.step < n_steps:
                metrics, samples = self.take_step(n_steps)
                with self.networks.placement.serving():  # `log` may evaluate the policy
                    if distributed.rank() == 0 and log is not None:
                        log(self.step, metrics)
                    if distributed.rank() == 0 and log_completions is not None and self._is_noted(self.step):
                        log_completions(self.step, samples)
                if checkpoints is not None and (self.step % self.config.checkpoint_every == 0 or self.step == n_steps):
                    self._save(checkpoints, n_steps)

    def train_step(self) -> Metrics:
        """One step on one batch of fresh completions; returns its metrics, defined in docs/metrics.md.

        `train` is the usual way: this one knows no end, so it takes a constant schedule only.
        """
        if self.config.schedule != "constant":
            raise TrainingError(f"schedule: {self.config.schedule} needs the number of steps: call train(n_steps)")
        return self.take_step(0)[0]

    def take_step(self, n_steps: int) -> tuple[Metrics, list[dict[str, object]]]:
        """One step of n_steps (0: no end is known); returns its metrics and some completions, for the log."""
        config = self.config
        seconds: Metrics = {}
        with distributed.agreed():
            # 1. Sample a completion for every prompt of the batch, each process for its share of them.
            with timed(seconds, "rollout"), self.networks.sampling(), spending(self.policy) as sampling:
                capture = self._new_capture()
                prompts, own = self.sample(self.step + 1, capture)
            # 2. Score the completions; on a GPU in a thread, beside step 3.
            score = partial(self._score, prompts[distributed.share()], own)
            if self.overlaps:
                pending = concurrent_scoring.start(score, self.policy.device)
            else:
                with timed(seconds, "reward"):
                    own_scores, scoring = score()
        completions = distributed.gather_list(own)
        # 3. Log-probabilities under policy and reference, KL and values, all by the same full pass.
        with timed(seconds, "forward"):
            batch = self.policy.batch(prompts, completions)
            rollout = self._measure(batch, capture)
        if self.overlaps:
            with timed(seconds, "reward"):
                own_scores, scoring = pending()
        scores = distributed.gather_list(own_scores)
        check_scored(scores)
        rollout = rollout.rewarded(*self.step_rewards(scores, completions))
        if self.step == 0:
            check_reference(rollout)
        # 4. What is trained on, and towards what: token rewards, advantages, returns.
        chosen = self.choose(prompts, completions, rollout)
        targets = self.targets(chosen)
        # 5. Several epochs of updates.
        factor = learning_rate_factor(self.step, n_steps, config.schedule, config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with timed(seconds, "update"), self.networks.recomputing():
            update, training = self.updater.run(
                chosen, targets, self.targets, self.passes, step=self.step, kl_coef=self.controller.coef
            )
        # 6. Adapt the weight of the KL penalty.
        metrics = rollout_metrics(rollout, targets.returns, scores, completions, self.controller.coef) | update
        if (k := self.config.group_size) > 1:
            metrics["policy/dead_groups"] = float(n_dead_groups(rollout, k))
        self.controller.update(metrics["objective/kl"], len(completions))
        if not self.networks.placement.has_finite_weights():
            raise TrainingError(
                f"weights are not finite after training step {self.step + 1}: lower method.learning_rate"
            )
        self.step += 1
        done = {"forward": self.forward_cost(batch, chosen), "train": training}
        metrics |= self._charge(len(completions), sampling, scoring, done, seconds)
        return metrics, completion_sample(prompts, completions, scores, rollout)

    def _charge(self, n: int, sampling: Cost, scoring: Cost, done: Mapping[str, Cost], seconds: Metrics) -> Metrics:
        """Charges a step with n completions, over all processes; returns what its log says of time and memory."""
        used = distributed.gather((sampling, scoring, seconds, peak_memory_gib(), term_means(self.reward)))
        samplings, scorings, clocks, peaks, terms_of_all = zip(*used, strict=True)
        sampling, scoring = total(samplings), total(scorings)
        seconds = {stage: max(clock[stage] for clock in clocks) for stage in seconds}
        self.step_cost = {
            "sample": replace(sampling, prompts_seen=n, training_completions=n),
            "score": replace(scoring, reward_calls=n),
            **done,
        }
        for piece in self.step_cost.values():
            self.cost.charge(piece)
        metrics = {"time/tokens_per_second": sampling.generated_tokens / sum(seconds.values())}
        metrics |= {f"time/{stage}_seconds": value for stage, value in seconds.items()}
        metrics |= {f"objective/reward/{name}": mean for name, mean in mean_by_name(terms_of_all).items()}
        return metrics | {"memory/peak_gib": max(peaks)}

    def sample(self, step: int, capture: Capture | None = None) -> tuple[list[Prompt], list[Completion]]:
        """The prompts of a step, and a completion by the policy as it is of each of this process's share of them.

        Args:
            step: Its number, from 1; with the seed it fixes the prompts and every draw.
            capture: Takes in what sampling sees.
        """
        size = self.config.batch_size
        k = self.config.group_size
        places = [divmod(i, len(self.prompts)) for i in range((step - 1) * size // k, step * size // k)]
        orders = {epoch: self._order(epoch) for epoch, _ in places}
        prompts = [self.prompts[orders[epoch][index]] for epoch, index in places for _ in range(k)]
        shortest, longest = self.config.completion_tokens
        limits = generator(self.seed, "limits", step - 1).integers(shortest, longest + 1, size=size).tolist()
        numbers = [epoch * k + i for epoch, _ in places for i in range(k)]
        own, key = distributed.share(), (self.seed, "rollout")
        return prompts, self.policy.complete(prompts[own], numbers[own], limits[own], self.decoding, key, capture)

    def _score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> tuple[list[float | None], Cost]:
        """Scores of completions, and what they cost."""
        with spending(self.reward) as spent:
            scores = collect_rewards(self.reward, prompts, completions)
        return scores, spent

    def _measure(self, batch: SequenceBatch, capture: Capture | None) -> Rollout:
        """The rollout, not yet rewarded.

        From what sampling saw; now and then by full passes, which that is then checked against.
        """
        arguments = (self.networks, batch, self.decoding, self.policy.eos_ids)
        if capture is not None and not self._is_noted(self.step + 1):
            return measure(*arguments, capture)
        rollout = measure(*arguments)
        if capture is not None:
            seen = distributed.gather_rows(as_wide(batch, capture.logprobs))
            difference = masked_mean((seen - rollout.logprobs).abs(), batch.completion_mask).item()
            if not difference <= MAX_DRIFT:
                self.captures = False
                logger.warning(
                    "log-probabilities differ by %.1e nats between sampling and a full pass: full passes from now on",
                    difference,
                )
        return rollout

    def _is_noted(self, step: int) -> bool:
        """True for the steps whose completions are kept for reading, the first one among them."""
        return (step - 1) % self.config.log_completions_every == 0

    def _order(self, epoch: int) -> list[int]:
        return generator(self.seed, "order", epoch).permutation(len(self.prompts)).tolist()  # type: ignore[no-any-return]

    def _new_capture(self) -> Capture | None:
        if not self.captures:
            return None
        return Capture(self.networks.values_of if self.config.values is not None else None)

    def step_rewards(self, scores: Sequence[float | None], completions: Sequence[Completion]) -> tuple[Tensor, Tensor]:
        """Which completions are scored, (b,), and the rewards to train on, (b,), 0 where unscored."""
        scored, rewards = shaped_rewards(scores, completions, self.config, self.moments)
        return to_device(scored, self.policy.device), to_device(rewards, self.policy.device)

    @property
    def kl_coef_of_rewards(self) -> float:
        """The weight of the KL in the rewards; 0 where the penalty is in the loss."""
        return self.controller.coef if self.config.kl_placement == "reward" else 0.0

    def choose(self, prompts: Sequence[Prompt], completions: Sequence[Completion], rollout: Rollout) -> Rollout:
        """What is trained on in a step."""
        return self.objective.chosen(rollout, self.kl_coef_of_rewards)

    def forward_cost(self, batch: SequenceBatch, chosen: Rollout) -> Cost:
        """What the passes before the update have cost."""
        return self.passes.rollout(batch)

    def targets(self, rollout: Rollout) -> Targets:
        """What the update works towards."""
        return self.objective.targets(rollout, self.kl_coef_of_rewards)

    def _save(self, directory: Path, n_steps: int) -> None:
        state = {
            "step": self.step,
            "kl_coef": self.controller.coef,
            "moments": asdict(self.moments),
            "captures": self.captures,
            "cost": self.cost.counts(),
            "kept": self.kept,
        }
        checkpoint.save(directory, self.parameters, self.optimizer, state, self._identity(n_steps))

    def resume(self, directory: Path, n_steps: int) -> None:
        """Goes on from the state that a training to `n_steps` has left in a directory, where there is one.

        Raises:
            TrainingError: It is the state of another training, or not whole.
        """
        self._resumed = (directory, n_steps)
        with distributed.agreed():
            state = checkpoint.load(directory, self.parameters, self.optimizer, self._identity(n_steps))
        steps = distributed.gather(None if state is None else state["step"])
        if len(set(steps)) > 1:
            raise TrainingError(
                f"{directory}: processes found checkpoints of steps {steps}; expected one folder for all"
            )
        if state is None:
            return
        self.step, self.controller.coef = state["step"], state["kl_coef"]
        self.moments, self.captures = RunningMoments(**state["moments"]), self.captures and state["captures"]
        self.cost, self.kept = replace(self.cost, **state["cost"]), state.get("kept", {})

    def _identity(self, n_steps: int) -> dict[str, object]:
        """What must be equal for a run to go on from a checkpoint: what decides the numbers by more than rounding."""
        options = identity_values(type(self.config), asdict(self.config))
        # A schedule that ends depends on where.
        end: dict[str, object] = {"n_steps": n_steps} if self.config.schedule != "constant" else {}
        prompts = fingerprint([prompt.identity for prompt in self.prompts])
        if self.updater.imitation is not None:
            end["demonstrations"] = self.updater.imitation.identity
        return {"seed": self.seed, "start_weights": self.networks.start, "prompts": prompts, **end, **options}


class PPOTrainer(OnPolicyTrainer):
    """Trains a policy by PPO against any reward function.

    The reference is the policy as it is when the trainer is built, an adapter that it came with included.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reward: RewardFunction,
        prompts: Sequence[Prompt],
        config: PPOConfig,
        *,
        seed: int = 0,
        demonstrations: Sequence[Demonstration] = (),
    ) -> None:
        """Prepares training; nothing is sampled yet.

        Args:
            policy: What is trained, in place. Attach a LoRA adapter first to train that alone.
            reward: Called with the texts of prompts and completions of a batch.
            prompts: What completions are drawn for.
            config: Hyperparameters.
            seed: With the prompts' ids it fixes every draw.
            demonstrations: What is imitated besides, with `ptx_coef`.
        """
        objective = PPOObjective(config)
        super().__init__(policy, reward, prompts, config, objective, seed=seed, demonstrations=demonstrations)
