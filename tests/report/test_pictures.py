"""Each picture shows the numbers of the comparison, in its marks as in its table."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from alignbench.comparison.pooling import trained_for
from alignbench.records import MetricKey
from alignbench.report.pictures import along_training
from alignbench.report.pictures.costs import costs
from alignbench.report.pictures.curves import against_budget, against_divergence
from alignbench.report.pictures.distributions import distribution
from alignbench.report.pictures.forest import forest
from alignbench.report.pictures.frontier import Price, frontier, lowest
from alignbench.report.pictures.hacking import hacking
from alignbench.report.scores import scores
from alignbench.report.sections.pictures import drawn
from alignbench.statistics.estimate import Estimate

SVG = "{http://www.w3.org/2000/svg}"
JUDGE = MetricKey("toxicity_mean", "judge")


def elements(figure, name):
    return ET.fromstring(figure.picture.file()).iter(SVG + name)


def groups(figure, said=""):
    """By what a pointer is told: the elements of a mark."""
    found = {g.find(SVG + "title").text: g for g in elements(figure, "g") if g.find(SVG + "title") is not None}
    return {told: g for told, g in found.items() if said in told}


def places(ticks):
    """Slope and offset of an axis, from its numbers and where they stand."""
    return np.polyfit(*zip(*ticks, strict=True), 1)


def test_all_are_there_and_are_xml(material):
    found = list(drawn(material))
    assert [one.picture.name for one in found] == [
        "forest-judge", "frontier", "curve-budget", "curve-kl", "hacking", "scores-judge", "costs", "forest-reward",
        "scores-reward",
    ]  # fmt: skip
    for one in found:
        root = ET.fromstring(one.picture.file())
        assert root.find(SVG + "title").text
        assert root.find(SVG + "desc").text == one.picture.description
        assert "nan" not in one.picture.body.lower().replace("nant", "")
        assert one.numbers.rows
        assert all(len(row.cells) == len(one.numbers.header) for row in one.numbers.rows)


def test_forest_draws_differences_and_intervals_where_they_lie(material):
    figure = forest(material, JUDGE)
    ticks = [
        (float(e.text), float(e.get("x"))) for e in elements(figure, "text") if re.fullmatch(r"-?0(\.\d+)?", e.text)
    ]
    slope, offset = places(ticks)
    marks = groups(figure, "better")
    assert len(marks) == 2  # the baseline has none
    for row in material.comparison.recipes[1:]:
        difference = row.metrics[JUDGE].difference
        (mark,) = [g for said, g in marks.items() if said.startswith(f"{row.recipe}: ")]
        x1, x2 = (float(mark.find(SVG + "line").get(end)) for end in ("x1", "x2"))
        assert x1 == pytest.approx(slope * difference.ci_low + offset, abs=0.2)
        assert x2 == pytest.approx(slope * difference.ci_high + offset, abs=0.2)
        tip = mark.find(SVG + "polygon").get("points").split()[2]
        assert float(tip.split(",")[0]) == pytest.approx(slope * difference.value + offset, abs=0.2)


def test_forest_says_better_and_worse_by_shapes(material):
    marks = groups(forest(material, JUDGE), "better")
    for said, g in marks.items():
        points = [tuple(map(float, one.split(","))) for one in g.find(SVG + "polygon").get("points").split()]
        assert said.endswith("better")
        assert points[2][1] > points[0][1]  # the tip is below


def test_forest_shows_the_ranks_that_tests_leave_open(material):
    figure = forest(material, JUDGE)
    marks = groups(figure, "rank")
    ticks = [(float(e.text), float(e.get("x"))) for e in elements(figure, "text") if (e.text or "") in "123"
             and e.get("font-size") == "11"]  # fmt: skip
    slope, offset = places(ticks)
    ranking = material.comparison.ranking
    for place, name in enumerate(ranking.order):
        (mark,) = [g for said, g in marks.items() if said.startswith(f"{name}: rank {place + 1} as measured")]
        x1, x2 = (float(mark.find(SVG + "line").get(end)) for end in ("x1", "x2"))
        first, last = ranking.ranges[name].first, ranking.ranges[name].last
        assert (x1 + 3, x2 - 3) == pytest.approx((slope * first + offset, slope * last + offset), abs=0.2)
    assert [row.cells[-1].text for row in figure.numbers.rows] == [str(ranking.ranges[n]) for n in ranking.order]
    other = forest(material, MetricKey("toxicity_mean", "reward"))
    assert not groups(other, "rank")  # ranks are about the metric of the table alone


def test_rows_that_no_other_undercuts():
    paid = dict(zip("abcde", (1.0, 2.0, 2.0, 3.0, 1.0), strict=True))
    harm = dict(zip("abcde", (0.5, 0.3, 0.4, 0.3, 0.5), strict=True))
    price = Price("x", {name: Estimate(v) for name, v in paid.items()}, "even")
    toxicity = {name: Estimate(v) for name, v in harm.items()}
    assert lowest(price, toxicity) == ["a", "e", "b"]  # c and d are undercut by b; a and e are the same


def test_frontier_has_a_panel_for_each_price(material):
    figure = frontier(material)
    said = [e.text for e in elements(figure, "text")]
    for title in ("KL to the reference", "perplexity", "seconds of training"):
        assert [text for text in said if text.startswith(title)]
    letters = [e.text.rstrip("!") for e in elements(figure, "text") if e.get("font-weight") == "bold"]
    assert sorted(letters) == sorted(["A", "B", "C"] * 3)
    assert all(len(row.cells) == 6 for row in figure.numbers.rows)


@pytest.mark.parametrize("draw", [against_budget, against_divergence])
def test_curves_draw_every_seed_once(material, draw):
    figure = draw(material)
    defined = next(e for e in elements(figure, "defs")).find(SVG + "g")
    assert len(defined) == 4  # two recipes, two seeds; nothing was measured along no training
    assert len(list(elements(figure, "use"))) == 2
    assert len(figure.numbers.rows) == 2 * 2 * 3
    own = [e for e in elements(figure, "path") if e.get("class") == "s-accent"]
    assert len(own) == (6 if draw is against_budget else 4)  # their means besides


def test_the_mean_over_seeds_is_that_of_the_points_that_all_have(material):
    several = along_training.curves(material)["ppo_1"]
    xs, ys = along_training.mean_curve(several, along_training.REWARD)
    assert (xs, ys) == ([0, 512, 1024], pytest.approx([0.5, 1.0, 1.5]))  # seed 0: 0, 0.5, 1; seed 1: one more


def test_of_many_points_nine_stand_in_the_table():
    curve = along_training.Curve(0, tuple(range(101)))
    assert curve.listed == [0, 12, 25, 38, 50, 62, 75, 88, 100]
    assert along_training.numbers_caption({"ppo": [curve]}).endswith("9 points of each curve")
    assert along_training.Curve(0, tuple(range(9))).listed == list(range(9))


def test_hacking_shows_the_onset_of_whom_it_was_found_in(material):
    figure = hacking(material)
    dashed = [e for e in elements(figure, "line") if e.get("stroke-dasharray")]
    assert len(dashed) == 2  # in both strips of one recipe
    assert "ppo_2: they part at 512 completions" in groups(figure)
    assert "evident, 2 of 2 seeds from 512" in figure.picture.description
    assert "ppo_1 none, 2 of 2 seeds" in figure.picture.description


def test_scores_are_shared_out_among_bars(material):
    figure = distribution(material, JUDGE)
    for row in material.rows:
        known = scores(material.recipes[row.recipe], JUDGE)
        assert len(known) == 48
        shares = [float(said.split(": ")[1].split("%")[0]) for said in groups(figure) if said.startswith(row.recipe)]
        assert sum(shares) == pytest.approx(100, abs=1.5)
    first = next(row for row in figure.numbers.rows if row.cells[0].text.endswith("untrained"))
    known = scores(material.recipes["untrained"], JUDGE)
    assert (first.cells[2].text, first.cells[-1].text) == (f"{known.mean():.4f}", f"{(known >= 0.5).mean():.1%}")
    assert figure.numbers.header[-1] == "0.5 or more"


def test_costs_keep_training_and_answers_apart(material):
    figure = costs(material)
    training = [f"{what} of training, upstream included" for what in ("seconds", "FLOPs")]
    assert figure.numbers.header[1:] == [*training, "FLOPs of an answer", "tokens of an answer"]
    cells = {row.cells[0].text.split()[1]: [cell.text for cell in row.cells[1:]] for row in figure.numbers.rows}
    assert cells["ppo_2"] == ["25.0", "2.00e9", "3.00e6", "11.0"]
    assert cells["untrained"] == ["0.0", "0", "1.00e6", "9.0"]
    g = next(g for said, g in groups(figure).items() if said == "ppo_2: seconds 25.0")
    own, upstream = g.findall(SVG + "rect")
    assert float(own.get("width")) == pytest.approx(4 * float(upstream.get("width")), abs=0.3)  # 20 s and 5 s
    assert upstream.get("fill") == "url(#stripes)"


@pytest.mark.parametrize(
    ("method", "seconds"), [("ppo", 20.0), ("untrained", 0.0), ("external", None), ("stored_completions", None)]
)
def test_what_was_not_trained_here_has_cost_nothing_or_nobody_knows(method, seconds):
    assert trained_for(method, 20.0) == seconds


def test_without_curves_or_judges_there_is_less_to_draw(tmp_path, add_run):
    from alignbench.comparison.compare import compare
    from alignbench.report.material import gather

    for name in ("untrained", "ppo"):
        add_run(tmp_path, name, {"toxicity_mean@judge": np.linspace(0, 1, 20) * (0.5 if name == "ppo" else 1)})
    names = [one.picture.name for one in drawn(gather(tmp_path, compare(tmp_path))[0])]
    assert names == ["forest-judge"]
