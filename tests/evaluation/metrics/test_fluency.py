import math

import numpy as np
import pytest

from alignbench.evaluation.samples import log_perplexities
from alignbench.records import Completion


def test_log_perplexity_by_hand_leaves_the_end_of_sequence_out():
    ended = Completion("a", 0, "x y", (5, 6, 0), "eos")
    cut = Completion("a", 1, "x y z", (5, 6, 7), "length")
    logs = np.log([0.5, 0.25, 0.125])
    # (ln 2 + ln 4) / 2 = ln(8) / 2, and (ln 2 + ln 4 + ln 8) / 3 = ln 4
    assert log_perplexities([ended, cut], [logs, logs]) == pytest.approx([math.log(8) / 2, math.log(4)])


def test_completion_without_a_token_is_unmeasured():
    empty = Completion("a", 0, "", (0,), "eos")
    nothing = Completion("a", 1, "", (), "length")
    assert np.isnan(log_perplexities([empty, nothing], [np.log([0.9]), np.empty(0)])).all()
