"""DExperts against a slow form of it, and what must come out exactly."""

import numpy as np
import pytest
import torch

from alignbench.errors import ModelError, UsageError
from alignbench.evaluation.evaluator import evaluate
from alignbench.methods.base import TrainData
from alignbench.methods.dexperts import Contrast, DExperts
from alignbench.methods.prompted import Instructed
from alignbench.models.flops import weights_of
from alignbench.models.loading import load_policy
from alignbench.models.logit_ensemble import ContrastedModels, LogitEnsemble
from alignbench.records import Completion, Decoding, Prompt
from alignbench.runtime.randomness import generator

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog", "a cat runs", "one red bird sings", "two"))]
KEY = (3, "ensemble")


@pytest.fixture
def moved(tiny_policy):
    """Makes the tiny policy with its weights moved by a seed."""

    def make(seed):
        policy = tiny_policy()
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        return policy

    return make


@pytest.fixture
def make(tiny_policy, moved):
    def made(alpha=2.0, top_p=0.9, expert=1, anti_expert=2):
        return Contrast(LogitEnsemble(tiny_policy(), moved(expert), moved(anti_expert), alpha, top_p))

    return made


def slow_distribution(parts, ids, alpha, top_p):
    """The next token's distribution in float64, by whole passes and a sorted list."""
    with torch.no_grad():
        base, expert, anti = (one.model(torch.tensor([ids])).logits[0, -1].double().numpy() for one in parts)
    likely = np.exp(base - base.max())
    likely /= likely.sum()
    kept, total = set(), 0.0
    for word in sorted(range(len(likely)), key=lambda word: (-likely[word], word)):
        kept.add(word)
        total += likely[word]
        if total >= top_p:
            break
    z = np.where([word in kept for word in range(len(base))], base + alpha * (expert - anti), -np.inf)
    p = np.exp(z - z.max())
    return p / p.sum()


@pytest.mark.parametrize(("alpha", "top_p"), [(2.0, 0.9), (0.7, 1.0), (5.0, 0.5)])
def test_every_token_is_that_of_the_slow_form(make, alpha, top_p):
    policy = make(alpha, top_p)
    parts, end = policy.ensemble.parts, policy.ensemble.eos_id
    drawn = policy.generate(PROMPTS, Decoding(6), 2, KEY)
    owners = [prompt for prompt in PROMPTS for _ in range(2)]
    logprobs = policy.token_logprobs(owners, drawn)
    whole = policy.next_token_logprobs(owners, drawn)
    for prompt, one, found, words in zip(owners, drawn, logprobs, whole, strict=True):
        ids = policy.ensemble.encode_prompt(prompt)
        u = generator(*KEY, prompt.id, one.sample).random(6)
        for place, token in enumerate(one.token_ids):
            p = slow_distribution(parts, ids, alpha, top_p)
            assert token == int(np.searchsorted(p.cumsum(), u[place], side="right"))
            assert found[place].item() == pytest.approx(np.log(p[token]), abs=1e-4)
            assert words[place].exp().numpy() == pytest.approx(p, abs=1e-5)
            ids = [*ids, token]
        assert (one.token_ids[-1] == end) is (one.finish_reason == "eos")


def test_unheard_experts_and_equal_ones_leave_the_policy_under_its_nucleus(make, tiny_policy):
    expected = tiny_policy().generate(PROMPTS, Decoding(8, top_p=0.9), 3, KEY)
    for policy in (make(alpha=0.0), make(expert=1, anti_expert=1)):
        assert policy.generate(PROMPTS, Decoding(8), 3, KEY) == expected
    whole = make(alpha=0.0, top_p=1.0)
    assert whole.generate(PROMPTS, Decoding(8), 3, KEY) == tiny_policy().generate(PROMPTS, Decoding(8), 3, KEY)
    # Where the method cuts nothing off, the protocol does, once.
    assert whole.generate(PROMPTS, Decoding(8, top_p=0.9), 3, KEY) == expected


def test_the_protocols_nucleus_is_not_cut_out_a_second_time(make):
    policy = make()
    drawn = policy.generate(PROMPTS, Decoding(8), 4, KEY)
    assert policy.generate(PROMPTS, Decoding(8, top_p=0.9), 4, KEY) == drawn
    assert policy.generate(PROMPTS, Decoding(8, top_p=0.3), 4, KEY) == drawn


def test_a_constant_in_both_experts_logits_changes_nothing():
    ensemble = ContrastedModels(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity(), 2.0, 0.9)
    torch.manual_seed(0)
    base, expert, anti = torch.randn(3, 4, 5, 11)
    shift = torch.randn(4, 5, 1)
    plain = ensemble.combined([base, expert, anti]).log_softmax(dim=-1)
    moved = ensemble.combined([base, expert + shift, anti + shift]).log_softmax(dim=-1)
    assert torch.allclose(plain.exp(), moved.exp(), atol=1e-6)


def test_a_token_past_the_border_has_a_probability_all_the_same(make):
    """As it may be drawn step by step where rounding is other than in a pass over the whole."""
    policy = make(top_p=0.01)
    drawn = [Completion("p0", 0, "", (5, 7), "length")]
    (found,) = policy.token_logprobs(PROMPTS[:1], drawn)
    (whole,) = policy.next_token_logprobs(PROMPTS[:1], drawn)
    assert torch.isfinite(found).all()
    assert whole[[0, 1], [5, 7]].tolist() == pytest.approx(found.tolist(), abs=1e-4)
    assert torch.isfinite(whole).sum() <= 4  # the likeliest and the one that was drawn


def test_divergence_and_costs_are_those_of_what_is_sampled(make, tiny_policy):
    policy = make(alpha=1.0)
    report = evaluate(policy, tiny_policy(), PROMPTS, "quickstart-v1", {})
    found = {one.metric: one for one in report.metrics}
    assert found["kl_exact"].value > 0.01
    assert found["kl"].value is not None
    assert not report.completions["logprob"].isna().any()
    one, three = weights_of(tiny_policy().model), weights_of(policy.ensemble.model)
    assert (three.prompt, three.completion, three.head) == (3 * one.prompt, 3 * one.completion, 3 * one.head)
    base = evaluate(tiny_policy(), tiny_policy(), PROMPTS, "quickstart-v1", {}).answer_cost
    per_token = report.answer_cost.flops / report.answer_cost.generated_tokens
    assert per_token == pytest.approx(3 * base.flops / base.generated_tokens, rel=0.3)  # answers differ in length


def test_it_is_built_on_two_runs_and_saved_with_them(tiny_policy, moved, run_context, tmp_path):
    upstream = {"expert": moved(1), "anti_expert": moved(2)}
    run, _ = run_context(tiny_policy(), load_upstream=upstream.__getitem__)
    policy = DExperts(alpha=1.5).train(TrainData([], []), run)
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert (again.ensemble.alpha, again.ensemble.top_p) == (1.5, 0.9)
    assert again.generate(PROMPTS, Decoding(8), 2, KEY) == policy.generate(PROMPTS, Decoding(8), 2, KEY)
    assert DExperts.facts.roles == {"policy", "expert", "anti_expert"}


def test_what_is_no_expert_is_refused(tiny_policy, run_context, make_tokenizer):
    other = tiny_policy()
    other.tokenizer = make_tokenizer(["dog", "cat"], unk_token="<unk>", eos_token="<eos>")
    for upstream, error, said in (
        (
            Instructed(tiny_policy(), "x"),
            UsageError,
            "builds_on.expert: got a Instructed, expected a recipe that gives a language model",
        ),
        (other, ModelError, "builds_on.expert: .* has another vocabulary"),
    ):
        run, _ = run_context(tiny_policy(), load_upstream=lambda role, upstream=upstream: upstream)
        with pytest.raises(error, match=said):
            DExperts().train(TrainData([], []), run)
