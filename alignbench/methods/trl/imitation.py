"""Imitation by TRL's trainer for supervised fine-tuning: texts as token ids with labels, side by side or packed.

Shapes: b texts of s tokens at most; of an encoder-decoder model p tokens of prompts and t of completions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import SFTConfig, SFTTrainer

from alignbench.errors import ModelError
from alignbench.methods.base import RunContext
from alignbench.methods.trl.arguments import trainer_arguments
from alignbench.methods.trl.checkpoints import training_identity
from alignbench.methods.trl.scoring import IGNORED, labelled_logprobs
from alignbench.methods.trl.settings import ImitationSettings
from alignbench.methods.trl.step_costs import BatchTokens
from alignbench.methods.trl.training import train_policy
from alignbench.models.forward import accepts, base_model, decoder_start, is_encoder_decoder, token_logprobs
from alignbench.models.output_layer import OutputLayer, output_layer
from alignbench.models.padding_check import ROUNDED_TOLERANCE, TOLERANCE

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.records import Demonstration, Policy

LOG_NAMES = {
    "loss": "policy/loss",
    "grad_norm": "policy/gradient_norm",
    "learning_rate": "policy/learning_rate",
}
_PROBE_TOKENS = 12
_ROUNDING = 1e-6
"""In nats: what is masked is multiplied by 0."""
_NEEDED = "the model has to know by positions that begin again where a text ends"


def imitate(
    settings: ImitationSettings,
    demonstrations: Sequence[Demonstration],
    run: RunContext,
    *,
    title: str,
    drawn_completions: int,
    as_policy: Callable[[Any], Policy] | None = None,
    trainer: type[ImitationTrainer] | None = None,
) -> LanguageModel:
    """Trains the policy of a run to imitate, and returns it.

    Args:
        settings: Learning rate, batches and epochs: the method, with all that belongs to its identity.
        demonstrations: What is imitated, token by token.
        run: What surrounds the training.
        title: What the progress bar says.
        drawn_completions: What the demonstrations have taken of the budget.
        as_policy: Makes what is measured along training of the model that is trained; None: the policy around it.
        trainer: Whose loss is taken; None: that of imitation.

    Raises:
        ModelError: The model's family cannot be packed.
    """
    policy = run.policy
    rows = imitation_rows(demonstrations, policy)
    collator = collator_of(policy, rows, packing=settings.packing)
    identity = training_identity(settings, policy.model, rows, seed=run.seed, lora=run.lora)
    training = (trainer or ImitationTrainer)(
        **trainer_arguments(SFTConfig, settings, rows, run), data_collator=collator
    )
    return train_policy(
        training,
        run,
        identity,
        title=title,
        names=LOG_NAMES,
        drawn_completions=drawn_completions,
        as_policy=as_policy,
        count=partial(tokens_of_texts, apart=policy.is_encoder_decoder),
    )


def imitation_rows(demonstrations: Sequence[Demonstration], policy: LanguageModel) -> list[dict[str, list[int]]]:
    """One row per demonstration: `input_ids` that are read, and `labels`, which are the completion's tokens.

    Of a causal model both are the whole text, with no label on the prompt; else prompt and completion apart.
    """
    rows = []
    for one in demonstrations:
        prompt, completion = policy.encode_prompt(one.prompt), list(one.completion.token_ids)
        if policy.is_encoder_decoder:
            rows.append({"input_ids": prompt, "labels": completion})
        else:
            rows.append({"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion})
    return rows


@dataclass(frozen=True)
class PaddedTexts:
    """Lays texts side by side, padded on the right."""

    pad_id: int

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """Returns `input_ids` and `attention_mask`, (b, s), and `labels` of the same shape, or (b, t)."""
        read = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        return {
            "input_ids": pad_sequence(read, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in read], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }


@dataclass(frozen=True)
class PackedTexts:
    """Lays texts end to end; that positions begin again tells the model where one ends."""

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """Returns `input_ids`, `position_ids` and `labels`, each (1, the tokens of all texts)."""
        labels = [torch.tensor(row["labels"]) for row in rows]
        for one in labels:
            one[0] = IGNORED  # it would be predicted by the text before
        return {
            "input_ids": torch.cat([torch.tensor(row["input_ids"]) for row in rows])[None],
            "position_ids": torch.cat([torch.arange(len(one)) for one in labels])[None],
            "labels": torch.cat(labels)[None],
        }


def collator_of(
    policy: LanguageModel, rows: Sequence[Mapping[str, list[int]]], *, packing: bool
) -> PaddedTexts | PackedTexts:
    """Returns what makes a batch of rows; ModelError where the model cannot have them packed."""
    if not packing:
        return PaddedTexts(policy.pad_id)
    check_packing(policy, rows)
    return PackedTexts()


class ImitationTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with a loss of ours: the mean over all tokens of a batch, in however many passes, for every family.

    TRL's own raises on an encoder-decoder model, and takes the mean of the means of passes where a model's forward pass
    has no keyword arguments without a name. On a CPU it scores every position, prompts and padding too, which with
    262,144 words took three times the time of a whole step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        vars(base_model(self.model)).pop("forward", None)  # that scores every position

    @cached_property
    def _layer(self) -> OutputLayer | None:
        return output_layer(self.model)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Returns the sum of -log p over the tokens of `inputs`, divided by the tokens of the whole batch: a scalar."""
        read, labels = {name: one for name, one in inputs.items() if name != "labels"}, inputs["labels"]
        if is_encoder_decoder(model):
            tokens = labels.clamp(min=0)
            start = tokens.new_full((len(tokens), 1), decoder_start(base_model(model)))
            read["decoder_input_ids"] = torch.cat((start, tokens[:, :-1]), dim=1)
        else:
            labels = labels[:, 1:]
        n_tokens = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return -self._logprobs(model, read, labels).sum() / n_tokens

    def _logprobs(self, model: Any, read: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Log-probabilities in nats of the n labels that are none of `IGNORED`, each by the position before: (1, n)."""
        t = labels.shape[1]
        if self._layer is None:
            is_trained = labels != IGNORED
            logits = model(**read, use_cache=False).logits
            return token_logprobs(logits[:, :t][is_trained][None], labels[is_trained][None])
        with self._layer.passed_by() as given:
            model(**read, use_cache=False)
        return labelled_logprobs(model, given[0][:, :t], labels, self._layer)


class AscentTrainer(ImitationTrainer):
    """The same with the loss turned round: what is shown becomes less likely."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the sum of log p over the tokens, divided by the tokens of the whole batch: a scalar."""
        return -super().compute_loss(*args, **kwargs)


def tokens_of_texts(inputs: Mapping[str, Tensor], *, apart: bool) -> BatchTokens:
    """Counts the tokens of a batch, with `apart` prompts and completions that are no one text; packed have no mask."""
    labels, mask = inputs["labels"], inputs.get("attention_mask")
    n_trained = int((labels != IGNORED).sum())
    n_read = inputs["input_ids"].numel() if mask is None else int(mask.sum())
    return BatchTokens(n_read + n_trained if apart else n_read, n_trained)


@torch.no_grad()
def check_packing(policy: LanguageModel, rows: Sequence[Mapping[str, list[int]]]) -> None:
    """Looks at two texts in one row: whether the second is what it is alone, and heedless of the first.

    Raises:
        ModelError: It is not, so that packing would train on other numbers than the policy has.
    """
    if policy.is_encoder_decoder or not accepts(policy.model, "position_ids"):
        raise ModelError(f"{_named(policy)} cannot be packed: {_NEEDED}; set method.packing to false")
    first, second = (rows[i]["input_ids"][:_PROBE_TOKENS] for i in (0, -1))

    def logprobs(*texts: list[int]) -> Tensor:
        batch = PackedTexts()([{"input_ids": text, "labels": text} for text in texts])
        read = {name: batch[name].to(policy.device) for name in ("input_ids", "position_ids")}
        logits = policy.model(**read, use_cache=False).logits[0, -len(second) :]
        return logits.float().log_softmax(dim=-1)  # type: ignore[no-any-return]

    packed = logprobs(first, second)
    seen = (packed - logprobs(second[:1] * len(first), second)).abs().max().item()
    moved = (packed - logprobs(second)).abs().max().item()
    is_whole = all(p.dtype == torch.float32 for p in policy.model.parameters())
    if not (seen <= _ROUNDING and moved <= (TOLERANCE if is_whole else ROUNDED_TOLERANCE)):
        raise ModelError(
            f"{_named(policy)} cannot be packed: {_NEEDED}, and log-probabilities of a text move by "
            f"{max(seen, moved):.2g} nats where another one stands before it; set method.packing to false"
        )


def _named(policy: LanguageModel) -> str:
    return f"policy.model: {policy.name!r} (family {base_model(policy.model).config.model_type})"
