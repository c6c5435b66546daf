"""What a recipe builds on."""

from __future__ import annotations

import pytest
from fixtures.recipe_texts import DPO, LEARNED, PPO, REWARD_MODEL, loaded_one, problems

from alignbench.errors import UsageError
from alignbench.recipe.loading import load


def test_upstream_is_found_beside_the_file_and_inherits_what_applies(write):
    write("my_rm.yaml", REWARD_MODEL.replace("method: {", "method: {epochs: 3, "))
    loaded = loaded_one(
        write("ppo.yaml", LEARNED), sets=["policy.model=other/model", "method.gamma=0.5"], seeds=[5], name="renamed"
    )
    assert list(loaded.upstream) == ["reward"]
    reward_model = loaded.upstream["reward"].recipe
    assert (reward_model.name, reward_model.method_name, reward_model.seed) == ("my_rm", "reward_model", 5)
    assert reward_model.method.epochs == 3
    assert reward_model.policy.model == "other/model"
    assert loaded.upstream["reward"].upstream == {}


def test_a_dependency_given_by_set_does_not_depend_on_itself(write):
    write("my_rm.yaml", REWARD_MODEL)
    upstream = loaded_one(write("ppo.yaml", PPO), sets=["reward.run=my_rm"]).upstream["reward"].recipe
    assert upstream.reward.run is None
    assert upstream.reward.classifier == "some/classifier"


def test_upstream_in_the_same_suite_wins_with_its_own_overrides(write):
    write("my_rm.yaml", REWARD_MODEL)
    write("ppo.yaml", LEARNED)
    write("s.yaml", "name: s\nrecipes: [ppo.yaml, {recipe: my_rm.yaml, overrides: {method: {epochs: 9}}}]\n")
    learned, reward_model = load(["s.yaml"])
    assert learned.upstream["reward"] == reward_model
    assert reward_model.recipe.method.epochs == 9


def test_policy_upstream(write):
    write("my_dpo.yaml", DPO)
    loaded = loaded_one(write("ppo.yaml", PPO.replace("some/model", "some/model, run: my_dpo")))
    assert {role: other.name for role, other in loaded.upstream.items()} == {"policy": "my_dpo"}


def test_resolved_recipe_of_a_run_depends_on_the_run_beside_it(write):
    write("my_rm.yaml", REWARD_MODEL)
    loaded = loaded_one(write("ppo.yaml", LEARNED), sets=["policy.model=here"])
    write("results/my_ppo/seed0/recipe.resolved.yaml", loaded.recipe.to_yaml())
    write("results/my_rm/seed0/recipe.resolved.yaml", loaded.upstream["reward"].recipe.to_yaml())
    again = loaded_one("results/my_ppo/seed0/recipe.resolved.yaml")
    assert again == loaded
    assert again.upstream == loaded.upstream


def test_wrong_dependencies(write):
    with pytest.raises(UsageError, match=r"ppo\.yaml: reward\.run: no file 'my_rm'"):
        load([write("ppo.yaml", LEARNED)])
    write("my_rm.yaml", DPO)
    (problem,) = problems("ppo.yaml")
    assert problem.startswith(
        "ppo.yaml: reward.run: got my_dpo, which gives a policy, expected a recipe that trains a rew"
    )
    write("my_rm.yaml", REWARD_MODEL + "seed: x\nhardware: {threads: 0}\n")
    assert [p.partition(": got")[0] for p in problems("ppo.yaml")] == ["my_rm.yaml: hardware.threads"]
    write("my_rm.yaml", REWARD_MODEL.replace("some/model}", "some/model, run: my_ppo}"))
    (problem,) = problems(write("my_ppo.yaml", LEARNED))
    assert problem.startswith("my_ppo.yaml: reward.run: got a circle: my_ppo > my_rm > my_ppo, expected")
