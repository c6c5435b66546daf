"""Upstream runs in roles that a method declares: loaded, checked, charged, and part of the run's identity."""

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

from alignbench import plugins
from alignbench.errors import RecipeError, UsageError
from alignbench.methods.base import Facts
from alignbench.models.loading import weights_fingerprint
from alignbench.pipeline import execute
from alignbench.pipeline.inputs import inputs_of
from alignbench.pipeline.plan import plan
from alignbench.recipe.loading import load
from alignbench.records import fingerprint
from alignbench.results import layout
from alignbench.results.reader import read_run

LOADED = {}
"""Fingerprints of the policies that the method below has loaded, by role."""


@dataclass(frozen=True)
class Contrasted:
    """Loads an expert and an anti-expert, and leaves the policy as it is."""

    facts: ClassVar[Facts] = Facts(
        architectures=frozenset({"causal"}), roles=frozenset({"policy", "expert", "anti_expert"})
    )

    strength: float = 1.0
    """How much they count."""

    def train(self, data, run):
        """Loads them."""
        for role in ("expert", "anti_expert"):
            LOADED[role] = weights_fingerprint(run.load_upstream(role).model)
        return run.policy


@pytest.fixture
def folder(recipe_folder, monkeypatch):
    offered = [EntryPoint("contrasted", f"{__name__}:Contrasted", "alignbench.methods")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: offered if group == "alignbench.methods" else [])
    plugins.entries_of.cache_clear()
    write("contrasted", {"expert": "dpo", "anti_expert": "ppo"})
    LOADED.clear()
    yield recipe_folder
    monkeypatch.undo()
    plugins.entries_of.cache_clear()


def write(name, builds_on, **more):
    recipe = {"extends": "shared.yaml", "name": name, "method": {"name": "contrasted"}, "builds_on": builds_on, **more}
    Path(f"{name}.yaml").write_text(json.dumps(recipe))


SMALL = ["evaluation.evaluate_every=0", "evaluation.n_prompts=5"]


def test_they_run_first_are_loaded_by_role_and_charged(folder):
    loaded = load(["contrasted.yaml"], SMALL)
    planned = plan(loaded)
    assert [one.recipe.name for one in planned] == ["dpo", "ppo", "contrasted"]
    roles = {"expert": "dpo", "anti_expert": "ppo"}
    assert {role: other.recipe.name for role, other in planned[2].upstream.items()} == roles

    outcomes = execute.run(loaded, Path("results"))
    assert [outcome.state for outcome in outcomes] == ["done"] * 3, outcomes
    runs = {name: read_run(Path(f"results/{name}/seed0")) for name in ("dpo", "ppo", "contrasted")}
    assert LOADED["expert"] != LOADED["anti_expert"]
    records = runs["contrasted"].status.upstream
    assert [(one.role, one.recipe, one.run_hash) for one in records] == [
        ("expert", "dpo", runs["dpo"].status.run_hash), ("anti_expert", "ppo", runs["ppo"].status.run_hash),
    ]  # fmt: skip
    drawn = runs["dpo"].status.upstream_cost.training_completions + runs["ppo"].status.cost.training_completions
    assert drawn > 32
    assert runs["contrasted"].status.upstream_cost.training_completions == drawn
    artifacts = {"expert": runs["dpo"].artifact, "anti_expert": runs["ppo"].artifact}
    read = inputs_of(loaded[0].recipe, artifacts)
    assert {"builds_on.expert", "builds_on.anti_expert"} <= set(read)
    assert runs["contrasted"].status.inputs["builds_on.expert"] == read["builds_on.expert"]

    assert [outcome.state for outcome in execute.run(loaded, Path("results"))] == ["kept"] * 3
    # The resolved recipe that lies beside a run finds them in the same results folder.
    (again,) = load([f"results/contrasted/seed0/{layout.RECIPE_FILE}"])
    assert {role: other.name for role, other in again.upstream.items()} == roles
    assert again.run_hash == loaded[0].run_hash


def test_identity_goes_by_what_they_are_and_by_their_roles(folder):
    def run_hash(*sets):
        return load(["contrasted.yaml"], sets)[0].run_hash

    plain = run_hash()
    write("contrasted", {"expert": "ppo", "anti_expert": "dpo"})
    assert run_hash() != plain
    write("contrasted", {"anti_expert": "ppo", "expert": "dpo"})
    assert run_hash() == plain
    renamed = json.loads(Path("dpo.yaml").read_text()) | {"name": "other"}
    Path("other.yaml").write_text(json.dumps(renamed))
    write("contrasted", {"anti_expert": "ppo", "expert": "other"})
    assert run_hash() == plain
    Path("other.yaml").write_text(json.dumps(renamed | {"method": {"name": "dpo", "batch_size": 2}}))
    assert run_hash() != plain

    (ppo,) = load(["ppo.yaml"])
    assert "builds_on" not in ppo.recipe.resolved()
    assert fingerprint(ppo.recipe.resolved()) == fingerprint(load(["ppo.yaml"])[0].recipe.resolved())


def refused(*sets, name="contrasted"):
    with pytest.raises(RecipeError) as caught:
        load([f"{name}.yaml"], sets)
    return "\n".join(map(str, caught.value.problems))


def test_roles_that_the_method_does_not_take(folder):
    write("contrasted", {"expret": "dpo"})
    said = refused()
    assert "contrasted.yaml: builds_on.expret: got a role that the method contrasted does not take" in said
    assert "did you mean 'expert'" in said
    assert "one of builds_on.anti_expert, builds_on.expert, policy.run" in said
    assert "builds_on.expert: got a role that the method ppo does not take" in refused(
        "builds_on={expert: dpo}", name="ppo"
    )
    assert "reward.run: got a role that the method contrasted does not take" in refused("reward.run=reward_model")


def test_what_gives_something_else_what_is_not_there_and_circles(folder):
    write("contrasted", {"expert": "reward_model", "anti_expert": "ppo"})
    expected = "builds_on.expert: got reward_model, which gives a reward, expected a recipe that trains a policy"
    assert expected in refused()
    write("contrasted", {"expert": "contrasted"})
    assert 'builds_on.expert: got "contrasted", expected another recipe' in refused()
    write("contrasted", {"expert": "nothing"})
    with pytest.raises(UsageError, match=r"contrasted\.yaml: builds_on\.expert: no file 'nothing'"):
        load(["contrasted.yaml"])
    write("contrasted", {"expert": "back"})
    write("back", {"anti_expert": "contrasted"})
    said = refused()
    assert "contrasted.yaml: builds_on.expert: got a circle: contrasted > back > contrasted" in said
    write("contrasted", {"policy": "dpo"})
    assert 'builds_on.policy: got "dpo", expected it left out here, and the recipe named by policy.run' in refused()


def test_prompts_that_it_holds_out_were_not_trained_on_by_them(folder):
    dpo = json.loads(Path("dpo.yaml").read_text()) | {"data": {"heldout_fraction": 0.3}}
    Path("dpo.yaml").write_text(json.dumps(dpo))
    with pytest.raises(UsageError, match=r"contrasted: builds_on\.expert: dpo has another `data` block"):
        plan(load(["contrasted.yaml"]))


def test_a_role_that_is_not_filled_is_said_when_it_is_asked_for(folder):
    write("contrasted", {"expert": "dpo"})
    outcomes = execute.run(load(["contrasted.yaml"], SMALL), Path("results"))
    expected = "builds_on.anti_expert: got nothing, expected the recipe whose policy has this role"
    assert expected in str(outcomes[-1].error)


def test_trials_and_tuned_recipes_follow(folder):
    suite = {
        "name": "s", "description": "words", "recipes": ["dpo.yaml", "ppo.yaml", "contrasted.yaml"], "seeds": [1],
        "sweep": {
            "trials": 2, "criterion": {"metric": "toxicity_mean", "scorer": "judge"},
            "grids": {"dpo": {"method.beta": [0.1, 0.2]}, "ppo": {"method.kl_coef": [0.1, 0.2]},
                      "contrasted": {"method.strength": [1.0, 2.0]}},
        },
    }  # fmt: skip
    Path("suite.yaml").write_text(json.dumps(suite))
    contrasted = load(["suite.yaml"])[-1]
    tuned = contrasted.tuned({"dpo": {"method.beta": 0.2}, "ppo": {"method.kl_coef": 0.1}})
    assert tuned.upstream["expert"].recipe.method.beta == 0.2
    trial = tuned.trial(0, {"method.strength": 2.0})
    assert trial.recipe.method.strength == 2.0
    assert {other.recipe.seed for other in trial.upstream.values()} == {trial.recipe.seed}
    assert trial.upstream["expert"].recipe.method.beta == 0.2
