"""One declaration of harm: reward, pairs and evaluation point the same way, for every label, transform and weight."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from fixtures.cases import few_of_product

from alignbench.cli import main
from alignbench.errors import ModelError, RecipeError, UsageError
from alignbench.pipeline import scorers
from alignbench.pipeline.plan import plan
from alignbench.recipe.loading import load

POLITE, RUDE = "you are very nice and kind", "you are stupid and bad"
TRANSFORMS = ("logit", "logprob", "probability", "margin")
HEADS = {
    # Labels, problem_type, and the factor of each output on a text's rudeness.
    "two": (("nothate", "hate"), None, (-1.0, 1.0)),
    "unnamed": (("LABEL_0", "LABEL_1"), "single_label_classification", (1.0, -1.0)),
    "three": (("hate", "normal", "offensive"), None, (1.0, -1.0, 0.5)),
    "one": (("toxicity",), None, (1.0,)),
    "many": (("toxic", "obscene", "threat"), "multi_label_classification", (1.0, 0.7, 0.2)),
    "undeclared": (("toxic", "obscene", "threat"), None, (1.0, 0.7, 0.2)),
}
FUNCTIONS = "def rude(prompts, completions):\n    return [float('stupid' in text) for text in completions]\n"


@pytest.fixture(scope="module")
def heads(checkpoints, tmp_path_factory):
    """Classifiers that tell POLITE from RUDE: every output is a factor times one direction of the features."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    root = tmp_path_factory.mktemp("heads")
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "judge")
    for name, (labels, problem_type, factors) in HEADS.items():
        model = AutoModelForSequenceClassification.from_pretrained(checkpoints / "judge").eval()
        with torch.no_grad():
            read = model.distilbert(**tokenizer([POLITE, RUDE], padding=True, return_tensors="pt"))[0][:, 0]
            polite, rude = model.pre_classifier(read).relu()
            direction = (rude - polite) / (rude - polite).norm() ** 2
            model.classifier = torch.nn.Linear(len(direction), len(labels))
            model.classifier.weight.copy_(torch.tensor(factors)[:, None] * 3 * direction)
            model.classifier.bias.copy_(-torch.tensor(factors) * 3 * (direction @ (rude + polite) / 2))
        model.config.id2label, model.config.problem_type = dict(enumerate(labels)), problem_type
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


CPU = torch.device("cpu")


def reward_of(recipe):
    return scorers.training_reward(recipe, {}, "", CPU)


def labeller_of(recipe):
    return scorers.labeller(recipe, {}, "", CPU)


def judges_of(recipe):
    return scorers.judges(recipe, "", CPU)


def recipe_of(folder, reward, method="ppo"):
    recipe = json.loads((folder / f"{method}.yaml").read_text()) | {"name": "x", "reward": reward}
    (folder / "x.yaml").write_text(json.dumps(recipe | {"evaluation": {"scorers": ["reward"]}}))
    [loaded] = load(["x.yaml"], ["reward.label=null"] if "label" not in reward else [])
    return loaded.recipe


def of_texts(scorer):
    return scorer.score(["", ""], [POLITE, RUDE])


HARMLESS = {"two": "nothate", "unnamed": "LABEL_1", "three": "normal"}
HARMFUL = {"two": "hate", "unnamed": "LABEL_0", "three": "hate", "one": "toxicity", "many": "toxic"}
DECLARED = {
    **{f"{head} harmless": (head, {"label": label}) for head, label in HARMLESS.items()},
    **{f"{head} harmful": (head, {"harmful_label": label}) for head, label in HARMFUL.items()},
    "independent": ("undeclared", {"harmful_label": "obscene", "outputs": "independent"}),
    "exclusive": ("undeclared", {"harmful_label": "toxic", "outputs": "exclusive"}),
}
OF_TWO_KINDS = itertools.product(("two harmless", "many harmful"), TRANSFORMS)
FEW = {*((name, "logit") for name in DECLARED), *OF_TWO_KINDS}


@pytest.mark.parametrize(
    ("declaration", "transform"), few_of_product(DECLARED, {name: name for name in TRANSFORMS}, FEW)
)
def test_reward_pairs_and_evaluation_agree(recipe_folder, heads, declaration, transform):
    head, declared = declaration
    settings = {"classifier": str(heads / head), "transform": transform, **declared}
    independent = head in ("one", "many") or declared.get("outputs") == "independent"
    if transform == "margin" and independent:
        with pytest.raises(ModelError, match=r"^reward\.transform: got margin, .*expected logit"):
            reward_of(recipe_of(recipe_folder, settings))
        return
    for weight in (1.0, 0.25, 3.0):
        recipe = recipe_of(recipe_folder, settings | {"weight": weight})
        for scorer in (reward_of(recipe), labeller_of(recipe)):
            polite, rude = of_texts(scorer)
            assert polite > rude
        polite, rude = of_texts(judges_of(recipe)["reward"])
        assert 0 < polite < 0.5 < rude < 1
    with pytest.raises(RecipeError) as caught:
        recipe_of(recipe_folder, settings | {"weight": -1.0})
    (problem,) = caught.value.problems
    assert problem.where.endswith("reward.weight")
    assert "harmful_label" in problem.expected


def test_the_two_labels_of_a_softmax_are_one_declaration(recipe_folder, heads):
    """By hand: that hate does not hold is that nothate does; a raw logit alone has no complement but its negative."""
    for transform in TRANSFORMS:
        both = [{"label": "nothate"}, {"harmful_label": "hate"}]
        recipes = [
            recipe_of(recipe_folder, {"classifier": str(heads / "two"), "transform": transform, **one}) for one in both
        ]
        plain, complement = (of_texts(reward_of(one)) for one in recipes)
        assert plain == pytest.approx(complement, rel=1e-5)  # the two logits of this head are each other's negatives
        plain, complement = (of_texts(judges_of(one)["reward"]) for one in recipes)
        assert plain == pytest.approx(complement, rel=1e-5)


def test_a_raw_logit_is_negated(recipe_folder, heads):
    settings = {"classifier": str(heads / "three"), "harmful_label": "offensive"}
    reward = reward_of(recipe_of(recipe_folder, settings))
    ids = reward.tokenizer([POLITE, RUDE], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = reward.model(**ids).logits
    assert of_texts(reward) == pytest.approx((-logits[:, 2]).tolist(), rel=1e-5)
    harm = judges_of(recipe_of(recipe_folder, settings))["reward"]
    assert of_texts(harm) == pytest.approx(logits.softmax(1)[:, 2].tolist(), rel=1e-5)


def test_outputs_decide_how_an_undeclared_head_is_read(recipe_folder, heads):
    """Oracle: the checkpoint that declares itself, with the same weights."""
    settings = {"classifier": str(heads / "undeclared"), "harmful_label": "toxic"}
    with pytest.raises(ModelError, match=r"^reward\.outputs: got nothing, .*\(toxic, obscene, threat\)"):
        reward_of(recipe_of(recipe_folder, settings))
    by_key = judges_of(recipe_of(recipe_folder, settings | {"outputs": "independent"}))["reward"]
    itself = judges_of(recipe_of(recipe_folder, settings | {"classifier": str(heads / "many")}))["reward"]
    assert of_texts(by_key) == of_texts(itself)
    softmax = judges_of(recipe_of(recipe_folder, settings | {"outputs": "exclusive"}))["reward"]
    assert of_texts(softmax) != pytest.approx(of_texts(by_key), abs=0.05)
    assert softmax.fingerprint != by_key.fingerprint
    with pytest.raises(
        ModelError, match=r"^reward\.outputs: got exclusive, but the checkpoint's problem_type is multi"
    ):
        labeller_of(recipe_of(recipe_folder, settings | {"classifier": str(heads / "many"), "outputs": "exclusive"}))


def test_a_judge_has_the_same_key(recipe_folder, heads):
    judge = {"name": "judge", "classifier": str(heads / "undeclared"), "label": "toxic"}
    for outputs in (None, "independent"):
        [loaded] = load(["base.yaml"], [f"evaluation.scorers={json.dumps([judge | {'outputs': outputs}])}"])
        recipe = loaded.recipe
        if outputs is None:
            with pytest.raises(ModelError, match=r"^evaluation\.scorers: judge\.outputs: got nothing"):
                judges_of(recipe)
        else:
            polite, rude = of_texts(judges_of(recipe)["judge"])
            assert polite < 0.5 < rude


# Functions, reward models and added terms


@pytest.mark.parametrize("weight", [-2.0, 0.5])
def test_a_function_may_count_either_way_and_labels_pairs_as_it_trains(recipe_folder, weight):
    Path("rewards.py").write_text(FUNCTIONS)
    settings = {"classifier": None, "function": "rewards.py:rude", "weight": weight}
    changes = {"name": "x", "reward": settings, "evaluation": {"scorers": [{"lexicon": "words.txt"}]}}
    Path("words.txt").write_text("stupid\n")
    Path("x.yaml").write_text(json.dumps(json.loads(Path("dpo.yaml").read_text()) | changes))
    [loaded] = load(["x.yaml"])
    assert of_texts(reward_of(loaded.recipe)) == of_texts(labeller_of(loaded.recipe)) == [0.0, weight]


def test_beside_a_function_the_classifier_still_says_what_harm_is(recipe_folder, heads):
    Path("rewards.py").write_text(FUNCTIONS)
    settings = {
        "function": "rewards.py:rude",
        "weight": -1.0,
        "classifier": str(heads / "many"),
        "harmful_label": "toxic",
    }
    recipe = recipe_of(recipe_folder, settings)
    assert of_texts(reward_of(recipe)) == [0.0, -1.0]
    polite, rude = of_texts(labeller_of(recipe))
    assert polite > rude
    polite, rude = of_texts(judges_of(recipe)["reward"])
    assert polite < rude


BLOCK = {"classifier": "c", "label": "nothate"}
TERM = {"name": "x", "classifier": "c"}


@pytest.mark.parametrize(
    ("reward", "key", "expected"),
    [
        ({"run": "reward_model", "weight": -1.0}, "weight", "a reward model gives more to what its pairs prefer"),
        ({"classifier": "c", "harmful_label": "hate", "weight": -1.0}, "weight", "harm counts against a text already"),
        ({"classifier": "c", "label": "a", "harmful_label": "b"}, "harmful_label", "left out beside `label`"),
        (BLOCK | {"also": [TERM | {"label": "nothate", "weight": -0.5}]}, "also", "as also.0 does: the same label"),
        (BLOCK | {"also": [TERM | {"harmful_label": "nothate"}]}, "also", "as also.0 does: the same label"),
        (
            {"classifier": "c", "harmful_label": "hate", "also": [TERM | {"label": "hate"}]},
            "also",
            "as also.0 does: the same label",
        ),
        (
            BLOCK | {"also": [TERM | {"harmful_label": "hate", "weight": -1.0}]},
            "also.0.weight",
            "against a text already",
        ),
        (BLOCK | {"outputs": "sigmoid"}, "outputs", "'exclusive' or 'independent'"),
    ],
)
def test_two_signs_are_refused_by_the_key(recipe_folder, reward, key, expected):
    recipe = json.loads(Path("ppo.yaml").read_text()) | {"name": "x", "extends": "bare.yaml", "reward": reward}
    shared = json.loads(Path("shared.yaml").read_text())
    del shared["reward"]
    shared["evaluation"]["scorers"] = [{"lexicon": "words.txt"}]
    Path("words.txt").write_text("stupid\n")
    Path("bare.yaml").write_text(json.dumps(shared))
    Path("x.yaml").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError) as caught:
        load(["x.yaml"])
    (problem,) = caught.value.problems
    assert problem.where.endswith(f"reward.{key}")
    assert expected in problem.expected


@pytest.mark.parametrize(
    "also",
    [{"label": "nothate", "weight": 0.5}, {"harmful_label": "hate"}, {"label": "hate", "weight": -1.0}],
)
def test_terms_that_point_the_same_way_are_taken(recipe_folder, also):
    [loaded] = load(["ppo.yaml"], [f"reward.also={json.dumps([TERM | also])}", "reward.classifier=c"])
    assert loaded.recipe.reward.also[0].weight == also.get("weight", 1.0)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["reward.label=toxic"], "reward.label: got 'toxic', a name of harm, expected the harmless class: "),
        (["reward.label=HATE"], "write `harmful_label: HATE` in its place"),
        (["reward.label=unsafe"], "write `harmful_label: unsafe` in its place"),
        (["reward.label=null", "reward.harmful_label=not_hate"], "write `label: not_hate` in its place"),
    ],
)
def test_a_name_is_not_taken_for_its_opposite(recipe_folder, sets, expected):
    with pytest.raises(UsageError) as caught:
        plan(load(["ppo.yaml"], sets))
    assert expected in str(caught.value)
    result = CliRunner().invoke(main, ["check", "ppo.yaml", *(word for one in sets for word in ("--set", one))])
    assert (result.exit_code, result.output) == (2, f"Error: {caught.value}\n")
    assert plan(load(["ppo.yaml"], [*sets, "reward.may_oppose_judges=true"]))


@pytest.mark.parametrize(
    ("also", "pays_for_harm"),
    [
        ({"label": "toxic"}, True),
        ({"label": "nothate", "weight": -1.0}, True),
        ({"harmful_label": "safe"}, True),
        ({"label": "toxic", "weight": -1.0}, False),
        ({"harmful_label": "toxic"}, False),
        ({"label": "nothate"}, False),
        ({"label": "LABEL_1"}, False),
        ({"label": "toxic", "weight": 0.0}, False),
    ],
)
def test_no_added_term_pays_for_what_its_label_calls_harm(recipe_folder, also, pays_for_harm):
    sets = [f"reward.also={json.dumps([{'name': 'x', 'classifier': 'another'} | also])}"]
    if pays_for_harm:
        with pytest.raises(UsageError, match=r"^reward\.also\.0: pays for harm, by the name of its label '"):
            plan(load(["ppo.yaml"], sets))
        sets.append("reward.may_oppose_judges=true")
    assert plan(load(["ppo.yaml"], sets))


def test_the_label_of_a_judge_is_the_harmful_one(recipe_folder):
    for label, is_taken in (("toxic", True), ("LABEL_1", True), ("nothate", False), ("neutral", False)):
        recipes = load(["base.yaml"], [f"evaluation.scorers=[{{classifier: c, label: {label}}}]"])
        if is_taken:
            assert plan(recipes)
        else:
            with pytest.raises(
                UsageError, match=rf"^evaluation\.scorers: judge\.label: got '{label}', no name of harm"
            ):
                plan(recipes)
    scaled = "evaluation.scorers=[{classifier: c, label: safe, scale: [1, 0]}]"
    assert plan(load(["base.yaml"], [scaled]))  # the scale turns it


def test_that_a_reward_may_oppose_judges_is_no_identity(recipe_folder):
    [plain], [free] = load(["ppo.yaml"]), load(["ppo.yaml"], ["reward.may_oppose_judges=true"])
    assert plain.run_hash == free.run_hash
