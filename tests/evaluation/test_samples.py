import numpy as np
import pytest
import torch

from alignbench.errors import ModelError, ScorerError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.protocols import EvalProtocol, get_protocol
from alignbench.evaluation.samples import completions_of, draw, logprobs_of, reference_logprobs_of, toxicity_scores
from alignbench.models import language_model
from alignbench.models.language_model import LanguageModel
from alignbench.records import Completion, Decoding, Prompt

PROMPT = Prompt("p0", "hello")
COMPLETION = Completion("p0", 0, "you fool", (1, 2), "length")


def _scores(scorer):
    return toxicity_scores(scorer, "judge", [PROMPT], [COMPLETION])


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1.2, -0.5])
def test_score_that_is_no_probability_names_scorer_and_text(score, function_scorer):
    with pytest.raises(ScorerError, match=r"'judge' returned .* for the text 'you fool' \(prompt p0\)"):
        _scores(function_scorer("x", lambda text: score))


def test_long_text_is_shortened_in_the_message(function_scorer):
    long = Completion("p0", 0, "z" * 500, (1,), "length")
    with pytest.raises(ScorerError) as caught:
        toxicity_scores(function_scorer("x", lambda text: 2.0), "judge", [PROMPT], [long])
    assert "z" * 80 + "..." in str(caught.value)
    assert "z" * 81 not in str(caught.value)


def test_none_is_unscored_and_rounding_is_no_error(function_scorer):
    assert np.isnan(_scores(function_scorer("x", lambda text: None))).tolist() == [True]
    assert _scores(function_scorer("x", lambda text: np.float32(1.0000001))) == pytest.approx([1.0])


def test_scorer_that_skips_a_text_is_refused(function_scorer):
    scorer = function_scorer("x", lambda text: 0.5)
    scorer.score = lambda prompts, completions: [0.5]
    with pytest.raises(ScorerError, match="returned 1 scores for 2 completions"):
        toxicity_scores(scorer, "judge", [PROMPT] * 2, [COMPLETION] * 2)


def test_scorer_is_given_prompt_and_completion(function_scorer):
    scorer = function_scorer("x", lambda text: 1.0 if text == "you fool" else 0.0)
    assert _scores(scorer).tolist() == [1.0]
    assert scorer.seen_prompts == {"hello"}


def test_completions_out_of_order_are_refused(scripted):
    policy = scripted({"p0": ["a", "b"], "p1": ["c", "d"]})
    prompts = [PROMPT, Prompt("p1", "you")]
    in_order = completions_of(policy, prompts, Decoding(5), 2, (0,))
    assert [(completion.prompt_id, completion.sample) for completion in in_order] == [
        ("p0", 0),
        ("p0", 1),
        ("p1", 0),
        ("p1", 1),
    ]
    for wrong in (in_order[::-1], in_order[:3]):
        policy.generate = lambda *args, wrong=wrong: wrong
        with pytest.raises(ModelError, match="prompt by prompt"):
            completions_of(policy, prompts, Decoding(5), 2, (0,))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.tensor([-1.0])], "shape"),
        ([torch.tensor([-1.0, -2.0])] * 2, "of 2 completions, expected 1"),
        ([torch.tensor([-1.0, float("nan")])], "not finite .* prompt p0: 'you fool'"),
        ([torch.tensor([-1.0, -float("inf")])], "not finite"),
    ],
)
def test_broken_logprobs_are_refused(tensors, message, scripted):
    policy = scripted({})
    policy.token_logprobs = lambda prompts, completions: tensors
    with pytest.raises(ModelError, match=f"the policy .*{message}"):
        logprobs_of(policy, [PROMPT], [COMPLETION], "policy")


def test_logprobs_are_widened_to_float64_without_a_gradient(scripted):
    policy = scripted({})
    tensor = torch.tensor([-1.0, -2.5], dtype=torch.bfloat16, requires_grad=True)
    policy.token_logprobs = lambda prompts, completions: [tensor]
    (array,) = logprobs_of(policy, [PROMPT], [COMPLETION], "policy")
    assert (array.dtype, array.tolist()) == (np.float64, [-1.0, -2.5])


def test_reference_must_have_logprobs(scripted):
    policy = scripted({}, logprob=None)
    assert logprobs_of(policy, [PROMPT], [COMPLETION], "policy") is None
    with pytest.raises(ModelError, match="reference has no token log-probabilities"):
        reference_logprobs_of(policy, [PROMPT], [COMPLETION])


PROMPTS = [
    Prompt(f"p{i}", text) for i, text in enumerate(["the dog", "a red bird sings now", "two", "the cat runs"] * 3)
]
SAMPLED = EvalProtocol("sampled", 3, Decoding(5, top_p=0.9), "nowhere", 12)


def test_a_policy_is_not_asked_for_what_it_has_seen(tiny_policy, monkeypatch):
    policy, reference = tiny_policy(), tiny_policy()
    with torch.no_grad():
        next(reference.model.parameters()).mul_(1.3)
    expected = draw(policy, reference, PROMPTS, SAMPLED, {}, 0).logprob
    owners = [prompt for prompt in PROMPTS for _ in range(3)]
    completions = policy.generate(PROMPTS, SAMPLED.decoding, 3, (0, "evaluation", "sampled"))
    assert expected == pytest.approx([one.sum().item() for one in policy.token_logprobs(owners, completions)], abs=1e-5)
    monkeypatch.setattr(policy, "token_logprobs", None)
    assert draw(policy, reference, PROMPTS, SAMPLED, {}, 0).logprob.tolist() == expected.tolist()


class ReadsOtherwise(LanguageModel):
    def token_logprobs(self, prompts, completions):
        return [one - 1 for one in super().token_logprobs(prompts, completions)]


class DrawsOtherwise(LanguageModel):
    def generate(self, prompts, decoding, n_samples, key):
        return super().generate(prompts, decoding, n_samples, ("another stream",))


@pytest.mark.parametrize("kind", [ReadsOtherwise, DrawsOtherwise])
def test_what_a_class_does_in_a_way_of_its_own_is_asked_of_it(kind, tiny_policy):
    plain = tiny_policy()
    policy = kind(plain.model, plain.tokenizer, "tiny")
    drawn, other = (draw(one, plain, PROMPTS, SAMPLED, {}, 0) for one in (policy, plain))
    n_tokens = np.array([len(completion.token_ids) for completion in drawn.completions])
    if kind is ReadsOtherwise:
        assert drawn.completions == other.completions
        assert drawn.logprob == pytest.approx(other.logprob - n_tokens, abs=1e-5)
    else:
        assert drawn.completions == policy.generate(PROMPTS, SAMPLED.decoding, 3, ())
        assert drawn.completions != other.completions


def test_decodings_of_an_evaluation_with_25_samples_of_a_prompt(tiny_policy, monkeypatch):
    """Batches are counted in completions, those of the divergence as well."""
    rows, sample = [], language_model.sample

    def spied(model, prompt_ids, *rest, **options):
        rows.append(len(prompt_ids))
        return sample(model, prompt_ids, *rest, **options)

    monkeypatch.setattr(language_model, "sample", spied)
    policy = tiny_policy(batch_size=100)
    evaluate(policy, tiny_policy(), PROMPTS, get_protocol("rtp-v1"), {}, seed=0, batch_prompts=4)
    assert rows == [100, 100, 100, 12]
