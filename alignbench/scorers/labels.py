"""What the names of a classifier's labels say: harm or its absence, and whether the labels exclude each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal

from alignbench.errors import ModelError, did_you_mean

Outputs = Literal["exclusive", "independent"]
"""`exclusive`: one label holds, probabilities are a softmax. `independent`: each may hold, each has its own sigmoid."""

_DECLARED: dict[str, Outputs] = {
    "single_label_classification": "exclusive",
    "multi_label_classification": "independent",
}
"""What a checkpoint's `problem_type` says."""
_GENERIC = re.compile(r"[^\W\d_]*[\W_]*\d+")
"""Names that say nothing, such as LABEL_0, class 3 and S12."""

_HARM = re.compile(
    r"hate|hatred|hating|toxi[cn]|offen[sc]|abus|insult|threat|obscen|harass|violen|violat|sex|porn|nsfw|profan|racis|sexis|"
    r"misogyn|homophob|transphob|xenophob|islamophob|antisemit|(cyber)?bull(y|ie)|attack|aggress|derogat|vulgar|crim|"
    r"illicit|illegal|weapon|suicid|extremis|terroris|slur|discriminat|stereotyp|dehumani|rude|dangerous|exploitat|"
    r"harm(s|ful|ing)?$|inappropriate$|impolite$|incivil"
)
_HARMLESS = re.compile(
    r"(neutral|normal|clean|safe|benign|harmless|none|neither|nothing|ok|okay|acceptable|appropriate|polite|civil|"
    r"respectful|ethical|kind|friendly|nice|good|innocuous|inoffensive|sfw)$"
)
_JOINED = re.compile(r"(non|not|no|un|anti|dis)(?=\w{3})")
"""Negations that are written together with the word, as in nothate."""
_OF_ALL = frozenset({"not", "no", "without", "never", "free", "low"})
"""Words that negate whatever follows, as in "not hate speech" and "free of hate"."""
_OF_THE_NEXT = frozenset({"non", "un", "anti", "counter"})
"""Words that negate the next one alone: "non-violent crimes" are crimes."""
_AFFIX = re.compile(
    r"^(non|not|no|un|in|im|ir|il|dis|anti|pro|counter|never|without|free of|low|high)[\W_]*(?=\w{2})"
    r"|(?<=\w\w)[\W_]*(less?|full?|free|low|high)$"
)
"""What turns a name into its opposite."""


def polarity(label: str) -> int:
    """1 where a label names harm, -1 where it names the absence of it, 0 where its name does not say."""
    sign, next_sign, found = 1, 1, []
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).casefold())
    if words[-1:] in (["free"], ["low"]):  # hate-free
        sign, words = -1, words[:-1]
    for word in words:
        if word in _OF_ALL:
            sign = -sign
        elif word in _OF_THE_NEXT:
            next_sign = -1
        else:
            found.append(sign * next_sign * _polarity_of_word(word))
            next_sign = 1
    return 1 if 1 in found else -1 if -1 in found else 0


def _polarity_of_word(word: str) -> int:
    if _HARMLESS.match(word):
        return -1
    if _HARM.match(word):
        return 1
    joined = _JOINED.match(word)
    return -_polarity_of_word(word[joined.end() :]) if joined else 0


def outputs_of(config: Any, said: Outputs | None, where: str) -> Outputs:
    """How the outputs of a classifier are to be read.

    By the checkpoint's `problem_type`, where it has one; else by `said`. With neither, a single output is independent,
    and several are exclusive, unless their names tell another story: two or more name harm and none its absence (a text
    without harm would have no label), or three or more have no names at all.

    Args:
        config: The model's configuration.
        said: What the recipe says; None: nothing.
        where: The block of the recipe named in errors.

    Raises:
        ModelError: Recipe and checkpoint contradict each other, or nobody says what the names leave open.
    """
    declared, labels = _DECLARED.get(str(config.problem_type)), [str(name) for name in config.id2label.values()]
    if said is not None:
        _require_no_contradiction(config.problem_type, len(labels), said, where)
        return said
    if declared is not None or len(labels) == 1:
        return declared or "independent"
    why = _why_open(labels)
    if why is None or config.problem_type == "regression":
        return "exclusive"
    raise ModelError(
        f"{where}.outputs: got nothing, and whether the labels of the classifier exclude each other is said nowhere: "
        f"its configuration has no problem_type, and {why} ({', '.join(labels)}); expected `outputs: independent`, a "
        "sigmoid for each, or `outputs: exclusive`, one softmax; the model's card says which"
    )


def _require_no_contradiction(problem_type: str | None, n_outputs: int, said: Outputs, where: str) -> None:
    declared = _DECLARED.get(str(problem_type))
    if problem_type == "regression":
        why = "the checkpoint's problem_type is regression: its outputs are amounts, and `outputs` is left out"
    elif declared not in (None, said):
        why = f"the checkpoint's problem_type is {problem_type}; leave `outputs` out, or correct its config.json"
    elif said == "exclusive" and n_outputs == 1:
        why = "the classifier has a single output, which excludes nothing; leave `outputs` out"
    else:
        return
    raise ModelError(f"{where}.outputs: got {said}, but {why}")


def _why_open(labels: Sequence[str]) -> str | None:
    """Why names do not show that labels exclude each other; None where they do, or give no reason to doubt it."""
    polarities = [polarity(label) for label in labels]
    if polarities.count(1) > 1 and -1 not in polarities:
        return "several of its labels name harm and none the absence of it"
    if len(labels) > 2 and all(_GENERIC.fullmatch(label) for label in labels):
        return "its labels have no names"
    return None


def label_hint(asked: str, labels: Sequence[str]) -> str:
    """`did_you_mean`, except that it never proposes a label that means the opposite, or one with another number."""
    return did_you_mean(asked, [label for label in labels if not _means_another(asked, label)])


def _means_another(asked: str, label: str) -> bool:
    """True for a name and its negation (toxic, non-toxic; safe, unsafe), misspelt or not, and for LABEL_0, LABEL_1."""
    asked, label = asked.casefold(), label.casefold()
    if re.findall(r"\d+", asked) != re.findall(r"\d+", label) or polarity(asked) * polarity(label) < 0:
        return True
    # Nearer to each other without a negation than with it.
    likeness = _likeness(asked, label)
    pairs = [*((bare, label) for bare in _without_affix(asked)), *((asked, bare) for bare in _without_affix(label))]
    return any(_likeness(*pair) > likeness for pair in pairs)


def _without_affix(name: str) -> Iterator[str]:
    for affix in _AFFIX.finditer(name):
        yield name[: affix.start()] + name[affix.end() :]


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
