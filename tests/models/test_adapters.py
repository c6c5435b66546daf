"""Adapters as trainers leave them: merged exactly, with their own tokenizer, or refused in a sentence that is true."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models.chat import Chat
from alignbench.models.loading import load_classifier, load_language_model, load_policy
from alignbench.records import Decoding, Prompt

IDS = {"input_ids": torch.arange(3, 11).unsqueeze(0)}
TEMPLATE = "{% for m in messages %}now {{ m.content }} and {% endfor %}you"


@pytest.fixture
def adapter(checkpoints, tmp_path):
    """Makes an adapter of a tiny checkpoint with an effect; returns its folder, and what peft computes with it."""

    def make(name, config, *, tokens=None, tokenizer=None, with_config=False):
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        factory = AutoModelForCausalLM if name == "policy" else AutoModelForSequenceClassification
        base = factory.from_pretrained(checkpoints / name)
        torch.manual_seed(0)
        if tokens is not None:
            base.resize_token_embeddings(tokens, mean_resizing=False)
        model = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        directory = tmp_path / "adapter"
        model.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        if with_config:
            base.config.save_pretrained(directory)
        with torch.no_grad():
            return str(directory), model.eval()(**IDS).logits

    return make


def lora(kind="CAUSAL_LM", **options):
    from peft import LoraConfig

    return LoraConfig(task_type=kind, r=2, **options)


def edited(directory, **settings):
    file = Path(directory) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def difference(model, expected):
    with torch.no_grad():
        return (model(**IDS).logits - expected).abs().max().item()


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "ia3", "lokr"])
@pytest.mark.parametrize("with_config", [False, True], ids=["alone", "beside a config.json"])
def test_what_changes_weights_is_merged(adapter, tmp_path, kind, with_config):
    from peft import IA3Config, LoKrConfig

    layers = ["q_proj", "v_proj"]
    config = {
        "lora": lora(),
        "dora": lora(use_dora=True, target_modules=layers),
        "rslora": lora(use_rslora=True, target_modules=layers),
        "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=layers, feedforward_modules=[]),
        "lokr": LoKrConfig(task_type="CAUSAL_LM", r=2, target_modules=layers),
    }[kind]
    directory, expected = adapter("policy", config, with_config=with_config)
    policy = load_language_model(directory)
    assert difference(policy.model, expected) < 1e-5
    assert not policy.has_adapter
    assert all(parameter.requires_grad for parameter in policy.model.parameters())
    policy.save(tmp_path / "artifact")
    assert difference(load_policy(tmp_path / "artifact").model, expected) < 1e-5


@pytest.mark.parametrize("tokens", [40, 20], ids=["enlarged", "cut"])
def test_a_resized_vocabulary(adapter, tmp_path, tokens):
    """Embeddings and output layer were trained whole, and are no longer tied: the artifact must keep both."""
    directory, expected = adapter("policy", lora(modules_to_save=["wte", "lm_head"]), tokens=tokens)
    state = torch.random.get_rng_state()
    policy = load_language_model(directory)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert policy.model.get_input_embeddings().weight.shape[0] == tokens
    assert difference(policy.model, expected) < 1e-5
    policy.save(tmp_path / "artifact")
    assert difference(load_policy(tmp_path / "artifact").model, expected) < 1e-5


def test_a_resized_vocabulary_without_training_of_the_embeddings(adapter):
    """peft saves embeddings that were resized; these are tied to the output layer."""
    directory, expected = adapter("policy", lora(), tokens=40)
    assert difference(load_language_model(directory).model, expected) < 1e-5


def test_its_own_tokenizer_and_chat_template_are_taken(adapter, make_tokenizer):
    tokenizer = make_tokenizer(unk_token="<unk>", eos_token="<eos>")
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.chat_template = TEMPLATE
    directory, _ = adapter("policy", lora(), tokenizer=tokenizer)
    policy = load_language_model(directory, chat=Chat())
    assert policy.tokenizer.pad_token == "<pad>"
    assert policy.tokenizer.decode(policy.encode_prompt("the dog")) == "now the dog and you"
    assert policy.pad_id < policy.model.config.vocab_size  # that pad token has no embedding
    assert policy.generate([Prompt("a", "the"), Prompt("b", "a red bird")], Decoding(3), 1, (0,))


def test_without_a_tokenizer_the_base_has_one(adapter, checkpoints):
    directory, _ = adapter("policy", lora())
    assert len(load_language_model(directory).tokenizer) == len(
        load_language_model(str(checkpoints / "policy")).tokenizer
    )


@pytest.mark.parametrize("kind", ["prefix", "prompt", "p-tuning"])
def test_trained_tokens_are_refused(adapter, kind):
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    classes = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig, "p-tuning": PromptEncoderConfig}
    directory, _ = adapter("policy", classes[kind](task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="puts trained tokens before a text, and cannot be merged"):
        load_language_model(directory)


@pytest.mark.parametrize("with_config", [False, True], ids=["alone", "beside a config.json"])
def test_a_classifier_as_an_adapter(adapter, with_config):
    config = lora("SEQ_CLS", target_modules=["q_lin", "v_lin"], modules_to_save=["classifier", "pre_classifier"])
    directory, expected = adapter("judge", config, with_config=with_config)
    model, tokenizer = load_classifier(directory, where="judge")
    assert difference(model, expected) < 1e-5
    assert model.config.id2label == {0: "neutral", 1: "toxic"}
    assert tokenizer.cls_token == "[CLS]"


def test_a_classifier_on_a_language_model(checkpoints, tmp_path):
    """The base has no head at all; that of the adapter has three outputs."""
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(checkpoints / "policy", num_labels=3)
    base.config.pad_token_id = 1
    model = get_peft_model(base, lora("SEQ_CLS", target_modules=["q_proj"])).eval()
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model(**IDS).logits
    loaded, _ = load_classifier(str(tmp_path / "adapter"), where="judge")
    assert difference(loaded, expected) < 1e-5
    assert loaded.config.num_labels == 3


def test_a_classifier_whose_head_was_not_saved_is_refused(adapter, checkpoints):
    from safetensors.torch import load_file, save_file

    config = lora("SEQ_CLS", target_modules=["q_lin"])
    directory, _ = adapter("judge", config)
    base = shutil.copytree(checkpoints / "judge", f"{directory}-base")
    headless = {k: v for k, v in load_file(f"{base}/model.safetensors").items() if "classifier" not in k}
    save_file(headless, f"{base}/model.safetensors", metadata={"format": "pt"})
    own = {k: v for k, v in load_file(f"{directory}/adapter_model.safetensors").items() if "classifier" not in k}
    save_file(own, f"{directory}/adapter_model.safetensors", metadata={"format": "pt"})
    edited(directory, base_model_name_or_path=base)
    with pytest.raises(ModelError, match=r"neither the adapter .* nor its base .* has weights for classifier\.bias"):
        load_classifier(directory, where="judge")


def test_uses_are_not_mixed_up(adapter):
    directory, _ = adapter("policy", lora())
    with pytest.raises(
        ModelError, match=r"judge: .* an adapter of a language model \(CAUSAL_LM\), expected a classifier"
    ):
        load_classifier(directory, where="judge")
    with pytest.raises(ModelError, match=r"method\.model: .* a reward model starts from a whole model"):
        load_classifier(directory, where="method.model", labels=["reward"])
    shutil.rmtree(directory)
    directory, _ = adapter("judge", lora("SEQ_CLS", target_modules=["q_lin"]))
    with pytest.raises(ModelError, match=r"an adapter of a classifier \(SEQ_CLS\), expected a language model"):
        load_language_model(directory)


def test_what_does_not_fit_is_refused(adapter, checkpoints):
    from safetensors.torch import load_file, save_file

    directory, _ = adapter("policy", lora())
    file = f"{directory}/adapter_model.safetensors"
    weights = load_file(file)
    renamed = {f"module.{key}": value for key, value in weights.items()}
    some = dict(list(weights.items())[1:])
    deeper = weights | {next(iter(weights)).replace("h.0", "h.7"): next(iter(weights.values())).clone()}
    for changed, said in (
        (renamed, r"lacks weights for base_model\.model\S+ \(\d+ of \d+\)"),
        (some, "lacks weights for"),
        (deeper, r"has weights for parts that its base lacks, base_model\.model\S+h\.7\S+ \(1 of"),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=rf"policy\.model: the adapter .* {said}.* do not belong together"):
            load_language_model(directory)
    save_file(weights, file, metadata={"format": "pt"})
    edited(directory, r=3)
    with pytest.raises(ModelError, match=r"cannot be merged into its base: RuntimeError"):
        load_language_model(directory)
    edited(directory, peft_type="NEW")
    with pytest.raises(ModelError, match="is of a kind that peft does not know: 'NEW'"):
        load_language_model(directory)
    edited(directory, peft_type="LORA", base_model_name_or_path="no/base")
    with pytest.raises(ModelError, match=r"base model of the adapter '.*': cannot load 'no/base'.*there is no folder"):
        load_language_model(directory)
    edited(directory, base_model_name_or_path=None)
    with pytest.raises(ModelError, match="does not name its base model"):
        load_language_model(directory)


def test_a_whole_model_beside_an_adapter_is_ambiguous(adapter, checkpoints):
    directory, _ = adapter("policy", lora())
    shutil.copy(checkpoints / "policy" / "model.safetensors", directory)
    with pytest.raises(
        ModelError, match=r"an adapter \(adapter_config\.json\) and a whole model \(model\.safetensors\)"
    ):
        load_language_model(directory)


def test_an_adapter_without_weights(adapter):
    directory, _ = adapter("policy", lora())
    (Path(directory) / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: no adapter_model\.safetensors"):
        load_language_model(directory)
