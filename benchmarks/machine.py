"""What the benchmarks run on, and which packages that alignbench needs are missing: one JSON line."""

from __future__ import annotations

import configparser
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def packages() -> dict[str, str | None]:
    """Versions of what alignbench requires; None where it is missing."""
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[1] / "setup.cfg")
    found: dict[str, str | None] = {}
    for requirement in settings["options"]["install_requires"].split("\n"):
        if name := requirement.partition(" ")[0]:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
    return found


def gpu() -> dict[str, Any]:
    """Name, memory in MiB and driver's CUDA of the first GPU; empty without one."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    facts = torch.cuda.get_device_properties(0)
    return {"gpu": facts.name, "gpu_mb": round(facts.total_memory / 2**20), "cuda": torch.version.cuda}


def main() -> None:
    """Prints it."""
    found = packages()
    missing = [name for name, version in found.items() if version is None]
    python, n_cpus = platform.python_version(), len(os.sched_getaffinity(0))
    print(json.dumps({"python": python, "cpus": n_cpus, **gpu(), "missing": missing, "packages": found}))


if __name__ == "__main__":
    main()
