"""The work of one PPO iteration that trainers are measured on: shapes, arguments, random models, prompts.

Every model is random from a config and every tokenizer a list of words, so nothing is downloaded. One iteration:
`--batch` prompts of 10 to 15 tokens; exactly 30 sampled tokens each, at temperature 1, no end of sequence; one reward
per completion from a RoBERTa with a tokenizer of its own; a KL penalty on every token; `--ppo-epochs` epochs of clipped
policy and value losses in mini-batches, float32.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from itertools import count, islice, product
from typing import Any

SHAPES = {
    "tiny": {"layers": 4, "hidden": 128, "heads": 4, "vocab": 2048, "rlayers": 2, "rhidden": 128, "rheads": 4,
             "batch": 64, "mini_batch": 16},
    "125m": {"layers": 12, "hidden": 768, "heads": 12, "vocab": 50257, "rlayers": 12, "rhidden": 768, "rheads": 12,
             "batch": 16, "mini_batch": 4},
}  # fmt: skip
"""Of the policy (GPT-Neo), the reward model (`r...`) and the batch."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every trainer under test takes."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    for name in SHAPES["tiny"]:
        arguments.add_argument(f"--{name.replace('_', '-')}", type=int, help="in place of the shape's own")
    arguments.add_argument("--prompt-min", type=int, default=10)
    arguments.add_argument("--prompt-max", type=int, default=15)
    arguments.add_argument("--new-tokens", type=int, default=30)
    arguments.add_argument("--ppo-epochs", type=int, default=4)
    arguments.add_argument(
        "--lora-rank", type=int, default=0, help="0 trains every weight; else LoRA on q_proj, v_proj"
    )
    arguments.add_argument("--iters", type=int, default=5)
    arguments.add_argument("--warmup", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=0, help="of torch; 0 is its own choice")
    arguments.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU seconds of the process; with --threads 1 what a busy machine disturbs least",
    )
    arguments.add_argument("--lr", type=float, default=1e-5)
    arguments.add_argument("--seed", type=int, default=0)
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
    """A random GPT-Neo and its tokenizer."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    vocabulary = {word: i for i, word in enumerate([*words(work.vocab - 3), "<unk>", "<end>", "<pad>"])}
    own = tokenizer(vocabulary, "<unk>", eos_token="<end>", bos_token="<end>", pad_token="<pad>")
    config = GPTNeoConfig(
        vocab_size=work.vocab,
        max_position_embeddings=512,
        hidden_size=work.hidden,
        num_layers=work.layers,
        num_heads=work.heads,
        attention_types=[[["global", "local"], work.layers // 2]],
        bos_token_id=own.eos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )
    return GPTNeoForCausalLM(config), own


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
    return RobertaForSequenceClassification(config).eval(), own


def prompts(work: argparse.Namespace, n: int) -> list[list[str]]:
    """N prompts as words, their lengths uniform between the bounds."""
    rng, known = random.Random(work.seed + 1), words(work.vocab - 3)
    return [rng.choices(known, k=rng.randint(work.prompt_min, work.prompt_max)) for _ in range(n)]
