"""Loading, saving, chat and dropout."""

import json

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models.adapters import Lora
from alignbench.models.chat import Chat
from alignbench.models.dropout import zero_dropout
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import (
    has_finite_weights,
    load_classifier,
    load_language_model,
    load_policy,
    weights_fingerprint,
)
from alignbench.records import Decoding, Prompt

PROMPT = Prompt("p", "the dog")
LORA = Lora(r=4, target_modules=("q_proj", "v_proj"))


def logprobs(policy):
    completion = policy.generate([PROMPT], Decoding(5), 1, (0,))
    return policy.token_logprobs([PROMPT], completion)[0]


def perturb_adapter(policy):
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)


def test_saved_policy_comes_back(tiny_policy, tmp_path):
    policy = tiny_policy()
    with torch.no_grad():
        next(policy.model.parameters()).mul_(1.7)
    policy.save(tmp_path / "artifact")
    again = load_policy(tmp_path / "artifact", str)
    assert weights_fingerprint(again.model) == weights_fingerprint(policy.model)
    assert torch.equal(logprobs(again), logprobs(policy))


def test_saved_adapter_comes_back_merged(tiny_policy, checkpoints, tmp_path):
    torch.manual_seed(0)
    policy = tiny_policy(shown_as="the/base")
    base = logprobs(policy)
    policy.add_adapter(LORA)
    assert torch.equal(logprobs(policy), base)  # a fresh adapter changes nothing
    perturb_adapter(policy)
    policy.save(tmp_path / "artifact")
    again = load_policy(tmp_path / "artifact", {"the/base": str(checkpoints / "policy")}.__getitem__)
    assert not again.has_adapter
    assert all(parameter.requires_grad for parameter in again.model.parameters())  # it can be trained further
    torch.testing.assert_close(logprobs(again), logprobs(policy), rtol=1e-5, atol=1e-5)
    with policy.adapter_off():
        assert torch.equal(logprobs(policy), base)
    # Nothing on disk names the machine.
    written = "".join(file.read_text() for file in (tmp_path / "artifact").glob("*.json"))
    assert str(checkpoints) not in written
    assert (
        json.loads((tmp_path / "artifact" / "adapter_config.json").read_text())["base_model_name_or_path"] == "the/base"
    )


def test_no_pickle_is_written(tiny_policy, tmp_path):
    tiny_policy().save(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_dropout_is_off_in_training_mode(checkpoints):
    model, _ = load_classifier(str(checkpoints / "classifier"), where="x")
    model.train()
    ids = torch.arange(8).unsqueeze(0)
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    "name",
    ["gpt2", "gpt_neo", "gptj", "opt", "bloom", "llama", "qwen2", "pythia", "t5", "flan_t5", "bart"],
)
def test_a_model_that_the_user_built_loses_its_dropout_for_good(family, name):
    """Also one with an adapter that has dropout of its own."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = family(name, dropout=0.5)
    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    model = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.5, task_type=kind, init_lora_weights=False)).train()
    ids = {"input_ids": torch.arange(3, 11).unsqueeze(0)}
    ids |= {"decoder_input_ids": ids["input_ids"]} if kind == "SEQ_2_SEQ_LM" else {}
    assert not torch.equal(model(**ids).logits, model(**ids).logits)
    policy = LanguageModel(model, tokenizer, name)
    assert policy.model.training
    assert torch.equal(policy.model(**ids).logits, policy.model(**ids).logits)
    frozen = policy.frozen_copy().model.train()
    assert torch.equal(frozen(**ids).logits, policy.model(**ids).logits)


def test_zero_dropout_finds_every_name():
    from transformers import BloomConfig, GPT2Config, OPTConfig, T5Config

    for config in (GPT2Config(), OPTConfig(), BloomConfig(hidden_dropout=0.1), T5Config()):
        values = zero_dropout(config).to_dict()
        assert not any(v for k, v in values.items() if "drop" in k and isinstance(v, float)), type(config)


def test_chat_template_enters_the_prompt(tiny_policy):
    template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}good{% endif %}"
    )
    plain = tiny_policy()
    chat = tiny_policy(chat=Chat("you are nice", template))
    unknown = plain.tokenizer.unk_token_id  # the role names are not among the 30 words
    words = plain.tokenizer.convert_tokens_to_ids
    system = [unknown, *words(["you", "are", "nice"])]
    assert chat.encode_prompt("the dog") == [*system, unknown, *words(["the", "dog", "good"])]
    assert tiny_policy(chat=Chat(None, template)).encode_prompt("the") == [unknown, *words(["the", "good"])]


def test_a_conversation_is_rendered_whole(tiny_policy):
    roles = "{'system': 'old', 'user': 'you', 'assistant': 'good'}"
    template = f"{{% for m in messages %}}{{{{ {roles}[m.role] }}}} {{{{ m.content }}}} {{% endfor %}}good"
    messages = (("user", "the dog"), ("assistant", "runs"), ("user", "and"))
    plain, chat = tiny_policy(), tiny_policy(chat=Chat("now", template))
    words = plain.tokenizer.convert_tokens_to_ids

    def encoded(*messages):
        return chat.encode_prompt(Prompt("p", "its text", messages=messages))

    turns = ["you", "the", "dog", "good", "runs", "you", "and", "good"]
    assert encoded(*messages) == words(["old", "now", *turns])
    assert encoded(("system", "red"), *messages) == words(["old", "red", *turns]), "its own system message alone"
    one = tiny_policy(chat=Chat(None, template)).encode_prompt("the dog")
    assert tiny_policy(chat=Chat(None, template)).encode_prompt(Prompt("p", "the dog")) == one
    # What the template adds to a single message is no part of the length of any prompt: here 4 tokens.
    assert chat.text_tokenizer.conversation_length(messages) == len(encoded(*messages)) - 4
    completions = chat.generate([Prompt("p", "text", messages=messages), Prompt("q", "text")], Decoding(4), 1, (0,))
    batch = chat.batch([Prompt("p", "text", messages=messages)], completions[:1])
    assert batch.input_ids[0].tolist() == [*encoded(*messages), *completions[0].token_ids]
    with pytest.raises(ModelError, match="needs a `chat:` block"):
        plain.encode_prompt(Prompt("p", "the dog", messages=messages))


def test_chat_without_a_template_is_explained(tiny_policy):
    with pytest.raises(ModelError, match="chat: the template cannot render"):
        tiny_policy(chat=Chat()).encode_prompt("the dog")


def test_tokenizer_without_pad_token_is_handled(tiny_policy):
    policy = tiny_policy()
    assert policy.tokenizer.pad_token is None
    assert policy.pad_id == policy.eos_id


def test_prompt_longer_than_the_context_is_refused(tiny_policy):
    with pytest.raises(
        ModelError, match="takes 64 tokens; the longest prompt and the longest completion together need 75"
    ):
        tiny_policy().generate([Prompt("p", "the " * 70)], Decoding(5), 1, (0,))


def test_missing_model_names_the_key(tmp_path):
    with pytest.raises(ModelError, match=r"policy\.model: got '.*/none', expected a directory"):
        load_language_model(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"policy\.model: cannot load 'no/such-model'"):
        load_language_model("no/such-model")


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoints):
    """A language model as a classifier would get a random head."""
    with pytest.raises(ModelError, match=r"reward: .* has no weights for score\.weight"):
        load_classifier(str(checkpoints / "policy"), where="reward")


def test_a_damaged_checkpoint_is_refused(checkpoints, tmp_path):
    import shutil

    shutil.copytree(checkpoints / "policy", tmp_path / "policy")
    weights = tmp_path / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"policy\.model: cannot load"):
        load_language_model(str(tmp_path / "policy"))


def test_adapter_on_a_layer_that_is_not_there(tiny_policy):
    with pytest.raises(ModelError, match=r"policy\.lora\.target_modules: got 'q_pro', .*did you mean 'q_proj'"):
        tiny_policy().add_adapter(Lora(r=4, target_modules=("q_pro",)))


def test_a_completion_is_decoded_as_it_continues_its_prompt(tiny_policy):
    """This tokenizer drops the space before the first word that it decodes, as many do."""
    policy = tiny_policy()
    [completion] = policy.generate([PROMPT], Decoding(3, min_new_tokens=3), 1, (0,))
    whole = policy.tokenizer.decode(
        [*policy.encode_prompt(PROMPT.text), *completion.token_ids], skip_special_tokens=True
    )
    assert PROMPT.text + completion.text == whole
    assert completion.text.startswith(" ")


@pytest.mark.parametrize(
    ("named", "tokenizers", "expected"),
    [(None, None, 1), (7, None, 7), (None, "<unk>", 0), (7, "<unk>", 7), (None, "[PAD]", 1), (99, "[PAD]", 1)],
)
def test_a_reward_model_is_trained_with_one_pad_token_that_has_an_embedding(
    checkpoints, tmp_path, named, tokenizers, expected
):
    """That of the configuration, else of the tokenizer, else the end of sequence; `[PAD]` is beyond the embedding."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(checkpoints / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer))
    if tokenizers is not None:
        tokenizer.add_special_tokens({"pad_token": tokenizers})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"pad_token_id": named}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, tokenizer = load_classifier(str(tmp_path), where="method.model", labels=["reward"])
    assert (model.config.pad_token_id, tokenizer.pad_token_id) == (expected, expected)


def test_the_longest_sequence_has_another_name_in_some_families(make_tokenizer):
    """MPT calls it `max_seq_len`, and stops with a RuntimeError beyond it."""
    from transformers import MptConfig, MptForCausalLM

    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    config = MptConfig(vocab_size=len(tokenizer), d_model=16, n_layers=1, n_heads=2, max_seq_len=20, eos_token_id=1)
    policy = LanguageModel(MptForCausalLM(config).eval(), tokenizer, "mpt")
    assert policy.longest_prompt(10) == 10
    prompt = Prompt("p", "the " * 10)
    completions = policy.generate([prompt], Decoding(10, min_new_tokens=10), 1, (0,))
    assert policy.token_logprobs([prompt], completions)[0].isfinite().all()
    with pytest.raises(ModelError, match="takes 20 tokens"):
        policy.generate([prompt], Decoding(11), 1, (0,))


def test_a_policy_is_a_checkpoint_as_well_or_what_one_has_saved(checkpoints, tmp_path):
    policy = load_policy(str(checkpoints / "policy"))
    policy.save(tmp_path / "saved")
    assert torch.equal(logprobs(load_policy(tmp_path / "saved")), logprobs(policy))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be read as a saved policy"):
        load_policy(tmp_path / "empty")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], True),
        ([3e38, 3e38], True),  # their sum is not
        ([float("inf"), float("-inf")], False),
        ([1.0, float("nan")], False),
        ([float("-inf"), 1.0], False),
    ],
)
def test_finite_weights(values, expected):
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight = torch.nn.Parameter(torch.tensor([values]))
    assert has_finite_weights(model) == expected
    model.requires_grad_(False)
    assert has_finite_weights(model)  # none is trained
