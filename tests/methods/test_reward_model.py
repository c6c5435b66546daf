"""The reward model: trained on the encoding it is scored with, better after training, saved and loaded."""

import json
from dataclasses import replace

import pytest
import torch

from alignbench.errors import ModelError, TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.reward_model import RewardModel
from alignbench.scorers.reward_model import load_classifier_scorer, load_reward_scorer
from alignbench.scorers.text_classifier import ClassifierScorer

METHOD = RewardModel(learning_rate=1e-2, batch_size=4, epochs=6)


@pytest.mark.parametrize("start", [None, "classifier"], ids=["policy", "classifier"])
def test_learns_to_order_the_pairs(checkpoints, run_context, pairs, tmp_path, start):
    run, log = run_context()
    name = start and str(checkpoints / start)
    method = RewardModel(model=name, learning_rate=METHOD.learning_rate, batch_size=4, epochs=6)
    trained = method.train(TrainData([], [], pairs), run)
    prompts = [pair.prompt.text for pair in pairs]
    chosen = trained.score(prompts, [pair.chosen.text for pair in pairs])
    rejected = trained.score(prompts, [pair.rejected.text for pair in pairs])
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
    scorer = method.train(TrainData([], [], pairs), run)
    scores = [
        scorer.score([pair.prompt.text], [completion.text])[0]
        for pair in pairs
        for completion in (pair.chosen, pair.rejected)
    ]
    assert len(fed) >= 6
    for value in fed.values():
        assert min(abs(value - score) for score in scores) < 1e-5


BLANK = ["", " ", "\n\t ", "\u2003"]


def test_a_blank_completion_is_worth_the_lowest_score_of_training(run_context, pairs, tmp_path):
    """Whatever is beside it, after loading, and by the folder of the artifact as well."""
    run, _ = run_context()
    trained = METHOD.train(TrainData([], [], pairs), run)
    texts = [completion.text for pair in pairs for completion in (pair.chosen, pair.rejected)]
    prompts = [pair.prompt.text for pair in pairs for _ in range(2)]
    scores = trained.score(prompts, texts)
    trained.save(tmp_path / "artifact")
    record = json.loads((tmp_path / "artifact" / "reward_model.json").read_text())
    assert record == {"kind": "reward_model", "text": "completion", "blank_reward": min(scores)}
    options = {"name": "r", "text": "completion", "device": torch.device("cpu")}
    loaded = load_reward_scorer(tmp_path / "artifact", **options)
    folder = {"where": "reward.also.0", "revision": None, "label": "reward"} | options
    raw, odds = (
        load_classifier_scorer(str(tmp_path / "artifact"), transform=transform, **folder)
        for transform in ("logit", "probability")
    )
    for scorer in (trained, loaded, raw):
        alone = [scorer.score(["p"], [blank])[0] for blank in BLANK]
        beside = scorer.score(["p"] * 5, [*BLANK, "the dog runs and sings now"])[:4]
        assert alone == beside == [pytest.approx(min(scores))] * 4
    assert odds.score(["p"], [""]) == [pytest.approx(torch.tensor(min(scores)).sigmoid().item())]


def test_a_reward_model_without_a_record_leaves_blank_completions_unscored(run_context, pairs, tmp_path):
    """Earlier releases wrote none."""
    run, _ = run_context()
    METHOD.train(TrainData([], [], pairs[:4]), run).save(tmp_path)
    (tmp_path / "reward_model.json").unlink()
    options = {"name": "r", "text": "completion", "device": torch.device("cpu")}
    blank, words = load_reward_scorer(tmp_path, **options).score(["p"] * 2, [" ", "the dog"])
    assert blank is None
    assert words is not None
    plain = load_classifier_scorer(
        str(tmp_path), where="x", revision=None, label="reward", transform="logit", **options
    )
    assert type(plain) is ClassifierScorer
    (tmp_path / "reward_model.json").write_text("{")
    with pytest.raises(ModelError, match=r"^reward\.run: .*reward_model\.json cannot be read"):
        load_reward_scorer(tmp_path, **options)


def test_a_reward_model_reads_what_it_was_trained_on(run_context, pairs, tmp_path):
    run, _ = run_context()
    method = replace(METHOD, text="prompt_and_completion", epochs=1)
    trained = method.train(TrainData([], [], pairs), run)
    trained.save(tmp_path)
    loaded = load_reward_scorer(tmp_path, name="r", text="completion", device=torch.device("cpu"))
    assert loaded.text == "prompt_and_completion"
    assert loaded.score(["the old man"], [" runs"]) == pytest.approx(trained.score(["the old man"], [" runs"]))


def lengthened(pair, n_words, which):
    """The pair with a prompt or a chosen completion of many more words."""
    if which == "prompt":
        return replace(pair, prompt=replace(pair.prompt, text="the dog " * n_words))
    return replace(pair, chosen=replace(pair.chosen, text="the dog " * n_words))


def test_pairs_that_cannot_be_read_whole_are_left_out_and_cut_prompts_counted(run_context, pairs, caplog):
    run, log = run_context(reward_text="prompt_and_completion")
    pairs = [lengthened(pairs[0], 40, "completion"), lengthened(pairs[1], 40, "prompt"), *pairs[2:5]]
    trained = replace(METHOD, epochs=1).train(TrainData([], [], pairs), run)
    assert len(log) == 1  # one step of four pairs
    assert "1 of 5 pairs are left out, for a completion that is not read whole in 64 tokens" in caplog.text
    assert "the prompts of 2 of 8 texts are cut on the left" in caplog.text
    prompts, texts = [pair.prompt.text for pair in pairs], [pair.chosen.text for pair in pairs]
    scores = trained.score(prompts, texts)
    assert [score is None for score in scores] == [True, False, False, False, False]
    assert trained.cut_prompts(prompts, texts) == [False, True, False, False, False]


def test_no_pair_that_can_be_read_is_no_reward_model(run_context, pairs):
    run, _ = run_context()
    with pytest.raises(TrainingError, match=r"no pair of 2 can be read whole, in 64 tokens; shorten pairs\.comp"):
        METHOD.train(TrainData([], [], [lengthened(pair, 40, "completion") for pair in pairs[:2]]), run)


def test_a_start_that_reads_padding_is_refused(run_context, pairs, monkeypatch):
    monkeypatch.setattr("alignbench.scorers.padding.ignores_padding", lambda model, reader: False)
    run, _ = run_context()
    with pytest.raises(ModelError, match=r"^method\.model: got GPTNeoFor.*, which reads padding as text"):
        METHOD.train(TrainData([], [], pairs), run)


def test_a_reward_model_learns_from_chat_turns_by_its_own_template(run_context, pairs, tmp_path):
    """Its text is its own: the classifier behind the pairs has no template."""
    run, _ = run_context()
    method = replace(METHOD, text="chat", epochs=1)
    with pytest.raises(ModelError, match=r"^method\.text: got chat, and .* has no chat template"):
        method.train(TrainData([], [], pairs), run)
    load = run.load_reward_model

    def with_template(name):
        model, tokenizer = load(name)
        turn = "{{ 'the ' if m['role'] == 'user' else 'a ' }}{{ m['content'] }} <eos> "
        tokenizer.chat_template = f"{{% for m in messages %}}{turn}{{% endfor %}}"
        return model, tokenizer

    run.load_reward_model = with_template
    trained = method.train(TrainData([], [], pairs), run)
    trained.save(tmp_path)
    loaded = load_reward_scorer(tmp_path, name="r", text="completion", device=torch.device("cpu"))
    assert loaded.text == "chat"
    assert loaded.reader.read("old man", "runs now").text == "the old man <eos> a runs now <eos> "
    with torch.no_grad():
        ids = loaded.tokenizer("the old man <eos> a runs now <eos>", return_tensors="pt")["input_ids"]
        assert loaded.model.config.pad_token_id == 1  # the end, which the head passes over
        expected = loaded.model(ids).logits.item()
    assert loaded.score(["old man", "two"], ["runs now", "dogs"])[0] == pytest.approx(expected, rel=1e-5)
    assert loaded.score(["old man"], [" "]) == [loaded.blank_reward]
