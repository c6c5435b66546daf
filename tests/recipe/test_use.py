"""What a recipe says in vain: blocks that its method does not read, budget that is not spent or pays for nothing."""

import pytest

from alignbench.errors import TrainingError
from alignbench.recipe.loading import load

DEMONSTRATIONS, LABELS = "demonstrations={take: best}", "labelled_completions={wanted_from: 0.5}"
STORED = "pairs.source=stored.jsonl"
KTO = "method={name: kto, batch_size: 4}"
STEERLM = "method={name: steerlm}"


def recipe(name, *sets):
    (loaded,) = load([f"{name}.yaml"], sets)
    return loaded.recipe


@pytest.mark.parametrize(
    ("name", "sets", "expected"),
    [
        ("ppo", [DEMONSTRATIONS], ["demonstrations has no effect: the method ppo does not learn from demonstrations"]),
        ("ppo", [DEMONSTRATIONS, "method.ptx_coef=0.5"], []),
        ("dpo", [DEMONSTRATIONS, LABELS], ["demonstrations has no effect", "labelled_completions has no effect"]),
        ("dpo", [STORED], []),
        ("base", [STORED], ["pairs.source has no effect: the method untrained does not learn from preference pairs"]),
        ("dpo", [KTO, LABELS], []),
        ("dpo", [STEERLM, LABELS], ["labelled_completions has no effect: the method steerlm"]),
        ("dpo", [KTO, STORED], ["pairs.source has no effect"]),
        ("dpo", ["method={name: sft}", DEMONSTRATIONS], []),
    ],
)
def test_a_block_that_nothing_reads_is_named(recipe_folder, name, sets, expected):
    found = recipe(name, *sets).cautions()
    assert len(found) == len(expected)
    for one, said in zip(expected, found, strict=True):
        assert one in said


def test_ppo_is_told_how_to_mix_demonstrations_in(recipe_folder):
    assert "; method.ptx_coef above 0 would mix them in" in recipe("ppo", DEMONSTRATIONS).cautions()[0]
    assert "ptx_coef" not in recipe("dpo", DEMONSTRATIONS).cautions()[0]


@pytest.mark.parametrize(
    ("name", "sets", "least"),
    [
        ("ppo", [], "8: one batch (method.batch_size)"),
        ("dpo", [], "2: pairs.completions_per_prompt times one prompt"),
        ("dpo", ["pairs.n_prompts=10"], "20: pairs.completions_per_prompt times pairs.n_prompts"),
        ("ppo", [DEMONSTRATIONS, "method.ptx_coef=1", "pairs.n_prompts=10"], "20: pairs.completions_per_prompt times"),
    ],
)
def test_a_budget_that_pays_for_nothing_is_refused(recipe_folder, name, sets, least):
    enough = int(least.partition(":")[0])
    recipe(name, *sets, f"budget.completions={enough}").check_budget()
    with pytest.raises(TrainingError) as caught:
        recipe(name, *sets, f"budget.completions={enough - 1}").check_budget()
    assert f"{name}: budget.completions: got {enough - 1}, expected at least {least}" in str(caught.value)


@pytest.mark.parametrize("sets", [["method={name: sft}"], [STORED]])
def test_what_is_not_drawn_costs_no_budget(recipe_folder, sets):
    recipe("dpo", *sets, "budget.completions=1").check_budget()
    recipe("reward_model", STORED, "budget.completions=1").check_budget()


def test_what_a_last_step_would_need_is_said_to_be_left(recipe_folder):
    assert recipe("ppo", "budget.completions=20").cautions() == [
        "4 of budget.completions 20 are not spent: a training step takes 8"
    ]
    assert recipe("ppo").cautions() == recipe("dpo", "budget.completions=31").cautions() == []
