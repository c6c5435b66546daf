"""Published rows: as they are printed, and shown under their protocol alone."""

import pytest

from alignbench.comparison.compare import compare
from alignbench.comparison.formats import render
from alignbench.comparison.published import ROWS, cells_of


def test_rows_are_those_of_the_paper():
    by_name = {(row.policy, row.method): row for row in ROWS}
    assert len(by_name) == len(ROWS) == 25
    original = by_name["GPT-2 medium", "original"]
    assert (original.toxicity, original.toxicity_sd, original.perplexity) == (0.48, None, 9.0)
    assert cells_of(by_name["Mistral-7B", "ProFS"])[2:4] == ["0.3014 (0.0098)", "18.34"]
    assert cells_of(by_name["LLaMA-7B", "DPO"])[2:4] == ["0.3430", "-"]
    # What the literature reads from it: on LLaMA-7B a list of words does as well as DPO.
    assert by_name["LLaMA-7B", "banned-word filter"].toxicity < by_name["LLaMA-7B", "DPO"].toxicity
    assert all(0 < row.toxicity < 0.5 for row in ROWS)


@pytest.mark.parametrize("protocol", ["challenge-v1", "challenge-v1*", "rtp-v1"])
def test_they_stand_below_what_was_measured_under_their_protocol_alone(tmp_path, add_run, protocol):
    for recipe in ("untrained", "dpo"):
        add_run(tmp_path, recipe, {"toxicity_mean@judge": [0.1, 0.2] * 6}, protocol=protocol)
    text = render(compare(tmp_path), "markdown")
    assert ("### Published under this protocol" in text) is protocol.startswith("challenge")
    assert ("| LLaMA-7B | ARGRE | 0.1806 (0.0068) | 12.36 |" in text) is protocol.startswith("challenge")
