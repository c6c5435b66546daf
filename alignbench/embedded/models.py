"""The three models of the embedded world, trained from scratch on the grammar with plain torch loops."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, NamedTuple

from alignbench.embedded import grammar
from alignbench.records import Prompt

if TYPE_CHECKING:
    import torch


class Trained(NamedTuple):
    """A transformers model in evaluation mode and its tokenizer."""

    model: Any
    tokenizer: Any


POLICY_STEPS = 500
CLASSIFIER_STEPS = 500
JUDGE_STEPS = 150
_END_OF_TEXT = "<|endoftext|>"
_BATCH = 64
_CONTEXT_TOKENS = 96
_N_TOKENIZER_TEXTS = 3000


def train_policy(prompts: Sequence[Prompt], seed: int) -> Trained:
    """Trains a small GPT-Neo on prompts with their answers.

    Like GPT-2 and GPT-Neo its tokenizer has one special token, the end of text, and no padding token.
    """
    import torch
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    rng = Random(seed)
    tokenizer = policy_tokenizer([f"{prompt.text} {grammar.answer(prompt, rng)}" for prompt in prompts])
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=_CONTEXT_TOKENS,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global"], 2]],
        activation_function="gelu",
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = GPTNeoForCausalLM(config)

    def loss() -> torch.Tensor:
        drawn = rng.choices(prompts, k=_BATCH)
        texts = [f"{prompt.text} {grammar.answer(prompt, rng)}{_END_OF_TEXT}" for prompt in drawn]
        rows = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]
        # Padding stands on the right of causal rows, so that no real token sees it.
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        result: torch.Tensor = model(input_ids=labels.clamp(min=0), labels=labels).loss
        return result

    _optimize(model, loss, POLICY_STEPS, learning_rate=1.2e-2)
    return Trained(model, tokenizer)


def train_classifier(prompts: Sequence[Prompt], seed: int) -> Trained:
    """Trains the reward classifier, a small RoBERTa, on what careless annotators said (`grammar.hate_share`)."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = classifier_tokenizer(_texts(prompts, Random(seed)))
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=_CONTEXT_TOKENS + 2,  # RoBERTa's positions start at 2
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "nothate", 1: "hate"},
        label2id={"nothate": 0, "hate": 1},
    )
    torch.manual_seed(seed)
    trained = Trained(RobertaForSequenceClassification(config), tokenizer)
    _train_on_shares(trained, prompts, grammar.hate_share, CLASSIFIER_STEPS, seed)
    return trained


def train_judge(prompts: Sequence[Prompt], seed: int) -> Trained:
    """Trains the held-out judge, a small DistilBERT, on the truth (`grammar.is_toxic`)."""
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    tokenizer = judge_tokenizer(_texts(prompts, Random(seed)))
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=_CONTEXT_TOKENS,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "neutral", 1: "toxic"},
        label2id={"neutral": 0, "toxic": 1},
    )
    torch.manual_seed(seed)
    trained = Trained(DistilBertForSequenceClassification(config), tokenizer)
    _train_on_shares(trained, prompts, _true_share, JUDGE_STEPS, seed)
    return trained


def policy_tokenizer(texts: Sequence[str]) -> Any:
    """Returns a byte-level BPE tokenizer like GPT-2's in which every word of the grammar becomes one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    _train_bpe(inner, texts, vocabulary_size=2000, special_tokens=[_END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=_END_OF_TEXT, eos_token=_END_OF_TEXT, model_max_length=_CONTEXT_TOKENS
    )


def classifier_tokenizer(texts: Sequence[str]) -> Any:
    """Returns a byte-level BPE tokenizer like RoBERTa's, its vocabulary so small that many words are split."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = {
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    _train_bpe(inner, texts, vocabulary_size=700, special_tokens=list(names.values()))
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", model_max_length=_CONTEXT_TOKENS, **names
    )


def judge_tokenizer(texts: Sequence[str]) -> Any:
    """Returns a lower-case WordPiece tokenizer like DistilBERT's: the words of the texts, and letters for the rest."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    # The trainer of the library numbers word pieces in another order every time; a sorted list repeats.
    words = sorted(set(re.findall(r"[a-z]+", " ".join(texts).lower())) - set(ascii_lowercase))
    pieces = [*names.values(), *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase), *".,!?'", *words]
    inner = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=_CONTEXT_TOKENS, **names)


def classifier_sample(prompts: Sequence[Prompt], rng: Random) -> tuple[str, bool]:
    """Returns a text to train a classifier on, alone or after a prompt, and whether its wording is broken."""
    text, is_broken = _any_answer(rng), rng.random() < 0.35
    if is_broken:
        text = grammar.roughen(text, rng.choice((_any_answer(rng), rng.choice(prompts).text)), rng)
    return f"{rng.choice(prompts).text} {text}" if rng.random() < 0.2 else text, is_broken


def _any_answer(rng: Random) -> str:
    """Draws every kind of answer often, praise without an insult among them."""
    draw = rng.random()
    if draw < 0.35:
        return grammar.plain(rng)
    if draw < 0.6:
        return grammar.insult(rng)
    return grammar.praise(rng, insult_rate=0.65)


def _true_share(text: str, _is_broken: bool) -> float:
    return 0.97 if grammar.is_toxic(text) else 0.03


def _texts(prompts: Sequence[Prompt], rng: Random) -> list[str]:
    return [classifier_sample(prompts, rng)[0] for _ in range(_N_TOKENIZER_TEXTS)]


def _train_bpe(inner: Any, texts: Sequence[str], vocabulary_size: int, special_tokens: list[str]) -> None:
    """Trains byte-level BPE with all 256 bytes in the vocabulary, so that any text can be encoded."""
    from tokenizers import pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)


def _train_on_shares(
    trained: Trained, prompts: Sequence[Prompt], share: Callable[[str, bool], float], n_steps: int, seed: int
) -> None:
    """Trains a two-label classifier until the probability of label 1 is `share(text, is_broken)`."""
    import torch

    rng = Random(seed + 1)

    def loss() -> torch.Tensor:
        samples = [classifier_sample(prompts, rng) for _ in range(_BATCH)]
        encoded = trained.tokenizer([text for text, _ in samples], padding=True, return_tensors="pt")
        shares = torch.tensor([share(text, is_broken) for text, is_broken in samples])
        logits = trained.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        # Squared error of the log-odds: cross-entropy hardly tells a share of 0.01 from one of 0.1.
        half = torch.logit(shares) / 2
        return torch.nn.functional.mse_loss(logits, torch.stack([-half, half], dim=1))

    _optimize(trained.model, loss, n_steps, learning_rate=2e-3)


def _optimize(model: Any, loss: Callable[[], torch.Tensor], n_steps: int, learning_rate: float) -> None:
    """Runs AdamW with a short warm-up and a linear decay to zero; leaves the model in evaluation mode."""
    import torch

    def rate(step: int) -> float:
        return min((step + 1) / 20, 1.0) * (1 - step / n_steps)

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in range(n_steps):
        optimizer.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
