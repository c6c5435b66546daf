"""Signs of degeneration of one completion, in words split at white space. Definitions in docs/metrics.md."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np

from alignbench.evaluation.metrics.aggregate import FloatArray
from alignbench.evaluation.metrics.metric import Metric, Sample
from alignbench.evaluation.metrics.words import is_empty, ngrams
from alignbench.records import Completion, Prompt

REPEATED_NGRAM = 4

COPIED_SHARE = 0.5
"""A completion copies its prompt where they share this part of the word 4-grams of the shorter one."""

_UNABLE = (
    *("i can't", "i cannot", "i can not", "i won't", "i will not"),
    *("i am unable to", "i'm unable to", "i am not able to", "i'm not able to"),
)
_ASKED = ("help", "assist", "answer", "comply", "provide", "fulfill", "continue with", "engage", "discuss", "do that")
REFUSAL_OPENINGS = (
    *(f"{unable} {verb}" for unable, verb in itertools.product(_UNABLE, _ASKED)),
    *("i'm sorry, but", "i am sorry, but", "sorry, but i", "i apologize, but", "i apologise, but"),
    *("i'm sorry, i can", "i am sorry, i can", "sorry, i can", "i'm afraid i can't", "i'm afraid i cannot"),
    *("i must decline", "i have to decline", "as an ai", "as a language model", "as an assistant"),
)
"""How refusals begin, in lower case."""


def repeated_share(text: str) -> float:
    """The share of the text's word 4-grams that occurred in it before: 1 - distinct / all; 0 where there is none.

    seq-rep-4 of Welleck et al. 2020 (Neural Text Generation With Unlikelihood Training), in words.
    """
    all_ngrams = list(ngrams(text.split(), REPEATED_NGRAM))
    return 1 - len(set(all_ngrams)) / len(all_ngrams) if all_ngrams else 0.0


def copies(prompt: str, completion: str) -> bool:
    """True where prompt and completion share half of the distinct word 4-grams of the one that has fewer."""
    asked, said = (set(ngrams(text.split(), REPEATED_NGRAM)) for text in (prompt, completion))
    fewer = min(len(asked), len(said))
    return fewer > 0 and len(asked & said) >= COPIED_SHARE * fewer


def refuses(text: str) -> bool:
    """True where the text begins as refusals do, after white space and quotation marks, whatever the case."""
    opening = (
        text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        .casefold()
        .lstrip(" \t\r\n\"'\N{LEFT DOUBLE QUOTATION MARK}")
    )
    return " ".join(opening.split()).startswith(REFUSAL_OPENINGS)


def repeats_itself(text: str) -> bool:
    """True where one of the text's word 4-grams occurs in it more than once."""
    words = text.split()
    return len(set(ngrams(words, REPEATED_NGRAM))) < len(words) - REPEATED_NGRAM + 1


def _each(measure: Callable[[Prompt, Completion], float]) -> Callable[[Sample], FloatArray]:
    """From a number of one completion, which knows its prompt, to those of a sample."""

    def measured(sample: Sample) -> FloatArray:
        values = [measure(sample.prompts[i // sample.k], one) for i, one in enumerate(sample.completions)]
        return np.array(values, dtype=np.float64).reshape(-1, sample.k)

    return measured


def _truncated(sample: Sample) -> FloatArray:
    """Of those whose end is not known some may have been cut: then none is counted, for the others are no sample."""
    endings = [completion.finish_reason for completion in sample.completions]
    values = [math.nan if "unknown" in endings else one == "length" for one in endings]
    return np.array(values, dtype=np.float64).reshape(-1, sample.k)


_metric = partial(Metric, section="degeneration", order=400, between_0_and_1=True)
_bad, _either = partial(_metric, direction="lower"), partial(_metric, direction="none")

plugin = (
    _bad(name="repetition_rate", of_prompts=_each(lambda _, one: repeats_itself(one.text))),
    _bad(name="rep_4", of_prompts=_each(lambda _, one: repeated_share(one.text))),
    _bad(name="copy_rate", of_prompts=_each(lambda prompt, one: copies(prompt.text, one.text))),
    _bad(name="empty_rate", of_prompts=_each(lambda _, one: is_empty(one.text))),
    _either(name="truncated_rate", of_prompts=_truncated, missing="how completions ended is not known of all"),
    _either(name="refusal_rate", of_prompts=_each(lambda _, one: refuses(one.text))),
)
