"""A language model as everything else sees it: prompts in, completions and log-probabilities out."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignbench.errors import ModelError
from alignbench.models.adapters import Lora, lora_config
from alignbench.models.chat import Chat, ChatTokenizer, PlainTokenizer
from alignbench.models.dropout import without_dropout
from alignbench.models.fast.layers import with_fast_layers
from alignbench.models.flops import sampling_flops, tokens_of, weights_of
from alignbench.models.forward import SequenceBatch, collate, completion_forward, is_encoder_decoder
from alignbench.models.generation_settings import made_saveable, notes_on
from alignbench.models.output_layer import batch_logprobs, rows_that_fit
from alignbench.models.policy_file import LANGUAGE_MODEL, write_policy_file
from alignbench.models.sampling.capture import Capture
from alignbench.models.sampling.growing_cache import keeps_a_cache
from alignbench.models.sampling.sampler import sample
from alignbench.models.sampling.stop_strings import content, ended_at_stop_string
from alignbench.models.sampling.token_draw import uniforms
from alignbench.models.special_tokens import Ends, added_after, check_known, ends_of, padding_id, without_added
from alignbench.records import Completion, Cost, Decoding, Messages, Prompt
from alignbench.runtime.randomness import Key

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

LEAST_ROWS = 16
"""Passes that measure have at least so many sequences, and with them no more than there is room for their logits."""
KEPT_ENCODINGS = 2**14
"""Prompts whose token ids are kept: they come up again, in every epoch and at every evaluation."""


class LanguageModel:
    """A causal or encoder-decoder language model with its tokenizer and chat format. Implements `records.Policy`."""

    def __init__(self, model: Any, tokenizer: Any, name: str, chat: Chat | None = None, batch_size: int = 64) -> None:
        """Wraps a loaded model, turns its dropout off for good, and gives it faster layers.

        Its generation config loses what could not be saved with it.
        """
        self.model = with_fast_layers(without_dropout(model))
        self._ignored = made_saveable(model)
        self.tokenizer = tokenizer
        self.name = name
        """The hub id or path that it was loaded from."""
        self.chat = chat
        self.batch_size = batch_size
        """Sequences in one forward pass without gradients."""
        self.is_as_loaded = True
        """False where the weights are those of an earlier run, which `name` does not hold."""
        self.spent = Cost()
        """Tokens and FLOPs of everything that it has sampled and passed forward."""
        self._encodings: dict[tuple[str, Messages | None], list[int]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def eos_id(self) -> int | None:
        """The end-of-sequence token of the tokenizer."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end a completion: the tokenizer's, those of the model's configs, the chat template's."""
        return self._ends.token_ids

    @property
    def end_of_answer(self) -> int | None:
        """The token that a completion is to be taught to end with; None where the model has none."""
        return self._ends.of_answer

    @cached_property
    def _ends(self) -> Ends:
        return ends_of(self.model, self.tokenizer, self.chat)

    @cached_property
    def _added_after(self) -> tuple[int, ...]:
        return () if self.is_encoder_decoder else added_after(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """Fills empty positions, which are always masked: any token that the model has serves."""
        return padding_id(self.model, self.tokenizer)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how completions of this model come about, a sentence each."""
        notes = notes_on(self._ends, self._ignored, keeps_a_cache=keeps_a_cache(self.model))
        return tuple(f"{self.name}: {note}" for note in notes)

    @property
    def context_tokens(self) -> int:
        """The longest sequence: prompt and completion together, or either of them where an encoder reads the prompt."""
        config = self.model.config.get_text_config()
        if hasattr(config, "relative_attention_num_buckets"):
            return sys.maxsize  # T5 sees distances, not positions; its tokenizer names the length of the pre-training
        names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
        limits = [getattr(config, key, None) for key in names]
        known = [limit for limit in (*limits, self.tokenizer.model_max_length) if limit]
        return int(min(known))

    @property
    def is_encoder_decoder(self) -> bool:
        """True where an encoder reads the prompt and a decoder writes the completion (T5)."""
        return is_encoder_decoder(self.model)

    def longest_prompt(self, n_new_tokens: int) -> int:
        """The longest prompt in tokens, chat template and special tokens included, that leaves this much room."""
        return self.context_tokens - (0 if self.is_encoder_decoder else n_new_tokens)

    @property
    def has_adapter(self) -> bool:
        """True where a LoRA adapter is attached."""
        return hasattr(self.model, "disable_adapter")

    def encode_prompt(self, prompt: Prompt | str) -> list[int]:
        """Token ids of a prompt, or of its text, as the model sees it: chat template and special tokens included.

        Of a conversation the template renders every message; one with a system message of its own has no other. What
        the tokenizer puts after a text (an end, a separator) stays where an encoder reads the prompt, and goes where
        the completion follows it. ModelError for a token that the model has no embedding of.
        """
        return self.encode_prompts([prompt])[0]

    def encode_prompts(self, prompts: Sequence[Prompt | str]) -> list[list[int]]:
        """Does the same for several prompts: new ones in one call of the tokenizer, those seen before in none."""
        asked = [(one, None) if isinstance(one, str) else (one.text, one.messages) for one in prompts]
        known, new = self._encodings, [one for one in dict.fromkeys(asked) if one not in self._encodings]
        if len(known) + len(new) > KEPT_ENCODINGS:
            known.clear()
            new = list(dict.fromkeys(asked))
        for one, ids in zip(new, self._encoded(new) if new else (), strict=True):
            check_known(ids, self.model, self.tokenizer, self.name)
            known[one] = ids
        return [list(known[one]) for one in asked]

    def _encoded(self, prompts: Sequence[tuple[str, Messages | None]]) -> list[list[int]]:
        if self.chat is not None:
            rendered = [self.chat.rendered(self.tokenizer, self.name, *prompt) for prompt in prompts]
            return self._ids(rendered, add_special_tokens=self.is_encoder_decoder)
        if any(messages is not None for _, messages in prompts):
            raise ModelError("a prompt is a conversation of several messages, which needs a `chat:` block")
        texts = [text for text, _ in prompts]
        encoded = self._ids(texts)
        if not self._added_after:
            return encoded
        bare = self._ids(texts, add_special_tokens=False)
        return [without_added(ids, self._added_after, len(own)) for ids, own in zip(encoded, bare, strict=True)]

    def _ids(self, texts: Sequence[str], **options: bool) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(list(texts), **options)["input_ids"]]

    @property
    def text_tokenizer(self) -> PlainTokenizer:
        """The tokenizer as data preparation uses it."""
        return PlainTokenizer(self.tokenizer) if self.chat is None else ChatTokenizer(self.tokenizer, self)

    def decode(
        self, token_ids: Sequence[int], prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> str:
        """Text of a completion as it continues the text of its prompt; that of a decoder is a text of its own.

        Some tokenizers drop the space in front of the first word that they decode; hence the prompt.
        """

        def text(ids: Sequence[int]) -> str:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

        if self.is_encoder_decoder:
            return text(token_ids)
        prompt, whole = text(prompt_ids), text([*prompt_ids, *token_ids])
        return whole[len(prompt) :] if whole.startswith(prompt) else text(token_ids)

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Key) -> list[Completion]:
        """Samples `n_samples` completions of every prompt, prompt-major."""
        repeated, samples = _repeated(prompts, n_samples)
        return self.complete(repeated, samples, [decoding.max_new_tokens] * len(repeated), decoding, key)

    def generate_with_logprobs(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Key
    ) -> tuple[list[Completion], list[Tensor] | None]:
        """Does the same, and gives what `token_logprobs` would give of each: it is seen while sampling.

        None where sampling draws from another distribution than the model's own: at another temperature, or while
        ends are banned. What top-k and top-p cut off does not matter, as the whole distribution is known. None too in
        less than float32, where decoding token by token rounds visibly otherwise than a pass over the whole.
        """
        repeated, samples = _repeated(prompts, n_samples)
        limits = [decoding.max_new_tokens] * len(repeated)
        draws_from_own = decoding.temperature == 1.0 and not decoding.min_new_tokens
        is_exact = next(self.model.parameters()).dtype == torch.float32
        capture = Capture() if draws_from_own and is_exact else None
        completions = self.complete(repeated, samples, limits, decoding, key, capture)
        if capture is None:
            return completions, None
        rows = [row for batch in capture.logprobs for row in batch.cpu()]
        return completions, [row[: len(one.token_ids)] for row, one in zip(rows, completions, strict=True)]

    def complete(
        self,
        prompts: Sequence[Prompt],
        samples: Sequence[int],
        limits: Sequence[int],
        decoding: Decoding,
        key: Key,
        capture: Capture | None = None,
    ) -> list[Completion]:
        """Samples one completion per row: sample number `samples[i]` of `prompts[i]`, of at most `limits[i]` tokens.

        Every draw is keyed by (key, prompt id, sample number, position). `capture` takes in what sampling sees.
        """
        for note in self.notes:
            _say_once(note)
        encoded = self.encode_prompts(prompts)
        self._check_lengths(prompts, [len(ids) for ids in encoded], limits)
        completions = []
        for start in range(0, len(prompts), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(prompts)))
            drawn = sample(
                self.model,
                [encoded[i] for i in rows],
                [limits[i] for i in rows],
                uniforms(key, [(prompts[i].id, samples[i]) for i in rows], max(limits)),
                decoding,
                eos_id=self.eos_ids,
                pad_id=self.pad_id,
                capture=capture,
            )
            for i, one in zip(rows, drawn, strict=True):
                as_text = partial(self.decode, prompt_ids=encoded[i])
                ended = ended_at_stop_string(one, decoding, partial(as_text, skip_special_tokens=False))
                text = as_text(content(ended))
                completions.append(Completion(prompts[i].id, samples[i], text, ended.token_ids, ended.finish_reason))
        n_read, n_new = sum(map(len, encoded)), sum(len(completion.token_ids) for completion in completions)
        flops = sampling_flops(self.model, n_read, n_new, len(completions))
        self.spent.charge(Cost(generated_tokens=n_new, generation_flops=flops))
        return completions

    def check_context(self, prompts: Sequence[Prompt], limits: Sequence[int]) -> None:
        """ModelError where a prompt is empty, or the longest prompt and the longest completion do not fit together.

        A batch is as wide as its longest prompt and its longest completion, whichever rows they are in.
        """
        self._check_lengths(prompts, [len(ids) for ids in self.encode_prompts(prompts)], limits)

    def _check_lengths(self, prompts: Sequence[Prompt], lengths: Sequence[int], limits: Sequence[int]) -> None:
        if 0 in lengths:
            raise ModelError(f"the prompt {prompts[lengths.index(0)].id!r} has no tokens: nothing can be continued")
        needed, what = max(lengths) + max(limits), "the longest prompt and the longest completion together need"
        if self.is_encoder_decoder:
            needed, what = max(*lengths, *limits), "the longer of prompt and completion needs"
        if needed > self.context_tokens:
            raise ModelError(
                f"{self.name!r} takes {self.context_tokens} tokens; {what} {needed}: shorten the prompts "
                "(data.prompt_tokens), leave long ones out (data.max_prompt_chars), or let completions be shorter"
            )

    def batch(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> SequenceBatch:
        """Lays prompts and their completions into one padded batch on the model's device."""
        encoded = self.encode_prompts(prompts)
        token_ids = [completion.token_ids for completion in completions]
        return collate(encoded, token_ids, self.pad_id, self.device, for_encoder=self.is_encoder_decoder)

    def _logprobs(self, batch: SequenceBatch) -> Tensor:
        """Log-probabilities (b, t) by a full pass, which is counted."""
        self.spent.forward_flops += weights_of(self.model).flops(tokens_of(batch))
        return batch_logprobs(self.model, batch)

    @torch.no_grad()
    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats, one float32 CPU tensor (len(token_ids),) per completion."""
        logprobs: list[Tensor] = []
        longest = max((len(one.token_ids) for one in completions), default=1)
        fitting = rows_that_fit(self.model, longest)
        size = min(self.batch_size, fitting) if fitting >= LEAST_ROWS else self.batch_size
        for start in range(0, len(completions), size):
            rows = slice(start, start + size)
            batch = self.batch(prompts[rows], completions[rows])
            values = self._logprobs(batch).cpu()
            logprobs += [row[mask] for row, mask in zip(values, batch.completion_mask.cpu(), strict=True)]
        return logprobs

    @torch.no_grad()
    def next_token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Tensor]:
        """Log-probabilities in nats of every word before each token: a float64 CPU tensor (len(token_ids), V) each.

        All completions take part in one forward pass, and are put into float64 one after the other.
        """
        batch = self.batch(prompts, completions)
        self.spent.forward_flops += weights_of(self.model).flops(tokens_of(batch))
        states = completion_forward(self.model, batch)[0][batch.completion_mask]
        lengths = [len(completion.token_ids) for completion in completions]
        return [rows.double().log_softmax(dim=-1).cpu() for rows in torch.split(states, lengths)]

    @torch.no_grad()
    def text_logprobs(self, texts: Sequence[str], max_tokens: int) -> list[Tensor] | None:
        """Log-probabilities in nats of the first tokens of plain texts, without a chat template: float32 CPU tensors.

        A text follows the beginning-of-sequence token, else the end-of-sequence token; where the tokenizer has neither,
        its first token is not predicted. Short texts share a pass, up to `max_tokens` together with their padding.
        None where an encoder reads prompts.
        """
        if self.is_encoder_decoder:
            return None
        start = [i for i in (self.tokenizer.bos_token_id, self.eos_id) if i is not None][:1]
        bare = self._ids(texts, add_special_tokens=False) if texts else []
        encoded = [(start + ids[:max_tokens])[: self.context_tokens] for ids in bare]
        logprobs = [torch.empty(0) for _ in texts]
        order = sorted((i for i, ids in enumerate(encoded) if len(ids) > 1), key=lambda i: -len(encoded[i]))
        while order:
            n = min(self.batch_size, max(1, max_tokens // len(encoded[order[0]])))
            places, order = order[:n], order[n:]
            rows = [encoded[i] for i in places]
            batch = collate([ids[:1] for ids in rows], [ids[1:] for ids in rows], self.pad_id, self.device)
            for i, values in zip(places, self._logprobs(batch).cpu(), strict=True):
                logprobs[i] = values[: len(encoded[i]) - 1]
        return logprobs

    def add_adapter(self, lora: Lora, *, seed: int = 0) -> None:
        """Attaches a fresh LoRA adapter: trainable, and without effect until it is trained.

        Its random half is a function of `seed` alone.
        """
        from peft import get_peft_model

        config = lora_config(lora, self.model)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self.model = get_peft_model(self.model, config)
            except ValueError as error:  # peft has no default for this family
                raise ModelError(f"policy.lora.target_modules: {error}") from error

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Within the block the model is the one that the adapter was attached to."""
        with self.model.disable_adapter():
            yield

    def with_model(self, model: Any) -> LanguageModel:
        """This policy around another model object, such as the one that a trainer has wrapped it in."""
        other = copy.copy(self)
        other.model = model
        return other

    def frozen_copy(self) -> LanguageModel:
        """A copy that shares nothing with this model and takes no gradients."""
        return LanguageModel(
            copy.deepcopy(self.model).requires_grad_(False).eval(),
            self.tokenizer,
            self.name,
            self.chat,
            self.batch_size,
        )

    def save(self, directory: str | Path) -> None:
        """Writes weights (safetensors), tokenizer and `policy.json`.

        Of a model with an adapter only the adapter is written, unless what it was attached to came from an earlier
        run: then both are merged. No absolute path is written: `policy.json` has the model's name in the recipe.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        adapter_alone = self.has_adapter and self.is_as_loaded
        model = self.model
        if adapter_alone:
            for config in model.peft_config.values():
                config.base_model_name_or_path = self.name
        elif self.has_adapter:
            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)  # peft's template names the path of the base model
        self.tokenizer.save_pretrained(directory)
        write_policy_file(directory, LANGUAGE_MODEL, model=self.name, adapter=adapter_alone)


def _repeated(prompts: Sequence[Prompt], n_samples: int) -> tuple[list[Prompt], list[int]]:
    """The prompt of each completion, prompt-major, and its number among those of the prompt."""
    return [prompt for prompt in prompts for _ in range(n_samples)], list(range(n_samples)) * len(prompts)


@cache
def _say_once(note: str) -> None:
    logger.warning("%s", note)
