"""The reward model: trained on the encoding it is scored with, better after training, saved and loaded."""

import pytest
import torch

from alignbench.methods.base import TrainData
from alignbench.methods.reward_model import RewardModel
from alignbench.scorers.reward_model import load_reward_scorer

METHOD = RewardModel(learning_rate=1e-2, batch_size=4, epochs=6)


@pytest.mark.parametrize("start", [None, "classifier"], ids=["policy", "classifier"])
def test_learns_to_order_the_pairs(checkpoints, run_context, pairs, tmp_path, start):
    run, log = run_context()
    name = start and str(checkpoints / start)
    method = RewardModel(model=name, learning_rate=METHOD.learning_rate, batch_size=4, epochs=6)
    trained = method.train(TrainData([], [], pairs), run)
    prompts = [pair.prompt.text for pair in pairs]
    chosen = trained.scorer.score(prompts, [pair.chosen.text for pair in pairs])
    rejected = trained.scorer.score(prompts, [pair.rejected.text for pair in pairs])
    accuracy = sum(c > r for c, r in zip(chosen, rejected, strict=True)) / len(pairs)
    assert accuracy > 0.8
    assert log[max(log)]["reward_model/loss"] < log[1]["reward_model/loss"]
    trained.save(tmp_path / "artifact")
    loaded = load_reward_scorer(tmp_path / "artifact", name="r", text="completion", device=torch.device("cpu"))
    assert loaded.score(prompts, [pair.chosen.text for pair in pairs]) == pytest.approx(chosen, rel=1e-5)


@pytest.mark.parametrize("start", [None, "classifier"], ids=["policy", "classifier"])
@pytest.mark.parametrize("window", ["completion", "prompt_and_completion"])
def test_trained_score_is_the_scored_score(monkeypatch, checkpoints, run_context, pairs, start, window):
    """What the trainer feeds the model for the first pairs gives exactly the numbers the scorer gives."""
    import trl

    fed = {}

    class Spy(trl.RewardTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if not fed:
                with torch.no_grad():
                    outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                for ids, mask, value in zip(
                    inputs["input_ids"], inputs["attention_mask"], outputs.logits[:, 0], strict=True
                ):
                    fed[tuple(ids[mask.bool()].tolist())] = value.item()
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(trl, "RewardTrainer", Spy)
    run, _ = run_context(reward_text=window)
    # A vanishing learning rate, so that the model after training is the model of the first step.
    method = RewardModel(model=start and str(checkpoints / start), learning_rate=1e-12, batch_size=4)
    scorer = method.train(TrainData([], [], pairs), run).scorer
    scores = [
        scorer.score([pair.prompt.text], [completion.text])[0]
        for pair in pairs
        for completion in (pair.chosen, pair.rejected)
    ]
    assert len(fed) >= 6
    for value in fed.values():
        assert min(abs(value - score) for score in scores) < 1e-5
