from __future__ import annotations

import pytest

from alignbench.comparison.listing import render_runs
from alignbench.errors import ResultsError


def test_listing_shows_every_state(tmp_path, add_run, begin):
    results = tmp_path
    for name in ("untrained", "ppo"):
        add_run(results, name, {"kl": [0.1, 0.2]})
    begin(results, "dpo_killed").release()
    stopped = begin(results, "dpo_stopped")
    stopped.log_step(1, {"objective/kl": 0.0})
    stopped.fail("KeyboardInterrupt")
    broken = begin(results, "dpo_broken")
    broken.log_step(1, {"objective/kl": 0.0})
    broken.fail("loss is not finite")
    (results / "ppo" / "seed0" / "status.json").write_text("{")
    with begin(results, "dpo_now"):
        text = render_runs(results)
    rows = {line.split()[0]: line for line in text.splitlines() if line and not line.startswith(" ")}
    assert "complete" in rows["untrained"]
    assert "interrupted" in rows["dpo_killed"]
    assert "interrupted" in rows["dpo_stopped"]
    assert "failed" in rows["dpo_broken"]
    assert "running" in rows["dpo_now"]
    remarks = " ".join(text.split())
    assert "failed: loss is not finite" in remarks
    assert "dpo_stopped/.seed0.partial: unfinished, run its recipe again and it goes on" in remarks
    assert "ppo/seed0: corrupt" in remarks
    assert max(len(line) for line in text.splitlines()) <= 120


def test_listing_of_nothing(tmp_path):
    with pytest.raises(ResultsError, match="no runs in"):
        render_runs(tmp_path / "nowhere")
    with pytest.raises(ResultsError, match="no runs in"):
        render_runs(tmp_path)
