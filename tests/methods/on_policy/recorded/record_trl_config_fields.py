"""Records every field of TRL's PPOConfig with its default, for tests/methods/on_policy/test_migration_doc.py.

Run once with each TRL, each in an environment of its own; it adds to trl_config_fields.json beside this script:

    pip install torch==2.13.0 && pip install trl==0.11.4 transformers==4.45.2 accelerate==1.0.1 numpy==2.2.6 rich
    pip install torch==2.13.0 && pip install trl==1.12.0 transformers==5.23.0
"""

import inspect
import json
import sys
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

import trl

FILE = Path(__file__).with_name("trl_config_fields.json")


def default(field):
    """The default as text."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    value = value.value if isinstance(value, Enum) else value
    return "name of the script" if value == Path(sys.argv[0]).stem else str(value)


def main():
    try:
        from trl.experimental.ppo import PPOConfig
    except ImportError:
        from trl import PPOConfig
    own = inspect.get_annotations(PPOConfig)
    found: dict[str, dict[str, str]] = {"own": {}, "inherited": {}}
    for field in fields(PPOConfig):
        found["own" if field.name in own else "inherited"][field.name] = default(field)
    recorded = json.loads(FILE.read_text()) if FILE.is_file() else {}
    recorded[trl.__version__] = found
    FILE.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
