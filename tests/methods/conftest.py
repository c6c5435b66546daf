from importlib.metadata import EntryPoint

import pytest

from alignbench import plugins


@pytest.fixture
def run_context(tiny_policy, checkpoints, tmp_path):
    """Makes the surroundings of one training run on the tiny policy."""

    def make(policy=None, log=None, **changes):
        import torch

        from alignbench.methods.base import RunContext
        from alignbench.models.loading import load_classifier
        from alignbench.scorers.text_classifier import ClassifierScorer

        def load_reward_model(name):
            torch.manual_seed(0)
            return load_classifier(name or str(checkpoints / "policy"), where="method.model", labels=["reward"])

        reward = ClassifierScorer.load(
            str(checkpoints / "classifier"), where="reward", revision=None, device=torch.device("cpu"),
            name="reward", label="nothate", transform="logit",
        )  # fmt: skip
        rows = {}

        def step_done(step, completions, metrics, cost, policy):
            for event, amounts in cost.items():
                run.ledger.book(step, event, amounts)
            (log or rows.__setitem__)(step, metrics)

        settings = {
            "seed": 0,
            "budget_completions": 16,
            "policy": policy or tiny_policy(),
            "load_reward_model": load_reward_model,
            "lora": None,
            "reward": reward,
            "reward_text": "completion",
            "checkpoints": tmp_path / "checkpoints",
            "step_done": step_done,
        }
        run = RunContext(**settings | changes)
        return run, rows

    return make


@pytest.fixture
def pairs(tiny_policy):
    """Pairs as sampled: `good`-er completions preferred; some end in EOS, some at their limit."""
    from alignbench.records import Decoding, PreferencePair, Prompt

    texts = ["the dog runs", "a cat", "one red bird sings now", "the old man", "two dogs", "a bird sings"]
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(texts * 2)]
    prompts = [Prompt(f"p{i}", prompt.text) for i, prompt in enumerate(prompts)]
    completions = tiny_policy().generate(prompts, Decoding(6), 2, ("pairs",))
    return [
        PreferencePair(prompt, completions[2 * i], completions[2 * i + 1], 1.0, 0.0) for i, prompt in enumerate(prompts)
    ]


@pytest.fixture
def installed(monkeypatch):
    """Installs entry points for the length of a test."""

    def install(*points: tuple[str, str]) -> None:
        entries = [EntryPoint(name, value, "alignbench.methods") for name, value in points]
        monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "alignbench.methods" else [])
        plugins.entries_of.cache_clear()

    yield install
    monkeypatch.undo()
    plugins.entries_of.cache_clear()
