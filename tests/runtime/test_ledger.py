"""Booking: sums, events, and what a block of code has spent."""

from alignbench.records import Cost
from alignbench.runtime.ledger import Ledger, spending


class Meter:
    """Something that spends."""

    def __init__(self):
        self.spent = Cost(forward_flops=100.0)

    def score(self, n):
        self.spent.forward_flops += n


def test_a_piece_lands_in_its_account_and_in_the_events():
    rows = []
    ledger = Ledger(lambda step, row: rows.append({"step": step, **row}))
    ledger.book(1, "train", Cost(trained_tokens=5, trainable_parameters=7))
    ledger.book(2, "train", Cost(trained_tokens=6, trainable_parameters=7, backward_flops=2.5))
    ledger.book(None, "evaluation", Cost(wall_seconds=3.0), "evaluation_cost")
    assert ledger.cost == Cost(trained_tokens=11, trainable_parameters=7, backward_flops=2.5)
    assert ledger.evaluation_cost == Cost(wall_seconds=3.0)
    first = {"step": 1, "event": "train", "account": "cost", "trained_tokens": 5, "trainable_parameters": 7}
    assert rows == [
        first,
        first | {"step": 2, "trained_tokens": 6, "backward_flops": 2.5},
        {"step": None, "event": "evaluation", "account": "evaluation_cost", "wall_seconds": 3.0},
    ]


def test_a_checkpoint_sets_the_counts_and_leaves_the_seconds():
    ledger = Ledger()
    ledger.book(1, "train", Cost(trained_tokens=5, wall_seconds=2.0))
    ledger.restore(Cost(trained_tokens=3, wall_seconds=100.0).counts())
    assert ledger.cost == Cost(trained_tokens=3, wall_seconds=2.0)


def test_what_a_block_spends_is_told_from_what_was_spent_before():
    meter = Meter()
    with spending(meter.score, meter, len, lambda: None) as spent:  # the same meter by two names counts once
        meter.score(8)
    meter.score(1000)
    assert spent == Cost(forward_flops=8.0)


def test_charging_adds_and_takes_the_highest_peak():
    cost = Cost(wall_seconds=1.0, peak_memory_gib=2.0, prompts_seen=3, trainable_parameters=10)
    cost.charge(Cost(wall_seconds=0.5, peak_memory_gib=1.0, prompts_seen=4, trainable_parameters=20))
    assert cost == Cost(wall_seconds=1.5, peak_memory_gib=2.0, prompts_seen=7, trainable_parameters=20)
    assert cost.since(Cost(prompts_seen=3)) == Cost(
        wall_seconds=1.5, peak_memory_gib=2.0, prompts_seen=4, trainable_parameters=20
    )
