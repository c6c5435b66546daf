"""Prompts that are variants of one text: an evaluation that took them for independent witnesses would be too sure.

Two prompts are near copies where their runs of five characters (case folded, punctuation left out) overlap by at least
0.6 of their union (Jaccard's index): in ten words one may differ, or a word or two be added before or after. Near
copies of near copies are one group. What more than twenty prompts, and a twentieth of all, have in common is their
template ("Write a story about ...") and is left aside: prompts that are made from one are no copies.

Pairs are found by their rarest shingles: of x shingles two such texts share one among the x - ceil(0.6 x) + 1 rarest of
either (prefix filtering: Chaudhuri, Ganti and Kaushik, ICDE 2006), so most pairs are never looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from alignbench.records import Prompt
from datasets_prep.text_forms import normalised_text

_SHARE, _SCALE = 3, 5
"""The index from which on two texts are near copies, 0.6, as whole numbers: no rounding decides."""
_TEMPLATE = 20
_LENGTH = 5


def variants(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Returns the group by prompt id, of the prompts that share theirs with another one here.

    Groups are those that the data names, else near copies, which are called after their first prompt.
    """
    names: list[str | None] = [prompt.group for prompt in prompts]
    if not any(names):
        firsts = first_copies([prompt.text for prompt in prompts])
        names = [f"near copies of {prompts[first].id}" for first in firsts]
    sizes = Counter(names)
    return {p.id: name for p, name in zip(prompts, names, strict=True) if name is not None and sizes[name] > 1}


def first_copies(texts: Sequence[str]) -> list[int]:
    """Returns for every text the position of the first text of its group, its own where it is the first."""
    sets = [_shingles(text) for text in texts]
    how_often = Counter(shingle for one in sets for shingle in one)
    most = max(_TEMPLATE, len(texts) // _TEMPLATE)
    sets = [frozenset(shingle for shingle in one if how_often[shingle] <= most) for one in sets]
    first = list(range(len(texts)))
    seen: dict[str, list[int]] = {}
    for place, own in enumerate(sets):
        rarest = sorted(own, key=lambda shingle: (how_often[shingle], shingle))
        prefix = rarest[: len(own) - -(-_SHARE * len(own) // _SCALE) + 1]
        for other in {other for shingle in prefix for other in seen.get(shingle, ())}:
            n_common = len(own & sets[other])
            if n_common * _SCALE >= _SHARE * (len(own) + len(sets[other]) - n_common):
                a, b = sorted((_root(first, place), _root(first, other)))
                first[b] = a
        for shingle in prefix:
            seen.setdefault(shingle, []).append(place)
    return [_root(first, place) for place in range(len(texts))]


def _root(first: Sequence[int], place: int) -> int:
    while first[place] != place:
        place = first[place]
    return place


def _shingles(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", normalised_text(text))
    joined = " ".join(words) or text
    return frozenset(joined[i : i + _LENGTH] for i in range(max(1, len(joined) - _LENGTH + 1)))
