"""Records what TRL 1.16's RLOOTrainer and GRPOTrainer compute on one fixed rollout, for test_trl_groups.py.

It runs beside alignbench, with the weights, tokenizer and completions of trl_0_11.safetensors, dealt to two prompts:

    python tests/methods/on_policy/recorded/record_trl_1_16.py  # writes trl_1_16.safetensors beside it

Two updates on one rollout of 8 completions, 4 of each prompt: at the second one ratios are not 1. The file holds
`<case>/<name>`: advantages (b,), the losses and gradient norms of both updates, log-probabilities (b, t) afterwards.
"""

import sys
import tempfile
from pathlib import Path

import torch
import trl
from datasets import Dataset
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parents[2]), str(FOLDER.parents[3])]
from fixtures.recorded_trl import Recorded, dealt  # noqa: E402

COMMON = {
    **{"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 7, "num_iterations": 2},
    **{"max_steps": 2, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "weight_decay": 0.0, "logging_steps": 1},
    **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no"},
    **{"shuffle_dataset": False, "max_grad_norm": 1.0, "disable_tqdm": True},
}
KL = {"beta": 0.3, "use_bias_correction_kl": False}
CASES = {
    "rloo": (RLOOTrainer, RLOOConfig, {"beta": 0.3}),
    "rloo_normalized": (RLOOTrainer, RLOOConfig, {"beta": 0.3, "normalize_advantages": True}),
    "rloo_padded": (RLOOTrainer, RLOOConfig, {"beta": 0.3}, (1, 2)),  # of 6 and of 4 tokens
    "grpo": (GRPOTrainer, GRPOConfig, {"loss_type": "grpo", "beta": 0.0}),
    "grpo_kl": (GRPOTrainer, GRPOConfig, {"loss_type": "grpo", **KL}),
    "grpo_corrected": (GRPOTrainer, GRPOConfig, {"loss_type": "grpo", "beta": 0.3}),
    "dapo": (GRPOTrainer, GRPOConfig, {"loss_type": "dapo", **KL}),
    "dr_grpo": (GRPOTrainer, GRPOConfig, {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none"}),
}


def record(recorded, trainer_class, config_class, options, prompts=(1, 6)):
    rows = dealt(recorded, prompts)
    drawn = [list(completion.token_ids) for _, completion, _ in rows]
    with tempfile.TemporaryDirectory() as folder:
        recorded.policy().model.save_pretrained(folder)  # a reference can only be loaded from there
        trainer = trainer_class(
            model=GPT2LMHeadModel.from_pretrained(folder),
            reward_funcs=lambda prompts, **_: [score for _, _, score in rows],
            args=config_class(output_dir=folder, **COMMON, **options),
            train_dataset=Dataset.from_list([{"prompt": rows[i][0].text} for i in (0, 4)]),
            processing_class=recorded.tokenizer,
        )
    if trainer.ref_model is not None:
        recorded.load(trainer.ref_model, "reference")
    is_grpo = trainer_class is GRPOTrainer
    trainer._generate_single_turn = lambda *_: (drawn, None) if is_grpo else drawn
    kept, plain = {}, trainer._generate_and_score_completions

    def keep(inputs):
        found = plain(inputs)
        kept["advantages"] = found["advantages"].clone()
        return found

    trainer._generate_and_score_completions = keep
    trainer.train()
    logs = [row for row in trainer.state.log_history if "grad_norm" in row]
    kept["losses"] = torch.tensor([row["loss"] for row in logs])
    kept["gradient_norms"] = torch.tensor([row["grad_norm"] for row in logs])
    policy = recorded.policy()
    policy.model.load_state_dict(trainer.model.state_dict())
    kept["logprobs"] = logprobs_of(policy, rows)
    return kept


@torch.no_grad()
def logprobs_of(policy, rows):
    from alignbench.models.forward import completion_forward, token_logprobs

    batch = policy.batch([prompt for prompt, _, _ in rows], [completion for _, completion, _ in rows])
    return token_logprobs(completion_forward(policy.model, batch)[0], batch.completion_ids) * batch.completion_mask


if __name__ == "__main__":
    recorded = Recorded(FOLDER / "trl_0_11.safetensors")
    found = {name: record(recorded, *case) for name, case in CASES.items()}
    tensors = {f"{name}/{key}": value.contiguous() for name, part in found.items() for key, value in part.items()}
    save_file(tensors, FOLDER / "trl_1_16.safetensors", {"trl": trl.__version__})
