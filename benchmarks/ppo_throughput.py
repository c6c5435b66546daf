"""Seconds and memory of PPO iterations on defined work, by the public trainer: one JSON line on standard output.

    python benchmarks/ppo_throughput.py --shape tiny --threads 1 --clock cpu
    python benchmarks/ppo_throughput.py --shape 125m --ppo-epochs 1 --iters 1 --threads 1 --clock cpu

Gradients are clipped, every metric is computed and logged, as in examples/ppo_from_python.py. benchmarks/README.md has
the figures, beside those of other trainers on the same work.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import ppo_work

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MIB = 2**20


def resident_mib() -> float:
    """Resident memory of the process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def main() -> None:
    """Measures, and prints."""
    arguments = ppo_work.parser(__doc__)
    work = ppo_work.parse(arguments)
    import torch
    import transformers

    from alignbench.language_model import LanguageModel, Lora
    from alignbench.ppo import metrics as ppo_metrics
    from alignbench.ppo.config import PPOConfig
    from alignbench.ppo.trainer import PPOTrainer
    from alignbench.records import Prompt
    from alignbench.scorers.classifier import ClassifierScorer

    now = time.process_time if work.clock == "cpu" else time.perf_counter
    ppo_metrics.time = type("Clock", (), {"perf_counter": staticmethod(now)})  # stages by the same clock
    transformers.utils.logging.set_verbosity_error()
    model, tokenizer = ppo_work.policy(work)
    policy = LanguageModel(model, tokenizer, "random")
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
    )
    scorer = ClassifierScorer(*ppo_work.reward_model(work), name="reward", label="LABEL_0", transform="logit")
    trainer = PPOTrainer(policy, scorer.score, prompts, config, seed=work.seed)
    before, rows, usage = resident_mib(), [], []
    state = {"time": now(), "usage": resource.getrusage(resource.RUSAGE_SELF)}

    def log(step: int, metrics: Mapping[str, float]) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        rows.append(
            {"total": now() - state["time"], "kl": metrics["objective/kl"]}
            | {
                key.removeprefix("time/").removesuffix("_seconds"): value
                for key, value in metrics.items()
                if key.startswith("time/") and key.endswith("_seconds")
            }
        )
        usage.append(
            [getattr(used, key) - getattr(state["usage"], key) for key in ("ru_utime", "ru_stime", "ru_minflt")]
        )
        state["time"], state["usage"] = now(), used

    trainer.train(n_iterations, log=log)
    rows, usage = rows[work.warmup :], usage[work.warmup :]
    totals = [row["total"] for row in rows]
    names = {"rollout": "generate", "reward": "reward", "forward": "forward", "update": "optimise"}
    split = {theirs: round(statistics.median(row[ours] for row in rows), 5) for ours, theirs in names.items()}
    split["other"] = round(statistics.median(row["total"] - sum(row[ours] for ours in names) for row in rows), 5)
    median = statistics.median(totals)
    print(
        json.dumps(
            {
                "peer": "alignbench",
                **{key: getattr(work, key) for key in ("shape", "layers", "hidden", "vocab", "batch", "mini_batch")},
                **{key: getattr(work, key) for key in ("new_tokens", "ppo_epochs", "lora_rank", "threads", "clock")},
                "iters": len(rows),
                "iter_s": round(median, 5),
                "iter_s_min": round(min(totals), 5),
                "iter_s_max": round(max(totals), 5),
                "samples_per_s": round(work.batch / median, 3),
                "split_s": split,
                "parts": list(names.values()),
                **{
                    name: round(statistics.median(used[place] for used in usage), 3)
                    for place, name in enumerate(("user_s", "sys_s", "minor_faults"))
                },
                "rss_before_mb": round(before, 1),
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": platform.python_version(),
                "loadavg": round(os.getloadavg()[0], 2),
                "trainable_params": sum(p.numel() for p in trainer.parameters.values()),
                "kl": rows[-1]["kl"],
            }
        )
    )


if __name__ == "__main__":
    main()
