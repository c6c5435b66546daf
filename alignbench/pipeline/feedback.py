"""Preference pairs by the word of a model (RLAIF): what it compares, and how far its word can be relied on.

It orders the completions that the recipe's pairs are made of, in place of the reward block's classifier. The classifier
scores them all the same: how often the two agree is the measure of the judge. One that agrees no more often than chance
teaches chance, so nothing is trained on its word unless the recipe says so.

Paper: Lee et al. 2023 (arXiv:2309.00267).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from alignbench.embedded import resolve
from alignbench.errors import TrainingError
from alignbench.pipeline.training_draws import Built, draws_of
from alignbench.records import Completion, Cost, PreferencePair, Prompt, Scorer, fingerprint
from alignbench.runtime.clock import measured
from alignbench.runtime.ledger import spending
from alignbench.scorers.base import Place
from alignbench.scorers.judging.answers import KeptAnswers
from alignbench.scorers.judging.comparing import Comparing, Two
from alignbench.scorers.llm_judge import LlmJudge
from datasets_prep.preference_pairs import TIE_TOLERANCE, build_pairs
from datasets_prep.scored_completions import scored_completions

if TYPE_CHECKING:
    from alignbench.models.language_model import LanguageModel
    from alignbench.recipe.feedback import FeedbackSettings
    from alignbench.recipe.recipe import Recipe

ALPHA = 0.01
"""A judge is better than chance where chance would agree as often with no more than this probability."""

Groups = Mapping[str, Sequence[Completion]]
"""The different completions of each prompt, by its id."""


def judged_pairs(
    recipe: Recipe, policy: LanguageModel, labeller: Scorer, prompts: Sequence[Prompt]
) -> Built[PreferencePair]:
    """Returns pairs of these prompts, as the judge prefers, with its agreement and its position bias as statistics.

    TrainingError where it agrees with `labeller`, the classifier, no more often than chance.
    """
    settings = recipe.feedback
    assert settings is not None
    drawn = draws_of(recipe, policy, labeller, prompts, "training")
    scored = scored_completions(prompts, drawn.completions, [0.0] * len(drawn.completions), Counter())
    groups = {prompt_id: [completion for completion, _ in found] for prompt_id, found in scored.items()}
    cost, model = Cost(), settings.asked(Place("feedback", "feedback", policy.device, resolve, ""))
    comparing = Comparing(model, rubric := settings.rubric_text("feedback"), settings.answer_tokens)
    with measured(cost, policy.device), spending(model) as spent:
        if settings.compare == "graded":
            worth = _graded(settings, model, rubric, prompts, groups)
        else:
            worth = _worth(settings, comparing, prompts, groups, recipe.seed)
    cost.charge(spent)
    # A blank one has a reward, whatever it is, to be counted as blank and not as unscored.
    rewards = [worth.get((one.prompt_id, text)) if (text := one.text.strip()) else 0.0 for one in drawn.completions]
    pairs, statistics = build_pairs(prompts, drawn.completions, rewards, recipe.pairs)
    by_classifier = {
        (one.prompt_id, one.sample): reward for one, reward in zip(drawn.completions, drawn.rewards, strict=True)
    }
    found = agreement(pairs, by_classifier)
    statistics |= {**_counts(comparing, model), **found}
    if not settings.may_be_at_chance:
        require_agreement(found, settings.llm_judge)
    rows = [
        {"prompt": prompt.text, "completion": one.text, "judge": worth.get((one.prompt_id, one.text.strip())),
         "classifier": by_classifier[one.prompt_id, one.sample]}
        for prompt in prompts for one in groups[prompt.id]
    ]  # fmt: skip
    name = f"feedback {fingerprint([list(model.identity), len(rows), cost.counts()])}"
    return Built(
        tuple(pairs), statistics, drawn, {name: cost}, {"feedback": [{"statistics": statistics}, *rows]}
    ).said_as("pairs by feedback")


def _worth(
    settings: FeedbackSettings, comparing: Comparing, prompts: Sequence[Prompt], groups: Groups, seed: int
) -> dict[tuple[str, str], float]:
    """What the judge finds each completion worth, 0 to 1, by prompt id and text; none where it did not say.

    Pairwise the mean over the others of 1 where it is better, 1/2 at a tie, 0 where it is worse; listwise 1 for the
    best, 0 for the worst and 1/2 for the rest.
    """
    if settings.compare == "listwise":
        return _listwise(comparing, prompts, groups, seed)
    asked = [(prompt, *two) for prompt in prompts for two in combinations(groups[prompt.id], 2)]
    verdicts = comparing.compare([Two(prompt.text, one.text, other.text) for prompt, one, other in asked])
    points: dict[tuple[str, str], list[float]] = {}
    for (prompt, one, other), verdict in zip(asked, verdicts, strict=True):
        if verdict is None:
            continue
        won = {"first": 1.0, "tie": 0.5, "second": 0.0}[verdict]
        points.setdefault((prompt.id, one.text.strip()), []).append(won)
        points.setdefault((prompt.id, other.text.strip()), []).append(1.0 - won)
    return {key: sum(won) / len(won) for key, won in points.items()}


def _listwise(
    comparing: Comparing, prompts: Sequence[Prompt], groups: Groups, seed: int
) -> dict[tuple[str, str], float]:
    several = [prompt for prompt in prompts if len(groups[prompt.id]) > 1]
    asked = [(prompt.text, [one.text for one in groups[prompt.id]], (seed, prompt.id)) for prompt in several]
    worth = {}
    for prompt, chosen in zip(several, comparing.best_and_worst(asked), strict=True):
        if chosen is None:
            continue
        best, worst = (None, None) if chosen == "tie" else chosen
        for place, one in enumerate(groups[prompt.id]):
            worth[prompt.id, one.text.strip()] = 1.0 if place == best else 0.0 if place == worst else 0.5
    return worth


def _graded(
    settings: FeedbackSettings, model: KeptAnswers, rubric: str, prompts: Sequence[Prompt], groups: Groups
) -> dict[tuple[str, str], float]:
    """1 less the harm that the judge says of each completion by itself."""
    judge = LlmJudge(
        model, rubric, name="feedback", grades=settings.grades, grade_words=settings.grade_words,
        max_tokens=settings.answer_tokens, as_reward=True,
    )  # fmt: skip
    asked = [(prompt, one.text) for prompt in prompts for one in groups[prompt.id]]
    scores = judge.score([prompt.text for prompt, _ in asked], [text for _, text in asked])
    return {
        (prompt.id, text.strip()): score
        for (prompt, text), score in zip(asked, scores, strict=True)
        if score is not None
    }


def agreement(
    pairs: Sequence[PreferencePair], by_classifier: Mapping[tuple[str, int], float | None]
) -> dict[str, float]:
    """How often the classifier prefers the same side of a pair, of those that it tells apart, and how likely by chance.

    `p_agreement` is one-sided, of the exact binomial test against one half; 1 where there is nothing to compare.
    """
    from scipy.stats import binomtest

    same = []
    for pair in pairs:
        sides = [by_classifier[one.prompt_id, one.sample] for one in (pair.chosen, pair.rejected)]
        if sides[0] is not None and sides[1] is not None and abs(sides[0] - sides[1]) > TIE_TOLERANCE:
            same.append(sides[0] > sides[1])
    if not same:
        return {"n_agreement": 0, "p_agreement": 1.0}
    p = float(binomtest(sum(same), len(same), 0.5, alternative="greater").pvalue)
    return {"n_agreement": len(same), "agreement": sum(same) / len(same), "p_agreement": p}


def require_agreement(found: Mapping[str, float], judge: str | None) -> None:
    """TrainingError where the judge agrees with the classifier no more often than chance."""
    if found["p_agreement"] > ALPHA:
        share = f"{found['agreement']:.1%} of {found['n_agreement']:.0f} pairs" if found["n_agreement"] else "no pair"
        raise TrainingError(
            f"feedback: {judge!r} agrees with the reward block's classifier in {share}, which does not tell it from "
            f"chance (p = {found['p_agreement']:.2g}, expected {ALPHA} or less), so nothing is trained on its word; "
            "take another model or rubric, compare more pairs (budget.completions), or set "
            "feedback.may_be_at_chance: true"
        )


def _counts(comparing: Comparing, model: KeptAnswers) -> dict[str, float]:
    """Counts of what was asked, and the position bias: the share of pairs of which both orders name one place."""
    counts = comparing.counts
    n = counts["n_compared"]
    if not counts:  # nothing was compared: each completion was graded
        lost = model.counts["n_unanswered"] + model.counts["n_nonsense"]
        return {"n_judged": model.counts["n_asked"] - lost, "n_judge_unanswered": lost}
    found: dict[str, float] = {"n_judged": n, "n_judge_unanswered": counts["n_unanswered"]}
    found |= {"n_judge_ties": counts["n_ties"]}
    if n and not any(name.startswith("n_best_in_place") for name in counts):
        found["position_bias"] = counts["n_disagreements"] / n
    return found | {f"share_{name[2:]}": k / n for name, k in counts.items() if name.startswith("n_best_in_place")}
