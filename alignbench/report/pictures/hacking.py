"""Reward against held-out judge along training: where the first goes on rising while the second turns, it is hacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from alignbench.comparison.flags import REWARD_SCORER
from alignbench.comparison.hacking_over_seeds import HackingAlongTraining
from alignbench.comparison.numbers import number
from alignbench.records import MetricKey
from alignbench.report.blocks import Figure, plain_table
from alignbench.report.material import Material
from alignbench.report.pictures import along_training
from alignbench.report.pictures.along_training import REWARD, Curve, Panel, axes, headed, named, pairs, panels
from alignbench.report.pictures.picture import Picture, file_name
from alignbench.report.pictures.svg import Scale, described, element, joined, label, line, path, scale_of, short

_STRIP, _BETWEEN = 62.0, 14.0
_HEIGHT = 2 * _STRIP + _BETWEEN
_LEGEND = (
    "Above: the training reward, on each recipe's own scale; below: the judge (lower is better), on one scale for all. "
    "A line for each seed. Dashed upright line: where the two part, by the diagnosis of the evaluations along training."
)


def hacking(material: Material) -> Figure | None:
    """Draws a pair of strips for each recipe that has a training reward; None where none has."""
    found = _rewarded(material)
    if not found:
        return None
    rows = {row.recipe: row for row in material.rows}
    words = {recipe: _word(rows[recipe].hacking) for recipe in found}
    said = ", ".join(f"{recipe} {word}" for recipe, word in words.items())
    picture = _drawn(material, list(found), f"{material.several}hacking", f"Reward hacking: {said}.")
    return Figure(picture, plain_table(along_training.numbers_caption(found), *_numbers(material, found, words)))


def hacking_of(material: Material, recipe: str) -> Picture | None:
    """Draws the strips of one recipe, on the scales of all; None where it has no training reward."""
    if recipe not in _rewarded(material):
        return None
    word = _word(next(row.hacking for row in material.rows if row.recipe == recipe))
    return _drawn(
        material, [recipe], file_name(f"{material.several}hacking-{recipe}"), f"Reward hacking of {recipe}: {word}."
    )


def _rewarded(material: Material) -> dict[str, list[Curve]]:
    return {
        recipe: several
        for recipe, several in along_training.curves(material).items()
        if any(len(pairs(one.completions, one.values(REWARD))) > 1 for one in several)
    }


def _judge(material: Material) -> MetricKey:
    """Returns what the reward is held against: a judge that is not its own classifier, where there is one."""
    return next((key for key in material.judges if key.scorer != REWARD_SCORER), material.key)


def _drawn(material: Material, recipes: Sequence[str], name: str, description: str) -> Picture:
    found, judge = _rewarded(material), _judge(material)
    rows = {row.recipe: row for row in material.rows}
    harm = [v for several in found.values() for one in several for v in one.values(judge)]
    spent = [v for several in found.values() for one in several for v in one.completions]

    def draw(panel: Panel) -> Iterator[Markup]:
        several, right = found[panel.recipe], panel.left + along_training.WIDTH
        x = scale_of(spent, panel.left, right, with_zero=True)
        rewards = [v for one in several for v in one.values(REWARD)]
        upper = scale_of(rewards, panel.top + _STRIP, panel.top)
        lower = scale_of(harm, panel.top + _HEIGHT, panel.top + _STRIP + _BETWEEN, with_zero=True)
        yield from _reward_axis(panel, upper, right)
        yield from axes(panel, x, lower, "completions of the budget")
        yield from _lines(several, REWARD, x, upper)
        yield from _lines(several, judge, x, lower)
        yield from _onset(rows[panel.recipe].hacking, x, panel, right)

    width, height = along_training.size(len(recipes), _HEIGHT)
    body = named(f"training reward, and below it {judge}") + joined(headed(material, panels(recipes, _HEIGHT), draw))
    title = "Training reward against the held-out judge, along training"
    return Picture(name, title, description, width, height, body, [_LEGEND])


def _reward_axis(panel: Panel, upper: Scale, right: float) -> Iterator[Markup]:
    """Yields the strip of the reward with the numbers of its ends: every recipe has its own."""
    yield line(panel.left, upper.start, right, upper.start, "grid")
    yield line(panel.left, upper.end, right, upper.end, "grid")
    yield label(panel.left - 4, upper.end + 7, short(upper.high), "end", "muted", 10)
    yield label(panel.left - 4, upper.start, short(upper.low), "end", "muted", 10)


def _lines(several: Sequence[Curve], key: MetricKey, x: Scale, y: Scale) -> Iterator[Markup]:
    for one in several:
        points = pairs(one.completions, one.values(key))
        if len(points) > 1:
            yield path([(x(a), y(b)) for a, b in points], "accent", 1.6)


def _onset(found: HackingAlongTraining | None, x: Scale, panel: Panel, right: float) -> Iterator[Markup]:
    yield label(right, panel.top + _STRIP + 11, _word(found), "end", "muted", 10)
    if found is not None and found.onset_completions is not None:
        at = x(found.onset_completions)
        said = described(f"{panel.recipe}: they part at {found.onset_completions:,} completions")
        tops = (panel.top, panel.top + _STRIP + _BETWEEN)
        dashed = (line(at, top, at, top + _STRIP, "second", 1.6, stroke_dasharray="5 3") for top in tops)
        yield element("g", said, *dashed)


def _word(found: HackingAlongTraining | None) -> str:
    """Returns the worst word of the seeds, with how many have it."""
    if found is None or found.word is None:
        return "not measured"
    onset = "" if found.onset_completions is None else f" from {found.onset_completions:,}"
    return f"{found.word}, {found.n_seeds} of {found.n_measured} seeds{onset}"


def _numbers(
    material: Material, found: dict[str, list[Curve]], words: dict[str, str]
) -> tuple[list[str], list[list[str]]]:
    header = ["recipe", "seed", "hacking", "completions", "training reward", str(_judge(material))]
    rows = []
    for recipe, several in found.items():
        for one in several:
            rewards, harm = one.values(REWARD), one.values(_judge(material))
            for place in one.listed:
                cells = [f"{one.completions[place]:,.0f}", number(rewards[place]), number(harm[place])]
                rows.append([material.named(recipe), str(one.seed), words[recipe], *cells])
    return header, rows
