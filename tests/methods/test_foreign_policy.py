"""A method of another package, whose policy has no weights of its own: the best of n completions by a classifier."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import alignbench
from alignbench.errors import ModelError, RecipeError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.protocols import get_protocol
from alignbench.methods.base import Facts
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_policy
from alignbench.models.policy_file import read_policy_file, write_policy_file
from alignbench.pipeline import execute
from alignbench.recipe.loading import load
from alignbench.records import Completion, Cost, Decoding, Policy, Prompt, Scorer, total
from alignbench.scorers.text_classifier import ClassifierScorer

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat runs", "one red bird", "two"))]


def kindness(classifier: str) -> ClassifierScorer:
    return ClassifierScorer.load(
        classifier, where="method.classifier", revision=None, device=torch.device("cpu"),
        name="kindness", label="nothate", transform="probability",
    )  # fmt: skip


class BestOf:
    """Draws n completions where one is asked for, and gives the one that the classifier likes best."""

    def __init__(self, base: Policy, n: int, classifier: str) -> None:
        self.base, self.n, self.classifier, self.scorer = base, n, classifier, kindness(classifier)

    @property
    def spent(self) -> Cost:
        return total((self.base.spent, self.scorer.spent))

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, n_samples: int, key: Sequence[int | str]
    ) -> list[Completion]:
        drawn = self.base.generate(prompts, decoding, n_samples * self.n, key)
        owners = [prompt.text for prompt in prompts for _ in range(n_samples * self.n)]
        scores = self.scorer.score(owners, [one.text for one in drawn])
        best = [
            max(range(start, start + self.n), key=lambda i: scores[i] or 0.0) for start in range(0, len(drawn), self.n)
        ]
        return [
            Completion(drawn[i].prompt_id, place % n_samples, drawn[i].text, drawn[i].token_ids, drawn[i].finish_reason)
            for place, i in enumerate(best)
        ]

    def token_logprobs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> None:
        return None

    def save(self, directory: Path) -> None:
        write_policy_file(directory, "best_of", n=self.n, classifier=self.classifier)
        self.base.save(directory / "base")


def load_best_of(directory: Path, load_part: Any) -> BestOf:
    record = read_policy_file(directory)
    return BestOf(load_part(directory / "base"), record["n"], record["classifier"])


@dataclass(frozen=True)
class BestOfN:
    classifier: str
    n: int = 4

    facts: ClassVar[Facts] = Facts(architectures=frozenset({"causal"}), gives="policy", load_policy=load_best_of)

    def train(self, data: Any, run: Any) -> BestOf:
        return BestOf(run.policy, self.n, self.classifier)


@pytest.fixture
def best_of(installed, monkeypatch, checkpoints):
    """Installs the method; a recipe's block of it."""
    monkeypatch.setitem(sys.modules, "elsewhere", importlib.import_module(__name__))
    installed(("best_of", "elsewhere:BestOfN"))
    return {"name": "best_of", "classifier": str(checkpoints / "classifier")}


def measured(policy, reference):
    return evaluate(policy, reference, PROMPTS, get_protocol("quickstart-v1"), {}, seed=0, batch_prompts=3)


def test_a_saved_policy_is_the_policy(best_of, tiny_policy, tmp_path):
    policy = BestOf(tiny_policy(), 3, best_of["classifier"])
    policy.save(tmp_path / "artifact")
    again = load_policy(tmp_path / "artifact")
    assert isinstance(again, BestOf)
    assert isinstance(again, Policy)
    assert isinstance(again.base, LanguageModel)
    assert again.generate(PROMPTS, Decoding(6), 2, (0,)) == policy.generate(PROMPTS, Decoding(6), 2, (0,))
    assert again.n == 3


def test_options_reach_the_models_within(best_of, tiny_policy, tmp_path):
    BestOf(tiny_policy(), 2, best_of["classifier"]).save(tmp_path)
    again = load_policy(tmp_path, dtype="bfloat16")
    assert next(again.base.model.parameters()).dtype == torch.bfloat16


def test_a_policy_of_a_kind_that_is_not_installed(tiny_policy, tmp_path):
    write_policy_file(tmp_path, "best_off")
    with pytest.raises(ModelError, match=r"a policy of the kind 'best_off'.*unknown method.*install the package"):
        load_policy(tmp_path)
    write_policy_file(tmp_path, "dpo")
    with pytest.raises(ModelError, match=r"of the kind 'dpo', expected a method that gives one of its own"):
        load_policy(tmp_path)
    (tmp_path / "policy.json").write_text("[]")
    with pytest.raises(ModelError, match="names no kind"):
        load_policy(tmp_path)


@pytest.mark.parametrize("counted", [Cost(), Cost(generated_tokens=10**6), Cost(generation_flops=1e9)])
def test_what_a_policy_does_not_count_is_not_known_to_cost_nothing(best_of, tiny_policy, counted):
    class Uncounted(BestOf):
        calls = 0
        spent = property(lambda self: counted if self.calls else Cost())

        def generate(self, *asked):
            self.calls += 1
            return super().generate(*asked)

    assert measured(Uncounted(tiny_policy(), 2, best_of["classifier"]), tiny_policy()).answer_cost is None


def test_an_answer_costs_what_was_drawn_and_scored_for_it(best_of, tiny_policy):
    """Against the tokens of all draws, and the FLOPs of a plain model and of scoring by themselves."""
    plain, policy = tiny_policy(), BestOf(tiny_policy(), 4, best_of["classifier"])
    of_plain, of_best = (measured(one, tiny_policy()).answer_cost for one in (plain, policy))
    protocol = get_protocol("quickstart-v1")
    n = protocol.samples_per_prompt
    alone, scorer = tiny_policy(), kindness(best_of["classifier"])
    key = (0, "evaluation", protocol.name)
    drawn = alone.generate(PROMPTS, protocol.decoding, 4 * n, key)
    scorer.score([prompt.text for prompt in PROMPTS for _ in range(4 * n)], [one.text for one in drawn])
    answers = len(PROMPTS) * n
    assert of_best.generated_tokens == sum(len(one.token_ids) for one in drawn) / answers
    assert of_best.flops == pytest.approx((alone.spent.generation_flops + scorer.spent.forward_flops) / answers)
    once = [one for one in drawn if one.sample < n]
    assert of_plain.generated_tokens == sum(len(one.token_ids) for one in once) / answers
    assert of_best.generated_tokens > 3 * of_plain.generated_tokens


def cost_of_evaluation(recipe):
    return json.loads(Path(f"results/{recipe}/seed0/status.json").read_text())["evaluation_cost"]


def record_of(recipe):
    return json.loads(next(Path(f"results/{recipe}/seed0/evaluations").glob("*/metrics.json")).read_text())


def test_a_run_of_it_is_measured_charged_and_measured_again(best_of, recipe_folder):
    Path("four.yaml").write_text(json.dumps({"extends": "shared.yaml", "name": "four", "method": best_of}))
    outcomes = execute.run(load(["base.yaml", "four.yaml"], ["evaluation.evaluate_every=0"]), Path("results"))
    assert [outcome.state for outcome in outcomes] == ["done", "done"], outcomes
    base, four = record_of("base"), record_of("four")
    assert four["answer_cost"]["generated_tokens"] > 3 * base["answer_cost"]["generated_tokens"]
    assert four["answer_cost"]["flops"] > 4 * base["answer_cost"]["flops"]
    for key in ("generated_tokens", "generation_flops"):
        assert cost_of_evaluation("four")[key] > 3 * cost_of_evaluation("base")[key]
    toxicity = alignbench.load_metrics("results").set_index(["recipe", "metric", "scorer"])["value"]
    assert toxicity["four", "toxicity_mean", "reward"] < toxicity["base", "toxicity_mean", "reward"]
    # From the saved policy, as it was.
    shutil.rmtree("results/four/seed0/evaluations")
    [outcome] = execute.run(load(["four.yaml"], ["evaluation.evaluate_every=0"]), Path("results"))
    assert outcome.state == "done", outcome
    assert record_of("four") == four


def test_it_cannot_be_trained_on(best_of, recipe_folder):
    Path("four.yaml").write_text(json.dumps({"extends": "shared.yaml", "name": "four", "method": best_of}))
    after = json.loads(Path("ppo_after_dpo.yaml").read_text()) | {"name": "after", "policy": {"run": "four"}}
    Path("after.yaml").write_text(json.dumps(after))
    with pytest.raises(RecipeError) as caught:
        load(["after.yaml"])
    [problem] = caught.value.problems
    assert problem.where.endswith("policy.run")
    assert problem.got == "four, whose method best_of gives a policy without weights of its own"
    assert problem.expected == "a recipe that trains a language model: ppo starts from weights"


def test_what_it_computes_is_counted_once_along_training(best_of, tiny_policy):
    """The curve scores its completions by the same reward that the policy has asked: each is charged by itself."""
    from alignbench.pipeline.curve import with_reward
    from alignbench.runtime.ledger import spending

    policy = BestOf(tiny_policy(), 2, best_of["classifier"])
    reward: Scorer = policy.scorer
    with spending(policy) as measuring:
        report = measured(policy, tiny_policy())
    with spending(reward) as rewarding:
        with_reward(report, reward)
    assert rewarding.forward_flops > 0
    assert policy.spent.forward_flops == measuring.forward_flops + rewarding.forward_flops
