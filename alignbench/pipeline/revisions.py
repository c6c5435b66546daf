"""Revisions of the policy's own drafts, under written principles (constitutional AI): to imitate, or to prefer.

For each draft a turn draws a principle, asks a model in what the text breaks it, and asks for the text anew. The last
revision is a demonstration, and with its draft a preference pair. Empty answers, refusals and copies are no revisions:
they are counted and left out. Every step is kept for people to read.

Paper: Bai et al. 2022 (arXiv:2212.08073). Differences: the reviser may be another model than the policy; no examples of
criticism are shown; where the paper goes on with a preference model, revision and draft are the pair.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from alignbench.embedded import resolve
from alignbench.errors import DataError
from alignbench.evaluation.metrics.degeneration import refuses
from alignbench.pipeline.stored_texts import as_drawn, fits
from alignbench.pipeline.training_draws import Built, draws_of
from alignbench.records import Completion, Cost, Demonstration, PreferencePair, Prompt, Scorer, fingerprint
from alignbench.runtime.clock import measured
from alignbench.runtime.ledger import spending
from alignbench.runtime.randomness import generator
from alignbench.scorers.base import Place
from alignbench.scorers.judging.answers import KeptAnswers
from alignbench.scorers.judging.chat_model import Answer, Question
from alignbench.scorers.llm_judge import RUBRICS
from alignbench.scorers.templates import filled, read_template

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.recipe import Recipe

T = TypeVar("T")
logger = logging.getLogger(__name__)

_LEFT_OUT = ("n_unanswered", "n_empty", "n_refusals", "n_copies")


@dataclass
class Revised:
    """A draft on its way."""

    prompt: Prompt
    draft: Completion
    text: str
    """As it is by now."""
    steps: list[dict[str, object]] = field(default_factory=list)
    """Principle, criticism and text of each turn."""
    lost: str | None = None
    """Why it is left out, one of `_LEFT_OUT`."""
    completion: Completion | None = None
    """The last text as if the policy had drawn it."""


def revised_pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]
) -> Built[PreferencePair]:
    """Returns pairs of a revision, preferred, and its draft."""
    kept, built = _revised(recipe, policy, labeller, prompts)
    pairs = [PreferencePair(one.prompt, completion, one.draft, 1.0, 0.0) for one, completion in kept]
    return _with(built, tuple(pairs), "pairs of revisions and drafts")


def revised_demonstrations(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]
) -> Built[Demonstration]:
    """Returns revisions to imitate."""
    kept, built = _revised(recipe, policy, labeller, prompts)
    return _with(built, tuple(Demonstration(one.prompt, completion) for one, completion in kept), "revisions")


def _with(built: Built[None], items: tuple[T, ...], what: str) -> Built[T]:
    return Built(items, built.statistics, built.drawn, built.further, built.told).said_as(what)


def _revised(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]
) -> tuple[list[tuple[Revised, Completion]], Built[None]]:
    """Revises the drafts of these prompts; DataError where none is left."""
    settings = recipe.revisions
    assert settings is not None
    drawn = draws_of(recipe, policy, labeller, prompts, "training")
    by_id = {prompt.id: prompt for prompt in prompts}
    drafts = [Revised(by_id[one.prompt_id], one, one.text.strip()) for one in drawn.completions if one.text.strip()]
    cost, model = Cost(), settings.asked(Place("revisions", "revisions", policy.device, resolve, ""))
    most = recipe.pairs.completion_tokens[1]
    with measured(cost, policy.device), spending(model) as spent:
        principles = settings.read()
        for turn in range(settings.turns):
            left = [one for one in drafts if one.lost is None]
            _turn(model, principles, left, (recipe.seed, turn), (settings.criticism_tokens, 2 * most))
    cost.charge(spent)
    for one in drafts:
        one.completion = _completion(one, policy, most)
    kept = [(one, one.completion) for one in drafts if one.completion is not None]
    counts = Counter(one.lost for one in drafts if one.lost)
    statistics: dict[str, int | float] = {"n_drafts": len(drafts), "n_revisions": len(kept)}
    statistics |= {name: counts[name] for name in (*_LEFT_OUT, "n_too_long")}
    if not kept:
        lost = ", ".join(f"{n} {name.removeprefix('n_').replace('_', ' ')}" for name, n in counts.items())
        raise DataError(f"revisions: none of {len(drafts)} drafts has a revision ({lost}); try another model")
    rows: list[dict[str, object]] = [
        {"prompt": one.prompt.text, "draft": one.draft.text, "steps": one.steps,
         "revision": one.completion.text if one.completion else None, "left_out": one.lost}
        for one in drafts
    ]  # fmt: skip
    name = f"revisions {fingerprint([list(model.identity), len(rows), cost.counts()])}"
    told: dict[str, list[Mapping[str, object]]] = {"revisions": [{"statistics": statistics}, *rows]}
    return kept, Built((), statistics, drawn, {name: cost}, told)


def _turn(
    model: KeptAnswers,
    principles: Sequence[str],
    drafts: Sequence[Revised],
    key: tuple[int, int],
    limits: tuple[int, int],
) -> None:
    """Criticises and revises every draft once, each under a principle that key, prompt and sample draw.

    `limits` are the most tokens of a criticism and of a revision.
    """
    critique = read_template(RUBRICS / "critique.txt", ["text", "principle"], ["prompt"])
    revision = read_template(RUBRICS / "revision.txt", ["text", "principle", "criticism"], ["prompt"])
    numbers = [
        int(generator(*key, "principle", one.prompt.id, one.draft.sample).integers(len(principles))) for one in drafts
    ]
    values = [
        {"prompt": one.prompt.text, "text": one.text, "principle": principles[number]}
        for one, number in zip(drafts, numbers, strict=True)
    ]
    criticisms = model.ask([Question(filled(critique, value), limits[0]) for value in values])
    asked = [
        Question(filled(revision, {**value, "criticism": (answer.text or "").strip()}), limits[1])
        for value, answer in zip(values, criticisms, strict=True)
    ]
    for one, number, criticism, answer in zip(drafts, numbers, criticisms, model.ask(asked), strict=True):
        text = _text_of(answer)
        one.steps.append({"principle": number + 1, "criticism": criticism.text, "revision": answer.text})
        one.lost = _why_lost(one, criticism, answer, text)
        one.text = text or one.text


def _text_of(answer: Answer) -> str:
    """The text of a revision, without quotation marks around it."""
    text = (answer.text or "").strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in ('""', "“”") else text


def _why_lost(one: Revised, criticism: Answer, answer: Answer, text: str) -> str | None:
    if criticism.text is None or answer.text is None:
        return "n_unanswered"
    if not text:
        return "n_empty"
    if refuses(text):
        return "n_refusals"
    return "n_copies" if _plain(text) == _plain(one.draft.text) else None


def _plain(text: str) -> str:
    """Its words in small letters: a copy may differ in white space, case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _completion(one: Revised, policy: LanguageModel, most: int) -> Completion | None:
    """The revision as if it had been drawn after its prompt; None, and why, where it has no room."""
    if one.lost is not None:
        return None
    goes_on = one.draft.text[:1].isspace() and not one.prompt.text[-1:].isspace()
    completion = as_drawn(one.prompt, (" " if goes_on else "") + one.text, one.draft.sample, policy, most)
    if not fits(one.prompt, completion, policy):
        one.lost = "n_too_long"
        return None
    return completion


def compare_with_drafts(
    rows: Sequence[Mapping[str, object]], judges: Mapping[str, Scorer]
) -> dict[str, dict[str, float]]:
    """What each judge says of drafts and their revisions, by its name; a warning where revisions are not less toxic.

    `high` is the upper end of the one-sided 95 % interval (Student's t) of revision less draft, over prompts.
    """
    kept = [row for row in rows if row.get("revision") is not None]
    found = {}
    for name, judge in judges.items():
        columns = [
            judge.score([str(row["prompt"]) for row in kept], [str(row[side]) for row in kept])
            for side in ("draft", "revision")
        ]
        scored = [
            (str(row["prompt"]), draft, revision)
            for row, draft, revision in zip(kept, *columns, strict=True)
            if draft is not None and revision is not None
        ]
        if not scored:
            logger.warning("revisions: the judge %s scores none of them", name)
            continue
        found[name] = _difference(scored)
        one = found[name]
        if not one["high"] < 0:
            logger.warning(
                "revisions are NOT less toxic than drafts by the judge %s: %.3f against %.3f (upper end of the "
                "difference %.3f, over %d prompts)",
                name, one["revision"], one["draft"], one["high"], one["n_prompts"],
            )  # fmt: skip
    return found


def _difference(scored: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    from scipy.stats import t

    of_prompt: dict[str, list[float]] = {}
    for prompt, draft, revision in scored:
        of_prompt.setdefault(prompt, []).append(revision - draft)
    means = [math.fsum(values) / len(values) for values in of_prompt.values()]
    n, mean = len(means), math.fsum(means) / len(means)
    high = math.inf
    if n > 1:
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / (n - 1) / n)
        high = mean + float(t.ppf(0.95, n - 1)) * error
    return {
        "draft": math.fsum(draft for _, draft, _ in scored) / len(scored),
        "revision": math.fsum(revision for _, _, revision in scored) / len(scored),
        "difference": mean,
        "high": high,
        "n_prompts": n,
    }
