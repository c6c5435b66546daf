"""The nouns: what is written must be read back as it was."""

from __future__ import annotations

import pytest

from alignbench.records import MetricKey, MetricValue


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("kl", MetricKey("kl")),
        ("kl", MetricKey("kl", None)),
        ("toxicity_mean@judge", MetricKey("toxicity_mean", "judge")),
        # The name of a scorer is a user's, that of a metric is not.
        ("toxicity_mean@me@home", MetricKey("toxicity_mean", "me@home")),
    ],
)
def test_a_metric_key_is_written_and_read_back(text, key):
    assert str(key) == text
    assert MetricKey.parse(text) == key
    assert {key: 1}[MetricKey.parse(text)] == 1


@pytest.mark.parametrize("text", ["", "@", "@judge", "kl@"])
def test_a_metric_key_without_a_name_is_refused(text):
    with pytest.raises(ValueError, match="the name of a metric, or METRIC@SCORER"):
        MetricKey.parse(text)


def test_metric_keys_are_ordered_by_metric_then_by_scorer_the_one_without_first():
    keys = ["kl", "perplexity", "toxicity_mean", "toxicity_mean@a", "toxicity_mean@judge", "toxicity_rate@a"]
    assert [str(key) for key in sorted(map(MetricKey.parse, reversed(keys)))] == keys
    assert MetricKey("kl") <= MetricKey("kl") < MetricKey("kl", "a")


def test_a_value_knows_its_key():
    value = MetricValue("toxicity_rate", "judge", 0.5, 0.4, 0.6, "lower", 10, 0)
    assert str(value.key) == "toxicity_rate@judge"
