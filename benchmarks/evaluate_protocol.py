"""Seconds of a whole evaluation under a protocol, of a random policy by a random classifier: one JSON line.

    python benchmarks/evaluate_protocol.py --shape 125m --prompts 64 --device cuda

Drawing, scoring, perplexity under the reference, KL and all metrics, with as many prompts at once as `alignbench run`
takes where a recipe does not say it.
"""

from __future__ import annotations

import json

import ppo_work


def main() -> None:
    """Measures, and prints."""
    import torch
    import transformers
    from evaluate_throughput import likely_to_end, twin

    from alignbench.evaluation.evaluator import evaluate
    from alignbench.evaluation.protocols import get_protocol
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.row_memory import completions_at_once
    from alignbench.records import Prompt
    from alignbench.scorers.text_classifier import ClassifierScorer

    arguments = ppo_work.common_parser(__doc__)
    arguments.add_argument("--protocol", default="rtp-v1")
    arguments.add_argument("--prompts", type=int, default=64)
    arguments.add_argument("--end", type=float, default=0.05, help="about how likely a completion ends at each token")
    work = ppo_work.parse(arguments)
    protocol, now = get_protocol(work.protocol), ppo_work.clock(work)
    model, tokenizer = ppo_work.policy(work)
    likely_to_end(model, tokenizer.eos_token_id, work.end)
    policy, reference = (LanguageModel(twin(model.eval()), tokenizer, "random") for _ in range(2))
    classifier = ppo_work.reward_model(work)
    scorers = {"judge": ClassifierScorer(*classifier, name="judge", label="LABEL_1", transform="probability")}
    prompts = [Prompt(str(i), " ".join(words)) for i, words in enumerate(ppo_work.prompts(work, work.prompts))]
    at_once = completions_at_once(policy, work.prompt_max + protocol.longest_completion)
    batch_prompts = max(1, at_once // protocol.samples_per_prompt)
    ppo_work.forget_cuda_peak(work)
    seconds = []
    for seed in range(work.warmup + work.iters):
        started = now()
        report = evaluate(policy, reference, prompts, protocol, scorers, seed=seed, batch_prompts=batch_prompts)
        seconds.append(now() - started)
    n = len(prompts) * protocol.samples_per_prompt
    best = min(seconds[work.warmup :])
    line = {
        "protocol": protocol.name,
        **{key: getattr(work, key) for key in ("shape", "prompts", "end", "device", "dtype", "threads", "clock")},
        "completions": n,
        "batch_prompts": batch_prompts,
        "metrics": len(report.metrics),
        "s": [round(one, 4) for one in seconds[work.warmup :]],
        "completions_per_s": round(n / best, 2),
        "peak_cuda_mb": ppo_work.cuda_peak_mib(work),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
