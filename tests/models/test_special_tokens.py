"""Ends, padding and frames of prompts, over a family of tokenizers and configs as people have them."""

import logging

import pytest
import torch
from fixtures.distribution import sampling_probabilities
from tokenizers import processors

from alignbench.errors import ModelError
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.models.chat import Chat
from alignbench.models.forward import completion_forward
from alignbench.models.language_model import LanguageModel
from alignbench.models.sampling.capture import Capture
from alignbench.models.sampling.sampler import sample
from alignbench.models.sampling.token_draw import uniforms
from alignbench.records import Decoding, Prompt

PROMPT = Prompt("p", "the dog runs")
MANY = [Prompt(f"p{i}", "the dog") for i in range(60)]
CHATML = (
    "{% for m in messages %}{{ '<|turn|> ' + m.role + ' ' + m.content + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|> assistant ' }}{% endif %}"
)


@pytest.fixture
def build(make_tokenizer):
    """Makes a tiny GPT-2 policy: special tokens of the tokenizer, ends of both configs, embeddings beyond the words."""

    def make(
        special, *, generation=None, config=None, added=(), room=0, chat=None, frame=None, name="tiny", kind="GPT2"
    ):
        import transformers

        tokenizer = make_tokenizer(unk_token="<unk>", **special)
        n_words = len(tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
        if frame:
            ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in frame.split() if token != "$A"]
            template = processors.TemplateProcessing(single=frame, special_tokens=ids)
            tokenizer.backend_tokenizer.post_processor = template
        size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
        if kind == "Llama":
            size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            size["max_position_embeddings"] = 64
        ends = {} if kind == "Llama" else {"bos_token_id": None, "eos_token_id": config}
        torch.manual_seed(0)
        configuration = getattr(transformers, f"{kind}Config")(vocab_size=n_words + room, **size, **ends)
        model = transformers.AutoModelForCausalLM.from_config(configuration)
        if generation is not None:
            model.generation_config.eos_token_id = generation
        return LanguageModel(model.eval(), tokenizer, name, chat)

    return make


EOS = {"eos_token": "<eos>"}  # token 1
ENDS = {
    "tokenizer alone": (EOS, {}, (1,)),
    "generation config, list": (EOS, {"generation": [1, 9, 4]}, (1, 4, 9)),
    "generation config, one, an ordinary word": (EOS, {"generation": 9}, (1, 9)),
    "model config, list": (EOS, {"config": [7, 1]}, (1, 7)),
    "model config, one": (EOS, {"config": 7}, (1, 7)),
    "both configs": (EOS, {"config": 7, "generation": [8]}, (1, 7, 8)),
    "none in the tokenizer": ({}, {"generation": [5]}, (5,)),
    "none at all": ({}, {}, ()),
    "beyond the embeddings": (EOS, {"generation": [1, 99]}, (1,)),
    "the tokenizer's is beyond the embeddings": ({}, {"added": ["<end>"], "generation": 3}, (3,)),
    "a class default that is an ordinary word": (EOS, {"kind": "Llama"}, (1,)),
    "a class default that is a special token": (EOS | {"pad_token": "<pad>"}, {"kind": "Llama"}, (1, 2)),
    "a class default in a list": (EOS, {"kind": "Llama", "generation": [2]}, (1, 2)),
    "a class default beside a list without it": (EOS, {"kind": "Llama", "generation": [1, 5]}, (1, 5)),
    "the chat template alone": (
        EOS,
        {"added": ["<|turn|>", "<|end|>"], "room": 2, "chat": Chat(None, CHATML)},
        (1, 30),
    ),
    "a chat template that is not used": (EOS, {"added": ["<|turn|>", "<|end|>"], "room": 2}, (1,)),
    "a chat template without an end": (EOS, {"chat": Chat(None, "{{ messages[0].content }} good")}, (1,)),
    "a chat template that refuses answers": (EOS, {"chat": Chat(None, "{{ messages[9].content.x }}")}, (1,)),
}


@pytest.mark.parametrize("case", ENDS)
def test_all_ends_are_known(build, case):
    special, options, expected = ENDS[case]
    policy = build(special, **options)
    if case == "the chat template alone":
        expected = (1, policy.tokenizer.convert_tokens_to_ids("<|end|>"))
    if case == "the tokenizer's is beyond the embeddings":
        policy.tokenizer.eos_token = "<end>"
        policy = LanguageModel(policy.model, policy.tokenizer, "tiny")
    assert policy.eos_ids == expected
    taught = expected[-1] if case == "the chat template alone" else next(iter(expected), None)
    assert policy.end_of_answer == taught


def test_what_is_left_out_is_said(build):
    [note] = build(EOS, generation=[1, 99]).notes
    assert note == "tiny: the generation config would end completions with what the model has no embedding of: 99"
    [note] = build(EOS, kind="Llama").notes
    assert note == (
        "tiny: the generation config ends completions with token 2, the default of LlamaConfig; here it is the "
        "ordinary word 'the', and is not taken for an end"
    )
    assert build(EOS).notes == ()


def test_a_policy_that_cannot_end_says_so_once(build, caplog):
    policy = build({}, name="endless")
    with caplog.at_level(logging.WARNING, "alignbench"):
        for _ in range(2):
            completions = policy.generate([PROMPT], Decoding(4), 3, (0,))
    said = [record.message for record in caplog.records]
    assert said == ["endless: no token ends its completions, so each of them runs to its token limit or a stop string"]
    assert {c.finish_reason for c in completions} == {"length"}


@pytest.mark.parametrize("static", [False, True], ids=["growing cache", "fixed cache"])
@pytest.mark.parametrize("decoding", [Decoding(8), Decoding(8, min_new_tokens=3), Decoding(8, top_p=0.9, top_k=20)])
def test_every_end_ends_in_every_decoder(build, static, decoding):
    """Against the completions without an end: each is cut behind its first end, whichever that is."""
    policy, ends = build(EOS), (1, 4, 9)
    ids, n = policy.encode_prompt("the dog"), 80
    u = uniforms((0,), [(str(i), 0) for i in range(n)], 8)
    arguments = (policy.model, [ids] * n, [8] * n, u, decoding)
    capture = Capture()
    ended = sample(*arguments, eos_id=ends, pad_id=0, static=static, capture=capture)
    if decoding.min_new_tokens == 0:
        free = sample(*arguments, eos_id=None, pad_id=0, static=static)
        for one, whole in zip(ended, free, strict=True):
            at = next((i for i, token in enumerate(whole.token_ids) if token in ends), None)
            assert one.token_ids == whole.token_ids[: None if at is None else at + 1]
            assert one.finish_reason == ("length" if at is None else "eos")
    assert {one.token_ids[-1] for one in ended if one.finish_reason == "eos"} == set(ends)
    assert min(len(one.token_ids) for one in ended) > decoding.min_new_tokens
    # What was captured is the probability that each token, the end included, was drawn with, without truncation.
    plain = Decoding(8, decoding.min_new_tokens)
    for row, one in enumerate(ended[:10]):
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*ids, *one.token_ids]])).logits[0, len(ids) - 1 : -1]
        for i, token in enumerate(one.token_ids):
            expected = sampling_probabilities(logits[i : i + 1], plain, ends, i)[0, token].log().item()
            assert capture.logprobs[0][row, i].item() == pytest.approx(expected, abs=1e-4)


def test_an_end_is_no_part_of_the_text(build):
    """Also one that is an ordinary word, which decoding would not leave out."""
    policy = build(EOS, generation=[1, 4, 9])
    completions = policy.generate(MANY, Decoding(8), 1, (0,))
    by_end = {}
    for one in completions:
        words = policy.tokenizer.convert_ids_to_tokens(one.token_ids)
        if one.finish_reason == "eos":
            by_end.setdefault(words.pop(), []).append(one)
            assert one.n_tokens == len(words)
        assert one.text.split() == [word for word in words if word != "<unk>"]
    assert set(by_end) == set(policy.tokenizer.convert_ids_to_tokens([1, 4, 9]))


def test_an_encoder_decoder_ends_at_every_end(family):
    model, tokenizer = family("flan_t5")
    model.generation_config.eos_token_id = [1, 5, 6]
    policy = LanguageModel(model.eval(), tokenizer, "t5")
    completions = policy.generate(MANY, Decoding(8), 1, (0,))
    assert {c.token_ids[-1] for c in completions if c.finish_reason == "eos"} == {1, 5, 6}
    assert not any({1, 5, 6} & set(c.token_ids[:-1]) for c in completions)


def test_ppo_trains_on_every_end_and_fines_only_what_has_none(build):
    policy = build(EOS, generation=[1, 4, 9])
    config = {"batch_size": 32, "mini_batch_size": 32, "completion_tokens": (6, 6), "ppo_epochs": 1}
    config |= {"learning_rate": 1e-3, "missing_eos_penalty": 5.0, "kl_target": None, "min_completion_tokens": 1}
    trainer = PPOTrainer(policy, lambda prompts, completions: [0.0] * len(prompts), MANY, PPOConfig(**config))
    seen = []
    trainer.step_rewards = lambda scores, completions: (
        seen.append((completions, PPOTrainer.step_rewards(trainer, scores, completions))) or seen[-1][1]
    )
    metrics = trainer.train_step()
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-6)
    completions, (_, rewards) = seen[0]
    assert {c.token_ids[-1] for c in completions if c.finish_reason == "eos"} == {1, 4, 9}
    assert rewards.tolist() == [0.0 if c.finish_reason == "eos" else -5.0 for c in completions]
    n_ended = sum(c.finish_reason == "eos" for c in completions)
    assert metrics["tokens/eos_rate"] == pytest.approx(n_ended / len(completions))


PADS = {
    "none": (EOS, {}, 1),
    "none, and no end": ({}, {}, 0),
    "its own": (EOS | {"pad_token": "<pad>"}, {}, 2),
    "the end": (EOS, {}, 1),
    "beyond the embeddings": (EOS, {"added": ["[PAD]"]}, 1),
    "beyond the embeddings, and no end": ({}, {"added": ["[PAD]"]}, 0),
}


@pytest.mark.parametrize("case", PADS)
def test_any_pad_token_works(build, case):
    special, options, expected = PADS[case]
    policy = build(special, **options)
    if case == "the end":
        policy.tokenizer.pad_token = "<eos>"
    if "beyond" in case:
        policy.tokenizer.pad_token = "[PAD]"
        assert policy.tokenizer.pad_token_id >= policy.model.config.vocab_size
    assert policy.pad_id == expected
    prompts = [Prompt("a", "the"), Prompt("b", "a red bird sings now")]
    together = policy.generate(prompts, Decoding(6), 2, (0,))
    policy.batch_size = 1
    assert policy.generate(prompts, Decoding(6), 2, (0,)) == together
    batch = policy.batch([prompts[0], prompts[1]], [together[0], together[2]])
    with torch.no_grad():
        logits, _ = completion_forward(policy.model, batch)
        ids = [*policy.encode_prompt("the"), *together[0].token_ids]
        alone = policy.model(torch.tensor([ids])).logits[0, 0:-1]
    torch.testing.assert_close(logits[0, : len(alone)], alone, rtol=1e-5, atol=1e-5)


FRAMES = {
    "$A": ("", ""),
    "<eos> $A": ("<eos>", ""),
    "$A <eos>": ("", "<eos>"),
    "<s> $A <eos>": ("<s>", "<eos>"),
    "[CLS] $A [SEP]": ("[CLS]", "[SEP]"),
    "$A [SEP] [CLS]": ("", "[SEP] [CLS]"),
}


@pytest.mark.parametrize("text", ["the dog", "the", "the dog <eos>", "the [SEP]", "unheard of"])
@pytest.mark.parametrize("frame", FRAMES)
def test_nothing_stands_behind_a_prompt_that_is_continued(build, frame, text):
    added = ["<s>", "[CLS]", "[SEP]"]
    policy = build(EOS, frame=frame, added=added, room=3)
    before, behind = FRAMES[frame]
    words = policy.tokenizer.convert_tokens_to_ids
    bare = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert policy.tokenizer(text)["input_ids"] == [*words(before.split()), *bare, *words(behind.split())]
    assert policy.encode_prompt(text) == [*words(before.split()), *bare]


def test_an_empty_prompt_keeps_what_it_begins_with(build):
    added = {"added": ["<s>"], "room": 1}
    assert build(EOS, frame="<s> $A <eos>", **added).encode_prompt("") == [build(EOS, **added).encode_prompt("<s>")[0]]
    assert build(EOS, frame="$A <eos>").encode_prompt("") == [1]  # else there would be nothing to continue


def test_a_token_without_an_embedding_is_named(build):
    policy = build(EOS, added=["<|user|>"], name="unresized")
    assert policy.encode_prompt("the dog")
    with pytest.raises(ModelError, match=r"'unresized': the tokenizer puts token 28 \('<\|user\|>'\) into a prompt"):
        policy.encode_prompt("<|user|> the dog")
