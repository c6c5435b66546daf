"""Checkpoints of TRL's trainers: which training each belongs to, and whether it is whole.

Beside the trainer's own files lies a voucher, written last: what must be equal for a training to go on from there, and
the hash of every file. Left to itself a trainer goes on from whatever it finds: on other data, or with the optimizer
reset where its state is gone.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from alignbench.errors import TrainingError
from alignbench.identity import identity_values, require_same
from alignbench.models.fast.layers import choice
from alignbench.models.loading import weights_fingerprint
from alignbench.records import file_sha256, fingerprint

if TYPE_CHECKING:
    from alignbench.methods.trl.settings import TrainerSettings
    from alignbench.models.adapters import Lora
from alignbench.runtime import progress

logger = logging.getLogger(__name__)

VOUCHER = "alignbench.json"
Identity = Mapping[str, object]


def training_identity(
    settings: TrainerSettings, model: Any, rows: Sequence[Mapping[str, Any]], *, seed: int, lora: Lora | None = None
) -> dict[str, object]:
    """Returns what must be equal for a training to go on from a checkpoint.

    Args:
        settings: The method, of which the fields count that belong to a run's identity.
        model: The model before training, without an adapter.
        rows: What it is trained on, as token ids.
        seed: The run's.
        lora: The adapter that is to be trained, if any.
    """
    return {
        "seed": seed,
        "start_weights": weights_fingerprint(model),
        "pairs": fingerprint([dict(row) for row in rows]),
        "lora": fingerprint(asdict(lora)) if lora else None,
        **identity_values(type(settings), asdict(settings)),
    }


class Vouching(TrainerCallback):  # type: ignore[misc]
    """Writes the voucher of every checkpoint, then deletes those before it: a kill leaves the old or the new one."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer when it has written a checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = {"identity": dict(self.identity), "files": _hashes(folder), "kernels": choice.state()}
        scratch = folder / f"{VOUCHER}.new"
        scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, folder / VOUCHER)
        for other in folder.parent.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)
        progress.checkpoint_at(state.global_step)


def last_checkpoint(directory: Path, identity: Identity) -> str | None:
    """Returns the newest checkpoint of a training; None where a killed run has left none with its voucher.

    The kernels that it was made with are taken from now on.

    Raises:
        TrainingError: It is one of another training, or files of it are gone or damaged.
    """
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            record = json.loads((path / VOUCHER).read_text(encoding="utf-8"))
            saved, files = dict(record["identity"]), dict(record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("%s was not written to its end, and is passed over", path)
            continue
        require_same(str(path), saved, identity, frozenset())
        there = _hashes(path)
        lost = [name for name, value in files.items() if there.get(name) != value]
        if lost:
            raise TrainingError(
                f"{path}: of the checkpoint, {', '.join(sorted(lost))} {'is' if len(lost) == 1 else 'are'} gone or "
                "damaged; use --force to start anew"
            )
        choice.adopt(record.get("kernels"))
        progress.checkpoint_at(int(path.name.rpartition("-")[2]))
        return str(path)
    return None


def _hashes(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(VOUCHER))
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
