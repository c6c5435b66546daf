"""TRL 1.12.0's PPO, its last, on the work of benchmarks/ppo_throughput.py. One JSON line.

In an environment of its own: torch==2.13.0 trl==1.12.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0.

It cannot do quite the same work: the reward model reads the policy's token ids, and values come from a network of the
policy's size, which is trained in full even where the policy has an adapter.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ppo_work


def token_reward(work):
    """A RoBERTa with a score for each token, in which TRL looks for `.score` and `base_model_prefix`."""
    import torch
    from transformers import RobertaModel

    class TokenReward(torch.nn.Module):
        base_model_prefix = "roberta"

        def __init__(self, config):
            super().__init__()
            self.config = config
            self.roberta = RobertaModel(config, add_pooling_layer=False)
            self.score = torch.nn.Linear(config.hidden_size, 1)

    classifier, _ = ppo_work.reward_model(work)
    return TokenReward(classifier.config).eval()


def main() -> None:
    """Measures, and prints."""
    work = ppo_work.parse(ppo_work.parser(__doc__))
    if work.bf16:  # as `accelerate launch` says it: the trainer's accelerator does not look at `bf16`
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    from datasets import Dataset
    from transformers import GPTNeoForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    model, tokenizer = ppo_work.policy(work)
    model.config.num_labels = 1
    values = GPTNeoForSequenceClassification(model.config)
    n_iterations = work.warmup + work.iters
    texts = [" ".join(prompt) for prompt in ppo_work.prompts(work, n_iterations * work.batch)]
    prompts = Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"]})
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=work.batch,  # with one accumulation step: an optimizer step per mini-batch
        gradient_accumulation_steps=1,
        num_mini_batches=work.batch // work.mini_batch,
        num_ppo_epochs=work.ppo_epochs,
        total_episodes=n_iterations * work.batch,
        local_rollout_forward_batch_size=work.batch,
        response_length=work.new_tokens,
        temperature=1.0,
        learning_rate=work.lr,
        bf16=work.bf16,
        gradient_checkpointing=False,
        num_sample_generations=0,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=work.device == "cpu",
        dataloader_pin_memory=False,
        seed=work.seed,
    )
    iterations, kl = [], []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_, **__):
            iterations.append(ppo_work.Iterations(work))

        def on_log(self, *_, logs, **__):
            kl.append(logs.get("objective/kl", float("nan")))

        def on_step_end(self, *_, **__):
            iterations[0].end()

    with contextlib.redirect_stdout(sys.stderr):
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=model,
            ref_model=None,
            reward_model=token_reward(work),
            train_dataset=prompts,
            eval_dataset=prompts.select(range(4)),
            value_model=values,
            peft_config=ppo_work.lora_config(work) if work.lora_rank else None,
            callbacks=[Watch()],
        )
        trainer.train()
    n_trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    iterations[0].report("trl-1.12.0", n_trainable, kl[-1])


if __name__ == "__main__":
    main()
