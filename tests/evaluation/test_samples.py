import numpy as np
import pytest
import torch

from alignbench.errors import ModelError, ScorerError
from alignbench.evaluation.samples import completions_of, logprobs_of, reference_logprobs_of, toxicity_scores
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
