"""The device of a run, its threads, and the description of the environment."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.code_hash import installed_version
from alignbench.errors import UsageError
from alignbench.runtime import distributed

if TYPE_CHECKING:
    import torch

_PACKAGES = ("alignbench", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy", "pandas", "scipy")


def cache_directory() -> Path:
    """Where prepared data and rates of this machine are kept: `ALIGNBENCH_CACHE`, else `~/.cache/alignbench`."""
    return Path(os.environ.get("ALIGNBENCH_CACHE") or Path.home() / ".cache" / "alignbench")


def evaluations_directory() -> Path | None:
    """Where evaluations before training are kept; None where `ALIGNBENCH_KEEP_EVALUATIONS` is `0`."""
    return None if os.environ.get("ALIGNBENCH_KEEP_EVALUATIONS") == "0" else cache_directory() / "evaluations"


def set_threads(threads: int | None) -> None:
    """Sets the number of CPU threads of torch; None is the number that the process started with."""
    import torch

    initial = _initial_threads()  # read before the first change
    torch.set_num_threads(threads or initial)


@cache
def _initial_threads() -> int:
    import torch

    return torch.get_num_threads()


def quiet_libraries() -> None:
    """Turns off the progress bars and notices of libraries: alignbench shows its own."""
    import warnings

    import transformers

    # TRL 1.16 asks transformers 5.23 whether checkpointing is on by a name that is to go in version 6.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # datasets takes a second to import, and not every run needs it: later on it reads this.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def choose_device(wanted: str) -> torch.device:
    """Returns the device for `auto`, `cpu` or `cuda`; UsageError where CUDA is asked for and absent.

    Of several processes each has a GPU of its own, chosen by `distributed.join`.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("hardware.device: got 'cuda', but torch sees no CUDA device; use 'auto' or 'cpu'")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and distributed.world_size() > 1:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(wanted)


def hardware_class(device: torch.device) -> str:
    """Returns what must be equal for costs to be comparable, e.g. `cpu-x86_64` or `cuda-NVIDIA H200`."""
    import torch

    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_name(device)}"
    return f"{device.type}-{platform.machine()}"


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Returns the versions, platform and hardware of this process; no host names and no paths."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "packages": dict(_versions()),
        "hardware_class": hardware_class(device),
        "n_cpus": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "n_processes": distributed.world_size(),
    }


@cache
def _versions() -> dict[str, str | None]:
    return {package: installed_version(package) for package in _PACKAGES}
