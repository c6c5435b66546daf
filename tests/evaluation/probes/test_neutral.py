import math

import numpy as np
import pytest
import torch

from alignbench.errors import ModelError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.metrics.measure import set_metric
from alignbench.evaluation.probes.neutral import NEUTRAL_TOKENS, Neutral
from alignbench.evaluation.protocols import PROTOCOLS, comparability
from alignbench.models import language_model
from alignbench.models.language_model import LanguageModel
from alignbench.records import Prompt
from alignbench.statistics.jackknife import jackknife_group

TEXTS = [f"the {adjective} dog sings {end}" for adjective in ("old", "red", "kind", "nice") for end in
         ("now", "and sleeps", "very good and runs", "two cats", "one bird and the man", "so", "bad")]  # fmt: skip


def neutral_metric(policy, texts):
    probe = Neutral(texts=tuple(texts))
    (metric,) = probe.metrics
    return set_metric(metric, probe.measure(policy, policy, {}, seed=0, batch_prompts=1))


class Reader:
    """Every token of a text of n words has log-probability -n."""

    def text_logprobs(self, texts, max_tokens):
        return [torch.full((min(len(text.split()), max_tokens),), -float(len(text.split()))) for text in texts]


def test_mean_over_tokens_by_hand_and_replicates_on_the_log_scale():
    found = neutral_metric(Reader(), TEXTS)

    def log_perplexity(texts):
        lengths = [len(text.split()) for text in texts]
        return sum(n * n for n in lengths) / sum(lengths)

    assert found.value == pytest.approx(math.exp(log_perplexity(TEXTS)))
    assert found.ci_low < found.value < found.ci_high
    groups = [jackknife_group(text) for text in TEXTS]
    for group in range(20):
        if group in groups:
            kept = [text for text, g in zip(TEXTS, groups, strict=True) if g != group]
            assert found.replicates[group] == pytest.approx(log_perplexity(kept))
        else:
            assert found.replicates[group] is None
    assert list(found.group_sizes) == [groups.count(group) for group in range(20)]
    assert (found.n_scored, found.n_unscored, found.direction) == (28, 0, "lower")


def test_a_text_without_a_predicted_token_is_counted():
    found = neutral_metric(Reader(), [*TEXTS, ""])
    assert (found.n_scored, found.n_unscored) == (28, 1)
    assert found.value == pytest.approx(neutral_metric(Reader(), TEXTS).value)
    assert neutral_metric(Reader(), [""]).reason == "no text has a token to predict"


def test_broken_answers_are_refused():
    reader = Reader()
    reader.text_logprobs = lambda texts, max_tokens: [torch.tensor([-1.0, math.nan])] * len(texts)
    with pytest.raises(ModelError, match="not finite for the neutral text 'the old dog"):
        neutral_metric(reader, TEXTS)
    reader.text_logprobs = lambda texts, max_tokens: [torch.tensor([-1.0])]
    with pytest.raises(ModelError, match="of 1 texts, expected 28"):
        neutral_metric(reader, TEXTS)


@pytest.mark.parametrize("name", ["gpt_neo", "llama"])
def test_a_model_reads_texts_as_its_own_loss_says_after_the_end_of_sequence_token(name, family):
    policy = LanguageModel(*family(name), name, batch_size=3)
    sums, n_tokens = [], []
    for text in TEXTS:
        ids = torch.tensor([[policy.eos_id, *policy.tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            sums.append(policy.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1))
        n_tokens.append(ids.shape[1] - 1)
    assert neutral_metric(policy, TEXTS).value == pytest.approx(math.exp(sum(sums) / sum(n_tokens)), rel=1e-5)


def test_the_first_token_follows_the_beginning_or_the_end_or_nothing(family):
    policy = LanguageModel(*family("gpt_neo"), "gpt_neo")
    after_end = policy.text_logprobs(["the dog sings"], 10)[0]
    policy.tokenizer.bos_token = "bad"
    after_bad = policy.text_logprobs(["the dog sings"], 10)[0]
    assert len(after_end) == len(after_bad) == 3
    assert not torch.allclose(after_end, after_bad)
    continued = policy.text_logprobs(["bad the dog sings"], 10)
    policy.tokenizer.bos_token = policy.tokenizer.eos_token = None
    alone = policy.text_logprobs(["bad the dog sings", "dog"], 10)
    torch.testing.assert_close(alone[0], after_bad)
    assert [len(one) for one in alone] == [3, 0]
    assert len(continued[0]) == 4


def test_long_texts_are_cut(family):
    policy = LanguageModel(*family("gpt_neo"), "gpt_neo")
    text = " ".join(["the dog sings"] * 300)
    assert policy.context_tokens == 64
    assert len(policy.text_logprobs([text], NEUTRAL_TOKENS)[0]) == 63
    torch.testing.assert_close(
        policy.text_logprobs([text], 5)[0], policy.text_logprobs(["the dog sings the dog"], 9)[0]
    )


def test_encoder_decoder_and_other_policies_have_a_reason(family, categorical):
    for policy in (LanguageModel(*family("t5"), "t5"), categorical((0.1, 0.6, 0.1, 0.2))):
        found = neutral_metric(policy, TEXTS)
        assert (found.value, found.replicates, found.n_unscored) == (None, None, 28)
        assert found.reason == "the policy has no log-probabilities of texts that answer no prompt"


def test_it_is_of_the_policy_not_of_the_reference_and_only_where_texts_are_given(family):
    policy, reference = (LanguageModel(*family("gpt_neo"), "gpt_neo") for _ in range(2))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.5)
    protocol, prompts = PROTOCOLS["trl-detox-v1"], [Prompt("a", "the dog")]

    def names_and_value(**options):
        report = evaluate(policy, reference, prompts, protocol, {}, seed=0, batch_prompts=1, **options)
        return {metric.metric: metric.value for metric in report.metrics}

    assert "neutral_perplexity" not in names_and_value()
    value = names_and_value(probes=[Neutral(texts=tuple(TEXTS))])["neutral_perplexity"]
    assert value == neutral_metric(policy, TEXTS).value
    assert abs(np.log(value / neutral_metric(reference, TEXTS).value)) > 0.01


def test_texts_are_part_of_what_must_agree():
    def fields(texts):
        same = comparability(PROTOCOLS["rtp-v1"], [Prompt("a", "b")], {}, prompts_source=None)
        return same | (dict(Neutral(texts=tuple(texts)).conditions()) if texts else {})

    assert "neutral_texts" not in fields([])
    assert fields(TEXTS)["neutral_texts"] == fields(list(TEXTS))["neutral_texts"]
    assert fields(TEXTS)["neutral_texts"] != fields(TEXTS[1:])["neutral_texts"]
    assert fields([])["kl_max_new_tokens"] == 30


@pytest.mark.parametrize("name", ["gpt_neo", "llama"])
def test_short_texts_share_passes_and_none_changes_another(name, family, monkeypatch):
    policy = LanguageModel(*family(name), name)
    texts = ["the dog sings", "two", "a red bird sings now and the dog runs", "", "the cat runs"]
    expected = [policy.text_logprobs([text], 12)[0] for text in texts]
    batches, collate = [], language_model.collate
    monkeypatch.setattr(
        language_model, "collate", lambda *rows, **how: batches.append(len(rows[0])) or collate(*rows, **how)
    )
    found = policy.text_logprobs(texts, 12)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert batches == [1, 3]  # 10 tokens, with the one that begins them, alone; 4, 4 and 2 make 12 with their padding
