"""Whether a model whose numbers depend on its neighbours is found, and one whose numbers do not is left in peace."""

import re
from functools import wraps

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models import forward as forward_module
from alignbench.models import padding_check
from alignbench.models.language_model import LanguageModel
from alignbench.models.padding_check import check_padding
from alignbench.models.sampling import sampler
from alignbench.records import Decoding, Prompt


@pytest.fixture
def build(make_tokenizer, tiny_model):
    def make(kind, name):
        tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
        return LanguageModel(tiny_model(kind, name), tokenizer, name)

    return make


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("causal", name) for name in ("gpt2", "llama", "bloom", "openai-gpt", "mamba", "qwen3_next")),
        *(("seq2seq", name) for name in ("t5", "bart", "t5gemma", "switch_transformers")),
    ],
)
def test_families_whose_numbers_stay(build, kind, name):
    """Absolute, relative and rotary positions; no cache; a recurrent one; encoders that must be called on their own."""
    assert check_padding(build(kind, name)) < 1e-4


@pytest.mark.parametrize("name", ["bart", "rwkv", "roberta", "recurrent_gemma", "cpmant"])
def test_families_whose_numbers_would_change_are_refused_by_name(build, name):
    policy = build("causal", name)
    before = policy.model.training
    with pytest.raises(ModelError, match=rf"policy\.model: '{name}' \(family {name}\)"):
        check_padding(policy)
    assert policy.model.training is before


def broken_positions(_mask):
    return torch.arange(_mask.shape[1]).expand_as(_mask)


def test_positions_counted_from_the_first_column_are_found(build, monkeypatch):
    policy = build("causal", "gpt2")
    for module in (forward_module, padding_check, sampler):
        monkeypatch.setattr(module, "position_ids", broken_positions, raising=False)
    with pytest.raises(ModelError, match=r"a text in a padded batch differ by .* nats .* at most 0\.001"):
        check_padding(policy)


def test_a_cache_that_forgets_is_found(build, monkeypatch):
    """A full pass is right here, only sampling is not."""
    policy = build("causal", "llama")
    forward = type(policy.model).forward

    @wraps(forward)  # with its parameters
    def forgetful(self, *args, past_key_values=None, **options):
        if past_key_values is not None and past_key_values.get_seq_length():
            past_key_values.layers[0].keys[:, :, -1] = 0
        return forward(self, *args, past_key_values=past_key_values, **options)

    monkeypatch.setattr(type(policy.model), "forward", forgetful)
    with pytest.raises(ModelError, match="a text as it is sampled differ by"):
        check_padding(policy)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_bfloat16_has_a_tolerance_of_its_own(build, name):
    policy = build("causal", name)
    policy.model.bfloat16()
    assert check_padding(policy) > 1e-3  # rounding


def test_a_position_error_is_found_in_bfloat16_too(build):
    policy = build("causal", "bart")
    policy.model.bfloat16()
    with pytest.raises(ModelError, match=r"at most 0\.1"):
        check_padding(policy)


def test_nothing_is_drawn_from_the_global_generator_and_nothing_is_charged(build):
    policy = build("causal", "gpt2")
    state = torch.random.get_rng_state()
    check_padding(policy)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert policy.spent.forward_flops == 0


def test_a_short_context(build):
    policy = build("causal", "gpt2")
    policy.tokenizer.model_max_length = 8
    assert check_padding(policy) < 1e-4


# Every family that the installed transformers knows.


def outcome(model, kind, name, tokenizer):
    """`equal`, `refused` or `not built`; an assertion fails where a family that is let through gives other numbers."""
    if isinstance(model, str):
        return "not built"
    policy = LanguageModel(model, tokenizer, name)
    try:
        check_padding(policy)
    except ModelError as error:
        return "refused" if name in str(error) else f"refused without its name: {error}"
    prompts = [Prompt("a", "the dog"), Prompt("b", "a red bird sings now and you are very kind"), Prompt("c", "two")]
    completions = policy.complete(prompts, [0] * 3, [2, 6, 9], Decoding(9, min_new_tokens=9), (0,))
    found = policy.token_logprobs(prompts, completions)
    for prompt, completion, logprobs in zip(prompts, completions, found, strict=True):
        ids, tokens = policy.encode_prompt(prompt.text), list(completion.token_ids)
        with torch.no_grad():
            if kind == "seq2seq":
                decoder = torch.tensor([[1, *tokens[:-1]]])
                logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=decoder).logits[0]
            else:
                logits = model(input_ids=torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(tokens)), tokens]
        torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-3, msg=f"{name} is silently wrong")
    return "equal"


def documented(families_page):
    """The families of each section of the document, and the version that they are of."""
    version, body = families_page
    sections = {}
    for section in ("equal", "refused", "not built"):
        causal, seq2seq = body(section).split("Encoder-decoder")
        sections |= {("causal", name): section for name in re.findall(r"`([\w-]+)`", causal)}
        sections |= {("seq2seq", name): section for name in re.findall(r"`([\w-]+)`", seq2seq)}
    return version, sections


@pytest.mark.slow
def test_no_family_is_silently_wrong(make_tokenizer, tiny_model, families_page):
    import transformers
    from transformers.models.auto import modeling_auto as auto

    transformers.logging.set_verbosity_error()
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    families = [("causal", name) for name in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    families += [("seq2seq", name) for name in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES]
    found = {family: outcome(tiny_model(*family), *family, tokenizer) for family in families}
    for wanted in ("equal", "refused", "not built"):
        for kind in ("causal", "seq2seq"):
            print(
                f"{kind}, {wanted}:",
                ", ".join(f"`{name}`" for (of, name), is_ in found.items() if (of, is_) == (kind, wanted)),
            )
    version, expected = documented(families_page)
    if version == transformers.__version__:
        assert found == expected


def test_a_token_that_a_model_never_gives_is_no_difference(build):
    policy = build("causal", "gpt2")

    def never(_module, _args, output):
        output.logits[..., -1] = -torch.inf

    policy.model.register_forward_hook(never)
    assert check_padding(policy) < 1e-4
