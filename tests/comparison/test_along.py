"""Recipes at one place of their curves: by hand, beside the bootstrap, and where a curve does not reach."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison.along import Place, amount, at_place
from alignbench.comparison.compare import compare
from alignbench.errors import ComparabilityError, ResultsError, UsageError
from alignbench.records import Cost, MetricKey

N = 40
JUDGED = "toxicity_mean@judge"


@pytest.fixture
def add(tmp_path, begin, report, comparability):
    """Writes a run with a curve: of each point its completions, a toxicity and a KL per prompt, and its FLOPs."""

    def write(recipe, points, seed=0, flops=(), upstream=None, prompts=None, same=None):
        with begin(tmp_path, recipe, seed, f"{recipe}-{seed}") as run:
            run.write_prompts((), {})
            if upstream is not None:
                run.charge({"run x": upstream})
            toxicity, kl = points[-1][1:]
            run.write_evaluation(report({JUDGED: toxicity, "kl": kl}), comparability)
            for step, (completions, toxicity, kl) in enumerate(points):
                along = report({JUDGED: toxicity, "kl": kl})
                run.write_evaluation(along, same or {}, step=step, completions=completions)
            path = run.complete(
                cost=Cost(training_completions=points[-1][0], forward_flops=sum(flops)), train_reward=None
            )
        if flops:
            rows = [
                {"step": i, "event": "train", "account": "cost", "forward_flops": n} for i, n in enumerate(flops, 1)
            ]
            (path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def two(add):
    """A falls from 0.6 over 0.4 to 0.2 at KL 0, 1, 4; B from 0.6 to 0.4 at KL 0, 2. Every prompt moves alike."""
    own = np.linspace(-0.1, 0.1, N)

    def points(*means):
        return [(100 * i, mean + own, np.full(N, kl)) for i, (mean, kl) in enumerate(means)]

    add("untrained", points((0.6, 0.0)))
    add("a", points((0.6, 0.0), (0.4, 1.0), (0.2, 4.0)), flops=(1e9, 3e9))
    add("b", points((0.6, 0.0), (0.4, 2.0)), flops=(2e9,), upstream=Cost(training_completions=50, forward_flops=1e9))


@pytest.mark.parametrize(
    ("place", "a", "b"),
    [
        ("kl=0.5", 0.5, 0.55), ("kl=1", 0.4, 0.5), ("kl=1.75", 0.35, 0.425),
        # b has paid 50 completions and 1e9 FLOPs before its first step.
        ("completions=50", 0.5, 0.6), ("completions=100", 0.4, 0.5), ("completions=150", 0.3, 0.4),
        ("flops=1e9", 0.4, 0.6), ("flops=2e9", 1 / 3, 0.5), ("flops=3e9", 0.8 / 3, 0.4),
    ],
)  # fmt: skip
def test_by_hand(tmp_path, two, place, a, b):
    found = at_place(compare(tmp_path), Place.parse(place))
    values = {name: one.value.value for name, one in found.measured.items()}
    assert values == pytest.approx({"untrained": 0.6, "a": a, "b": b})
    assert found.ranking.order[0] == "a"
    assert found.ranking.verdict("a", "b") == "better"
    assert found.unreached == {}
    assert found.n_prompts == N


def test_what_a_curve_does_not_reach_is_named(tmp_path, two, add):
    add("c", [(0, np.full(N, 0.6), np.zeros(N)), (100, np.full(N, 0.5), np.full(N, 3.0))])
    found = at_place(compare(tmp_path), Place.parse("kl=2.5"))
    assert set(found.measured) == {"untrained", "a", "c"}
    assert found.unreached == {"b": "seed 0 goes from 0 to 2 nats of KL to the reference"}
    with pytest.raises(
        ResultsError, match=r"fewer than two curves reach it\n  b: seed 0 goes from 0 to 2 nats of KL.*\n"
    ):
        at_place(compare(tmp_path), Place.parse("kl=3.5"))
    with pytest.raises(ResultsError, match=r"c: seed 0 has no events\.jsonl"):
        at_place(compare([tmp_path / one for one in ("untrained", "b", "c")]), Place.parse("flops=2e9"))


def test_a_seed_that_does_not_reach_keeps_its_recipe_out(tmp_path, two, add):
    add("a", [(0, np.full(N, 0.6), np.zeros(N)), (100, np.full(N, 0.5), np.full(N, 0.3))], seed=1)
    add("c", [(0, np.full(N, 0.6), np.zeros(N)), (100, np.full(N, 0.5), np.full(N, 3.0))])
    found = at_place(compare(tmp_path), Place.parse("kl=1"))
    assert found.unreached == {"a": "seed 1 goes from 0 to 0.3 nats of KL to the reference"}


def test_the_first_time_counts(tmp_path, two, add):
    up_and_down = [(100 * i, np.full(N, y), np.full(N, x)) for i, (y, x) in enumerate([(0.6, 0), (0.3, 3), (0.1, 1)])]
    add("c", up_and_down)
    found = at_place(compare(tmp_path), Place.parse("kl=2"))
    assert found.measured["c"].value.value == pytest.approx(0.4)


def test_both_seeds_count(tmp_path, two, add):
    rng = np.random.default_rng(0)
    for recipe, low in (("c", 0.3), ("d", 0.2)):
        for seed in (0, 1):
            ends = [(0, 0.6, 0.0), (100, low + 0.01 * seed, 2.0)]
            points = [(n, y + rng.normal(0, 0.01, N), np.full(N, x)) for n, y, x in ends]
            add(recipe, points, seed=seed)
    found = at_place(compare(tmp_path), Place.parse("kl=1"))
    pair = next(one for one in found.ranking.pairs if {one.recipe, one.other} == {"c", "d"})
    assert pair.measurement.tested.estimand == "the method"
    means = [found.measured[name].value.value for name in ("c", "d")]
    assert means == pytest.approx([0.4525, 0.4025], abs=0.005)


def test_the_interval_at_a_kl_is_that_of_the_bootstrap(tmp_path, add):
    """Resampling prompts moves the KL of both points, and with it the place between them."""
    rng, n = np.random.default_rng(1), 400
    hard = rng.gamma(2, 0.5, n)
    ends = [
        (rng.beta(2, 2, n), hard * rng.gamma(2, 0.5, n)),
        (rng.beta(1, 3, n) * (1 + 0.3 * hard), 4 * hard * rng.gamma(2, 0.5, n)),
    ]
    points = [(100 * i, y, k) for i, (y, k) in enumerate(ends)]
    add("untrained", points[:1])
    for name in ("a", "b"):
        add(name, points)
    found = at_place(compare(tmp_path), Place.parse("kl=2")).measured["a"].value
    (y0, k0), (y1, k1) = ends
    drawn = []
    for _ in range(2000):
        i = rng.integers(0, n, n)
        w = (2 - k0[i].mean()) / (k1[i].mean() - k0[i].mean())
        drawn.append((1 - w) * y0[i].mean() + w * y1[i].mean())
    w = (2 - k0.mean()) / (k1.mean() - k0.mean())
    assert found.value == pytest.approx((1 - w) * y0.mean() + w * y1.mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.ci_high - found.ci_low == pytest.approx(high - low, rel=0.08)
    naive = 2 * 1.96 * ((1 - w) * y0 + w * y1).std() / n**0.5
    assert abs(naive / (high - low) - 1) > 0.15  # what is left out without the place's own uncertainty


def test_curves_that_were_measured_otherwise_are_refused(tmp_path, two, add):
    add("c", [(0, np.full(N, 0.6), np.zeros(N)), (100, np.full(N, 0.5), np.full(N, 3.0))], same={"n_prompts": 64})
    with pytest.raises(ComparabilityError, match="n_prompts"):
        at_place(compare(tmp_path), Place.parse("kl=1"))


def test_a_metric_that_was_not_measured_along_training(tmp_path, two):
    with pytest.raises(ResultsError, match="fewer than two curves reach it"):
        at_place(compare(tmp_path, metric="kl"), Place.parse("kl=9"))


@pytest.mark.parametrize("text", ["kl", "kl=", "kl=x", "kl=-1", "kl=0", "kl=nan", "kl=inf", "steps=3", "=3", ""])
def test_places_that_are_none(text):
    with pytest.raises(UsageError, match=r"--at: got .* expected one of kl=NUMBER, completions=NUMBER, flops=NUMBER"):
        Place.parse(text)


def test_amounts():
    assert [amount(x) for x in (0.415, 28.27, 1000.0, 2048.0, 5.0e10)] == ["0.415", "28.3", "1,000", "2,048", "5e+10"]


def test_the_command_line(tmp_path, two):
    result = CliRunner().invoke(main, ["compare", str(tmp_path), "--at", "kl=1"])
    assert result.exit_code == 0
    assert result.output.startswith("AT 1 nats of KL to the reference\nrecipe")
    (row,) = (line for line in result.output.splitlines() if line.startswith("a "))
    assert "  0.400 [" in row
    for arguments, code in ((["--at", "kl=9"], 1), (["--at", "k=1"], 2), (["--at", "kl=1", "--format", "json"], 2)):
        result = CliRunner().invoke(main, ["compare", str(tmp_path), *arguments])
        assert (result.exit_code, result.output.count("Error")) == (code, 1)


def test_other_metrics_along_training(tmp_path, two):
    found = at_place(compare(tmp_path, metric="kl"), Place.parse("completions=100"))
    assert found.key == MetricKey("kl")
    assert found.measured["a"].value.value == pytest.approx(1.0)
