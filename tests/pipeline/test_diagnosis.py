"""What a run is said to have ended with."""

from alignbench.pipeline.diagnosis import last_tenth


def test_last_tenth():
    assert last_tenth([]) is None
    assert last_tenth([5.0]) == 5.0
    assert last_tenth([*([0.0] * 18), 1.0, 3.0]) == 2.0
