"""Peak memory and seconds of PPO iterations under each option that saves memory; a table, and a JSON line of each row.

    python benchmarks/ppo_memory.py --shape 125m --ppo-epochs 1 --iters 1 --threads 1 --clock cpu

The work is that of ppo_throughput.py. Every row is a process of its own; memory is the most that was resident in it
while it trained, libraries and reward model included, and on a GPU (`--device cuda`) the most that torch had allocated
there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import ppo_work


@dataclass(frozen=True)
class Row:
    """One way to run the work."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of PPOConfig, in place of the work's own."""
    lora_rank: int = 0
    quantization: str = "none"
    shape: str | None = None
    """In place of the work's own."""

    def obstacle(self) -> str | None:
        """Why it cannot be measured here."""
        needs = self.quantization != "none" or "optimizer" in self.options
        return "bitsandbytes is not installed" if needs and find_spec("bitsandbytes") is None else None


_CHECKPOINTING, _ONE, _EIGHT = {"gradient_checkpointing": True}, {"micro_batch_size": 1}, {"optimizer": "adamw_8bit"}
ROWS = {
    "full": Row(),
    "full, gradient checkpointing": Row(_CHECKPOINTING),
    "full, micro-batches of 1": Row(_ONE),
    "full, separate value model": Row({"value_model": "separate"}),
    "full, optimizer in 8 bits": Row(_EIGHT),
    "full, all three": Row(_CHECKPOINTING | _ONE | _EIGHT),
    "LoRA": Row(lora_rank=8),
    "LoRA, gradient checkpointing": Row(_CHECKPOINTING, lora_rank=8),
    "LoRA, micro-batches of 1": Row(_ONE, lora_rank=8),
    "LoRA, separate value model": Row({"value_model": "separate"}, lora_rank=8),
    "LoRA, base in 8 bits": Row(lora_rank=8, quantization="8bit"),
    "LoRA, base in 4 bits": Row(lora_rank=8, quantization="4bit"),
    "LoRA, vocabulary 262,144": Row(lora_rank=8, shape="262k"),
}
"""`all three`: checkpointing, micro-batches of 1, and the optimizer in 8 bits."""


def arguments() -> argparse.ArgumentParser:
    """Those of the work, and which rows."""
    found = ppo_work.parser(__doc__)
    found.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    found.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    found.add_argument("--policy", type=Path, help=argparse.SUPPRESS)
    return found


def begin_peak() -> None:
    """Forgets what loading took: quantizing weights has the whole ones in memory for a moment."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> int:
    """The most memory that was resident in this process since `begin_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


def start_policy(work: argparse.Namespace, row: Row) -> Any:
    """The work's random policy, from memory; from its saved weights where they are to be quantized."""
    import torch

    from alignbench.models.adapters import Lora
    from alignbench.models.language_model import LanguageModel
    from alignbench.models.loading import load_language_model

    if row.quantization == "none":
        policy = LanguageModel(*ppo_work.policy(work), "random")
    else:
        policy = load_language_model(
            str(work.policy), dtype=work.dtype, quantization=row.quantization, device=torch.device(work.device)
        )
    if row.lora_rank:
        policy.add_adapter(Lora(r=row.lora_rank, alpha=2 * row.lora_rank, target_modules=("q_proj", "v_proj")))
    return policy


def measure(work: argparse.Namespace, row: Row) -> dict[str, Any]:
    """Runs one row in this process."""
    import transformers

    from alignbench.methods.on_policy.config import PPOConfig
    from alignbench.methods.on_policy.trainer import PPOTrainer
    from alignbench.records import Prompt
    from alignbench.scorers.text_classifier import ClassifierScorer

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    now = ppo_work.clock(work)
    policy = start_policy(work, row)
    scorer = ClassifierScorer(*ppo_work.reward_model(work), name="reward", label="LABEL_0", transform="logit")
    n_iterations = work.warmup + work.iters
    texts = [" ".join(prompt) for prompt in ppo_work.prompts(work, n_iterations * work.batch)]
    options: dict[str, Any] = {
        "batch_size": work.batch,
        "mini_batch_size": work.mini_batch,
        "ppo_epochs": work.ppo_epochs,
        "completion_tokens": (work.new_tokens, work.new_tokens),
        "min_completion_tokens": work.new_tokens,
        "learning_rate": work.lr,
        "kl_target": None,
        "mixed_precision": work.bf16,
    }
    prompts = [Prompt(id=str(i), text=text) for i, text in enumerate(texts)]
    trainer = PPOTrainer(policy, scorer.score, prompts, PPOConfig(**(options | row.options)), seed=work.seed)
    ends, kl = [now()], []

    def log(step: int, metrics: Mapping[str, float]) -> None:
        ends.append(now())
        kl.append(metrics["objective/kl"])

    begin_peak()
    ppo_work.forget_cuda_peak(work)
    trainer.train(n_iterations, log=log)
    seconds = [after - before for before, after in pairwise(ends)][work.warmup :]
    return {
        "peak_rss_mb": peak_mib(),
        "peak_cuda_mb": ppo_work.cuda_peak_mib(work),
        "iter_s": round(statistics.median(seconds), 3),
        "kl": round(kl[-1], 6),
    }


def in_own_process(name: str, given: list[str], policy: Path) -> dict[str, Any]:
    """Measures a row in a process of its own; what failed there is a reason not to have measured."""
    obstacle = ROWS[name].obstacle()
    if obstacle is not None:
        return {"row": name, "not_measured": obstacle}
    command = [sys.executable, __file__, *given, "--row", name, "--policy", str(policy)]
    if ROWS[name].shape is not None:
        command += ["--shape", ROWS[name].shape]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"row": name, "not_measured": (done.stderr.strip().splitlines() or ["it was killed"])[-1]}
    return {"row": name} | json.loads(done.stdout.splitlines()[-1])


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = ["| | peak memory, MB | GPU, MB | s per iteration |", "|---|---|---|---|"]
    for one in results:
        if "not_measured" in one:
            lines.append(f"| {one['row']} | not measured: {one['not_measured']} | | |")
        else:
            gpu = "-" if one["peak_cuda_mb"] is None else one["peak_cuda_mb"]
            lines.append(f"| {one['row']} | {one['peak_rss_mb']} | {gpu} | {one['iter_s']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures all rows, or the one that this process is for."""
    work = ppo_work.parse(arguments())
    if work.row is not None:
        print(json.dumps(measure(work, ROWS[work.row])))
        return
    with tempfile.TemporaryDirectory() as folder:
        if any(ROWS[name].quantization != "none" for name in work.rows) and find_spec("bitsandbytes") is not None:
            for part in ppo_work.policy(work):
                part.save_pretrained(folder)
        results = []
        for name in work.rows:
            results.append(in_own_process(name, sys.argv[1:], Path(folder)))
            print(json.dumps(results[-1]), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
