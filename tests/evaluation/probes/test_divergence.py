import itertools
import math

import numpy as np
import pytest
import torch

from alignbench.errors import ModelError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.probes import divergence
from alignbench.evaluation.probes.divergence import measure_divergence, sequence_kl
from alignbench.evaluation.protocols import DIVERGENCE_TOKENS, PROTOCOLS, EvalProtocol
from alignbench.models.language_model import LanguageModel
from alignbench.records import Decoding, Prompt
from alignbench.statistics.jackknife import jackknife_group

POLICY = (0.1, 0.6, 0.1, 0.2)
REFERENCE = (0.2, 0.3, 0.4, 0.1)
ENDLESS, ENDLESS_REFERENCE = (0.0, 0.5, 0.3, 0.2), (0.0, 0.25, 0.25, 0.5)
NAMES = ("kl", "kl_k3", "kl_exact")


def of_one_token(policy, reference):
    return sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True) if p)


def known_kl(policy, reference):
    """Chain rule: KL of one token times the expected number of tokens, the end included."""
    end = policy[0]
    n_expected = (1 - (1 - end) ** DIVERGENCE_TOKENS) / end if end else DIVERGENCE_TOKENS
    return of_one_token(policy, reference) * n_expected


def metrics_of(report):
    return {metric.metric: metric for metric in report.metrics}


def test_sequence_kl_by_hand():
    own, other = [np.log([0.5, 0.5]), np.log([0.25])], [np.log([0.25, 0.125]), np.log([0.5])]
    k1, k3 = sequence_kl(own, other)
    assert k1 == pytest.approx([math.log(2) + math.log(4), -math.log(2)])
    assert k3 == pytest.approx([(1 / 2 - 1 + math.log(2)) + (1 / 4 - 1 + math.log(4)), 2 - 1 - math.log(2)])


def test_a_sample_that_the_policy_holds_for_impossible_has_no_k3():
    k1, k3 = sequence_kl([np.array([-2000.0])], [np.array([-1.0])])
    assert k1.tolist() == [-1999.0]
    assert np.isnan(k3).tolist() == [True]


@pytest.mark.parametrize(
    ("policy", "reference"), [(POLICY, REFERENCE), (ENDLESS, ENDLESS_REFERENCE)], ids=["with an end", "without one"]
)
def test_known_divergence_is_recovered_per_sequence_and_per_token(policy, reference, categorical, make_prompts):
    n_exact = 400
    measured = measure_divergence(categorical(policy), categorical(reference), make_prompts(400), 3, n_exact)
    expected, one_token = known_kl(policy, reference), of_one_token(policy, reference)
    for values in (measured.k1, measured.k3, measured.exact):
        error = values.std() / math.sqrt(len(values))
        assert error < 0.1 * expected
        assert abs(values.mean() - expected) < 4 * error + 1e-9
    assert measured.k3.min() >= 0
    # Every state has the same distribution, so the exact value knows no error but that of the lengths.
    assert measured.exact == pytest.approx(one_token * measured.n_tokens, rel=1e-12)
    assert measured.exact.std() < measured.k1.std()


def test_divergence_per_token_is_total_over_total(categorical, make_prompts):
    policy, reference, prompts = categorical(POLICY), categorical(REFERENCE), make_prompts(400)
    report = evaluate(policy, reference, prompts, PROTOCOLS["quickstart-v1"], {}, seed=3, batch_prompts=30)
    found, values = metrics_of(report), report.prompt_values
    one_token = of_one_token(POLICY, REFERENCE)
    assert found["kl_exact_per_token"].value == pytest.approx(one_token, rel=1e-12)
    for name in ("kl_per_token", "kl_k3_per_token"):
        assert found[name].ci_low < one_token < found[name].ci_high
    assert found["kl_per_token"].value == pytest.approx(
        values["kl"].sum() / report.divergence["token_ids"].map(len).sum()
    )
    # The first 64 prompts alone are asked for the exact value.
    assert values["kl_exact"].notna().tolist() == [True] * 64 + [False] * 336
    assert (found["kl_exact"].n_scored, found["kl_exact"].n_unscored) == (64, 0)
    assert sum(found["kl_exact_per_token"].group_sizes) == 64
    assert sum(found["kl_per_token"].group_sizes) == 400


@pytest.mark.parametrize(("most_values", "expected"), [(1, 1), (30 * 4 * 7, 7), (divergence.MOST_VALUES, 19)])
def test_distributions_that_are_held_at_once(most_values, expected, categorical, make_prompts, monkeypatch):
    """One, which shows the size of the vocabulary, and then as many as have up to so many values together.

    The sum of one goes over parts of it: here of 9 values, two of its states.
    """
    monkeypatch.setattr(divergence, "MOST_VALUES", most_values)
    monkeypatch.setattr(divergence, "VALUES_AT_ONCE", 9)
    policy, reference = categorical(POLICY), categorical(REFERENCE)
    measured = measure_divergence(policy, reference, make_prompts(20), 3, 20)
    assert (policy.most_distributions, reference.most_distributions) == (expected, expected)
    assert measured.exact == pytest.approx(of_one_token(POLICY, REFERENCE) * measured.n_tokens, rel=1e-12)


def test_replicates_are_those_without_the_group(categorical, make_prompts):
    prompts = make_prompts(100)

    def values(chosen):
        report = evaluate(categorical(POLICY), categorical(REFERENCE), chosen, PROTOCOLS["trl-detox-v1"], {}, seed=0,
                          batch_prompts=50)  # fmt: skip
        return metrics_of(report)

    whole = values(prompts)
    for group in (0, 7, 19):
        rest = values([p for p in prompts if jackknife_group(p.id) != group])
        for name in ("kl_per_token", "kl_k3_per_token"):
            assert whole[name].replicates[group] == pytest.approx(rest[name].value)


def test_policy_that_is_the_reference_has_no_divergence_at_all(categorical, make_prompts):
    policy = categorical(POLICY)
    measured = measure_divergence(policy, policy, make_prompts(50), 0, 50)
    for values in (measured.k1, measured.k3, measured.exact):
        assert values.tolist() == [0.0] * 50


def test_truncated_and_untruncated_protocols_give_the_same_divergence(categorical, make_prompts):
    found = {}
    for name in PROTOCOLS:
        policy = categorical(POLICY)
        report = evaluate(policy, categorical(REFERENCE), make_prompts(40), PROTOCOLS[name], {}, seed=5,
                          batch_prompts=40)  # fmt: skip
        found[name] = {metric.metric: metric for metric in report.metrics if metric.metric.startswith("kl")}
        own, extra = policy.calls
        assert own[1:] == (PROTOCOLS[name].decoding, PROTOCOLS[name].samples_per_prompt, (5, "evaluation", name))
        assert extra == (40, Decoding(DIVERGENCE_TOKENS), 1, (5, "divergence"))
    assert len(found["rtp-v1"]) == 6
    assert all(one == found["rtp-v1"] for one in found.values())


def test_policy_without_distributions_has_a_reason(categorical, scripted, make_prompts):
    gives_none, lacks_the_method = categorical(POLICY), scripted({f"p{i}": ["kind"] * 4 for i in range(12)})
    gives_none.next_token_logprobs = lambda prompts, completions: None
    for policy in (gives_none, lacks_the_method):
        report = evaluate(
            policy,
            scripted({}, logprob=-2.0),
            make_prompts(12),
            PROTOCOLS["quickstart-v1"],
            {},
            seed=0,
            batch_prompts=5,
        )
        for name in ("kl_exact", "kl_exact_per_token"):
            metric = metrics_of(report)[name]
            assert (metric.value, metric.reason) == (None, "policy or reference has no next-token distributions")
            assert (metric.n_scored, metric.n_unscored) == (0, 12)
        assert metrics_of(report)["kl_k3"].value > 0


def test_distributions_that_do_not_fit_are_refused(categorical, make_prompts):
    prompts = make_prompts(2)
    policy, reference = categorical(POLICY), categorical((0.2, 0.3, 0.4, 0.05, 0.05))
    with pytest.raises(ModelError, match="a KL needs one vocabulary"):
        measure_divergence(policy, reference, prompts, 0, 2)
    policy.next_token_logprobs = lambda prompts, completions: [torch.zeros(1, 4)] * len(prompts)
    with pytest.raises(ModelError, match=r"the policy gave next-token distributions of shapes \(1, 4\); expected"):
        measure_divergence(policy, categorical(REFERENCE), prompts, 0, 2)


@pytest.fixture
def two_models(family):
    """Makes a random model and another with weights moved a little."""

    def make(name):
        policy, reference = (LanguageModel(*family(name), name) for _ in range(2))
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
        return policy, reference

    return make


def float64_logprobs(policy, prompt, tokens):
    """Next-token log-probabilities after a prefix, from a float64 copy fed token by token; no code of ours."""
    model = policy.model.double()
    ids = torch.tensor([policy.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        if policy.is_encoder_decoder:
            start = torch.tensor([[policy.model.config.decoder_start_token_id, *tokens]])
            logits = model(input_ids=ids, decoder_input_ids=start).logits[0, -1]
        else:
            logits = model(input_ids=torch.cat((ids, torch.tensor([tokens], dtype=torch.long)), dim=1)).logits[0, -1]
    return logits.log_softmax(dim=-1)


@pytest.mark.parametrize("name", ["gpt_neo", "t5", "bart"])
def test_exact_values_of_real_models_are_those_of_float64(name, two_models):
    policy, reference = two_models(name)
    prompts = [Prompt("a", "the dog"), Prompt("b", "a red bird sings now"), Prompt("c", "two")]
    measured = measure_divergence(policy, reference, prompts, 0, 3)
    completions = policy.generate(prompts, Decoding(DIVERGENCE_TOKENS), 1, (0, "divergence"))
    assert len({len(completion.token_ids) for completion in completions}) > 1
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        k1 = exact = 0.0
        for place, token in enumerate(completion.token_ids):
            own, other = (
                float64_logprobs(model, prompt.text, completion.token_ids[:place]) for model in (policy, reference)
            )
            k1 += (own - other)[token].item()
            exact += (own.exp() * (own - other)).sum().item()
        assert exact > 0.01
        assert measured.exact[i] == pytest.approx(exact, abs=1e-6 * len(completion.token_ids))
        assert measured.k1[i] == pytest.approx(k1, abs=1e-5 * len(completion.token_ids))


@pytest.mark.parametrize("name", ["gpt_neo", "t5"])
def test_estimates_of_a_real_model_agree_with_enumeration(name, two_models, monkeypatch):
    """KL of whole completions of up to two tokens, summed over all 36 x 36 of them."""
    policy, reference = two_models(name)
    monkeypatch.setattr(divergence, "DIVERGENCE_TOKENS", 2)
    prompts = [Prompt(f"p{i}", "the dog") for i in range(1200)]
    measured = measure_divergence(policy, reference, prompts, 0, 400)
    n_words = policy.model.config.vocab_size
    first, first_reference = (float64_logprobs(model, "the dog", ()) for model in (policy, reference))
    kl = 0.0
    for token in range(n_words):
        after = 0.0
        if token != policy.eos_id:
            second, second_reference = (float64_logprobs(model, "the dog", (token,)) for model in (policy, reference))
            after = (second.exp() * (second - second_reference)).sum().item()
        kl += first[token].exp().item() * ((first - first_reference)[token].item() + after)
    for values in (measured.k1, measured.k3, measured.exact[:400]):
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - kl) < 4 * error
    assert measured.exact[:400].std() < measured.k3.std() < measured.k1.std()


@pytest.mark.parametrize("name", ["gpt_neo", "t5"])
def test_untrained_model_has_no_divergence_at_all(name, family):
    policy = LanguageModel(*family(name), name, batch_size=7)
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(["the dog", "a red bird sings now", "two"] * 5)]
    measured = measure_divergence(policy, policy.frozen_copy(), prompts, 0, 10)
    assert measured.k1.tolist() == measured.k3.tolist() == [0.0] * 15
    assert measured.exact[:10].tolist() == [0.0] * 10


def test_other_batches_give_the_same_samples(two_models):
    policy, reference = two_models("gpt_neo")
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(["the dog", "a red bird sings now", "two"] * 5)]
    protocol = EvalProtocol("test", 1, Decoding(4, top_p=0.9), "nowhere", 15)
    first, second = (
        evaluate(policy, reference, prompts, protocol, {}, seed=0, batch_prompts=n).prompt_values for n in (4, 15)
    )
    for name, sequence in itertools.product(NAMES, range(15)):
        assert first[name].iloc[sequence] == pytest.approx(second[name].iloc[sequence], abs=1e-4)
