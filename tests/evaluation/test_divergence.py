import math

import numpy as np
import pytest

from alignbench.evaluation.divergence import sequence_kl, untruncated
from alignbench.evaluation.drawing import draw
from alignbench.evaluation.protocols import PROTOCOLS, EvalProtocol
from alignbench.records import Decoding

POLICY = (0.1, 0.6, 0.1, 0.2)
REFERENCE = (0.2, 0.3, 0.4, 0.1)
TOKENS = 12


def known_kl(tokens: int = TOKENS) -> float:
    """Chain rule: KL of one token times the expected number of tokens, the end included."""
    one = sum(p * math.log(p / q) for p, q in zip(POLICY, REFERENCE, strict=True))
    n_expected = (1 - (1 - POLICY[0]) ** tokens) / POLICY[0]
    return one * n_expected


def _protocol(**decoding) -> EvalProtocol:
    return EvalProtocol("test", 5, Decoding(max_new_tokens=TOKENS, **decoding), "nowhere", 400)


def test_sequence_kl_by_hand():
    own, other = [np.log([0.5, 0.5]), np.log([0.25])], [np.log([0.25, 0.125]), np.log([0.5])]
    assert sequence_kl(own, other) == pytest.approx([math.log(2) + math.log(4), -math.log(2)])


def test_untruncated_keeps_the_length_alone():
    decoding = untruncated(Decoding(max_new_tokens=20, min_new_tokens=3, temperature=0.7, top_k=5, top_p=0.9))
    assert decoding == Decoding(max_new_tokens=20)
    assert decoding.is_untruncated


def test_policy_that_is_the_reference_has_no_divergence(categorical, make_prompts):
    policy = categorical(POLICY)
    kl = draw(policy, policy, make_prompts(50), _protocol(), {}, seed=0).kl
    assert kl.shape == (250,)
    assert np.abs(kl).max() <= 1e-6


def test_known_divergence_is_recovered_from_the_protocols_own_samples(categorical, make_prompts):
    policy = categorical(POLICY)
    kl = draw(policy, categorical(REFERENCE), make_prompts(400), _protocol(), {}, seed=3).kl
    error = kl.std() / math.sqrt(len(kl))
    assert error < 0.05 * known_kl()
    assert abs(kl.mean() - known_kl()) < 4 * error
    assert len(policy.calls) == 1, "untruncated completions serve for the divergence as well"


def test_truncated_protocol_draws_one_untruncated_sample_per_prompt_under_a_key_of_its_own(categorical, make_prompts):
    policy = categorical(POLICY)
    prompts, protocol = make_prompts(400), _protocol(top_p=0.9)
    kl = draw(policy, categorical(REFERENCE), prompts, protocol, {}, seed=3).kl
    assert kl.shape == (400,)
    assert abs(kl.mean() - known_kl()) < 4 * kl.std() / 20
    own, extra = policy.calls
    assert own == (400, protocol.decoding, 5, (3, "evaluation", "test"))
    assert extra == (400, Decoding(max_new_tokens=TOKENS), 1, (3, "divergence", "test"))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_has_a_divergence(name, categorical, make_prompts):
    drawn = draw(categorical(POLICY), categorical(REFERENCE), make_prompts(2), PROTOCOLS[name], {}, seed=0)
    assert np.isfinite(drawn.kl).all()
