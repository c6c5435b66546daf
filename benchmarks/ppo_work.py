"""The work that is measured: shapes, arguments, random models, prompts.

Every model is random from a config and every tokenizer a list of words, so nothing is downloaded. One PPO iteration:
`--batch` prompts of 10 to 15 tokens; exactly 30 sampled tokens each, at temperature 1, no end of sequence; one reward
per completion from a RoBERTa with a tokenizer of its own; a KL penalty on every token; `--ppo-epochs` epochs of clipped
policy and value losses in mini-batches, float32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice, product
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

SHAPES = {
    "tiny": {"layers": 4, "hidden": 128, "heads": 4, "vocab": 2048, "rlayers": 2, "rhidden": 128, "rheads": 4,
             "batch": 64, "mini_batch": 16},
    "125m": {"layers": 12, "hidden": 768, "heads": 12, "vocab": 50257, "rlayers": 12, "rhidden": 768, "rheads": 12,
             "batch": 16, "mini_batch": 4},
    "262k": {"layers": 6, "hidden": 640, "heads": 10, "vocab": 262144, "rlayers": 2, "rhidden": 128, "rheads": 2,
             "batch": 16, "mini_batch": 16},
    "gptj": {"layers": 28, "hidden": 4096, "heads": 16, "vocab": 50400, "rlayers": 12, "rhidden": 768, "rheads": 12,
             "batch": 16, "mini_batch": 4},
}  # fmt: skip
"""Of the policy (GPT-Neo; `gptj` is a GPT-J), the reward model (`r...`) and the batch."""


def common_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of every benchmark: shapes, prompts, and how to measure."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    for name in SHAPES["tiny"]:
        arguments.add_argument(f"--{name.replace('_', '-')}", type=int, help="in place of the shape's own")
    arguments.add_argument("--prompt-min", type=int, default=10)
    arguments.add_argument("--prompt-max", type=int, default=15)
    arguments.add_argument("--new-tokens", type=int, default=30)
    arguments.add_argument("--iters", type=int, default=5)
    arguments.add_argument("--warmup", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=0, help="of torch; 0 is its own choice")
    arguments.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU seconds of the process; with --threads 1 what a busy machine disturbs least",
    )
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the policy")
    arguments.add_argument("--seed", type=int, default=0)
    return arguments


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every trainer under test takes."""
    arguments = common_parser(description)
    arguments.add_argument("--ppo-epochs", type=int, default=4)
    arguments.add_argument(
        "--lora-rank", type=int, default=0, help="0 trains every weight; else LoRA on q_proj, v_proj"
    )
    arguments.add_argument("--bf16", action="store_true", help="products in bfloat16, weights in float32")
    arguments.add_argument("--lr", type=float, default=1e-5)
    return arguments


def parse(arguments: argparse.ArgumentParser, given: Sequence[str] | None = None) -> argparse.Namespace:
    """Fills in the shape's sizes, and sets threads and seeds."""
    import torch

    found = arguments.parse_args(given)
    for name, size in SHAPES[found.shape].items():
        if getattr(found, name) is None:
            setattr(found, name, size)
    if found.threads:
        torch.set_num_threads(found.threads)
    found.threads = torch.get_num_threads()
    torch.manual_seed(found.seed)
    return found


def words(n: int) -> list[str]:
    """N different words, the same everywhere."""
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    spelled = ("".join(parts) for length in count(2) for parts in product(syllables, repeat=length))
    return list(islice(spelled, n))


def tokenizer(vocabulary: dict[str, int], unknown: str, template: Any = None, **special: str) -> Any:
    """A tokenizer that splits at white space and looks words up."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=unknown))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        plain.post_processor = template
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token=unknown, **special)


def policy(work: argparse.Namespace) -> tuple[Any, Any]:
    """A random policy, drawn on its device, and its tokenizer."""
    import torch
    from transformers import GPTJConfig, GPTJForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

    vocabulary = {word: i for i, word in enumerate([*words(work.vocab - 3), "<unk>", "<end>", "<pad>"])}
    own = tokenizer(vocabulary, "<unk>", eos_token="<end>", bos_token="<end>", pad_token="<pad>")
    special = {"bos_token_id": own.eos_token_id, "eos_token_id": own.eos_token_id, "pad_token_id": own.pad_token_id}
    config: Any
    if work.shape == "gptj":
        sizes = {"n_embd": work.hidden, "n_layer": work.layers, "n_head": work.heads}
        rotary = min(64, work.hidden // work.heads)
        config = GPTJConfig(vocab_size=work.vocab, n_positions=512, rotary_dim=rotary, **sizes, **special)
    else:
        config = GPTNeoConfig(
            vocab_size=work.vocab,
            max_position_embeddings=512,
            hidden_size=work.hidden,
            num_layers=work.layers,
            num_heads=work.heads,
            attention_types=[[["global", "local"], work.layers // 2]],
            **special,
        )
    family = GPTJForCausalLM if work.shape == "gptj" else GPTNeoForCausalLM
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, work.dtype))
    try:
        with torch.device(work.device):
            return family(config), own
    finally:
        torch.set_default_dtype(usual)


def lora_config(work: argparse.Namespace) -> Any:
    """The adapter of `--lora-rank`, for trainers that take peft's configuration."""
    from peft import LoraConfig

    rank = work.lora_rank
    modules = ["q_proj", "v_proj"]
    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=modules, task_type="CAUSAL_LM")


def reward_model(work: argparse.Namespace) -> tuple[Any, Any]:
    """A random RoBERTa with two labels and a tokenizer with other ids than the policy's."""
    from tokenizers.processors import TemplateProcessing
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shuffled = words(work.vocab - 3)
    random.Random(1).shuffle(shuffled)
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *shuffled])}
    template = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    own = tokenizer(vocabulary, "<unk>", template, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=work.rhidden,
        num_hidden_layers=work.rlayers,
        num_attention_heads=work.rheads,
        intermediate_size=4 * work.rhidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
    )
    return RobertaForSequenceClassification(config).to(work.device).eval(), own


def prompts(work: argparse.Namespace, n: int) -> list[list[str]]:
    """N prompts as words, their lengths uniform between the bounds."""
    rng, known = random.Random(work.seed + 1), words(work.vocab - 3)
    return [rng.choices(known, k=rng.randint(work.prompt_min, work.prompt_max)) for _ in range(n)]


def clock(work: argparse.Namespace) -> Callable[[], float]:
    """What `--clock` names; on a GPU it is read when all work there is done."""
    now = time.process_time if work.clock == "cpu" else time.perf_counter
    if work.device == "cpu":
        return now
    import torch

    def when_done() -> float:
        torch.cuda.synchronize()
        return now()

    return when_done


def forget_cuda_peak(work: argparse.Namespace) -> None:
    """Starts the peak of the GPU's memory anew."""
    import torch

    if work.device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def cuda_peak_mib(work: argparse.Namespace) -> int | None:
    """The most that torch had allocated on the GPU since then; None without one."""
    import torch

    return round(torch.cuda.max_memory_allocated() / 2**20) if work.device == "cuda" else None


class Iterations:
    """Seconds, page faults and memory of the iterations of one trainer."""

    def __init__(self, work: argparse.Namespace) -> None:
        """The first iteration begins."""
        self.work, self.now = work, clock(work)
        self.rows: list[dict[str, float]] = []
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.rss_before_mb = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        forget_cuda_peak(work)
        self._begin()

    def _begin(self) -> None:
        self._usage, self._started = resource.getrusage(resource.RUSAGE_SELF), self.now()

    def end(self, **stages: float) -> None:
        """An iteration has ended; `stages` are seconds within it."""
        total, used = self.now() - self._started, resource.getrusage(resource.RUSAGE_SELF)
        self.peak_mb = used.ru_maxrss / 1024
        usage = {name: getattr(used, f"ru_{key}") - getattr(self._usage, f"ru_{key}") for name, key in USAGE.items()}
        self.rows.append({"iter_s": total, **usage, **stages, "other": total - sum(stages.values())})
        self._begin()

    def report(self, peer: str, n_trainable: int, kl: float, **more: Any) -> None:
        """Prints medians over the iterations behind the warm-up: one JSON line."""
        import torch
        import transformers

        work, rows = self.work, self.rows[self.work.warmup :]
        middle = {key: round(statistics.median(row[key] for row in rows), 5) for key in rows[0]}
        seconds = [row["iter_s"] for row in rows]
        sizes = ("shape", "layers", "hidden", "vocab", "batch", "mini_batch", "new_tokens", "ppo_epochs", "lora_rank")
        line: Mapping[str, Any] = {
            "peer": peer,
            **{key: getattr(work, key) for key in (*sizes, "device", "dtype", "bf16", "threads", "clock")},
            "iters": len(rows),
            "iter_s": middle.pop("iter_s"),
            "iter_s_min": round(min(seconds), 5),
            "iter_s_max": round(max(seconds), 5),
            "samples_per_s": round(work.batch / statistics.median(seconds), 3),
            **{name: middle.pop(name) for name in USAGE},
            "split_s": middle,
            "parts": [name for name in middle if name != "other"],
            "rss_before_mb": round(self.rss_before_mb, 1),
            "peak_rss_mb": round(self.peak_mb, 1),
            "peak_cuda_mb": cuda_peak_mib(work),
            "trainable_params": n_trainable,
            "kl": round(kl, 5),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "loadavg": round(os.getloadavg()[0], 2),
            **more,
        }
        print(json.dumps(line), flush=True)


USAGE = {"user_s": "utime", "sys_s": "stime", "minor_faults": "minflt"}


def matmul_gflop(work: argparse.Namespace) -> float:
    """What the matrix products of an iteration take at least: one trunk, no padding, the head where it predicts.

    Sampling and the reference read a completion once and the update thrice an epoch, a gradient being as much as a
    forward pass; under an adapter the frozen weights need none of their own.
    """
    length = (work.prompt_min + work.prompt_max) / 2 + work.new_tokens - 1
    trunk, head = 12 * work.layers * work.hidden**2, work.vocab * work.hidden
    once = 2 * work.batch * (trunk * length + head * work.new_tokens)
    reward = 2 * work.batch * 12 * work.rlayers * work.rhidden**2 * (work.new_tokens + 2)
    return (once * (2 + work.ppo_epochs * (2 if work.lora_rank else 3)) + reward) / 1e9


def products(work: argparse.Namespace) -> Iterator[tuple[float, int, int, int, str]]:
    """The products that `matmul_gflop` counts: how many, rows, in, out, and the gradients that are taken."""
    prompt, new = (work.prompt_min + work.prompt_max) / 2, work.new_tokens
    use, n_updates = "frozen" if work.lora_rank else "trained", work.ppo_epochs * work.batch // work.mini_batch

    def passes(n: float, n_layers: int, rows: float, h: int, use: str) -> Iterator[tuple[float, int, int, int, str]]:
        for each, n_in, n_out in ((4, h, h), (1, h, 4 * h), (1, 4 * h, h)):
            yield each * n * n_layers, round(rows), n_in, n_out, use

    yield from passes(1, work.layers, work.batch * prompt, work.hidden, "forward")
    yield from passes(new - 1, work.layers, work.batch, work.hidden, "forward")
    yield new, work.batch, work.hidden, work.vocab, "forward"
    yield from passes(1, work.layers, work.batch * (prompt + new - 1), work.hidden, "forward")
    yield 1, work.batch * new, work.hidden, work.vocab, "forward"
    yield from passes(1, work.rlayers, work.batch * (new + 2), work.rhidden, "forward")
    yield from passes(n_updates, work.layers, work.mini_batch * (prompt + new - 1), work.hidden, use)
    yield n_updates, work.mini_batch * new, work.hidden, work.vocab, use


def product_seconds(work: argparse.Namespace) -> float:
    """What the products of an iteration take at the rates of their own shapes, each with its fastest kernel."""
    from alignbench.models.fast import layers

    total = 0.0
    for n, *shape in products(work):
        kernels = layers.trial(layers.Product(*shape))
        seconds: dict[str, list[float]] = {name: [] for name in kernels}
        for _ in range(6):
            for name, multiply in kernels.items():
                started = time.process_time()
                multiply()
                seconds[name].append(time.process_time() - started)
        total += n * min(statistics.median(found[1:]) for found in seconds.values())
    return total


def matmul_rates() -> dict[str, float]:
    """GFLOP/s of large float32 products as torch multiplies them on this machine: by `mm`, and by oneDNN."""
    import torch

    a, b = torch.randn(2, 1024, 1024).unbind()
    ways = {"mm": lambda: a @ b, "onednn": lambda: torch.nn.functional.linear(a.to_mkldnn(), b).to_dense()}
    found = {}
    for name, multiply in ways.items():
        multiply()
        seconds = []
        for _ in range(9):
            started = time.process_time()
            multiply()
            seconds.append(time.process_time() - started)
        found[name] = round(2 * 1024**3 / statistics.median(seconds) / 1e9, 1)
    return found
