"""TRL 0.11.4's PPO on the work of benchmarks/ppo_throughput.py: generate, score texts, `step`. One JSON line.

In an environment of its own: torch==2.13.0 trl==0.11.4 transformers==4.45.2 peft==0.13.2 accelerate==1.0.1
numpy==2.2.6 rich. `--one-by-one` generates prompt by prompt, as TRL's detoxification script does.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ppo_work


def main() -> None:
    """Measures, and prints."""
    arguments = ppo_work.parser(__doc__)
    arguments.add_argument("--one-by-one", action="store_true")
    work = ppo_work.parse(arguments)
    import torch
    from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

    model, tokenizer = ppo_work.policy(work)
    tokenizer.padding_side = "right"
    if work.lora_rank:
        from peft import get_peft_model

        model = get_peft_model(model, ppo_work.lora_config(work))
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(model)
    policy.is_peft_model = bool(work.lora_rank)
    reward_model, reward_tokenizer = ppo_work.reward_model(work)
    config = PPOConfig(
        batch_size=work.batch,
        mini_batch_size=work.mini_batch,
        gradient_accumulation_steps=1,
        ppo_epochs=work.ppo_epochs,
        learning_rate=work.lr,
        seed=work.seed,
        log_with=None,
        accelerator_kwargs={"mixed_precision": "bf16"} if work.bf16 else {},
    )
    trainer = PPOTrainer(config, model=policy, ref_model=None, tokenizer=tokenizer)
    n_iterations = work.warmup + work.iters
    texts = [" ".join(prompt) for prompt in ppo_work.prompts(work, n_iterations * work.batch)]
    sampling = {"min_new_tokens": work.new_tokens, "max_new_tokens": work.new_tokens, "do_sample": True}
    sampling |= {"top_k": 0, "top_p": 1.0, "pad_token_id": tokenizer.pad_token_id, "return_prompt": False}
    iterations = ppo_work.Iterations(work)
    now = iterations.now
    for i in range(n_iterations):
        started = now()
        rows = texts[i * work.batch : (i + 1) * work.batch]
        queries = [torch.tensor(tokenizer(text)["input_ids"]) for text in rows]
        if work.one_by_one:
            responses = [trainer.generate(query, **sampling).squeeze(0) for query in queries]
        else:
            responses = trainer.generate(queries, batch_size=work.batch, **sampling)
        assert all(len(response) == work.new_tokens for response in responses)
        sampled = now()
        encoded = reward_tokenizer(tokenizer.batch_decode(responses), padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = reward_model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        scored = now()
        stats = trainer.step(queries, responses, list(logits[:, 0]))
        iterations.end(generate=sampled - started, reward=scored - sampled, optimise=now() - scored)
    peer = "trl-0.11.4" + (", one by one" if work.one_by_one else "")
    n_trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    iterations.report(peer, n_trainable, float(stats["objective/kl"]))


if __name__ == "__main__":
    main()
