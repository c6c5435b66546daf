"""A classifier on several texts at once: each gets the logits that the model's own forward gives it alone.

A decoder's classification head reads one position, the last that is not the pad token of the model's configuration.
So texts are padded with that token; where the configuration names none, or one without an embedding, with a token that
is in none of them, under whose name the model then looks for the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alignbench.errors import ModelError
from alignbench.models.forward import base_model, is_encoder_decoder, parameters_of
from alignbench.scorers.reading import Reader, Reading, vocabulary_size

_TOLERANCE = 1e-4
"""What padding may change of a logit, relative to the largest: some ten times the rounding of float32."""


def batch_logits(model: Any, readings: Sequence[Reading]) -> Tensor:
    """Logits (b, n_labels), float32, of texts that are padded on the right."""
    with _pad_token(model, readings) as pad_id:
        if pad_id is None:
            return torch.cat([batch_logits(model, [one]) for one in readings])
        columns = {
            "input_ids": _padded([one.ids for one in readings], pad_id),
            "attention_mask": _padded([[1] * len(one.ids) for one in readings], 0),
        }
        if any(one.segments for one in readings):
            columns["token_type_ids"] = _padded([one.segments or [0] * len(one.ids) for one in readings], 0)
        taken = parameters_of(type(base_model(model)).forward)
        inputs = {name: column.to(model.device) for name, column in columns.items() if name in taken}
        logits: Tensor = model(**inputs).logits.float()
        return logits


def batches(model: Any, readings: Sequence[Reading], size: int) -> Iterator[list[Reading]]:
    """Texts in batches, in their order; an encoder-decoder classifier takes none with unequal numbers of ends."""
    batch: list[Reading] = []
    for reading in readings:
        if batch and (len(batch) == size or _n_ends(model, reading) != _n_ends(model, batch[0])):
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


@torch.no_grad()
def ignores_padding(model: Any, reader: Reader) -> bool:
    """True where texts of different length get the same logits in one batch as alone; found out with a few texts.

    One of them is long, if it can be read: some attention is another one beyond a number of tokens.

    Raises:
        ModelError: The model cannot even read one text, or gives it other logits each time.
    """
    sentence = "the water was warm , so we stayed until the sun went down behind the hills"
    texts = ["no", "it rained", sentence, " ".join([sentence] * 2), " ".join([sentence] * 10)]
    read = [reading for text in texts if (reading := reader.read("how was it", text)) is not None]
    if len({len(reading.ids) for reading in read}) < 2:
        return False
    try:
        alone, again = (torch.cat([batch_logits(model, [reading]) for reading in read]) for _ in range(2))
    except Exception as error:  # what a family raises has no common type
        what = f"{type(model).__name__} cannot read {read[0].text!r} as its tokenizer encodes it"
        raise ModelError(f"{reader.where}: {what}: {error}") from error
    if not _equal(again, alone):
        raise ModelError(
            f"{reader.where}: {type(model).__name__} gives one text other outputs each time, by up to "
            f"{(again - alone).abs().max().item():.2g}, as attention by random hashes does; name a model whose outputs "
            "stay"
        )
    try:
        together = batch_logits(model, read)
    except Exception:  # a family that takes no batches
        return False
    return _equal(together, alone)


def _equal(logits: Tensor, expected: Tensor) -> bool:
    """NaN and infinity equal themselves here: they are refused where scores are read, which says what to do."""
    largest = expected[expected.isfinite()].abs().max().clamp(min=1.0) if expected.isfinite().any() else 1.0
    return torch.allclose(logits, expected, rtol=0.0, atol=_TOLERANCE * float(largest), equal_nan=True)


@contextmanager
def _pad_token(model: Any, readings: Sequence[Reading]) -> Iterator[int | None]:
    """The token that fills the empty places of some texts; None where none can, so that each is to be read alone."""
    config, n_words = model.config.get_text_config(), vocabulary_size(model)
    named = config.pad_token_id
    if len(readings) == 1 or n_words is None or (named is not None and 0 <= named < n_words):
        yield named or 0
        return
    used = {token for reading in readings for token in reading.ids}
    free = next((token for token in range(n_words) if token not in used), None)
    try:
        config.pad_token_id = free if free is not None else named
        yield free
    finally:
        config.pad_token_id = named


def _n_ends(model: Any, reading: Reading) -> int:
    return reading.ids.count(model.config.eos_token_id) if is_encoder_decoder(model) else 0


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
