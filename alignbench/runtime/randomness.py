"""Seeds and generators of random numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Key = Sequence[int | str]
"""Names one stream of random numbers, e.g. `(seed, "rollout", step)`."""


def generator(*key: int | str) -> np.random.Generator:
    """Returns a counter-based random generator that depends on the key alone (Philox, keyed by SHA-256)."""
    import numpy as np

    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's global generators, for libraries that draw from them."""
    import random

    import numpy as np
    import rich.style  # noqa: F401 - draws a number when it is imported, which must not happen after the seed
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy global generator is what libraries draw from
    torch.manual_seed(seed)
