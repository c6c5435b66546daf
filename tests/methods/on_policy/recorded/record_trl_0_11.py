"""Records what TRL 0.11.4's classic PPOTrainer computes on one fixed rollout, for test_trl_agreement.py.

It runs in an environment of its own, because that trainer is in no TRL that alignbench can install beside itself:

    python3.11 -m venv trl011
    trl011/bin/pip install torch==2.13.0
    trl011/bin/pip install trl==0.11.4 transformers==4.45.2 peft==0.13.2 accelerate==1.0.1 numpy==2.2.6 rich
    trl011/bin/python tests/methods/on_policy/recorded/record_trl_0_11.py  # writes the .safetensors beside it

The file holds tensors named `<recording>/<name>`, and in the `record` of its metadata vocabulary, options and `facts`,
single numbers about TRL's behaviour. Shapes: b = 8 completions, s tokens of prompt and completion in TRL's padding;
per-token tensors are (b, s - 1), column i about the token in column i + 1 of `input_ids`, `mask` 1 on completion
tokens. `update<k>` is optimizer step k.
"""

import inspect
import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
import trl
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from trl import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
)
from trl.core import LengthSampler, masked_whiten
from trl.trainer import ppo_trainer

SPECIAL = {"unk_token": "<unk>", "eos_token": "<eos>", "pad_token": "<pad>"}
WORDS = (
    *("the", "a", "one", "two", "dog", "dogs", "cat", "bird", "man", "woman", "runs", "sings", "sleeps", "old"),
    *("red", "now", "good", "bad", "kind", "rude", "you", "are", "stupid", "nice", "very", "and", "but"),
)
VOCABULARY = [*SPECIAL.values(), *WORDS]
EOS = VOCABULARY.index("<eos>")
MODEL = {
    **{"vocab_size": len(VOCABULARY), "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64},
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2},
    **{"bos_token_id": EOS, "eos_token_id": EOS},
}
SCORES = [1.5, -0.5, 0.25, 2.0, -1.0, 0.75, 0.0, -2.0]
PROMPT_LENGTHS, COMPLETION_LENGTHS = (3, 6, 4, 5, 3, 4, 6, 5), (7, 2, 5, 4, 3, 6, 4, 2)
BASE = {"batch_size": 8, "mini_batch_size": 8, "ppo_epochs": 1, "learning_rate": 1e-3, "log_with": None}
ORDERS = [[3, 0, 6, 5, 1, 7, 4, 2], [2, 5, 7, 0, 6, 1, 3, 4]]
"""The order of rows in each epoch, in place of TRL's own draw."""
UPDATES_ONLY = ("clipped_gradient", "accumulated")
"""Recordings of which only losses and gradients are kept."""


def tokenizer(padding_side):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side=padding_side, **SPECIAL)


@cache
def rollout():
    """Prompts of random words and completions sampled from the policy; every second one ends with EOS."""
    policy = policy_and_reference()[0].eval()
    torch.manual_seed(1)
    prompts = [torch.randint(len(SPECIAL), len(VOCABULARY), (n,)) for n in PROMPT_LENGTHS]
    completions = []
    for prompt, n in zip(prompts, COMPLETION_LENGTHS, strict=True):
        tokens = prompt
        for _ in range(n):
            with torch.no_grad():
                logits = policy(tokens.unsqueeze(0))[0][0, -1]
            logits[: len(SPECIAL)] = -torch.inf
            tokens = torch.cat([tokens, torch.multinomial(logits.softmax(-1), 1)])
        completions.append(tokens[len(prompt) :])
    for completion in completions[::2]:
        completion[-1] = EOS
    return prompts, completions


def policy_and_reference(**changed):
    """A random GPT-2 with a random value head, and the same network with every weight disturbed as its reference."""
    torch.manual_seed(0)
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(GPT2LMHeadModel(GPT2Config(**{**MODEL, **changed})))
    reference = create_reference_model(policy)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy, reference


def trainer(padding_side="right", model=None, **config):
    policy, reference = model or policy_and_reference()
    return PPOTrainer(PPOConfig(**{**BASE, **config}), policy, reference, tokenizer(padding_side))


def weights(model):
    """Named weights without the output layer, which is tied to the embeddings."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


class Recorder:
    """Runs one `PPOTrainer.step` and keeps what passes through its functions."""

    def __init__(self, name, trained):
        self.name, self.trainer, self.tensors, self.updates = name, trained, {}, 0
        self.wrap(trained, "compute_rewards", self.rewards)
        self.wrap(trained, "compute_advantages", self.advantages)
        self.wrap(trained, "train_minibatch", self.mini_batch)
        trained.optimizer.optimizer.register_step_pre_hook(self.gradient)

    @staticmethod
    def wrap(owner, name, after):
        function = getattr(owner, name)

        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            after(result, *args, **kwargs)
            return result

        setattr(owner, name, wrapped)

    def keep(self, name, value):
        self.tensors[f"{self.name}/{name}"] = torch.as_tensor(value).detach().clone().contiguous()

    def rewards(self, result, scores, logprobs, reference_logprobs, masks):
        self.keep("scores", scores)
        self.keep("mask", masks)
        if logprobs.dim() == 2:
            self.keep("reference_logprobs", reference_logprobs)
        for name, tensor in zip(("rewards", "non_score_rewards", "kl"), result, strict=True):
            self.keep(name, tensor)

    def advantages(self, result, values, rewards, mask):
        values, advantages, returns = result
        self.keep("values", values)
        self.keep("advantages", advantages)
        self.keep("returns", returns)
        raw = returns - values
        assert torch.allclose(masked_whiten(raw, mask), advantages, rtol=1e-4, atol=1e-5)
        self.keep("raw_advantages", raw)

    def mini_batch(self, stats, *_):
        for name in ("loss/policy", "loss/value", "policy/clipfrac", "val/clipfrac", "policy/policykl"):
            self.keep(f"update{self.updates}/{name}", stats[name])
        self.updates += 1

    def gradient(self, optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.keep(f"update{self.updates}/gradient_norm", torch.stack([g.norm() for g in gradients]).norm())

    def forward(self, prefix=""):
        prompts, completions = rollout()
        inputs = self.trainer.prepare_model_inputs(prompts, completions)
        with torch.no_grad():
            logprobs, _, values, _ = self.trainer.batched_forward_pass(self.trainer.model, prompts, completions, inputs)
        self.keep(prefix + "logprobs", logprobs)
        self.keep(prefix + "values", values)
        return inputs

    def step(self, scores=SCORES):
        for name, tensor in self.forward().items():
            self.keep(name, tensor)
        self.keep("kl_coef", float(self.trainer.kl_ctl.value))
        stats = self.trainer.step(*rollout(), [torch.tensor(score) for score in scores])
        self.keep("objective/kl", stats["objective/kl"])
        self.keep("new_kl_coef", float(self.trainer.kl_ctl.value))
        self.forward("new_")
        return self.tensors


def record_steps(configs):
    tensors = {}
    for name, options in configs.items():
        options = dict(options)
        scores, side = options.pop("scores", SCORES), options.pop("padding_side", "right")
        with FixedOrders():
            found = Recorder(name, trainer(side, **options)).step(scores)
        tensors |= {key: tensor for key, tensor in found.items() if name not in UPDATES_ONLY or "/update" in key}
    return tensors


class FixedOrders:
    """Within the block epoch k of a step goes through the rows in the order ORDERS[k]."""

    def __enter__(self):
        self.own, orders = np.random.permutation, iter(ORDERS)
        ppo_trainer.np.random.permutation = lambda n: np.array(next(orders))

    def __exit__(self, *_):
        ppo_trainer.np.random.permutation = self.own


def record_estimators():
    """The four `kl_penalty` choices on the main rollout, summed over each completion: (b,)."""
    found = {}
    for penalty in ("kl", "abs", "mse", "full"):
        recorder = Recorder("x", trainer(kl_penalty=penalty))
        recorder.step()
        found[f"estimators/{penalty}"] = recorder.tensors["x/kl"]
    return found


def record_scaling():
    """The running mean and standard deviation after each of three batches of scores."""
    running, found = trainer().running, {}
    for i, scores in enumerate((SCORES, [score * 3 + 1 for score in SCORES], [score - 4 for score in SCORES])):
        running.update(torch.tensor(scores))
        found[f"scaling/scores{i}"] = torch.tensor(scores)
        found[f"scaling/moments{i}"] = torch.tensor([running.mean, running.std])
    return found


def fact_score_scaling():
    """What `use_score_scaling` raises."""
    try:
        Recorder("x", trainer(use_score_scaling=True)).step()
    except AttributeError as error:
        return str(error)
    return None


def largest_change(before, after):
    return max((after[name] - tensor).abs().max().item() for name, tensor in before.items())


def fact_dropout():
    """With dropout 0.5 everywhere, the largest difference between two of TRL's passes in the midst of training."""
    model = policy_and_reference(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    recorder = Recorder("x", trainer(model=model, learning_rate=0.0))
    recorder.step()
    return (recorder.tensors["x/logprobs"] - recorder.tensors["x/new_logprobs"]).abs().max().item()


def fact_checkpointing(enabled):
    """Forward passes through the first block in one step of one update."""
    trained = trainer(gradient_checkpointing=enabled)
    calls = []
    trained.model.pretrained_model.transformer.h[0].attn.register_forward_hook(lambda *_: calls.append(1))
    prompts, completions = rollout()
    trained.step(prompts, completions, [torch.tensor(score) for score in SCORES])
    return len(calls)


def fact_skipped_batch():
    """How far a batch that `ratio_threshold` skips moves the weights, after one that it did not skip."""
    trained = trainer(ratio_threshold=10.0)
    arguments = (*rollout(), [torch.tensor(score) for score in SCORES])
    trained.step(*arguments)
    trained.config.ratio_threshold = 0.0
    before = weights(trained.model)
    trained.step(*arguments)
    return largest_change(before, weights(trained.model))


def fact_adapter_reference():
    """KL in nats per completion before any update, where the policy starts from a trained adapter."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(**MODEL))
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False)  # random, as if trained
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(base, peft_config=lora)
    recorder = Recorder("x", PPOTrainer(PPOConfig(**BASE), policy, None, tokenizer("right")))
    return recorder.step()["x/objective/kl"].item()


def fact_shared_layers():
    """Whether a layer that policy and reference share is one tensor in memory."""
    policy, _ = policy_and_reference()
    reference = create_reference_model(policy, num_shared_layers=1)
    name = "pretrained_model.transformer.h.0.attn.c_attn.weight"
    assert not policy.get_parameter(name).requires_grad
    return policy.get_parameter(name).data_ptr() == reference.get_parameter(name).data_ptr()


def fact_prompt_cut_at_eos():
    """Tokens that `generate` returns for a prompt that begins with EOS, as GPT-2's BOS does, and 3 new tokens."""
    query = torch.tensor([EOS, 5, 6, 7])
    (output,) = trainer().generate([query], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    return len(output)


def fact_eos_as_pad():
    """The largest change of a log-probability when EOS fills empty places."""
    changed = trainer()
    changed.tokenizer.pad_token = "<eos>"
    recorders = Recorder("x", trainer()), Recorder("x", changed)
    steps = [recorder.step() for recorder in recorders]
    assert not torch.equal(steps[0]["x/input_ids"], steps[1]["x/input_ids"])
    assert torch.equal(steps[0]["x/mask"], steps[1]["x/mask"])
    return ((steps[0]["x/new_logprobs"] - steps[1]["x/new_logprobs"]) * steps[0]["x/mask"]).abs().max().item()


def fact_t5_tokens():
    """How many of a T5 completion's four tokens are trained on; `generate` puts the decoder's start in front."""
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": len(VOCABULARY)}
    start = VOCABULARY.index("<pad>")
    t5 = T5ForConditionalGeneration(
        T5Config(**shape, decoder_start_token_id=start, pad_token_id=start, eos_token_id=EOS)
    )
    policy = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(t5)
    trained = PPOTrainer(PPOConfig(**BASE), policy, create_reference_model(policy), tokenizer("right"))
    prompts, completions = [torch.tensor([5, 6, 7, EOS])], [torch.tensor([start, 8, 9, 10, EOS])]
    inputs = trained.prepare_model_inputs(prompts, completions)
    *_, mask = trained.batched_forward_pass(trained.model, prompts, completions, inputs)
    return mask.tolist()


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    policy, reference = policy_and_reference()
    tensors = {f"policy/{name}": tensor for name, tensor in weights(policy).items()}
    tensors |= {f"reference/{name}": tensor for name, tensor in weights(reference).items() if "v_head" not in name}
    halves = {"mini_batch_size": 4, "ppo_epochs": 2, "learning_rate": 3e-3}
    configs = {
        "main": {"init_kl_coef": 0.3, "target": 1.4, "horizon": 100.0, "gamma": 0.95, "lam": 0.9},
        "halves": {**halves, "cliprange": 0.1, "cliprange_value": 0.1, "vf_coef": 0.5},
        "left": {"padding_side": "left"},
        "whitened_rewards": {"whiten_rewards": True, "scores": [score + 3 for score in SCORES]},
        "clipped_gradient": {**halves, "max_grad_norm": 0.1},
        "accumulated": {"mini_batch_size": 4, "gradient_accumulation_steps": 2},
    }
    tensors |= record_steps(configs) | record_estimators() | record_scaling()
    for i, (prompt, completion) in enumerate(zip(*rollout(), strict=True)):
        tensors[f"prompt/{i}"], tensors[f"completion/{i}"] = prompt, completion
    facts = {
        "score_scaling_raises": fact_score_scaling(),
        "dropout_difference": fact_dropout(),
        "block_passes_without_checkpointing": fact_checkpointing(False),
        "block_passes_with_checkpointing": fact_checkpointing(True),
        "moved_by_a_skipped_batch": fact_skipped_batch(),
        "first_kl_of_a_trained_adapter": fact_adapter_reference(),
        "shared_layers_share_memory": fact_shared_layers(),
        "tokens_of_a_prompt_that_begins_with_eos": fact_prompt_cut_at_eos(),
        "changed_by_eos_as_pad": fact_eos_as_pad(),
        "mask_of_a_t5_completion": fact_t5_tokens(),
        "longest_of_length_sampler_20_30": max(LengthSampler(20, 30).values),
        "step_takes": list(inspect.signature(PPOTrainer.step).parameters),
    }
    record = {
        **{"trl": trl.__version__, "torch": torch.__version__, "vocabulary": VOCABULARY, "model": MODEL},
        **{"facts": facts, "orders": ORDERS, "configs": {name: {**BASE, **config} for name, config in configs.items()}},
    }
    # One entry: safetensors writes several in any order, and the file would differ from run to run.
    metadata = {"record": json.dumps(record)}
    save_file(tensors, Path(__file__).with_name("trl_0_11.safetensors"), metadata)
    print(json.dumps(facts, indent=2), len(tensors))


if __name__ == "__main__":
    main()
