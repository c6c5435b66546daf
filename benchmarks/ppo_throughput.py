"""Seconds and memory of PPO iterations on defined work, by the public trainer: one JSON line on standard output.

    python benchmarks/ppo_throughput.py --shape tiny --threads 1 --clock cpu
    python benchmarks/ppo_throughput.py --shape 125m --ppo-epochs 1 --iters 1 --threads 1 --clock cpu

Gradients are clipped, every metric is computed and logged, as in examples/ppo_from_python.py. benchmarks/README.md has
the figures, beside those of other trainers on the same work.
"""

from __future__ import annotations

from collections.abc import Mapping

import ppo_work

STAGES = {"generate": "rollout", "reward": "reward", "forward": "forward", "optimise": "update"}


def main() -> None:
    """Measures, and prints."""
    work = ppo_work.parse(ppo_work.parser(__doc__))
    from alignbench.methods.on_policy import metrics as ppo_metrics
    from alignbench.methods.on_policy.config import PPOConfig
    from alignbench.methods.on_policy.trainer import PPOTrainer
    from alignbench.models.adapters import Lora
    from alignbench.models.language_model import LanguageModel
    from alignbench.records import Prompt
    from alignbench.scorers.text_classifier import ClassifierScorer

    now = ppo_work.clock(work)
    ppo_metrics.time = type("Clock", (), {"perf_counter": staticmethod(now)})  # stages by the same clock
    policy = LanguageModel(*ppo_work.policy(work), "random")
    if work.lora_rank:
        policy.add_adapter(Lora(r=work.lora_rank, alpha=2 * work.lora_rank, target_modules=("q_proj", "v_proj")))
    n_iterations = work.warmup + work.iters
    texts = [" ".join(prompt) for prompt in ppo_work.prompts(work, n_iterations * work.batch)]
    prompts = [Prompt(id=str(i), text=text) for i, text in enumerate(texts)]
    config = PPOConfig(
        batch_size=work.batch,
        mini_batch_size=work.mini_batch,
        ppo_epochs=work.ppo_epochs,
        completion_tokens=(work.new_tokens, work.new_tokens),
        min_completion_tokens=work.new_tokens,
        learning_rate=work.lr,
        kl_target=None,
        mixed_precision=work.bf16,
    )
    scorer = ClassifierScorer(*ppo_work.reward_model(work), name="reward", label="LABEL_0", transform="logit")
    trainer = PPOTrainer(policy, scorer.score, prompts, config, seed=work.seed)
    iterations = ppo_work.Iterations(work)
    kl = []

    def log(step: int, metrics: Mapping[str, float]) -> None:
        iterations.end(**{stage: metrics[f"time/{ours}_seconds"] for stage, ours in STAGES.items()})
        kl.append(metrics["objective/kl"])

    trainer.train(n_iterations, log=log)
    on_cpu = work.device == "cpu"
    iterations.report(
        "alignbench",
        sum(p.numel() for p in trainer.parameters.values()),
        kl[-1],
        matmul_gflop=round(ppo_work.matmul_gflop(work), 1),
        matmul_gflop_per_s=ppo_work.matmul_rates() if on_cpu else None,
        product_s=round(ppo_work.product_seconds(work), 3) if on_cpu else None,
    )


if __name__ == "__main__":
    main()
