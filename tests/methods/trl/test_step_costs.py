"""Tokens of a batch, counted by hand for the layouts of TRL's collators."""

import pytest
import torch

from alignbench.errors import TrainingError
from alignbench.methods.trl.step_costs import BatchTokens, tokens_of_batch

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
COMPLETION = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
LABELS = torch.tensor([[-100, -100, 7, 0], [-100, 5, 6, -100]])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"attention_mask": MASK, "completion_mask": COMPLETION}, BatchTokens(7, 4)),
        ({"attention_mask": MASK}, BatchTokens(7, 7)),
        ({"attention_mask": MASK, "labels": LABELS}, BatchTokens(7, 4)),
        (
            {
                "prompt_attention_mask": MASK,  # of the prompts alone, which both texts begin with
                "chosen_attention_mask": MASK, "chosen_labels": LABELS,
                "rejected_attention_mask": MASK[:, :3], "rejected_labels": LABELS[:, :3],
            },
            BatchTokens(7 + 6, 4 + 3),
        ),
        (
            {"attention_mask": MASK, "completion_mask": COMPLETION, "KL_attention_mask": MASK[:1]},
            BatchTokens(7, 4, 4),
        ),
    ],
    ids=["dpo", "reward", "sft", "orpo", "kto"],
)  # fmt: skip
def test_tokens_by_hand(inputs, expected):
    assert tokens_of_batch(inputs) == expected


def test_a_trainer_that_draws_its_own_completions_has_to_say(tmp_path):
    with pytest.raises(TrainingError, match="no attention_mask: give `count`"):
        tokens_of_batch([{"prompt": "the dog"}])
