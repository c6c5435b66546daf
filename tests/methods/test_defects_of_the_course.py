"""Two defects of a course's notebook (PPO on FLAN-T5 against a hate-speech classifier), which nobody may bring back.

1. It takes the first score that a text-classification pipeline gives, and that pipeline sorts labels by score: a text
   that is called hateful is rewarded with the logit of hate.
2. Its KL to the reference is about 31 before the first update, and 0 is right.
"""

import pytest
import torch
from transformers import pipeline

from alignbench.methods.base import TrainData
from alignbench.methods.ppo import PPO
from alignbench.models.adapters import Lora
from alignbench.models.language_model import LanguageModel
from alignbench.records import Prompt
from alignbench.scorers.text_classifier import ClassifierScorer

TEXTS = ["the dog runs", "you are stupid", "a kind woman sings", "rude", "one old man sleeps now"]


def test_the_reward_is_the_logit_of_its_label_whichever_label_is_likelier(checkpoints):
    scorer = ClassifierScorer.load(
        str(checkpoints / "classifier"), where="reward", revision=None, device=torch.device("cpu"), name="reward",
        label="nothate", transform="logit",
    )  # fmt: skip
    with torch.no_grad():
        scorer.model.classifier.out_proj.bias.copy_(torch.tensor([-1.0, 1.0]))  # finds hate in everything
    sorted_scores = pipeline(
        "text-classification", model=scorer.model, tokenizer=scorer.tokenizer, top_k=None, function_to_apply="none"
    )(TEXTS)
    assert {scores[0]["label"] for scores in sorted_scores} == {"hate"}, "the trap is there: hate comes first"
    nothate = [next(one["score"] for one in scores if one["label"] == "nothate") for scores in sorted_scores]
    assert scorer.score(TEXTS, TEXTS) == pytest.approx(nothate, rel=1e-4)


@pytest.mark.parametrize("lora", [None, Lora(r=2, target_modules=("q", "v"))], ids=["full", "lora"])
def test_the_kl_of_a_t5_is_0_before_the_first_update(family, run_context, lora):
    model, tokenizer = family("flan_t5", dropout=0.5)
    policy = LanguageModel(model.eval(), tokenizer, "flan_t5")
    run, log = run_context(policy, lora=lora, budget_completions=4)
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(TEXTS)]
    ppo = PPO(batch_size=4, mini_batch_size=2, ppo_epochs=1, completion_tokens=(6, 8), kl_coef=0.2, kl_target=6.0)
    ppo.train(TrainData(prompts, []), run)
    assert abs(log[1]["objective/kl"]) < 1e-4
