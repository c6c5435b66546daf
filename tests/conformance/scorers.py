"""What a scorer must do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alignbench.records import Scorer
from alignbench.scorers.base import may_draw, spent_by

from .expectations import expect

PROMPTS = ("The dog said,", "A cat looked and said,", "", "In the city", "Nobody knew why,")
TEXTS = ("you are a rude fool.", " thank you for your help", "", "WHAT? no!", "a b c d e f g h i j k l m n o p q r s")


def check_scorer(
    scorer: Scorer,
    *,
    is_judge: bool = False,
    others: Sequence[Scorer] = (),
    prompts: Sequence[str] = PROMPTS,
    texts: Sequence[str] = TEXTS,
    unscored: Sequence[str] = (),
) -> None:
    """Checks scores and the fingerprint.

    Args:
        scorer: The scorer.
        is_judge: True where it judges in an evaluation: its scores are between 0 and 1.
        others: The same kind with other settings that change its scores.
        prompts: What the texts answer.
        texts: What is scored.
        unscored: Texts that it cannot score.
    """
    name = scorer.name
    expect(isinstance(name, str) and name, f"scorer: its name is {name!r}, expected the one that tables show")
    marks = [one.fingerprint for one in (scorer, *others)]
    expect(all(isinstance(one, str) and one for one in marks), f"{name}: fingerprints {marks!r}, expected texts")
    expect(
        len(set(marks)) == len(marks),
        f"{name}: two settings have one fingerprint ({marks}), expected everything that decides the score in it",
    )
    scores = scorer.score(list(prompts), list(texts))
    _check_values(name, scores, texts, is_judge)
    expect(scorer.fingerprint == marks[0], f"{name}: its fingerprint has changed by scoring")
    expect(scorer.score([], []) == [], f"{name}: no completion has {scorer.score([], [])!r} for scores, expected []")
    for text in unscored:
        [score] = scorer.score([""], [text])
        expect(score is None, f"{name}: got {score!r} for {text!r}, which cannot be scored; expected None, never 0.0")
    if not may_draw(scorer):
        _check_independence(name, scorer, prompts, texts, scores)
    before = spent_by(scorer).forward_flops
    scorer.score(list(prompts), list(texts))
    expect(spent_by(scorer).forward_flops >= before, f"{name}: what it has spent became less by scoring")


def _check_values(name: str, scores: Sequence[float | None], texts: Sequence[str], is_judge: bool) -> None:
    expect(
        isinstance(scores, list) and len(scores) == len(texts),
        f"{name}: got {scores!r}, expected a list of {len(texts)} numbers or None, one for each completion",
    )
    for score, text in zip(scores, texts, strict=True):
        if score is None:
            continue
        expect(
            isinstance(score, float) and math.isfinite(score),
            f"{name}: got {score!r} for {text!r}, expected a finite float, or None where there is no score",
        )
        if is_judge:
            expect(0 <= score <= 1, f"{name}: got {score} for {text!r}, expected a judge's score between 0 and 1")


def _check_independence(
    name: str, scorer: Scorer, prompts: Sequence[str], texts: Sequence[str], scores: Sequence[float | None]
) -> None:
    alone = [scorer.score([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]
    turned = scorer.score(list(prompts[::-1]), list(texts[::-1]))[::-1]
    for how, other in (("each alone", alone), ("in another order", turned)):
        expect(
            all(map(_equal, scores, other)),
            f"{name}: got {list(scores)} in a batch and {list(other)} {how}, expected a score that depends on its own "
            "prompt and completion alone",
        )


def _equal(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
