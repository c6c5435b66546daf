"""Whole PPO steps against an oracle: a slow float64 loop, one sequence at a time, with AdamW written out.

The oracle shares no code with the trainer but the sampling, and the order of the mini-batches: it takes the model's
own logits and hidden states of the bare sequence, without padding, masks or given positions. It is built from the
policy before the trainer is, and keeps its own running statistics and KL coefficient over the steps; before every
step it takes over the trained weights and AdamW's moments, so that rounding does not pile up.
"""

import copy
import dataclasses
import math
import statistics
import sys

import pytest
import torch

from alignbench.methods.on_policy import rollout
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.runtime.randomness import generator

# Every option of the plain recipe away from its default and from values that would hide it.
CONFIG = PPOConfig(
    learning_rate=2e-3,
    batch_size=8,
    mini_batch_size=4,
    micro_batch_size=2,
    ppo_epochs=3,
    completion_tokens=(2, 7),
    temperature=0.7,
    kl_coef=0.3,
    kl_target=None,
    gamma=0.9,
    gae_lambda=0.5,
    clip_range=0.05,
    value_clip_range=0.03,
    value_coef=0.3,
    whiten_rewards=True,
    max_grad_norm=0.5,
    weight_decay=0.1,
    adam_epsilon=1e-6,
)
SEED = 3


def score(prompts, completions):
    return [len(text.split()) / 3 - text.count("good") for text in completions]


def score_with_a_hole(prompts, completions):
    return [None if i == 2 else value for i, value in enumerate(score(prompts, completions))]


@dataclasses.dataclass
class Row:
    """One scored completion, as it stood when it was sampled."""

    prompt_ids: list
    token_ids: list
    reward: float
    kept: list = None
    reference: torch.Tensor = None
    logprobs: torch.Tensor = None
    values: torch.Tensor = None
    kl: torch.Tensor = None
    entropy: torch.Tensor = None


class Oracle:
    """The trainer's state in float64, and its next step written out."""

    def __init__(self, policy, reward, config, n_steps):
        self.policy, self.reward, self.config, self.n_steps = policy, reward, config, n_steps
        self.model = copy.deepcopy(policy.model).double()
        self.reference, self.value_model = copy.deepcopy(self.model), copy.deepcopy(self.model)
        self.head = torch.nn.Linear(self.model.config.hidden_size, 1).double()
        self.kl_coef, self.step, self.seen = config.kl_coef, 0, []

    def take_over(self, trainer):
        """The trained weights, which only training may have changed, and AdamW's moments."""
        modules = {"policy": self.model, "value_head": self.head, "value_model": self.value_model}
        named = {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}
        self.parameters = {name: named[name] for name in trainer.parameters}
        for name, parameter in trainer.parameters.items():
            is_as_built = self.step > 0 or name.startswith("value_head.")
            assert is_as_built or torch.equal(self.parameters[name].float(), parameter), name
            self.parameters[name].data.copy_(parameter)
        self.moments = {
            name: {key: value.double().clone() for key, value in trainer.optimizer.state[p].items()}
            if p in trainer.optimizer.state
            else {"step": 0.0, "exp_avg": torch.zeros_like(p).double(), "exp_avg_sq": torch.zeros_like(p).double()}
            for name, p in trainer.parameters.items()
        }

    def words(self, model, row):
        """Log-probabilities of all words at the completion's places, (n, V), and the hidden states before them."""
        ids = torch.tensor([row.prompt_ids + row.token_ids])
        output = model(ids, output_hidden_states=True)
        before = slice(len(row.prompt_ids) - 1, -1)
        logits = output.logits[0, before] / self.config.temperature
        too_early = torch.zeros_like(logits, dtype=torch.bool)
        too_early[: self.config.min_completion_tokens, self.policy.eos_id] = True
        return torch.where(too_early, -torch.inf, logits).log_softmax(-1), output.hidden_states[-1][0, before]

    def kept(self, logprobs):
        """The words left by top-k, then top-p, at one place, most likely first."""
        order = logprobs.argsort(descending=True)
        order = order[: self.config.top_k] if self.config.top_k else order
        probabilities, n = logprobs[order].softmax(0), 1
        while n < len(order) and probabilities[:n].sum() < self.config.top_p:
            n += 1
        return order[:n]

    def pass_over(self, row):
        """Log-probabilities of the sampled words among the kept ones, those of all words, and values."""
        words, hidden = self.words(self.model, row)
        if self.config.value_model == "separate":
            hidden = self.words(self.value_model, row)[1]
        chosen = [
            words[t, word] - words[t][row.kept[t]].logsumexp(0) if row.kept else words[t, word]
            for t, word in enumerate(row.token_ids)
        ]
        return torch.stack(chosen), words, self.head(hidden)[:, 0]

    def kl(self, row, words, estimator):
        reference = row.reference
        places = range(len(row.token_ids))
        difference = (words - reference)[places, row.token_ids]
        if estimator == "exact":
            return torch.stack([self.exact_kl(words[t], reference[t].detach()) for t in places])
        forms = {"k1": difference, "k2": difference**2 / 2, "k3": (-difference).exp() - 1 + difference}
        return forms[estimator]

    @staticmethod
    def exact_kl(words, reference):
        possible = words.isfinite()
        words, reference = words[possible], reference[possible]
        return (words.exp() * words).sum() - (words.exp() * reference).sum()

    @torch.no_grad()
    def rows(self, prompts, completions):
        """The scored completions with everything old; None in the place of an unscored one."""
        scores = self.reward([p.text for p in prompts], [c.text for c in completions])
        self.seen += [value for value in scores if value is not None]
        drawn = zip(prompts, completions, scores, strict=True)
        return [None if value is None else self.row(prompt, completion, value) for prompt, completion, value in drawn]

    def row(self, prompt, completion, value):
        token_ids = list(completion.token_ids)
        row = Row(self.policy.encode_prompt(prompt.text), token_ids, self.shaped(value, completion))
        words, _ = self.words(self.model, row)
        row.reference, _ = self.words(self.reference, row)
        row.kept = [self.kept(place) for place in words]
        assert all(word in row.kept[t] for t, word in enumerate(token_ids))
        row.logprobs, words, row.values = self.pass_over(row)
        row.kls = {name: self.kl(row, words, name) for name in ("k1", "k2", "k3", "exact")}
        row.kl = row.kls[self.config.kl_estimator]
        row.entropy = -torch.stack([(place.exp() * place)[place.isfinite()].sum() for place in words])
        return row

    def shaped(self, value, completion):
        config = self.config
        if config.reward_scaling != "none":
            shift = statistics.fmean(self.seen) if config.reward_scaling == "mean_std" else 0.0
            value = (value - shift) / statistics.stdev(self.seen)
        if config.reward_clip is not None:
            value = max(-config.reward_clip, min(config.reward_clip, value))
        ended = completion.token_ids[-1] == self.policy.eos_id or completion.text.endswith(config.stop_strings)
        return value - config.length_penalty * len(completion.token_ids) - config.missing_eos_penalty * (not ended)

    def targets(self, rows):
        """Advantages and returns of some rows, whitened over these."""
        rewards = [-self.kl_coef * row.kl * (self.config.kl_placement == "reward") for row in rows]
        for tokens, row in zip(rewards, rows, strict=True):
            tokens[-1] += row.reward
        if self.config.whiten_rewards:
            mean, deviation = self.moments_of(rewards)
            rewards = [(r - mean) / deviation + mean for r in rewards]
        advantages = [self.advantages(r, row.values) for r, row in zip(rewards, rows, strict=True)]
        returns = [a + row.values for a, row in zip(advantages, rows, strict=True)]
        if self.config.whiten_advantages:
            mean, deviation = self.moments_of(advantages)
            advantages = [(a - mean) / deviation for a in advantages]
        return list(zip(rows, advantages, returns, strict=True))

    @staticmethod
    def moments_of(parts):
        values = torch.cat(parts)
        return values.mean(), torch.sqrt(((values - values.mean()) ** 2).mean() + 1e-8)

    def advantages(self, rewards, values):
        n, found, following = len(rewards), [], 0.0
        for t in reversed(range(n)):
            delta = rewards[t] + self.config.gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t]
            following = delta + self.config.gamma * self.config.gae_lambda * following
            found.append(following)
        return torch.stack(found[::-1])

    def loss(self, batch):
        """The loss of a mini-batch, and its parts for the log."""
        config, n_tokens = self.config, sum(len(row.token_ids) for row, _, _ in batch)
        policy = value = kl = moved = 0.0
        for row, advantages, returns in batch:
            logprobs, words, values = self.pass_over(row)
            ratio = (logprobs - row.logprobs).exp()
            low, high = 1 - config.clip_range, 1 + config.clip_range
            policy = policy - torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages).sum() / n_tokens
            error = (values - returns) ** 2
            if config.value_clip_range is not None:
                near = row.values + (values - row.values).clamp(-config.value_clip_range, config.value_clip_range)
                error = torch.maximum(error, (near - returns) ** 2)
            value = value + 0.5 * error.sum() / n_tokens
            if config.kl_placement == "loss":
                kl = kl + self.kl(row, words, self.config.kl_estimator).sum() / n_tokens
            moved = moved + (ratio - 1 - ratio.log()).sum().item() / n_tokens
        loss = policy + config.value_coef * value + self.kl_coef * kl
        return loss, {"policy/loss": policy.item(), "value/loss": value.item(), "policy/approximate_kl": moved}

    def predict(self, prompts, completions):
        """One PPO step; returns the gradient of its first mini-batch and what it logs."""
        rows, first, updates = self.rows(prompts, completions), None, []
        scored = [row for row in rows if row is not None]
        over_batch = {id(item[0]): item for item in self.targets(scored)}
        for mini_batch in self.mini_batches(rows):
            whole = self.config.whiten_over == "batch"
            loss, logged = self.loss([over_batch[id(row)] for row in mini_batch] if whole else self.targets(mini_batch))
            if updates and logged["policy/approximate_kl"] > (self.config.early_stop_kl or math.inf):
                break
            gradients = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
            gradients = dict(zip(self.parameters, gradients, strict=True))
            norm = math.sqrt(sum((g**2).sum().item() for g in gradients.values()))
            clipped = {name: g * min(1.0, (self.config.max_grad_norm or norm) / norm) for name, g in gradients.items()}
            self.adamw(clipped)
            first = first or clipped
            updates.append(logged | {"policy/gradient_norm": norm})
        logged = {key: statistics.fmean(one[key] for one in updates) for key in updates[0]}
        kl = statistics.fmean(row.kl.sum().item() for row in scored)
        logged |= {
            "objective/shaped_reward": statistics.fmean(row.reward for row in scored),
            "objective/kl": kl,
            **{
                f"objective/kl_{name}": statistics.fmean(r.kls[name].sum().item() for r in scored)
                for name in scored[0].kls
            },
            "objective/kl_coef": self.kl_coef,
            "objective/entropy": torch.cat([row.entropy for row in scored]).mean().item(),
            "policy/learning_rate": self.learning_rate(),
            "policy/n_updates": len(updates),
        }
        self.adapt(kl)
        self.step += 1
        return first, logged

    def mini_batches(self, rows):
        for epoch in range(self.config.ppo_epochs):
            order = generator(SEED, "mini-batches", self.step, epoch).permutation(len(rows))
            for start in range(0, len(rows), self.config.mini_batch_size):
                chosen = [rows[i] for i in order[start : start + self.config.mini_batch_size]]
                yield [row for row in chosen if row is not None]

    def adapt(self, kl):
        """Ziegler et al. 2019, section 2.2."""
        if self.config.kl_target is not None:
            error = max(-0.2, min(0.2, (kl - self.config.kl_target) / self.config.kl_target))
            change = error * self.config.batch_size / self.config.kl_horizon
            self.kl_coef *= 1 + change if self.config.kl_controller == "linear" else math.e**change

    def learning_rate(self):
        peak, warm = self.config.learning_rate, self.config.warmup_steps
        if self.step < warm:
            return peak * (self.step + 1) / (warm + 1)
        done = (self.step - warm) / (self.n_steps - warm)
        forms = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}
        return peak * forms[self.config.schedule]

    @torch.no_grad()
    def adamw(self, gradients):
        """Loshchilov and Hutter 2019."""
        beta1, beta2 = self.config.adam_betas
        for name, parameter in self.parameters.items():
            rate = self.learning_rate()
            if name.startswith("value_") and self.config.value_learning_rate is not None:
                rate *= self.config.value_learning_rate / self.config.learning_rate
            state, gradient = self.moments[name], gradients[name]
            state["step"] += 1
            state["exp_avg"].mul_(beta1).add_((1 - beta1) * gradient)
            state["exp_avg_sq"].mul_(beta2).add_((1 - beta2) * gradient**2)
            first = state["exp_avg"] / (1 - beta1 ** state["step"])
            second = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
            parameter.mul_(1 - rate * self.config.weight_decay)
            parameter.sub_(rate * first / (second.sqrt() + self.config.adam_epsilon))


def distance(found, expected):
    """Relative error of a set of tensors: norm of the difference over the norm."""
    squares = [((found[name].double() - value) ** 2).sum().item() for name, value in expected.items()]
    return math.sqrt(sum(squares) / sum((value**2).sum().item() for value in expected.values()))


@pytest.fixture(params=["fast", "plain"], autouse=True)
def execution(request, monkeypatch):
    """Everything here holds of either; the fast one has what it captured in every step but the first."""
    monkeypatch.setattr(sys.modules[__name__], "EXECUTION", request.param)
    return request.param


EXECUTION = ""


def compare(policy, prompts, config, *, n_steps=2, reward=score):
    """Runs the trainer beside the oracle; returns the trainer and what it logged."""
    config = dataclasses.replace(config, execution=EXECUTION)
    oracle = Oracle(policy, reward, config, n_steps)
    trainer = PPOTrainer(policy, reward, prompts, config, seed=SEED)
    gradients, logged = [], []
    step, plain_step = {}, trainer.optimizer.step

    def spied_step():
        gradients.append({name: p.grad.clone() for name, p in trainer.parameters.items()})
        plain_step()

    trainer.optimizer.step = spied_step

    def begin():
        oracle.take_over(trainer)
        step["before"] = {name: p.detach().double().clone() for name, p in trainer.parameters.items()}
        step["gradient"], step["logged"] = oracle.predict(*trainer.sample(trainer.step + 1))
        gradients.clear()

    def check(number, metrics):
        assert set(gradients[0]) == set(step["gradient"])
        assert distance(gradients[0], step["gradient"]) < 1e-5
        moved = {name: value - step["before"][name] for name, value in oracle.parameters.items()}
        found = {name: p.detach() - step["before"][name] for name, p in trainer.parameters.items()}
        assert distance(found, moved) < 3e-4
        if trainer.captures and number > 1:
            step["logged"].pop("objective/kl_exact")
        assert {key: metrics[key] for key in step["logged"]} == pytest.approx(step["logged"], rel=1e-4, abs=1e-6)
        assert trainer.controller.coef == pytest.approx(oracle.kl_coef, rel=1e-6)
        logged.append(metrics)
        if number < n_steps:
            begin()

    begin()
    trainer.train(n_steps, log=check)
    return trainer, logged


def test_the_plain_recipe(tiny_policy, prompts):
    _, logged = compare(tiny_policy(), prompts[:4], CONFIG)
    assert logged[1]["policy/clip_fraction"] > 0
    assert logged[1]["value/clip_fraction"] > 0
    assert abs(logged[1]["objective/kl"]) > 1e-3
    assert logged[1]["tokens/completion_min"] < logged[1]["tokens/completion_max"]  # padding is at work


SHORT = dataclasses.replace(CONFIG, ppo_epochs=2)
LOSS = {"kl_placement": "loss", "kl_coef": 3.0}
LINEAR = {"kl_target": 0.05, "kl_horizon": 20.0}
CASES = {
    "k2": {"kl_estimator": "k2", **LINEAR},
    "k3, top-k, log controller": {"kl_estimator": "k3", "top_k": 5, **LINEAR, "kl_controller": "log"},
    "exact, top-p, minimal length": {"kl_estimator": "exact", "top_p": 0.6, "min_completion_tokens": 2},
    "k2 in the loss, values not clipped": {**LOSS, "kl_estimator": "k2", "value_clip_range": None},
    "k3 in the loss, truncated": {
        **LOSS, "kl_estimator": "k3", "top_k": 9, "top_p": 0.8, "min_completion_tokens": 2, **LINEAR,
    },
    "exact in the loss, whitened by mini-batch": {
        **LOSS, "kl_estimator": "exact", "whiten_over": "mini_batch", "min_completion_tokens": 1, "top_k": 4,
    },
    "separate value model": {"value_model": "separate", "value_init": "normal", "gradient_checkpointing": True},
    "separate value model, exact in the loss": {
        **LOSS, "kl_estimator": "exact", "value_model": "separate", **LINEAR, "kl_controller": "log",
    },
    "values with a rate of their own": {"value_learning_rate": 1e-4},
    "separate values with a rate of their own": {"value_learning_rate": 7e-3, "value_model": "separate"},
    "value head drawn": {"value_init": "normal", "adam_betas": (0.5, 0.7), "max_grad_norm": None},
    "penalties": {"missing_eos_penalty": 0.7, "length_penalty": 0.11, "stop_strings": ("sings", "cat"), "top_k": 6},
    "reward by its deviation, cut": {"reward_scaling": "std", "reward_clip": 0.4, "length_penalty": -0.05},
    "reward by its deviation from the mean": {"reward_scaling": "mean_std", "whiten_rewards": False},
    "whitened by mini-batch": {"whiten_over": "mini_batch"},
    "mini-batch of mean advantages": {"whiten_over": "mini_batch", "whiten_advantages": False},
    "nothing whitened": {"whiten_rewards": False, "whiten_advantages": False, "gamma": 1.0, "gae_lambda": 1.0},
    "early stop": {"early_stop_kl": 8e-3},
    "shared layer": {"shared_layers": 1},
}  # fmt: skip


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_options(sure_policy, prompts, changes):
    trainer, logged = compare(sure_policy(), prompts, dataclasses.replace(SHORT, **changes))
    if "early_stop_kl" in changes:
        assert all(1 < metrics["policy/n_updates"] < 4 for metrics in logged)
        assert trainer.cost.optimizer_steps == sum(metrics["policy/n_updates"] for metrics in logged)
    if "stop_strings" in changes:
        assert 0 < logged[0]["tokens/truncation_rate"] < 1 - logged[0]["tokens/eos_rate"]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules(sure_policy, prompts, schedule):
    config = dataclasses.replace(CONFIG, schedule=schedule, warmup_steps=1, ppo_epochs=1)
    _, logged = compare(sure_policy(), prompts, config, n_steps=3)
    expected = {"constant": [1e-3, 2e-3, 2e-3], "linear": [1e-3, 2e-3, 1e-3], "cosine": [1e-3, 2e-3, 1e-3]}
    assert [metrics["policy/learning_rate"] for metrics in logged] == pytest.approx(expected[schedule])


@pytest.mark.parametrize("adapter", ["fresh", "trained"])
@pytest.mark.parametrize("changes", [{}, {**LOSS, "kl_estimator": "exact", "shared_layers": 1}])
def test_adapters(sure_policy, prompts, adapter, changes):
    """The reference is the policy as it came: without a fresh adapter, and with one that was trained before."""
    compare(sure_policy("llama", adapter), prompts, dataclasses.replace(SHORT, learning_rate=1e-2, **changes))


@pytest.mark.parametrize("changes", [{}, {"shared_layers": 1, "value_model": "separate", "top_p": 0.7}])
def test_another_family(sure_policy, prompts, changes):
    compare(sure_policy("llama"), prompts, dataclasses.replace(SHORT, **changes))


@pytest.mark.parametrize("changes", [{}, {"whiten_over": "mini_batch"}, {"whiten_advantages": False}])
def test_an_unscored_completion_is_as_if_it_had_not_been_drawn(sure_policy, prompts, monkeypatch, changes):
    monkeypatch.setattr(rollout, "MAX_UNSCORED", 0.5)
    config = dataclasses.replace(SHORT, reward_scaling="mean_std", **changes)
    compare(sure_policy(), prompts, config, reward=score_with_a_hole)
