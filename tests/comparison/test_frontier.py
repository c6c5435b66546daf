"""Which rows are dominated, by what was measured and by what is shown."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from alignbench.cli import main
from alignbench.comparison.compare import compare
from alignbench.comparison.frontier import frontier
from alignbench.errors import ResultsError, UsageError
from alignbench.records import Cost

N = 60


@pytest.fixture
def results(tmp_path, add_run):
    """b is clearly worse than a in both; c measures worse than a by less than chance; d is better in toxicity alone."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.6, N)
    rows = {
        "untrained": (0.0, 0.0, 0.0), "a": (-0.2, 1.0, 10.0), "b": (-0.1, 3.0, 10.0), "c": (-0.199, 1.001, 20.0),
        "d": (-0.3, 5.0, 30.0),
    }  # fmt: skip
    for name, (change, kl, seconds) in rows.items():
        columns = {
            "toxicity_mean@judge": base + change + rng.normal(0, 0.02, N) * (name not in "ac"),
            "kl": kl + rng.normal(0, 0.1, N) * (name not in "ac"),
            "distinct_2": 0.5 + change + rng.normal(0, 0.01, N), "completion_tokens": 9.0 + rng.normal(0, 1, N),
        }  # fmt: skip
        noise = np.random.default_rng(5).normal(0, 0.2, (2, N)) if name == "c" else np.zeros((2, N))
        columns["toxicity_mean@judge"] += noise[0] - noise[0].mean()
        columns["kl"] += noise[1] - noise[1].mean()
        add_run(tmp_path, name, columns, cost=Cost(wall_seconds=seconds))
    return tmp_path


def test_shown_and_measured(results):
    wanted, rows = frontier(compare(results), ["toxicity_mean@judge", "kl"])
    found = {row.recipe: (row.shown, row.measured) for row in rows}
    assert [str(one) for one in wanted] == ["toxicity_mean@judge", "kl"]
    assert [row.recipe for row in rows] == ["d", "a", "c", "b", "untrained"]
    assert found["a"] == found["d"] == found["untrained"] == ((), ())
    assert found["c"] == ((), ("a",))  # chance may have done it
    assert set(found["b"][0]) == {"a", "c"}


def test_no_dearer_is_part_of_it(results):
    _, rows = frontier(compare(results), ["toxicity_mean", "kl", "wall_seconds"])
    found = {row.recipe: (set(row.shown), set(row.measured)) for row in rows}
    assert found["b"] == ({"a"}, set())  # c takes longer
    assert found["c"] == (set(), {"a"})
    assert rows[0].values[2].value == 30.0


def test_what_trains_nothing_is_not_dominated_for_the_time_that_it_took_to_load(tmp_path, add_run):
    for name, method, toxicity, seconds in (("base", "untrained", 0.5, 25.0), ("ppo", "ppo", 0.3, 17.0)):
        columns = {"toxicity_mean@judge": toxicity + np.linspace(0, 0.1, N)}
        add_run(tmp_path, name, columns, method=method, cost=Cost(wall_seconds=seconds))
    _, rows = frontier(compare(tmp_path), ["toxicity_mean@judge", "wall_seconds"])
    assert {row.recipe: (row.values[1].value, row.shown, row.measured) for row in rows} == {
        "base": (0.0, (), ()), "ppo": (17.0, (), ()),
    }  # fmt: skip
    add_run(tmp_path, "theirs", {"toxicity_mean@judge": np.linspace(0.2, 0.3, N)}, method="external")
    with pytest.raises(ResultsError, match="--frontier: theirs was not measured in all of toxicity_mean@judge, wall"):
        frontier(compare(tmp_path), ["toxicity_mean@judge", "wall_seconds"])


def test_higher_is_better_where_it_is(results):
    _, rows = frontier(compare(results), ["distinct_2", "wall_seconds"])
    found = {row.recipe: set(row.shown) for row in rows}
    assert rows[0].recipe == "untrained"
    assert found["d"] == {"untrained", "a", "b", "c"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["kl"], "expected two metrics or costs or more"),
        (["kl", "kl"], "expected two metrics or costs or more"),
        (["toxicity_mean@judge", "completion_tokens"], "completion_tokens has no better side"),
        (["toxicity_mean@judge", "walls_seconds"], "got 'walls_seconds', expected one of what was measured or a cost"),
        (["toxicity_mean@jugde", "kl"], "did you mean 'toxicity_mean@judge'"),
    ],
)  # fmt: skip
def test_names_that_will_not_do(results, names, said):
    with pytest.raises(UsageError, match=said):
        frontier(compare(results), names)


def test_a_row_without_a_value_is_named(results, add_run):
    add_run(results, "e", {"toxicity_mean@judge": np.linspace(0.2, 0.3, N)})
    with pytest.raises(ResultsError, match="--frontier: e was not measured in all of toxicity_mean@judge, kl"):
        frontier(compare(results), ["toxicity_mean@judge", "kl"])


def test_the_command_line(results):
    result = CliRunner().invoke(main, ["compare", str(results), "--frontier", "toxicity_mean@judge, kl"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines()}
    assert lines["d"].endswith("on the frontier")
    assert lines["b"].endswith("a (shown), c (shown)")
    assert lines["c"].endswith("  a")
