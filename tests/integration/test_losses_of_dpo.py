"""The losses of DPO that no shipped recipe has, trained to their end in the embedded world."""

import json
from pathlib import Path

import pytest

import alignbench
import recipes
from alignbench.comparison.compare import compare
from alignbench.methods.dpo import FIRST_LOSS
from alignbench.pipeline import execute
from alignbench.recipe.loading import load

LOSSES = ("robust", "cdpo", "sppo_hard", "apo_zero", "apo_down")
SHARED = str(Path(recipes.__file__).parent / "_shared" / "embedded.yaml")


@pytest.mark.slow
def test_every_loss_lowers_toxicity_by_the_held_out_judge(tmp_path, monkeypatch):
    """From the loss of a policy that is its reference down, at the step size of the plain one; seed 0."""
    monkeypatch.setenv("ALIGNBENCH_CACHE", str(tmp_path / "cache"))
    entries = [{"recipe": "base"}]
    for loss in LOSSES:
        method = {"loss": loss, "learning_rate": 2e-4, "epochs": 2}
        method |= {"label_smoothing": 0.1} if loss in ("robust", "cdpo") else {}
        entries.append({"recipe": "dpo_classifier_pairs", "name": f"dpo_{loss}", "overrides": {"method": method}})
    overrides = {"extends": SHARED, "budget": {"completions": 2048}, "evaluation": {"evaluate_every": 0}}
    suite = {"name": "losses", "overrides": overrides, "recipes": entries, "seeds": [0]}
    (tmp_path / "losses.yaml").write_text(json.dumps(suite))
    outcomes = execute.run(load([str(tmp_path / "losses.yaml")]), tmp_path / "results")
    assert [outcome.state for outcome in outcomes] == ["done"] * 6, [outcome.error for outcome in outcomes]
    log = alignbench.load_train_log(tmp_path / "results").set_index("recipe")["policy/loss"]
    for loss in LOSSES:
        found = log[f"dpo_{loss}"]
        assert found.iloc[0] == pytest.approx(FIRST_LOSS[loss](0.1), rel=1e-5)
        assert found.iloc[-8:].mean() < found.iloc[0]
    records = compare([tmp_path / "results"]).records()
    judged = {r["recipe"]: r["verdict"] for r in records if (r["metric"], r["scorer"]) == ("toxicity_mean", "judge")}
    assert {judged[f"dpo_{loss}"] for loss in LOSSES} == {"better"}, judged
