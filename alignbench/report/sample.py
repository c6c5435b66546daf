"""Which texts a report shows: some prompts, and what every recipe wrote after them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alignbench.report.material import Material
from alignbench.report.scores import texts
from alignbench.report.text import inert_json, shortened, visible
from alignbench.results.reader import StoredEvaluation, StoredRun
from alignbench.results.schema import UnreadableError

MOST_PROMPTS = 200
MOST_BYTES = 3_000_000
"""Of all texts together, in the page."""
_HARMLESS = ("embedded", "real_toxicity_prompts_nontoxic")
"""Sources whose prompts are no toxic texts themselves."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a recipe wrote."""

    text: str
    scores: tuple[float | None, ...]
    """By judge, None where unscored."""


@dataclass(frozen=True, slots=True)
class SampledPrompt:
    """A prompt with one completion of each recipe, None where a recipe has none."""

    id: str
    text: str
    written: tuple[Written | None, ...]

    @property
    def n_bytes(self) -> int:
        """How much room it takes in the page."""
        written = [one and [one.text, one.scores] for one in self.written]
        return len(inert_json([self.id, self.text, written]).encode())


@dataclass(frozen=True, slots=True)
class Sample:
    """The texts of a report."""

    recipes: tuple[str, ...]
    """The baseline first."""
    judges: tuple[str, ...]
    """The one that the report is about first."""
    threshold: float
    """A text is toxic where a judge gives it so much."""
    has_harmless_prompts: bool
    """True where the prompts are known to be no toxic texts."""
    prompts: tuple[SampledPrompt, ...]
    said: tuple[str, ...]
    """How they were chosen."""

    def is_toxic(self, written: Written) -> bool:
        """True where any judge says so, or none could score it."""
        known = [score for score in written.scores if score is not None]
        return not known or max(known) >= self.threshold


def draw(material: Material, most: int = MOST_PROMPTS, most_bytes: int = MOST_BYTES) -> Sample | None:
    """Chooses prompts by a hash of their ids, and reads what was written; None where nothing was stored.

    Args:
        material: The runs.
        most: Prompts at most.
        most_bytes: Of all texts together, in the page.
    """
    baseline = material.comparison.baseline
    names = sorted((row.recipe for row in material.rows), key=lambda recipe: recipe != baseline)
    chosen = {recipe: material.recipes[recipe].runs[0] for recipe in names if material.recipes[recipe].runs}
    if not chosen:
        return None
    ids = list(dict.fromkeys(i for _, evaluation in chosen.values() for i in evaluation.prompt_values[0]))
    picked = sorted(ids, key=_hashed)[:most]
    judges = tuple(key.scorer for key in material.judges if key.scorer is not None)
    found, unread = _read(chosen, picked, judges)
    prompts, n_cut = _fitting(picked, found, most_bytes)
    if not prompts:
        return None
    seeds = {recipe: run.status.seed for recipe, (run, _) in chosen.items()}
    _, first = next(iter(chosen.values()))
    return Sample(
        tuple(found),
        judges,
        float(first.record.comparability.get("toxicity_threshold", 0.5)),
        all(_source(run) in _HARMLESS for run, _ in chosen.values()),
        prompts,
        (*_said(material, len(prompts), len(ids), seeds), *n_cut, *unread),
    )


def _hashed(prompt_id: str) -> bytes:
    return hashlib.sha256(prompt_id.encode("utf-8", "surrogatepass")).digest()


_Found = dict[str, dict[str, tuple[str, Written]]]
"""By recipe and prompt id: the prompt's text, and what was written."""


def _read(
    chosen: Mapping[str, tuple[StoredRun, StoredEvaluation]], ids: Sequence[str], judges: Sequence[str]
) -> tuple[_Found, list[str]]:
    found: _Found = {}
    unread = []
    for recipe, (run, evaluation) in chosen.items():
        has = [judge for judge in judges if any(key.scorer == judge for key in evaluation.metrics)]
        try:
            rows = texts(evaluation, ids, has)
        except UnreadableError as error:
            unread.append(f"The texts of {run.label} cannot be shown: {visible(str(error))}.")
            continue
        found[recipe] = {}
        for prompt_id, prompt, completion, scores in rows:
            by_judge = dict(zip(has, scores, strict=True))
            written = Written(_shown(completion), tuple(_known(by_judge.get(judge)) for judge in judges))
            found[recipe].setdefault(prompt_id, (_shown(prompt), written))
    return found, unread


def _shown(text: str) -> str:
    """Returns a text as far as it is shown, everything in it visible."""
    return visible(shortened(text))


def _known(score: float | None) -> float | None:
    return None if score is None or not math.isfinite(score) else score


def _fitting(ids: Sequence[str], found: _Found, most_bytes: int) -> tuple[tuple[SampledPrompt, ...], list[str]]:
    """Returns the prompts, as many as fit, and a sentence where some do not."""
    prompts: list[SampledPrompt] = []
    used = 0
    for place, one in enumerate(ids):
        texts_of_it = [by_prompt.get(one) for by_prompt in found.values()]
        known = [each for each in texts_of_it if each is not None]
        if not known:
            continue
        sampled = SampledPrompt(visible(one), known[0][0], tuple(each and each[1] for each in texts_of_it))
        used += sampled.n_bytes
        if used > most_bytes and prompts:
            left = len(ids) - place
            return tuple(prompts), [f"{left} more would have been shown, but the page would have become too large."]
        prompts.append(sampled)
    return tuple(prompts), []


def _source(run: StoredRun) -> object:
    """Returns where the prompts of an evaluation came from, as the recipe has it."""
    for block in ("evaluation", "data"):
        settings = run.recipe.get(block)
        if isinstance(settings, Mapping) and settings.get("prompts") is not None:
            return settings["prompts"]
    return None


def _said(material: Material, n: int, n_all: int, seeds: Mapping[str, int]) -> list[str]:
    k = material.comparison.samples_per_prompt
    which = (
        f"{n:,} of {n_all:,} prompts, chosen by a hash of their ids, not by what was written"
        if n < n_all
        else (f"All {n:,} prompts")
    )
    completion = f"the first of {k} completions each" if k > 1 else "with the one completion each"
    numbers = sorted(set(seeds.values()))
    seed = f"seed {numbers[0]}" if len(numbers) == 1 else "the first seed of each recipe"
    return [
        f"{which}, {completion}, {seed}. Texts of more than 2,000 characters are cut. "
        "All completions are in completions.parquet of each run."
    ]
