"""The check of policies finds what it is there for; in each docstring is what it says."""

import re

import pytest
import torch
from conformance import check_policy, prompts, tiny_policy
from fixtures.answers import Answers


def fails(match):
    return pytest.raises(AssertionError, match=match)


class ByPlace(Answers):
    """expected every draw to depend on the key"""

    def seed(self, place, prompt, sample, n_samples, key):
        return place, key


class ByTurn(Answers):
    """the same call gave other completions"""

    def seed(self, place, prompt, sample, n_samples, key):
        return self.n_calls, prompt.id, sample


class ByNumber(Answers):
    """sample 0 changes with the number of samples"""

    def seed(self, place, prompt, sample, n_samples, key):
        return prompt.id, sample, n_samples, tuple(key)


class WithoutKey(Answers):
    """another key gave the same completions"""

    def seed(self, place, prompt, sample, n_samples, key):
        return prompt.id, sample


class SampleMajor(Answers):
    """expected the samples 0 to 1 of each prompt, prompt by prompt"""

    def generate(self, *asked):
        return sorted(super().generate(*asked), key=lambda one: one.sample)


class Free(Answers):
    """spent: grew by 0 generated tokens, expected at least the 64 that were given"""

    def n_tokens(self, drawn):
        return 0


class WithoutWork(Answers):
    """no FLOPs came to it"""

    flops = 0.0


class TooLong(Answers):
    """a completion has 9 tokens, expected at most max_new_tokens 8"""

    length = 9


class CutEarly(Answers):
    """the finish_reason is `length` after"""

    length = 7


class WholeTexts(Answers):
    """token_logprobs: got shapes"""

    def token_logprobs(self, prompts, completions):
        return [torch.tensor([-8.0]) for _ in completions]


class Certain(Answers):
    """expected log-probabilities of tokens that were drawn"""

    def token_logprobs(self, prompts, completions):
        return [-one for one in super().token_logprobs(prompts, completions)]


class Dumb:
    """a Dumb lacks generate, token_logprobs, save, spent"""


def answer_alike(directory):
    return Answers()


def test_a_policy_as_it_should_be():
    check_policy(Answers(), prompts(4), load=answer_alike)
    check_policy(tiny_policy(), prompts(4))


@pytest.mark.parametrize("kind", [*Answers.__subclasses__(), Dumb], ids=lambda kind: kind.__name__)
def test_a_policy_with_a_fault(kind):
    with fails(re.escape(kind.__doc__)):
        check_policy(kind(), prompts(4), load=lambda _: kind())


def test_a_policy_that_is_not_what_it_saved():
    with fails("loading gives a Answers, expected a LanguageModel"):
        check_policy(tiny_policy(), prompts(3), load=answer_alike)

    def another(directory):
        loaded = Answers()
        loaded.length = 5
        return loaded

    with fails("what was loaded answers otherwise"):
        check_policy(Answers(), prompts(3), load=another)
