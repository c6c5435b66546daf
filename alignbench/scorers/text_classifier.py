"""A text classifier as a scorer: any model with any tokenizer, the label chosen by name.

A label is never chosen by position: pipelines that return all labels sort them by score, and published
detoxification code has rewarded the wrong class for that reason.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Self

import torch

from alignbench.errors import ModelError, ScorerError
from alignbench.models.fast.layers import with_fast_layers
from alignbench.models.flops import Tokens, weights_of
from alignbench.models.forward import is_encoder_decoder
from alignbench.models.loading import load_classifier, weights_fingerprint
from alignbench.records import Cost, TextWindow, fingerprint
from alignbench.scorers.labels import Outputs, label_hint, outputs_of
from alignbench.scorers.padding import batch_logits, batches, ignores_padding
from alignbench.scorers.reading import Reader, Reading

logger = logging.getLogger(__name__)

Transform = Literal["logit", "logprob", "probability", "margin"]


_remembered: ContextVar[dict[int, dict[Reading, torch.Tensor]] | None] = ContextVar("remembered", default=None)


@contextmanager
def remembered_logits() -> Iterator[None]:
    """Within the block a classifier reads no text twice, whichever of its labels are asked for; weights must stay."""
    outer = _remembered.get()
    token = _remembered.set({} if outer is None else outer)
    try:
        yield
    finally:
        _remembered.reset(token)


class ClassifierScorer:
    """Scores a text by one label of a classifier. Implements `records.Scorer`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        label: str,
        transform: Transform,
        text: TextWindow = "completion",
        joint: str = "",
        complement: bool = False,
        outputs: Outputs | None = None,
        scale: tuple[float, float] | None = None,
        batch_size: int = 64,
        where: str = "classifier",
        label_key: str = "label",
    ) -> None:
        """Wraps a loaded classifier.

        Args:
            model: A Hugging Face sequence classification model in evaluation mode.
            tokenizer: Its own tokenizer.
            name: How the scorer is called in tables.
            label: The class to score, as in the model's `id2label`.
            transform: What of the class is the score: the raw logit, the log-probability, the probability, or the
                margin (its logit minus the log-sum-exp of the others; for two classes the difference of the logits).
            text: What the classifier reads.
            joint: What comes between a prompt and a completion that does not go on with it.
            complement: Score that the label does not hold: minus logit or margin, 1 - probability, or its logarithm.
            outputs: Whether the labels exclude each other; None: as `labels.outputs_of` finds.
            scale: For a head that gives an amount, not odds: the raw outputs that mean 0 and 1. Between them the score
                is linear, beyond them it is 0 or 1; the first may be the larger. Needs `transform="logit"`.
            batch_size: Texts in one forward pass.
            where: The block of the recipe named in errors.
            label_key: Its key that has the label.
        """
        if scale is not None and (transform != "logit" or scale[0] == scale[1] or complement):
            raise ValueError("scale needs transform='logit', two different numbers, and no complement")
        _require_odds(model.config, transform, where)
        self.model, self.tokenizer, self.name = with_fast_layers(model), tokenizer, name
        self.label_id = label_index(model.config, label, where, label_key)
        # On a scale nothing is read but the output itself.
        self.independent = scale is None and outputs_of(model.config, outputs, where) == "independent"
        if self.independent:
            _require_no_margin(transform, where)
        self.transform, self.text, self.complement = transform, text, complement
        self.reader = Reader(model, tokenizer, text, joint, where=where)
        self.reads_alone = not ignores_padding(self.model, self.reader)
        """True where padding would change scores, so that texts are read one at a time."""
        self.batch_size = 1 if self.reads_alone else batch_size
        if self.reads_alone:
            logger.info("%s: texts are read one at a time, because padding would change their scores", where)
        self.scale = scale
        self._label = label
        self._weights = ""
        self.spent = Cost()
        """FLOPs of everything scored so far."""

    @classmethod
    def load(
        cls,
        model: str,
        *,
        where: str,
        revision: str | None,
        device: torch.device,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """Loads the classifier `model` (hub id or path); `options` as in the constructor."""
        loaded, tokenizer = load_classifier(
            model, where=where, revision=revision, device=device, trust_remote_code=trust_remote_code
        )
        return cls(loaded, tokenizer, where=where, **options)

    @property
    def modules(self) -> tuple[Any]:
        """All modules that scoring runs."""
        return (self.model,)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, label, transform, text window, joint and scale."""
        settings: list[object] = [self._label, self.transform, self.text, self.complement]
        if self.text == "prompt_and_completion" and self.reader.joint:
            settings.append(self.reader.joint)
        if self.scale is not None:
            settings.append(list(self.scale))
        config = self.model.config
        is_said = config.problem_type == "multi_label_classification"
        if self.independent and not is_said and len(config.id2label) > 1:
            settings.append("independent")  # the recipe says so, and the same weights can be read by a softmax too
        return fingerprint([*self.sources, *settings])

    @property
    def sources(self) -> tuple[str]:
        """What the score comes from: the hash of the weights, whichever label is read."""
        if not self._weights:
            self._weights = weights_fingerprint(self.model)
        return (self._weights,)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
        """Scores every completion, None where it cannot be read whole; equal texts are read once.

        Nothing is remembered from call to call, but within `remembered_logits`: a score moves in its last digits with
        the batch it was computed in, and a resumed run must see the same batches as an uninterrupted one.
        """
        readings = self._readings(prompts, completions)
        # Longest first: little padding, and a batch that does not fit in memory fails at once.
        distinct = sorted({one for one in readings if one is not None}, key=lambda one: (-len(one.text), one))
        logits = self._logits(distinct)
        scores: dict[Reading | None, float | None] = {None: None}
        for batch in batches(self.model, distinct, self.batch_size):
            scores.update(zip(batch, self._values(torch.stack([logits[one] for one in batch])), strict=True))
        for reading, value in scores.items():
            if reading is not None and value is not None and not math.isfinite(value):
                raise ScorerError(
                    f"the scorer {self.name!r} gives {value} for {reading.text[:80]!r}, expected a finite number; if "
                    "it was trained here, lower method.learning_rate"
                )
        return [scores[reading] for reading in readings]

    def cut_prompts(self, prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
        """Which completions are read after a prompt that has lost its beginning."""
        if self.text == "completion":
            return [False] * len(completions)
        return [reading is not None and reading.is_cut for reading in self._readings(prompts, completions)]

    def _readings(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Reading | None]:
        seen = [""] * len(prompts) if self.text == "completion" else prompts
        pairs = list(zip(seen, completions, strict=True))
        distinct = list(dict.fromkeys(pairs))
        read = dict(zip(distinct, self.reader.read_all(distinct), strict=True))
        return [read[pair] for pair in pairs]

    @torch.no_grad()
    def _logits(self, readings: Sequence[Reading]) -> Mapping[Reading, torch.Tensor]:
        """Logits (n_labels,) of each text, read in batches unless they are remembered."""
        remembered = _remembered.get()
        known = {} if remembered is None else remembered.setdefault(id(self.model), {})
        for batch in batches(self.model, [one for one in readings if one not in known], self.batch_size):
            n_tokens = sum(len(reading.ids) for reading in batch)
            # Where there is a decoder it reads the text too.
            tokens = Tokens(n_tokens, n_tokens if is_encoder_decoder(self.model) else 0, 0)
            self.spent.forward_flops += weights_of(self.model).flops(tokens)
            known.update(zip(batch, batch_logits(self.model, batch), strict=True))
        return known

    def _values(self, logits: torch.Tensor) -> list[float]:
        """Scores from logits (b, n_labels)."""
        values = label_score(
            logits, self.label_id, self.transform, multi_label=self.independent, complement=self.complement
        )
        if self.scale is not None:
            zero, one = self.scale
            values = ((values - zero) / (one - zero)).clamp(0.0, 1.0)
        return values.tolist()


def _require_odds(config: Any, transform: Transform, where: str) -> None:
    if transform != "logit" and config.problem_type == "regression":
        raise ModelError(
            f"{where}: the model is a regression head, its outputs are no log-odds and have no probability; a "
            "judge needs `scale:`, the outputs that mean 0 and 1, and a reward `transform: logit`"
        )


def _require_no_margin(transform: Transform, where: str) -> None:
    if transform == "margin":
        raise ModelError(
            f"{where}.transform: got margin, but the outputs do not exclude each other, so there are no others to "
            "compare with; expected logit, which is the log-odds of such an output"
        )


def label_score(
    logits: torch.Tensor, label_id: int, transform: Transform, *, multi_label: bool, complement: bool = False
) -> torch.Tensor:
    """The score of one label from logits (b, n_labels), or with `complement` that it does not hold: (b,).

    With several exclusive labels probabilities are a softmax; for multi-label and one-output heads, a sigmoid.
    """
    own = logits[:, label_id]
    if transform == "logit":
        return -own if complement else own
    if multi_label or logits.shape[1] == 1:
        odds = own
    else:
        others = torch.cat((logits[:, :label_id], logits[:, label_id + 1 :]), dim=1)
        odds = own - others.logsumexp(dim=1)
    if transform == "probability":
        return 1 - odds.sigmoid() if complement else odds.sigmoid()
    odds = -odds if complement else odds
    return odds if transform == "margin" else torch.nn.functional.logsigmoid(odds)


def label_index(config: Any, label: str, where: str, key: str = "label") -> int:
    """The position of a label by its name; upper and lower case count as equal where that is unambiguous."""
    names = {int(index): str(name) for index, name in config.id2label.items()}
    exact = [index for index, name in names.items() if name == label]
    folded = [index for index, name in names.items() if name.casefold() == label.casefold()]
    for matches in (exact, folded):
        if len(matches) == 1:
            return matches[0]
    known = list(names.values())
    raise ModelError(f"{where}.{key}: got {label!r}, expected one of {known}{label_hint(label, known)}")
