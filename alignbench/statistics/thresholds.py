"""How much of a change, or of a loss, counts: what training, evaluation and the flags agree on."""

from __future__ import annotations

MAX_UNSCORED = 0.01
"""A scorer that leaves a larger share of the completions unscored has its metrics withheld, and is flagged; a reward
that does stops training."""
MAX_LENGTH_SHIFT = 0.2
"""Completions whose mean length moved by more than this share have changed length."""
RATES = ("repetition_rate", "copy_rate", "empty_rate")
MAX_RATE_RISE = 0.05
"""Texts degenerate where one of RATES rises by so much of the completions, or more."""
LOWERED_BY_LENGTH = {"distinct_1": 1, "distinct_2": -1}
"""Which change of length lowers them by itself: longer texts repeat words, shorter ones have fewer pairs of words."""
MAX_DIVERSITY_FALL = 1 / 3
"""Texts degenerate where one of LOWERED_BY_LENGTH loses more than this share, and not by MAX_LENGTH_SHIFT."""
