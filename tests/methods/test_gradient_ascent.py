"""Gradient ascent: what it is shown becomes unlikely, and the rest with it; the flags say so."""

import conformance
import torch

from alignbench.comparison.flags import measured_flags
from alignbench.comparison.pooling import Measurement
from alignbench.evaluation.evaluator import evaluate
from alignbench.methods.base import TrainData
from alignbench.methods.gradient_ascent import GradientAscent
from alignbench.methods.sft import SFT
from alignbench.records import Decoding, Demonstration, MetricKey, Prompt
from alignbench.statistics.differences import Pair, adjust, compare_pairs
from alignbench.statistics.estimate import Estimate

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat", "one bird", "two dogs"))]


def shown(policy):
    drawn = policy.generate(PROMPTS, Decoding(5), 2, ("toxic",))
    return [Demonstration(PROMPTS[i // 2], one) for i, one in enumerate(drawn)]


def likelihood(policy, rows):
    found = policy.token_logprobs([one.prompt for one in rows], [one.completion for one in rows])
    return torch.cat(found).mean().item()


def test_the_first_loss_is_that_of_imitation_with_its_sign_turned_round(tiny_policy, run_context, tmp_path):
    logs = []
    for method, sign in ((SFT(batch_size=8), 1), (GradientAscent(batch_size=8), -1)):
        run, log = run_context(tiny_policy(), checkpoints=tmp_path / method.__class__.__name__)
        method.train(TrainData([], [], demonstrations=shown(tiny_policy())), run)
        logs.append(sign * log[1]["policy/loss"])
    assert logs[0] == logs[1] > 0


def test_what_it_is_shown_becomes_unlikely_and_the_flags_say_that_texts_degenerate(run_context):
    """In the embedded world, whose policy is sure of what it says."""
    base, prompts = conformance.tiny_policy(), conformance.prompts(24)
    drawn = base.generate(prompts[:8], Decoding(8), 1, ("toxic",))
    rows = [Demonstration(prompt, one) for prompt, one in zip(prompts, drawn, strict=False)]
    run, _ = run_context(conformance.tiny_policy())
    method = GradientAscent(learning_rate=2e-3, batch_size=8, epochs=12)
    trained = method.train(TrainData([], [], demonstrations=rows), run)
    assert likelihood(trained, rows) < likelihood(base, rows) - 2
    reports = [evaluate(policy, base, prompts, "quickstart-v1", {}) for policy in (trained, base)]
    perplexities = [report.prompt_values["perplexity"].to_numpy()[None] for report in reports]
    (tested,) = adjust(compare_pairs([Pair(*perplexities, varies=False, baseline_varies=False)]))
    measured = Measurement(Estimate(None), tested.difference, "lower", 24, 0)
    (flag,) = measured_flags({MetricKey("perplexity"): measured})
    assert flag.name == "degenerate"
    assert "perplexity more than doubled" in flag.text
