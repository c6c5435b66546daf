"""What plug-ins may import where they are only looked up."""

from __future__ import annotations

import os
import subprocess
import sys

from .expectations import expect

HEAVY = ("datasets", "pandas", "torch", "transformers", "trl")


def check_imports(*modules: str) -> None:
    """Checks that modules are imported without a heavy library: `check`, `compare` and `--help` look plug-ins up."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    if heavy := [one for one in {HEAVY} if one in sys.modules]:\n"
        "        sys.exit(f'{name} imports {heavy}, expected them inside the functions that need them')\n"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code, *modules], env=path, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, done.stderr.strip())
