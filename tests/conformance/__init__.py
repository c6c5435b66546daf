"""What plug-ins of alignbench must do, as functions that authors call in tests of their own.

Each takes a plug-in, raises AssertionError with what was got and what was expected, and needs neither network nor
pytest. Policies and rewards are the tiny ones that ship with alignbench. Installed as `alignbench_conformance`.
"""

from .imports import check_imports
from .methods import check_method, check_training
from .metrics import check_metric, check_probe
from .policies import check_policy
from .scorers import check_scorer
from .sources import check_source
from .world import prompts, tiny_policy

__all__ = [
    "check_imports",
    "check_method",
    "check_metric",
    "check_policy",
    "check_probe",
    "check_scorer",
    "check_source",
    "check_training",
    "prompts",
    "tiny_policy",
]
