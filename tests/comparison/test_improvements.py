"""Before, after and percent: the numbers of the course's notebook, by hand."""

import numpy as np
import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.document import document
from alignbench.comparison.improvements import improvement


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.0348, 0.0304, 12.643678),  # the mean of one public run of the notebook, from its rounded numbers
        (0.0314, 0.0352, -12.101911),  # its standard deviation, which grew
        (0.0, 0.1, None),
        (None, 0.1, None),
        (0.1, None, None),
    ],
)
def test_improvement_by_hand(before, after, expected):
    assert improvement(before, after) == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize("protocol", ["lab3-v1", "quickstart-v1"])
def test_the_table_stands_in_comparisons_of_the_course_alone(tmp_path, add_run, protocol):
    rng = np.random.default_rng(0)
    for recipe, mean in (("untrained", 0.4), ("lab3_ppo", 0.3)):
        scores = mean + rng.normal(0, 0.01, 40)
        add_run(tmp_path, recipe, {"toxicity_mean@judge": scores}, protocol=protocol.rstrip("*"))
    sections = document(compare(tmp_path)).sections
    found = [one for one in sections if one.title.startswith("Before and after")]
    assert len(found) == (protocol == "lab3-v1")
    for one in found:
        ((recipe, scorer, before, after, percent, *_),) = one.rows
        assert (recipe, scorer) == ("lab3_ppo", "judge")
        assert float(percent.rstrip(" %")) == pytest.approx(
            100 * (float(before) - float(after)) / float(before), abs=0.1
        )
