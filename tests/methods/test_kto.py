"""KTO: both kinds of completions in every batch, the first loss, weights that are said, the sampled tokens."""

import math
from collections import Counter

import pytest

from alignbench.errors import TrainingError
from alignbench.methods.base import TrainData
from alignbench.methods.kto import KTO
from alignbench.methods.trl.collator import LabelledTokensCollator, labelled_rows
from alignbench.methods.trl.mixed_batches import mixed_batches, wanted_in_a_batch
from alignbench.models.adapters import Lora
from alignbench.records import LabelledCompletion

LORA = Lora(r=4, target_modules=("q_proj", "v_proj"))


@pytest.fixture
def labelled(pairs):
    """8 wanted and 16 unwanted completions."""
    found = [LabelledCompletion(pair.prompt, pair.chosen, i < 8, float(i < 8)) for i, pair in enumerate(pairs)]
    return found + [LabelledCompletion(pair.prompt, pair.rejected, False, 0.0) for pair in pairs]


def test_every_batch_has_both_kinds():
    """At 10 % wanted and batches of 8, which by chance had one kind in 43 % of the cases."""
    labels = [i % 10 == 0 for i in range(200)]
    order = mixed_batches(labels, 8, 2, seed=0)
    batches = [order[i : i + 8] for i in range(0, len(order), 8)]
    assert len(batches) == 50
    assert {sum(labels[i] for i in batch) for batch in batches} == {1}
    seen = Counter(order)
    assert {seen[i] for i, label in enumerate(labels) if not label} == {1, 2}  # 350 places for 180 rows
    assert {seen[i] for i, label in enumerate(labels) if label} == {2, 3}  # 50 places for 20 rows


def test_batches_hold_the_shares_of_the_data_spread_over_their_passes():
    labels = [i < 30 for i in range(40)]
    order = mixed_batches(labels, 8, 1, seed=3)
    assert sorted(order) == list(range(40))
    for start in range(0, 40, 4):
        assert sum(labels[i] for i in order[start : start + 4]) == 3
    assert order == mixed_batches(labels, 8, 1, seed=3) != mixed_batches(labels, 8, 1, seed=4)
    second = mixed_batches(labels, 8, 2, seed=3)
    assert second[:40] == order
    assert sorted(second[40:]) == list(range(40))
    assert second[40:] != order


@pytest.mark.parametrize(("n_wanted", "expected"), [(1, 1), (12, 1), (50, 4), (99, 7)])
def test_of_either_kind_there_is_one_at_least(n_wanted, expected):
    assert wanted_in_a_batch([i < n_wanted for i in range(100)], 8) == expected


@pytest.mark.parametrize("label", [True, False])
def test_data_of_one_kind_are_refused(run_context, labelled, label):
    one_kind = [one for one in labelled if one.is_wanted is label]
    with pytest.raises(TrainingError, match=r"\d+ of \d+ completions are wanted, expected some that are and some not"):
        KTO(batch_size=4).train(TrainData([], [], labelled_completions=one_kind), run_context()[0])


def test_a_pass_of_one_completion_is_refused():
    with pytest.raises(ValueError, match="2 or more completions in a pass"):
        KTO(batch_size=1)
    with pytest.raises(ValueError, match="2 or more completions in a pass"):
        KTO(batch_size=4, micro_batch_size=1)


def test_trained_tokens_are_the_sampled_ones_and_the_kl_is_of_the_neighbours(tiny_policy, labelled):
    policy, rows = tiny_policy(), labelled[6:10]
    batch = LabelledTokensCollator(policy.pad_id)(labelled_rows(rows, policy))
    assert batch["label"].tolist() == [True, True, False, False]
    for i, one in enumerate(rows):
        for kind, completion in (("", one.completion), ("KL_", rows[i - 1].completion)):
            mask = batch[f"{kind}completion_mask"][i].bool()
            assert tuple(batch[f"{kind}input_ids"][i][mask].tolist()) == completion.token_ids
            n_prompt = int(batch[f"{kind}attention_mask"][i].sum() - mask.sum())
            assert batch[f"{kind}input_ids"][i][:n_prompt].tolist() == policy.encode_prompt(one.prompt)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_training_tells_the_wanted_from_the_unwanted(run_context, labelled, lora, caplog):
    caplog.set_level("INFO", "alignbench.methods.kto")
    run, log = run_context(lora=lora)
    method = KTO(learning_rate=1e-2, batch_size=6, epochs=3, wanted_weight=2.0, micro_batch_size=3)
    policy = method.train(TrainData([], [], labelled_completions=labelled), run)
    assert log[1]["policy/loss"] == pytest.approx((2 * 2.0 + 4 * 1.0) / (2 * 6), abs=1e-5)
    assert log[max(log)]["objective/wanted_reward"] > log[max(log)]["objective/unwanted_reward"] + 0.05
    assert len(log) == math.ceil(3 * 24 / 6) == run.cost.optimizer_steps
    assert policy.has_adapter is (lora is not None)
    assert "8 of 24 completions are wanted, from a reward of 1 on; 2 of a batch of 6" in caplog.text
    assert "weigh 1 times" not in caplog.text


def test_weights_that_the_paper_advises_against_are_said(run_context, labelled, caplog):
    KTO(batch_size=6).train(TrainData([], [], labelled_completions=labelled), run_context()[0])
    expected = (
        "weigh 0.5 times as much as the unwanted ones; the paper has 1 to 1.33, which is method.wanted_weight 2 to"
    )
    assert expected in caplog.text
