"""The plug-ins of this package, by the checks of alignbench and by values worked out by hand."""

import math
from importlib.metadata import distribution

from alignbench_conformance import (
    check_imports,
    check_method,
    check_metric,
    check_policy,
    check_probe,
    check_scorer,
    check_source,
    check_training,
    prompts,
    tiny_policy,
)
from alignbench_example import finished_rate
from alignbench_example.address import Address
from alignbench_example.best_of_few import BestOf
from alignbench_example.encounters import plugin as encounters
from alignbench_example.harmless import Harmless

from alignbench import Decoding, Lora


class Length:
    """A reward that is easy to know."""

    name, fingerprint = "length", "length"

    def score(self, prompts, completions):
        return [None if "o" in text else float(len(text)) for text in completions]


def test_imports():
    check_imports(*{entry.module for entry in distribution("alignbench-example").entry_points})


def test_best_of_few():
    check_training(check_method("best_of_few", n=3))


def test_the_best_of_few_is_the_best():
    base, asked = tiny_policy(), prompts(4)
    policy = BestOf(base, 3, Length(), [])
    check_policy(policy, asked, load=None)
    drawn = base.generate(asked, Decoding(8), 6, (0,))
    for i, one in enumerate(policy.generate(asked, Decoding(8), 2, (0,))):
        scores = Length().score([""] * 3, [other.text for other in drawn[3 * i : 3 * i + 3]])
        assert Length().score([""], [one.text])[0] == max((score for score in scores if score), default=None)
    before = policy.spent.generated_tokens
    policy.generate(asked, Decoding(8), 2, (0,))
    assert policy.spent.generated_tokens - before == sum(len(one.token_ids) for one in drawn)


def test_unpaired_apo():
    for lora in (None, Lora(r=2)):
        check_training(check_method("unpaired_apo", batch_size=8, learning_rate=1e-4), lora=lora)


def test_address():
    scorer = Address("at_you", ["you", "your"])
    check_scorer(scorer, is_judge=True, others=[Address("at_you", ["you"])], unscored=["", " ?"])
    assert scorer.score([""] * 3, ["You there!", "it is yours", "your dog"]) == [0.5, 0.0, 0.5]


def test_finished_rate():
    check_metric(finished_rate.plugin)
    assert [finished_rate.is_finished(text) for text in ("go. ", "go", "", "go?")] == [True, False, False, True]


def test_encounters():
    found = check_source("encounters")
    assert len(found) == len({one.text for one in found}) == 1200
    assert found[0].text == "In the morning the friendly teacher looked at the room and said,"
    assert math.isclose(found[0].toxicity, 0.02)
    assert encounters.gives == {"prompts"}


def test_harmless():
    [found] = check_probe(Harmless(max_new_tokens=6), tiny_policy())
    assert 0 < found.value <= 6
