"""Policies of every family, and the same completions drawn by both kinds of cache."""

import copy

import pytest
import torch

from alignbench.models.adapters import Lora
from alignbench.models.language_model import LanguageModel
from alignbench.models.sampling import fixed_cache
from alignbench.models.sampling.capture import Capture
from alignbench.models.sampling.sampler import sample
from alignbench.models.sampling.token_draw import uniforms
from alignbench.records import Decoding

PROMPTS = ([5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19], [20])
LIMITS = (12, 3, 7, 1, 12, 9)


@pytest.fixture
def build(family):
    """Makes a policy; GPT-Neo's local layers see all of a short sequence, as those of the real models do."""

    def make(name, *, lora=False):
        model, tokenizer = family(name)
        if name == "gpt_neo":
            config = copy.deepcopy(model.config)
            config.window_size = 64
            weights, model = model.state_dict(), type(model)(config)
            model.load_state_dict(weights)
        policy = LanguageModel(model.eval(), tokenizer, name)
        torch.manual_seed(0)
        if lora:
            policy.add_adapter(Lora(r=4))
            for key, parameter in policy.model.named_parameters():
                if "lora_B" in key:
                    torch.nn.init.normal_(parameter, std=0.5)
        return policy

    return make


@pytest.fixture
def drawn():
    """Draws completions for six ragged prompts, with what was captured of them, 0 behind a completion."""

    def drawn(policy, *, static, prompts=PROMPTS, limits=LIMITS, eos_id=1, seed=0, captures=True, **options):
        """Completions and what was captured of them: log-probabilities, values and entropies, 0 behind a completion."""
        decoding = Decoding(max(limits), **options)
        u = uniforms((seed,), [(str(i), 0) for i in range(len(prompts))], max(limits))
        capture = Capture(lambda hidden: hidden.float().sum(-1)) if captures else None
        completions = sample(
            policy.model, prompts, limits, u, decoding, eos_id=eos_id, pad_id=0, capture=capture, static=static
        )
        if capture is None:
            return completions, None
        ends = torch.tensor([len(one.token_ids) for one in completions]).unsqueeze(1)
        [shown] = [torch.arange(max(limits)) < ends]
        return completions, [kept[0].cpu() * shown for kept in (capture.logprobs, capture.values, capture.entropy)]

    return drawn


@pytest.fixture
def assert_same(drawn):
    """Draws by both kinds of cache, compares, and returns the outcome."""

    def assert_same(policy, **options):
        expected, found = (drawn(policy, static=static, **options) for static in (False, True))
        assert found[0] == expected[0]
        for one, other in zip(found[1], expected[1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        return expected

    return assert_same


@pytest.fixture
def decoders():
    """Gives the decoders that are kept of a policy."""
    return lambda policy: fixed_cache.kept_decoders(policy.model)
