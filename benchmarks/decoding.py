"""What a step of decoding takes by each kind of cache, beside what reading its memory takes: one JSON line for each.

    python benchmarks/decoding.py --shape tiny --threads 1
    python benchmarks/decoding.py --shape gptj --dtype bfloat16 --device cuda

    growing   the cache that grows, as on a CPU
    fixed     the cache of fixed shape, kernel by kernel
    graph     the same with every step a CUDA graph, as on a GPU, and there alone

`step_s` is the time of all tokens less that of their first half, over the steps between. `bandwidth_share`: the time in
which weights, keys and values of a step are read once at the rate of a large copy, over `step_s`. `same_tokens`: the
share of completions that are those of `growing`; `logprob_difference`: the largest one in these.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import ppo_work

ROUND = tuple[float, float]
"""Seconds of the first half of the tokens, and of all."""


def networks(work: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """A network for each way, over the same weights, and their tokenizer."""
    from evaluate_throughput import twin

    from alignbench.models.language_model import LanguageModel
    from alignbench.models.sampling.fixed_cache import NOT_RECORDABLE

    model, tokenizer = ppo_work.policy(work)
    names = ("growing", "fixed") if work.device == "cpu" else ("growing", "fixed", "graph")
    found = {name: LanguageModel(twin(model.eval()), tokenizer, "random").model for name in names}
    NOT_RECORDABLE.add(found["fixed"])
    return found, tokenizer


def draw(work: argparse.Namespace, way: str, model: Any, prompts: list[list[int]], n: int, capture: Any = None) -> Any:
    """The first n tokens of the completions, the same ones in every way."""
    from alignbench.models.sampling.sampler import sample
    from alignbench.models.sampling.token_draw import uniforms
    from alignbench.records import Decoding

    u = uniforms((work.seed,), [(str(i), 0) for i in range(len(prompts))], work.new_tokens)
    options = {"eos_id": None, "pad_id": 0, "capture": capture, "static": way != "growing"}
    found = sample(model, prompts, [n] * len(prompts), u, Decoding(work.new_tokens), **options)
    return [one.token_ids for one in found]


def with_logprobs(work: argparse.Namespace, way: str, model: Any, prompts: list[list[int]]) -> tuple[Any, Any]:
    """Tokens, and their log-probabilities (b, t)."""
    from alignbench.models.sampling.capture import Capture

    capture = Capture()
    tokens = draw(work, way, model, prompts, work.new_tokens, capture)
    return tokens, capture.logprobs[0].cpu()


def bytes_of_step(work: argparse.Namespace, model: Any) -> int:
    """Weights, without an embedding that only looks words up, and keys and values in the middle of the second half."""
    words, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    looked_up = words.nbytes if words is not output else 0
    length = (work.prompt_min + work.prompt_max) / 2 + 0.75 * work.new_tokens
    cache = 2 * work.layers * work.hidden * work.batch * length * words.itemsize
    return round(sum(p.nbytes for p in model.parameters()) - looked_up + cache)


def copied_per_s(work: argparse.Namespace) -> float:
    """Bytes that a large copy on the device reads and writes in a second."""
    import torch

    now = ppo_work.clock(work)
    source = torch.ones(2 ** (32 if work.device == "cuda" else 27), dtype=torch.uint8, device=work.device)
    target, seconds = torch.empty_like(source), []
    for _ in range(5):
        started = now()
        target.copy_(source)
        seconds.append(now() - started)
    return 2 * source.nbytes / min(seconds)


def measured(work: argparse.Namespace, models: dict[str, Any], prompts: list[list[int]]) -> dict[str, list[ROUND]]:
    """Seconds of every way in every round behind the warm-up."""
    now = ppo_work.clock(work)
    rounds: dict[str, list[ROUND]] = {way: [] for way in models}
    for i in range(work.warmup + work.iters):
        for way, model in models.items():
            times = [now()]
            for n in (work.new_tokens // 2, work.new_tokens):
                draw(work, way, model, prompts, n)
                times.append(now())
            if i >= work.warmup:
                rounds[way].append((times[1] - times[0], times[2] - times[1]))
    return rounds


def main() -> None:
    """Measures, and prints."""
    import torch
    import transformers

    arguments = ppo_work.common_parser(__doc__)
    arguments.set_defaults(new_tokens=112)  # with their half in caches of one width, so that a graph serves both
    work = ppo_work.parse(arguments)
    models, tokenizer = networks(work)
    prompts = tokenizer([" ".join(prompt) for prompt in ppo_work.prompts(work, work.batch)])["input_ids"]
    tokens, logprobs = with_logprobs(work, "growing", models["growing"], prompts)
    rounds, rate, n_bytes = measured(work, models, prompts), copied_per_s(work), bytes_of_step(work, models["fixed"])
    for way, model in models.items():
        its_tokens, its_logprobs = with_logprobs(work, way, model, prompts)
        same = torch.tensor([one == other for one, other in zip(its_tokens, tokens, strict=True)])
        steps = [(every - half) / (work.new_tokens - work.new_tokens // 2) for half, every in rounds[way]]
        step_s = statistics.median(steps)
        line = {
            "way": way,
            **{key: getattr(work, key) for key in ("shape", "layers", "hidden", "vocab", "batch", "new_tokens")},
            **{key: getattr(work, key) for key in ("device", "dtype", "threads", "clock")},
            "device_name": torch.cuda.get_device_name() if work.device == "cuda" else None,
            "iters": len(steps),
            "step_s": round(step_s, 7),
            "step_s_min": round(min(steps), 7),
            "step_s_max": round(max(steps), 7),
            "tokens_per_s": round(work.batch / step_s, 1),
            "step_mb": round(n_bytes / 1e6, 1),
            "copy_gb_per_s": round(rate / 1e9, 1),
            "bandwidth_share": round(n_bytes / rate / step_s, 3),
            "same_tokens": round(same.float().mean().item(), 4),
            "logprob_difference": (its_logprobs - logprobs)[same].abs().max().item() if same.any() else None,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
