"""Seconds and memory of drawing completions and scoring them, three ways on the same work: one JSON line for each.

    python benchmarks/evaluate_throughput.py --shape tiny --threads 1 --clock cpu
    python benchmarks/evaluate_throughput.py --shape 125m --prompts 2 --one-by-one 8 --iters 2 --threads 1 --clock cpu

Every prompt has `--samples` completions, and a classifier scores each of them. The three ways, in turn in every round:

    one_by_one  `model.generate` for one completion at a time, then a transformers pipeline for one text at a time
    batched     both in batches of `--batch`, prompts padded on the left
    alignbench  `LanguageModel.generate`, then `ClassifierScorer`, as evaluation and the building of pairs call them

All use the same weights in float32. Completions have exactly `--new-tokens` tokens, or with `--end P` end at each token
with a probability of about P. benchmarks/README.md has the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ppo_work

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Texts = list[str]


@dataclass
class Way:
    """One way of doing the work, and what it took in every round."""

    generate: Callable[[Sequence[str], int], Texts]
    """Completions of the prompts, which stand there once for each; the second argument is a seed."""
    score: Callable[[Texts], list[float]]
    n: int
    """Completions in one round."""
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of drawing and of scoring."""
    peak_mib: float = 0.0
    n_tokens: list[float] = field(default_factory=list)
    """Words of a completion, on average over the round."""

    @property
    def seconds(self) -> list[float]:
        """Of each round."""
        return [sum(one) for one in self.rounds]


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    arguments = ppo_work.common_parser(__doc__)
    arguments.add_argument("--prompts", type=int, default=8)
    arguments.add_argument("--samples", type=int, default=25, help="completions of every prompt")
    arguments.add_argument("--top-p", type=float, default=1.0)
    arguments.add_argument("--end", type=float, default=0.0, help="about how likely a completion ends at each token")
    arguments.add_argument("--one-by-one", type=int, help="completions that are drawn one by one; default: all")
    arguments.set_defaults(batch=64, new_tokens=20)
    return arguments


def likely_to_end(model: Any, eos_id: int, probability: float) -> None:
    """Changes a random GPT-Neo so that the end of sequence has about this probability at every position."""
    import torch

    with torch.no_grad():
        norm, words = model.transformer.ln_f, model.lm_head.weight
        direction = torch.randn_like(norm.bias)
        norm.bias += 10 * direction / direction.norm()
        typical = torch.randn(256, len(norm.bias), device=norm.bias.device) + norm.bias
        others = (typical @ words.T).logsumexp(dim=-1).mean()
        words[eos_id] = norm.bias / 100 * (others + math.log(probability / (1 - probability)))


def twin(model: Any) -> Any:
    """A model of its own over the same weights."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def ways(work: argparse.Namespace) -> dict[str, Way]:
    """The three, over one policy and one classifier."""
    import torch
    from transformers import pipeline

    from alignbench.models.language_model import LanguageModel
    from alignbench.records import Decoding, Prompt
    from alignbench.scorers.text_classifier import ClassifierScorer

    model, tokenizer = ppo_work.policy(work)
    classifier, its_tokenizer = ppo_work.reward_model(work)
    model.eval()
    shortest = 0 if work.end else work.new_tokens
    if work.end:
        likely_to_end(model, tokenizer.eos_token_id, work.end)
    tokenizer.padding_side = "left"
    ours = LanguageModel(twin(model), tokenizer, "random", batch_size=work.batch)
    scorer = ClassifierScorer(
        twin(classifier),
        its_tokenizer,
        name="judge",
        label="LABEL_1",
        transform="probability",
        batch_size=work.batch,
    )
    pipe = pipeline("text-classification", model=classifier, tokenizer=its_tokenizer, device=work.device, top_k=None)
    decoding = Decoding(work.new_tokens, top_p=work.top_p, min_new_tokens=shortest)

    def by_transformers(prompts: Sequence[str]) -> Texts:
        inputs = tokenizer(list(prompts), padding=True, return_tensors="pt").to(work.device)
        output = model.generate(
            **inputs,
            do_sample=True,
            top_k=0,
            top_p=work.top_p,
            max_new_tokens=work.new_tokens,
            min_new_tokens=shortest,
            pad_token_id=tokenizer.pad_token_id,
        )
        return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def drawn(size: int) -> Callable[[Sequence[str], int], Texts]:
        def generate(prompts: Sequence[str], seed: int) -> Texts:
            torch.manual_seed(seed)
            batches = (prompts[start : start + size] for start in range(0, len(prompts), size))
            return [text for batch in batches for text in by_transformers(batch)]

        return generate

    def scored(size: int) -> Callable[[Texts], list[float]]:
        def probability(labels: list[dict[str, Any]]) -> float:
            return next(one["score"] for one in labels if one["label"] == "LABEL_1")

        if size == 1:
            return lambda texts: [probability(pipe([text], truncation=True)[0]) for text in texts]
        return lambda texts: [probability(one) for one in pipe(texts, batch_size=size, truncation=True)]

    def our_texts(prompts: Sequence[str], seed: int) -> Texts:
        distinct = [Prompt(str(i), text) for i, text in enumerate(prompts[:: work.samples])]
        return [one.text for one in ours.generate(distinct, decoding, work.samples, (seed,))]

    n = work.prompts * work.samples
    return {
        "one_by_one": Way(drawn(1), scored(1), min(n, work.one_by_one or n)),
        "batched": Way(drawn(work.batch), scored(work.batch), n),
        "alignbench": Way(our_texts, lambda texts: scorer.score([""] * len(texts), texts), n),
    }


def measure(found: dict[str, Way], prompts: Sequence[str], work: argparse.Namespace) -> None:
    """Runs every way in every round, and keeps what it took but for the warm-up."""
    now = ppo_work.clock(work)
    for seed in range(work.warmup + work.iters):
        for way in found.values():
            forget_peak()
            start = now()
            texts = way.generate(prompts[: way.n], seed)
            between = now()
            scores = way.score(texts)
            end = now()
            if not len(texts) == len(scores) == way.n:
                raise RuntimeError(f"{len(texts)} texts and {len(scores)} scores, expected {way.n}")
            if seed >= work.warmup:
                way.rounds.append((between - start, end - between))
                way.n_tokens.append(statistics.mean(len(text.split()) for text in texts))
                way.peak_mib = max(way.peak_mib, peak_mib())


def forget_peak() -> None:
    """Starts the peak of resident memory anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Peak of resident memory since the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def lines(found: dict[str, Way], work: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record for each way; `ratio` is its time per completion over that of alignbench, median of the rounds."""
    import torch
    import transformers

    own = found["alignbench"]
    for peer, way in found.items():
        median = statistics.median(way.seconds)
        ratios = [a / way.n / (b / own.n) for a, b in zip(way.seconds, own.seconds, strict=True)]
        split = [statistics.median(part) for part in zip(*way.rounds, strict=True)]
        yield {
            "peer": peer,
            **{
                key: getattr(work, key)
                for key in ("shape", "layers", "hidden", "vocab", "prompts", "samples", "device")
            },
            **{key: getattr(work, key) for key in ("batch", "new_tokens", "top_p", "end", "threads", "clock")},
            "completions": way.n,
            "completion_tokens": round(statistics.mean(way.n_tokens), 2),
            "iters": len(way.rounds),
            "iter_s": round(median, 5),
            "iter_s_min": round(min(way.seconds), 5),
            "iter_s_max": round(max(way.seconds), 5),
            "samples_per_s": round(way.n / median, 3),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_min": round(min(ratios), 3),
            "ratio_max": round(max(ratios), 3),
            "split_s": {name: round(value, 5) for name, value in zip(("generate", "score"), split, strict=True)},
            "peak_rss_mb": round(way.peak_mib, 1),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "loadavg": round(os.getloadavg()[0], 2),
        }


def main() -> None:
    """Measures, and prints."""
    work = ppo_work.parse(parser())
    import transformers

    transformers.utils.logging.set_verbosity_error()
    texts = [" ".join(prompt) for prompt in ppo_work.prompts(work, work.prompts) for _ in range(work.samples)]
    found = ways(work)
    measure(found, texts, work)
    for line in lines(found, work):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
