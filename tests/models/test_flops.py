"""Estimated FLOPs by hand, and against what torch counts while it computes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alignbench.methods.base import RunContext, TrainData
from alignbench.methods.dpo import DPO
from alignbench.methods.on_policy.config import PPOConfig
from alignbench.methods.on_policy.trainer import PPOTrainer
from alignbench.methods.reward_model import RewardModel
from alignbench.models.adapters import Lora
from alignbench.models.fast import layers
from alignbench.models.flops import Tokens, Weights, sampling_flops, tokens_of, weights_of
from alignbench.models.forward import collate, completion_forward, is_encoder_decoder
from alignbench.models.language_model import LanguageModel
from alignbench.models.loading import load_classifier
from alignbench.models.output_layer import output_layer
from alignbench.records import Completion, Decoding, PreferencePair, Prompt
from alignbench.scorers import padding, text_classifier

H, LAYERS, MLP = 64, 3, 4 * 64
TRUNK = LAYERS * (4 * H * H + 2 * H * MLP)  # query, key, value and output projections; up and down


@pytest.fixture(autouse=True)
def _plain_layers(monkeypatch):
    """Torch does not count what oneDNN multiplies."""
    monkeypatch.setattr(layers, "SMALLEST", float("inf"))


@pytest.fixture
def gpt2(tiny_policy):
    """A GPT-2 of hidden size 64 and 3 layers over 30 words that never ends by itself, and so never pads."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_policy().tokenizer
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=H, n_layer=LAYERS, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1
    )
    model = GPT2LMHeadModel(config).eval()
    return LanguageModel(model, tokenizer, "gpt2")


def counted(work):
    """FLOPs of matrix products that torch counts while `work` runs, those of attention scores left out."""
    with FlopCounterMode(display=False) as counter:
        work()
    by_operator = {str(key): value for key, value in counter.get_flop_counts()["Global"].items()}
    products = ("aten.mm", "aten.addmm")
    return sum(value for key, value in by_operator.items() if key.removesuffix(".default") in products)


def test_a_pass_by_hand():
    weights = Weights(prompt=10, completion=100, head=1000)
    assert weights.flops(Tokens(prompt=3, completion=2, predicted=1)) == 2 * (30 + 200 + 1000)


def test_weights_of_a_gpt2(gpt2):
    """The embedding is the output layer too; position embeddings, biases and norms do not multiply."""
    n_words = len(gpt2.tokenizer)
    assert weights_of(gpt2.model) == Weights(TRUNK, TRUNK, n_words * H)
    assert weights_of(gpt2.model, without=gpt2.model.transformer.h[:1]) == Weights(
        TRUNK * 2 // 3, TRUNK * 2 // 3, n_words * H
    )
    gpt2.add_adapter(Lora(r=2, target_modules=("c_attn",)))
    adapter = LAYERS * (2 * H + 2 * 3 * H)
    assert weights_of(gpt2.model, trained=True) == Weights(adapter, adapter, 0)
    assert weights_of(gpt2.model) == Weights(TRUNK + adapter, TRUNK + adapter, n_words * H)


def test_weights_of_an_encoder_decoder(family):
    """FLAN-T5 of 2 + 2 layers, hidden size 16, 2 heads of 8, gated feed-forward of 24; its head is its own."""
    model, _ = family("flan_t5")
    attention, feed_forward = 4 * 16 * 16, 3 * 16 * 24
    n_words = model.lm_head.weight.shape[0]
    encoder, decoder = 2 * (attention + feed_forward), 2 * (2 * attention + feed_forward)
    assert weights_of(model) == Weights(encoder, decoder, n_words * 16)
    assert sampling_flops(model, 10, 6, 2) == 2 * (encoder * 10 + decoder * 6 + n_words * 16 * 6)


def test_padding_is_not_counted():
    batch = collate([[5, 6, 7], [8]], [[1, 2], [3]], 0, torch.device("cpu"))
    assert tokens_of(batch) == Tokens(prompt=4, completion=1, predicted=3)  # the last token of either is not read


def test_sampling_by_hand(gpt2):
    """Two prompts of 3 and 2 tokens, 6 new tokens: the last of each is not read again."""
    head = len(gpt2.tokenizer) * H
    assert sampling_flops(gpt2.model, 5, 6, 2) == 2 * (TRUNK * (5 + 4) + head * 6)
    prompts = [Prompt("a", "the dog runs"), Prompt("b", "a cat")]
    completions = gpt2.complete(prompts, [0, 0], [4, 2], Decoding(4, min_new_tokens=4), (0,))
    assert [len(completion.token_ids) for completion in completions] == [4, 2]
    assert gpt2.spent.generated_tokens == 6
    assert gpt2.spent.generation_flops == sampling_flops(gpt2.model, 5, 6, 2)
    gpt2.token_logprobs(prompts, completions)
    assert gpt2.spent.forward_flops == 2 * (TRUNK * (11 - 2) + head * 6)


PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(("the dog runs now", "a cat sings now", "two dogs are bad"))]
PROMPTS.append(Prompt("p3", "one old man sleeps"))
# The estimates leave out the value head. Of adapters they do not know that no
# gradient flows below the lowest one, which is much in 3 layers.
TOLERANCE, LORA_TOLERANCE = 0.01, 0.05


FAMILIES = ("gpt2", "gpt_neo", "gptj", "opt", "opt_350m", "bloom", "llama", "qwen2", "pythia", "t5", "flan_t5", "bart")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pass_of_every_family_against_torch(family, name):
    """A decoder's keys and values of the encoder's output are computed for the prompt, and counted for the completion.

    With 20 tokens after 10 that is too much by 5 to 8 % in a model where half of a layer is attention.
    """
    model, _ = family(name)
    model.eval()
    batch = collate([[5] * 10] * 3, [[4] * 20] * 3, 0, torch.device("cpu"), for_encoder=is_encoder_decoder(model))
    with torch.no_grad():
        found = counted(lambda: completion_forward(model, batch))
    ratio = weights_of(model).flops(tokens_of(batch)) / found
    assert ratio == (pytest.approx(1.065, abs=0.015) if is_encoder_decoder(model) else pytest.approx(1, abs=0.005))


def test_generation_against_torch(gpt2):
    found = counted(lambda: gpt2.complete(PROMPTS, [0] * 4, [12] * 4, Decoding(12, min_new_tokens=12), (0,)))
    assert gpt2.spent.generation_flops == found


IN_THE_LOSS = {"kl_placement": "loss", "kl_estimator": "exact"}


@pytest.mark.parametrize(
    "changes", [{}, {"value_model": "separate"}, {"shared_layers": 1}, {"lora": True}, IN_THE_LOSS], ids=str
)
def test_a_ppo_step_against_torch(gpt2, changes):
    """Sampling, old log-probabilities and values, reference, and two epochs of two mini-batches."""
    if "lora" in changes:
        gpt2.add_adapter(Lora(r=4))
    config = PPOConfig(
        batch_size=4, mini_batch_size=2, ppo_epochs=2, completion_tokens=(12, 12), min_completion_tokens=12,
        **{key: value for key, value in changes.items() if key != "lora"},
    )  # fmt: skip
    trainer = PPOTrainer(gpt2, lambda _prompts, texts: [len(text) / 50 for text in texts], PROMPTS, config)
    found = counted(trainer.train_step)
    cost = trainer.cost
    assert cost.trained_tokens == 2 * 4 * 12
    assert cost.generation_flops + cost.forward_flops + cost.backward_flops == pytest.approx(
        found, rel=LORA_TOLERANCE if "lora" in changes else TOLERANCE
    )


@pytest.mark.parametrize("lora", [None, Lora(r=4, target_modules=("c_attn",))], ids=["full", "lora"])
def test_a_dpo_step_against_torch(gpt2, tmp_path, lora):
    pairs = [
        PreferencePair(prompt, *(Completion(prompt.id, i, "", (5 + i,) * 12, "length") for i in (0, 1)), 1.0, 0.0)
        for prompt in PROMPTS
    ]
    booked = []
    run = RunContext(
        0, 16, gpt2, None, lora, None, "completion", tmp_path,
        lambda _step, _completions, _metrics, cost, _policy: booked.append(cost["train"]),
    )  # fmt: skip
    tried = counted(lambda: output_layer(gpt2.model))  # of each model, before training: no part of a step
    n_models = 1 if lora else 2
    found = counted(lambda: DPO(batch_size=4).train(TrainData([], [], pairs), run)) - n_models * tried
    [cost] = booked
    assert cost.optimizer_steps == 1
    assert cost.trained_tokens == 4 * 2 * 12
    assert cost.forward_flops + cost.backward_flops == pytest.approx(found, rel=LORA_TOLERANCE if lora else TOLERANCE)


def test_a_reward_model_against_torch(tiny_policy, checkpoints, tmp_path, monkeypatch):
    """Its step, and the scoring of its own pairs behind it; what it is tried on beforehand is no part of either."""
    for module in (padding, text_classifier):
        monkeypatch.setattr(module, "ignores_padding", lambda *_: True)
    pairs = []
    for prompt in PROMPTS:
        sides = (
            Completion(prompt.id, i, f" very {word} now", (5, 6, 7), "length") for i, word in enumerate(("good", "bad"))
        )
        pairs.append(PreferencePair(prompt, *sides, 1.0, 0.0))
    booked = []
    run = RunContext(
        0, 16, tiny_policy(), lambda model: load_classifier(str(checkpoints / "policy"), where="m", labels=["reward"]),
        None, None, "prompt_and_completion", tmp_path,
        lambda _step, _completions, _metrics, cost, _policy: booked.append(cost["train"]),
    )  # fmt: skip
    found = counted(lambda: RewardModel(batch_size=4).train(TrainData([], [], pairs), run))
    [step], scoring = booked, run.ledger.cost
    assert step.trained_tokens == 8 * (4 + 3)
    assert scoring.reward_calls == 8
    assert step.forward_flops + step.backward_flops + scoring.forward_flops == pytest.approx(found, rel=TOLERANCE)


def test_a_classifier_against_torch(checkpoints):
    from alignbench.scorers.text_classifier import ClassifierScorer

    scorer = ClassifierScorer.load(
        str(checkpoints / "classifier"), where="reward", revision=None, device=torch.device("cpu"),
        name="reward", label="nothate", transform="logit",
    )  # fmt: skip
    texts = ["the dog runs now", "a cat sings now"]
    found = counted(lambda: scorer.score(["", ""], texts))
    # The head of RoBERTa, 32 x 32 + 2 x 32 of 7,232 weights, reads one of the four tokens; here as if it read them all.
    assert found <= scorer.spent.forward_flops <= 1.2 * found
