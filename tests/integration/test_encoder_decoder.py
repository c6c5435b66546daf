"""Encoder-decoder policies (T5, FLAN-T5, BART): against the model's own loss and decoding, and through a whole run."""

import json
from pathlib import Path

import pytest
import torch
from fixtures.distribution import sampling_probabilities

import alignbench
from alignbench.errors import ModelError, UsageError
from alignbench.evaluation.evaluator import evaluate
from alignbench.evaluation.protocols import EvalProtocol
from alignbench.methods.registry import known_methods, method_class
from alignbench.models.adapters import Lora
from alignbench.models.chat import Chat
from alignbench.models.forward import completion_forward, decoder_start
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_language_model, load_policy, weights_fingerprint
from alignbench.models.sampling.token_draw import inverse_cdf, uniforms
from alignbench.pipeline import execute, scorers
from alignbench.pipeline.build import make_parts, make_yardsticks
from alignbench.recipe.loading import load
from alignbench.records import Completion, Decoding, Prompt

PROMPTS = [Prompt("a", "the dog"), Prompt("b", "a red bird sings now"), Prompt("c", "two")]
NAMES = ("t5", "flan_t5", "bart")


@pytest.fixture
def policy(family):
    def make(name="t5", **options):
        return LanguageModel(*family(name), name, **options)

    return make


@pytest.fixture(scope="session")
def saved(family, tmp_path_factory):
    """A directory with a saved T5 v1.1 model and its tokenizer."""
    directory = tmp_path_factory.mktemp("flan") / "flan_t5"
    model, tokenizer = family("flan_t5", dropout=0.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def drawn(policy, n=2, decoding=None):
    completions = policy.generate(PROMPTS, decoding or Decoding(6), n, (0, "x"))
    return [prompt for prompt in PROMPTS for _ in range(n)], completions


@pytest.mark.parametrize("name", NAMES)
def test_logprobs_are_those_of_the_models_own_loss(policy, name):
    """The loss for labels is computed by the model, which shifts them and puts the decoder's start in front itself."""
    policy = policy(name)
    prompts, completions = drawn(policy, 5, Decoding(20))
    assert len({len(c.token_ids) for c in completions}) > 1
    for prompt, completion, logprobs in zip(
        prompts, completions, policy.token_logprobs(prompts, completions), strict=True
    ):
        ids = policy.tokenizer(prompt.text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = policy.model(input_ids=ids, labels=torch.tensor([completion.token_ids])).loss
        assert -logprobs.mean().item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_decoding_follows_the_full_pass_and_encodes_once(policy, name):
    policy, decoding = policy(name), Decoding(6, min_new_tokens=2, temperature=0.8, top_k=12)
    encoded, decoded = [], []
    policy.model.get_encoder().register_forward_hook(lambda *_: encoded.append(1))
    policy.model.get_decoder().register_forward_hook(lambda *_: decoded.append(1))
    prompts, completions = drawn(policy, decoding=decoding)
    assert (len(encoded), len(decoded)) == (1, 6)
    with torch.no_grad():
        logits, _ = completion_forward(policy.model, policy.batch(prompts, completions))
    u = uniforms((0, "x"), [(c.prompt_id, c.sample) for c in completions], 6)
    for row, completion in enumerate(completions):
        for position, token in enumerate(completion.token_ids):
            probabilities = sampling_probabilities(logits[row : row + 1, position], decoding, policy.eos_id, position)
            assert inverse_cdf(probabilities, u[row, position].reshape(1)).item() == token
    assert min(c.n_tokens for c in completions) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_what_the_head_reads(policy, name):
    policy = policy(name)
    with torch.no_grad():
        logits, hidden = completion_forward(policy.model, policy.batch(*drawn(policy)), hidden=True)
        scale = hidden.shape[-1] ** -0.5 if getattr(policy.model.config, "scale_decoder_outputs", False) else 1.0
        torch.testing.assert_close(policy.model.get_output_embeddings()(hidden * scale), logits)


def test_an_encoder_reads_the_end_token_that_its_tokenizer_adds(policy, tiny_policy):
    t5 = policy()
    words = t5.tokenizer.convert_tokens_to_ids
    assert t5.encode_prompt("the dog") == [*words(["the", "dog"]), t5.eos_id]
    template = "{% for m in messages %}now {{ m.content }} nice{% endfor %}"
    chat = policy(chat=Chat(None, template))
    assert chat.encode_prompt("the dog") == [*words(["now", "the", "dog", "nice"]), t5.eos_id]
    # Where the completion follows the prompt, the same tokenizer's end token goes.
    causal = tiny_policy()
    causal.tokenizer = t5.tokenizer
    assert causal.encode_prompt("the dog") == words(["the", "dog"])


def test_a_completion_stands_alone(policy):
    policy = policy("flan_t5")
    _, completions = drawn(policy)
    for completion in completions:
        known = [i for i in completion.token_ids if i < len(policy.tokenizer)]  # the model has words without a name
        assert completion.text == policy.tokenizer.decode(known, skip_special_tokens=True)
    stopped = policy.generate(PROMPTS, Decoding(6, stop_strings=("sings",)), 2, (0, "x"))
    assert any(c.finish_reason == "stop" for c in stopped)
    for whole, cut in zip(completions, stopped, strict=True):
        if cut.finish_reason == "stop":
            assert cut.text.endswith("sings")
            assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


def test_t5_has_no_longest_sequence_and_bart_has_two(policy):
    t5, bart = policy(), policy("bart")
    [completion] = t5.generate([Prompt("p", "the " * 200)], Decoding(80, min_new_tokens=80), 1, (0,))
    assert completion.n_tokens == 80
    assert bart.longest_prompt(60) == bart.context_tokens == 64
    # 61 words and the end token, then 60 tokens: more than 64 together, not more in either part.
    assert bart.generate([Prompt("p", "the " * 61)], Decoding(60, min_new_tokens=60), 1, (0,))[0].n_tokens == 60
    with pytest.raises(ModelError, match="takes 64 tokens; the longer of prompt and completion needs 70"):
        bart.generate([Prompt("p", "the")], Decoding(70), 1, (0,))
    with pytest.raises(ModelError, match="takes 64 tokens; the longer of prompt and completion needs 71"):
        bart.generate([Prompt("p", "the " * 70)], Decoding(5), 1, (0,))


def test_a_model_that_does_not_say_how_its_decoder_starts(policy):
    policy = policy()
    assert decoder_start(policy.model) == 2
    policy.model.config.decoder_start_token_id = policy.model.generation_config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="set decoder_start_token_id"):
        policy.generate(PROMPTS, Decoding(3), 1, (0,))


def test_saved_policies_come_back(saved, tmp_path):
    """Whole, and as an adapter; the head that is not tied to the embeddings stays untied."""
    policy = load_language_model(str(saved), shown_as="flan")
    assert policy.model.lm_head.weight is not policy.model.shared.weight
    prompts, completions = drawn(policy)
    before = policy.token_logprobs(prompts, completions)
    policy.save(tmp_path / "whole")
    again = load_policy(tmp_path / "whole")
    assert weights_fingerprint(again.model) == weights_fingerprint(policy.model)

    frozen = policy.frozen_copy()
    policy.add_adapter(Lora(r=4))
    assert policy.model.active_peft_config.task_type == "SEQ_2_SEQ_LM"
    torch.testing.assert_close(policy.token_logprobs(prompts, completions), before)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    after = policy.token_logprobs(prompts, completions)
    assert not torch.allclose(after[0], before[0])
    with policy.adapter_off():
        torch.testing.assert_close(policy.token_logprobs(prompts, completions), before)
    torch.testing.assert_close(frozen.token_logprobs(prompts, completions), before)
    policy.save(tmp_path / "adapter")
    merged = load_policy(tmp_path / "adapter", {"flan": str(saved)}.__getitem__)
    torch.testing.assert_close(merged.token_logprobs(prompts, completions), after, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_a_start_of_its_own(saved, tmp_path):
    """As in Lab 3: the policy, and therefore its reference, is a base model with an adapter that someone trained."""
    from peft import LoraConfig, get_peft_model

    base = load_language_model(str(saved))
    trained = get_peft_model(base.model, LoraConfig(r=2, lora_dropout=0.5, task_type="SEQ_2_SEQ_LM"))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    trained.save_pretrained(tmp_path / "adapter")
    built = LanguageModel(trained, base.tokenizer, "built by hand")
    policy = load_language_model(str(tmp_path / "adapter"))
    prompts, completions = drawn(built)
    assert not policy.has_adapter
    assert all(parameter.requires_grad for parameter in policy.model.parameters())
    expected = built.token_logprobs(prompts, completions)
    torch.testing.assert_close(policy.token_logprobs(prompts, completions), expected, rtol=1e-4, atol=1e-5)
    without = load_language_model(str(saved)).token_logprobs(prompts, completions)
    assert not torch.allclose(without[0], expected[0])
    # What is saved needs neither the adapter nor anything of ours.
    policy.add_adapter(Lora(r=4))
    policy.save(tmp_path / "second")
    assert not (tmp_path / "second" / "adapter_config.json").exists()
    again = load_policy(tmp_path / "second")
    torch.testing.assert_close(again.token_logprobs(prompts, completions), expected, rtol=1e-4, atol=1e-5)

    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"policy\.model: base model of the adapter '.*adapter': got '.*gone'"):
        load_language_model(str(tmp_path / "adapter"))


def test_evaluation(saved):
    """Perplexity and KL against the models' own losses."""
    policy, reference = load_language_model(str(saved)), load_language_model(str(saved))
    with torch.no_grad():
        for parameter in policy.model.decoder.parameters():
            parameter.mul_(1.1)
    protocol = EvalProtocol("test", 2, Decoding(6), "nowhere", 3)
    report = evaluate(policy, reference, PROMPTS, protocol, {}, seed=0, batch_prompts=2)
    metrics = {m.metric: m.value for m in report.metrics}

    def nll(model, ids, labels):
        with torch.no_grad():
            return model.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() * len(labels)

    completions = policy.generate(PROMPTS, Decoding(6), 2, (0, "evaluation", "test"))
    kl, log_perplexity = [], []
    for completion in completions:
        ids = policy.encode_prompt(next(p.text for p in PROMPTS if p.id == completion.prompt_id))
        labels = list(completion.token_ids)
        log_perplexity.append(nll(reference, ids, labels[: completion.n_tokens]) / completion.n_tokens)
    for prompt, completion in zip(PROMPTS, policy.generate(PROMPTS, Decoding(30), 1, (0, "divergence")), strict=True):
        ids, labels = policy.encode_prompt(prompt.text), list(completion.token_ids)
        kl.append(nll(reference, ids, labels) - nll(policy, ids, labels))
    assert metrics["kl"] == pytest.approx(sum(kl) / 3, rel=1e-4)
    assert metrics["kl_exact"] > 0
    assert metrics["perplexity"] == pytest.approx(torch.tensor(log_perplexity).mean().exp().item(), rel=1e-4)
    assert list(report.completions["completion"]) == [c.text for c in completions]


def run(name, sets, saved):
    """Runs a recipe of `recipe_folder` with the FLAN-T5 policy; returns what became of it."""
    [*_, outcome] = execute.run(load([f"{name}.yaml"], [f"policy.model={saved}", *sets]), Path("results"))
    return outcome


def test_recipes_that_can_train_it(recipe_folder, saved):
    quark = {"name": "quark", "batch_size": 8, "mini_batch_size": 4, "completion_tokens": [4, 6], "quantiles": 2}
    Path("quark.yaml").write_text(json.dumps({"extends": "shared.yaml", "name": "quark", "method": quark}))
    for name, sets in (("base", []), ("ppo", ["policy.lora.r=4"]), ("quark", [])):
        outcome = run(name, sets, saved)
        assert outcome.state == "done", outcome.error
    metrics = alignbench.load_metrics("results/base").set_index("metric")["value"]
    assert metrics["kl"] == metrics["kl_exact"] == 0
    assert metrics["perplexity"] > 1
    assert len(alignbench.load_completions("results/ppo")) == 12 * 4
    assert alignbench.load_metrics("results/quark").set_index("metric")["value"]["kl_exact"] > 0


@pytest.mark.parametrize(
    ("sets", "joint"),
    [
        ([], ""),
        (["policy.model=SAVED"], " "),
        (["chat.template=x"], "\n"),
        (["policy.model=SAVED", "chat.template=x"], "\n"),
    ],
)
def test_scorers_know_what_stands_between_prompt_and_completion(recipe_folder, checkpoints, saved, sets, joint):
    judge = {"classifier": str(checkpoints / "judge"), "label": "toxic", "text": "prompt_and_completion"}
    Path("words.txt").write_text("stupid dog\n")
    words = {"name": "words", "lexicon": "words.txt", "text": "prompt_and_completion"}
    judges = json.dumps([judge, words])
    sets = [*(one.replace("SAVED", str(saved)) for one in sets), "reward.text=prompt_and_completion"]
    [loaded] = load(["base.yaml"], [*sets, f"evaluation.scorers={judges}"])
    parts = make_parts(loaded.recipe, {}, torch.device("cpu"))
    by_classifier, by_list = make_yardsticks(parts).judges.values()
    labeller = scorers.labeller(loaded.recipe, {}, parts.joint, parts.device)
    assert (by_classifier.reader.joint, labeller.reader.joint) == (joint, joint)
    assert by_list.score(["you stupid"], ["dog"]) == [float(joint != "")]


@pytest.mark.parametrize("name", ["dpo", "reward_model"])
def test_methods_that_cannot_train_it_say_who_can(recipe_folder, saved, name):
    outcome = run(name, [], saved)
    assert isinstance(outcome.error, UsageError)
    expected = f"policy.model: got '{saved}', an encoder-decoder (seq2seq) model, which {name} does not train"
    assert expected in str(outcome.error)
    able = [one for one in known_methods() if "seq2seq" in method_class(one).facts.architectures]
    assert {"ppo", "sft", "rloo", "untrained"} <= set(able)
    assert str(outcome.error).endswith(f"a method that trains this one: {', '.join(able)}")


def test_a_reward_model_of_its_own_start_may_learn_from_it(recipe_folder, checkpoints, saved):
    outcome = run("reward_model", [f"method.model={checkpoints / 'classifier'}"], saved)
    assert outcome.state == "done", outcome.error
    outcome = run("reward_model", [f"method.model={saved}", "seed=1"], checkpoints / "policy")
    assert isinstance(outcome.error, UsageError)
    assert "method.model: got" in str(outcome.error)
    assert "encoder-decoder model; a reward model starts from" in str(outcome.error)


def test_empty_completions_have_logprobs_too(policy):
    policy = policy()
    only_end = Completion("a", 0, "", (policy.eos_id,), "eos")
    [logprobs] = policy.token_logprobs(PROMPTS[:1], [only_end])
    assert logprobs.shape == (1,)
