"""What an export names: models and files of this machine are taken along, or named without their folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignbench.models.policy_file import FILE, HERE

NAMED = "named"
"""The folder of what `policy.json` names."""


class TakenAlong:
    """Copies what lies on this machine into the folder of an export, each once; called with a name, it gives another.

    Names of the hub, and other names of nothing here, stay as they are.
    """

    def __init__(self, directory: Path, copy_policy: Callable[[Path, Path], object]) -> None:
        """`copy_policy` writes what a policy has saved in its first argument into its second."""
        self.directory, self.copy_policy = directory, copy_policy
        self.places: dict[Path, str] = {}
        """By path, where it is in the folder."""

    def __call__(self, name: str) -> str:
        """Returns what `policy.json` is to say in place of a name."""
        path = Path(os.path.abspath(Path(name).expanduser()))
        if not path.exists():
            return str(without_folders(name))
        if path not in self.places:
            taken = f"{NAMED}/{path.name}"
            place = taken if taken not in self.places.values() else f"{NAMED}/{len(self.places)}_{path.name}"
            self._copy(path, self.directory / place)
            self.places[path] = place
        return HERE + self.places[path]

    def _copy(self, path: Path, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        if path.is_file():
            shutil.copyfile(path, target)
        elif (path / FILE).is_file():
            self.copy_policy(path, target)
        else:
            shutil.copytree(path, target)


def without_folders(value: Any) -> Any:
    """Returns JSON-like values with the last part alone of each path from the root, from home, or from a folder above.

    A text begins at the root where its first folder is there: `/no_think {prompt}` does not.
    """
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if not isinstance(value, str) or "\n" in value:
        return value
    parts = Path(value).parts
    is_whole = len(parts) > 2 and Path(value).is_absolute() and Path(*parts[:2]).is_dir()
    return Path(value).name if is_whole or value.startswith(("~/", "../")) else value
