"""A language model as others see it: prompts are encoded once, and what sampling has seen is not asked for again."""

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models import language_model
from alignbench.models.chat import Chat
from alignbench.models.language_model import LanguageModel
from alignbench.records import Decoding, Prompt

PROMPTS = [Prompt("a", "the dog"), Prompt("b", "a red bird sings now"), Prompt("c", "two"), Prompt("d", "the dog")]


@pytest.fixture
def counted(monkeypatch):
    """Counts the calls of a policy's tokenizer, by the number of texts in each."""

    def watch(policy):
        policy.encode_prompt("kind")  # the first time it looks at what the tokenizer adds
        calls = []
        encode = type(policy.tokenizer).__call__

        def spied(self, text, *rest, **options):
            calls.append(1 if isinstance(text, str) else len(text))
            return encode(self, text, *rest, **options)

        monkeypatch.setattr(type(policy.tokenizer), "__call__", spied)
        return calls

    return watch


@pytest.mark.parametrize("chat", [None, Chat("now", "{% for m in messages %}{{ m.content }} {% endfor %}")])
def test_prompts_are_encoded_once_and_in_one_call(chat, tiny_policy, counted):
    policy, other = tiny_policy(chat=chat), tiny_policy(chat=chat)
    expected = [other.encode_prompt(prompt) for prompt in PROMPTS]
    calls = counted(policy)
    assert policy.encode_prompts(PROMPTS) == expected
    policy.encode_prompts([*PROMPTS, "two"])
    completions = policy.generate(PROMPTS, Decoding(4), 3, (0,))
    policy.token_logprobs([prompt for prompt in PROMPTS for _ in range(3)], completions)
    assert calls == [3]  # the three texts
    policy.encode_prompts(PROMPTS)[0].append(7)
    assert policy.encode_prompts(PROMPTS) == expected  # what is given away is a copy


def test_a_conversation_is_not_its_text(tiny_policy):
    policy = tiny_policy(chat=Chat(None, "{% for m in messages %}{{ m.role[0] and m.content }} {% endfor %}"))
    plain = Prompt("a", "the dog")
    conversation = Prompt("b", "the dog", messages=(("user", "two"), ("assistant", "now"), ("user", "the dog")))
    one, other = policy.encode_prompts([plain, conversation])
    assert (one, other) == (policy.encode_prompt("the dog"), policy.encode_prompt("two now the dog"))
    with pytest.raises(ModelError, match="needs a `chat:` block"):
        tiny_policy().encode_prompts([plain, conversation])


def test_kept_encodings_have_a_bound(tiny_policy, counted, monkeypatch):
    monkeypatch.setattr(language_model, "KEPT_ENCODINGS", 3)
    policy = tiny_policy()
    calls = counted(policy)
    assert policy.encode_prompts(["two", "the dog"]) == [policy.encode_prompt("two"), policy.encode_prompt("the dog")]
    policy.encode_prompts(["the dog", "a", "red"])
    assert policy.encode_prompts(["the dog", "red"]) == [policy.encode_prompt("the dog"), policy.encode_prompt("red")]
    assert calls == [2, 3]  # the second call clears what was kept


DECODINGS = {
    "plain": Decoding(8),
    "top-p": Decoding(8, top_p=0.6, top_k=9),
    "stop string": Decoding(8, stop_strings=("e", "o")),
}


@pytest.mark.parametrize("name", DECODINGS)
@pytest.mark.parametrize("kind", ["gpt_neo", "llama", "t5"])
def test_what_sampling_sees_is_what_a_full_pass_gives(name, kind, family):
    """The model's own log-probabilities, whatever sampling cuts off."""
    policy = LanguageModel(*family(kind), kind, batch_size=5)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.5)  # farther from uniform
    completions, seen = policy.generate_with_logprobs(PROMPTS, DECODINGS[name], 3, (0, "x"))
    assert completions == policy.generate(PROMPTS, DECODINGS[name], 3, (0, "x"))
    assert name != "stop string" or "stop" in {one.finish_reason for one in completions}
    repeated = [prompt for prompt in PROMPTS for _ in range(3)]
    expected = policy.token_logprobs(repeated, completions)
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decoding", [Decoding(4, temperature=0.5), Decoding(4, min_new_tokens=2)])
def test_what_sampling_changes_it_does_not_see(decoding, tiny_policy):
    completions, seen = tiny_policy().generate_with_logprobs(PROMPTS, decoding, 2, (0,))
    assert (len(completions), seen) == (8, None)


def test_lower_precision_is_read_in_a_pass_of_its_own(tiny_policy):
    assert tiny_policy(dtype="bfloat16").generate_with_logprobs(PROMPTS, Decoding(4), 1, (0,))[1] is None
