"""What `test_placement.py` runs in one process and, as a program, in each of two."""

import dataclasses
import os
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from alignbench.errors import TrainingError
from alignbench.methods.grpo import GRPO
from alignbench.methods.on_policy import rollout
from alignbench.methods.on_policy.config import OnPolicyConfig, PPOConfig
from alignbench.methods.on_policy.pool import PoolTrainer
from alignbench.methods.on_policy.trainer import OnPolicyTrainer, PPOTrainer
from alignbench.methods.online_dpo import OnlineDPO
from alignbench.methods.quark import Quark
from alignbench.methods.raft import RAFT
from alignbench.methods.reinforce_pp import ReinforcePlusPlus
from alignbench.methods.rloo import RLOO
from alignbench.models import output_layer
from alignbench.models.adapters import Lora
from alignbench.models.control_tokens import ControlledModel, new_controls
from alignbench.models.loading import load_language_model
from alignbench.records import Decoding, Prompt
from alignbench.runtime import distributed
from alignbench.runtime.clock import peak_memory_gib

N_STEPS = 3
PROMPTS = [
    Prompt(f"p{i}", text)
    for i, text in enumerate(["the dog runs", "a cat", "one red bird sings now", "the old man", "two dogs"])
]
CONFIG = PPOConfig(
    learning_rate=2e-3,
    adam_epsilon=1e-4,  # or a gradient of rounding errors alone moves a weight as far as a real one
    batch_size=8,
    mini_batch_size=4,
    ppo_epochs=2,
    completion_tokens=(2, 7),
    kl_coef=0.3,
    kl_target=1.0,
    kl_horizon=50.0,
    max_grad_norm=0.5,
    log_completions_every=2,  # one full pass, one captured, one full pass
)
CASES = {
    "full weights": {},
    "lora": {"adapter": True, "micro_batch_size": 1},
    "logits too large to be made whole": {"adapter": True, "largest_logits": 0, "temperature": 0.7},
    "separate value model": {"value_model": "separate", "value_learning_rate": 1e-3},
    "mini-batches of their own": {
        "whiten_over": "mini_batch", "whiten_rewards": True, "early_stop_kl": 2e-3, "reward_scaling": "mean_std",
    },
    "unscored completions": {"unscored": (2, 5), "schedule": "linear", "warmup_steps": 1},
    "exact KL in the loss, top-k": {"kl_placement": "loss", "kl_estimator": "exact", "top_k": 8},
    "shared layers": {"shared_layers": 1, "gradient_checkpointing": True, "micro_batch_size": 1, "temperature": 0.7},
}  # fmt: skip
GROUP_METHODS = {
    "rloo": {"kind": RLOO, "completions_per_prompt": 4, "learning_rate": 3e-4},
    "grpo, as published": {
        "kind": GRPO, "completions_per_prompt": 4, "kl_placement": "loss", "kl_estimator": "k3", "unscored": (2, 5),
    },
    "reinforce++, baseline": {
        "kind": ReinforcePlusPlus, "completions_per_prompt": 4, "baseline": "group", "adapter": True,
    },
    "raft": {"kind": RAFT, "completions_per_prompt": 2, "mini_batch_size": 2},
    "online dpo": {"kind": OnlineDPO, "completions_per_prompt": 2},
    "quark": {"kind": Quark, "quantiles": 3, "kl_placement": "loss", "kl_estimator": "exact", "unscored": (2, 5)},
}  # fmt: skip
"""Those on the same engine without values, of which an option of PPO would say nothing new."""
SHARDED = ("lora", "logits too large to be made whole", "separate value model", "shared layers")
"""Those in which a process has parts of something else; full weights are in parts where a run is resumed."""


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


def score_with_holes(holes):
    """Leaves the completions of some prompts unscored."""
    texts = {PROMPTS[i % len(PROMPTS)].text for i in holes[:1]}
    return lambda prompts, completions: [
        None if prompt in texts else value for prompt, value in zip(prompts, score(prompts, completions), strict=True)
    ]


def policy_of(checkpoint, *, adapter=False):
    policy = load_language_model(str(checkpoint))
    with torch.no_grad():
        words = policy.model.get_input_embeddings().weight.mul_(5)  # a fresh model hardly tells words apart
        end = words[policy.eos_id]
        policy.model.transformer.ln_f.bias.add_(1.0 * end / end.dot(end))  # completions of many lengths
    if adapter:
        policy.add_adapter(Lora(r=4, target_modules=("q_proj", "v_proj")))
    return policy


def build(checkpoint, *, adapter=False, unscored=(), largest_logits=output_layer.MOST_BYTES, kind=None, **changes):
    reward = score_with_holes(unscored) if unscored else score
    policy = policy_of(checkpoint, adapter=adapter)
    with patch.object(output_layer, "MOST_BYTES", largest_logits):
        if kind is None:
            return PPOTrainer(policy, reward, PROMPTS, dataclasses.replace(CONFIG, **changes), seed=3)
        of_engine = {field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(OnPolicyConfig)}
        method = kind(**{**of_engine, "epochs": CONFIG.ppo_epochs, **changes})
        if kind is Quark:
            controlled = ControlledModel(policy, new_controls(policy, method.quantiles, seed=3))
            return PoolTrainer(controlled, reward, PROMPTS, method, method, seed=3)
        return OnPolicyTrainer(policy, reward, PROMPTS, method, method, seed=3)


def trained(checkpoint, n_steps=N_STEPS, *, checkpoints=None, **changes):
    """What a run has logged and written, and its weights."""
    trainer = build(checkpoint, **changes)
    log, texts = {}, {}
    trainer.train(n_steps, log=log.__setitem__, log_completions=texts.__setitem__, checkpoints=checkpoints)
    weights = {name: p.detach().clone() for name, p in trainer.policy.model.named_parameters()}
    return {"log": log, "texts": texts, "weights": weights, "cost": trainer.cost.counts()}


def prompts_seen(checkpoint):
    """The prompts that this process has scored in two steps."""
    seen = []

    def keep(prompts, completions):
        seen.extend(prompts)
        return score(prompts, completions)

    PPOTrainer(policy_of(checkpoint), keep, PROMPTS, CONFIG, seed=3).train(2)
    return seen


def message_of(run):
    try:
        run()
    except TrainingError as error:
        return str(error)
    return None


def failing_reward(checkpoint):
    """The error that this process ends with when the reward fails in the other one."""

    def reward(prompts, completions):
        if distributed.rank() == 1:
            raise ValueError("no such word")
        return score(prompts, completions)

    trainer = PPOTrainer(policy_of(checkpoint), reward, PROMPTS, CONFIG, seed=3)
    try:
        trainer.train(2)
    except (TrainingError, ValueError) as error:
        return type(error).__name__, str(error)


def other_prompts(checkpoint):
    prompts = PROMPTS[distributed.rank() :]
    return message_of(lambda: PPOTrainer(policy_of(checkpoint), score, prompts, CONFIG, seed=3))


def uneven(checkpoint):
    return message_of(lambda: build(checkpoint, batch_size=9, mini_batch_size=3))


def many_unscored(checkpoint):
    """Half of the second process's completions: no more than the first one would put up with, of all of them."""
    rollout.MAX_UNSCORED = 0.2
    trainer = build(checkpoint)
    trainer.reward = lambda prompts, _: [
        None if distributed.rank() == 1 and i < 2 else 1.0 for i in range(len(prompts))
    ]
    return message_of(lambda: trainer.train(1))


class Terms:
    """A reward of several terms, which says the mean of each in its last call."""

    def score(self, prompts, completions):
        found = score(prompts, completions)
        self.term_means = {"words": sum(found) / len(found)}
        return found


def metrics_of_each(checkpoint):
    """What a step returns here, and the peak of this process before and behind it."""
    trainer = build(checkpoint)
    trainer.reward = Terms().score
    before = peak_memory_gib()
    return trainer.train_step(), before, peak_memory_gib()


def evaluated_while_sharded(checkpoint):
    """Completions that the first process draws by itself between two steps."""
    trainer = build(checkpoint, sharding="full")
    drawn = {}

    def log(step, _metrics):
        completions = trainer.policy.generate(PROMPTS[:2], Decoding(max_new_tokens=5), 1, (0, "evaluation"))
        drawn[step] = [completion.text for completion in completions]

    trainer.train(2, log=log)
    return drawn


def sharded(checkpoint, names):
    """What is trained where each process has a part of the weights."""
    return {f"sharded, {name}": trained(checkpoint, **CASES[name], sharding="full") for name in names}


def more_sharded(checkpoint, folder):
    """What the program runs for `make slow`."""
    rollout.MAX_UNSCORED = 0.5
    return sharded(checkpoint, [name for name in CASES if name not in SHARDED])


def everything(checkpoint, folder):
    """What the program runs: all cases, and what needs two processes."""
    rollout.MAX_UNSCORED = 0.5
    found = {name: trained(checkpoint, **changes) for name, changes in {**CASES, **GROUP_METHODS}.items()}
    found |= sharded(checkpoint, SHARDED)
    found["resumed"] = trained(checkpoint, checkpoints=folder / "begun by one")
    found["resumed, sharded"] = trained(checkpoint, checkpoints=folder / "begun by one too", sharding="full")
    for name, sharding in (("begun by two", "none"), ("begun by two, sharded", "full")):
        trained(checkpoint, 2, checkpoints=folder / name, sharding=sharding)
    checks = (prompts_seen, failing_reward, other_prompts, uneven, metrics_of_each, evaluated_while_sharded)
    for check in (*checks, many_unscored):
        found[check.__name__] = check(checkpoint)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.join()
    checkpoint, here, work = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    found = {"everything": everything, "more_sharded": more_sharded}[work](checkpoint, here)
    torch.save(found, here / f"{work}{os.environ['RANK']}.pt")
    distributed.leave()
