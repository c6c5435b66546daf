"""Measures a suite one run after the other and side by side: seconds on the wall, and whether the numbers are the same.

python benchmarks/workers.py quickstart --workers 2

Each begins with a cache of its own, empty. Wall seconds mean something on idle cores alone; prints an object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

COMPARED = ("completions.parquet", "prompt_values.parquet", "divergence.parquet", "model.safetensors")


def measured(folder: Path, suite: str, *options: str) -> dict[str, Any]:
    environment = os.environ | {"ALIGNBENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "alignbench", "run", suite, "--results", str(folder / "results"), "-q", *options]
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}


def contents(folder: Path) -> dict[str, bytes]:
    results = folder / "results"
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in results.rglob("*") if is_compared(path)}


def is_compared(path: Path) -> bool:
    return path.name in COMPARED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", nargs="?", default="quickstart")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as scratch:
        serial, side = Path(scratch, "serial"), Path(scratch, "side")
        found = {
            "one_after_the_other": measured(serial, args.suite),
            "side_by_side": measured(side, args.suite, "--workers", str(args.workers)),
        }
        alone, beside = contents(serial), contents(side)
    unequal = sorted(name for name in alone.keys() | beside.keys() if alone.get(name) != beside.get(name))
    ratio = found["side_by_side"]["wall_s"] / found["one_after_the_other"]["wall_s"]
    about = {"suite": args.suite, "workers": args.workers, "load_before": round(load, 1)}
    print(json.dumps(about | found | {"ratio": round(ratio, 3), "files": len(alone), "unequal": unequal}))


if __name__ == "__main__":
    main()
