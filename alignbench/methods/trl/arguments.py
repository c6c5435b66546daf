"""The configuration of any TRL trainer, with nothing left to TRL: its defaults differ, and assume a GPU with bfloat16.

TRL says nothing where a setting has no effect beside another one, and where it changes one; both are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

from alignbench.errors import TrainingError, did_you_mean
from alignbench.identity import default_of
from alignbench.methods.base import RunContext
from alignbench.methods.trl.settings import TrainerSettings

Config = TypeVar("Config")

CHECKPOINT_EVERY = 50
"""Steps from one checkpoint to the next."""
_PAIRED_SMOOTHING = {"sigmoid", "simpo", "tpo-l"}
_CLIPPED = {"grpo", "bnpo", "dr_grpo", "dapo", "luspo"}
_REFERENCE_MOVES: dict[str, tuple[str, set[Any]]] = {
    "ref_model_mixup_alpha": ("sync_ref_model", {True}),
    "ref_model_sync_steps": ("sync_ref_model", {True}),
}
HAS_EFFECT: dict[str, dict[str, tuple[str, set[Any]]]] = {
    "DPOConfig": {
        "label_smoothing": ("loss_type", {"exo_pair", "robust", "aot", "aot_unpaired"}),
        "discopop_tau": ("loss_type", {"discopop"}),
        "f_alpha_divergence_coef": ("f_divergence_type", {"alpha_divergence"}),
        "precompute_ref_batch_size": ("precompute_ref_log_probs", {True}),
        **_REFERENCE_MOVES,
    },
    "KTOConfig": {"precompute_ref_batch_size": ("precompute_ref_log_probs", {True}), **_REFERENCE_MOVES},
    "CPOConfig": {
        "label_smoothing": ("loss_type", _PAIRED_SMOOTHING),
        "simpo_gamma": ("loss_type", {"simpo"}),
    },
    "TPOConfig": {"label_smoothing": ("loss_type", {"sigmoid"}), "tpo_l_gamma": ("loss_type", {"tpo-l"})},
    "GRPOConfig": {
        "epsilon": ("loss_type", _CLIPPED),
        "delta": ("loss_type", _CLIPPED),
        "epsilon_high": ("loss_type", {*_CLIPPED, "cispo"}),
        **{f"sapo_temperature_{sign}": ("loss_type", {"sapo"}) for sign in ("pos", "neg")},
        **{f"vespo_{name}_{sign}": ("loss_type", {"vespo"}) for name in ("k", "lambda") for sign in ("pos", "neg")},
        **_REFERENCE_MOVES,
    },
    "RLOOConfig": _REFERENCE_MOVES,
}
"""By class, the settings that its trainer reads only where another one has one of some values; elsewhere it passes them
over in silence. Read from the trainers of TRL 1.16."""
NEEDS_LENGTH = frozenset({"CPOConfig", "ORPOConfig", "GKDConfig", "OnlineDPOConfig", "IWOPDConfig"})
"""Those whose trainers cut at a length of their own, or fail, where `max_length` is None."""


def trl_config(
    kind: type[Config], settings: TrainerSettings, directory: Path, *, seed: int, on_cpu: bool, **own: Any
) -> Config:
    """Makes the configuration of a TRL trainer: float32, no dropout, AdamW, linear decay, nothing reported anywhere.

    What the class has no name for is left out of what all trainers share, and refused of `own`.

    Args:
        kind: A configuration class of TRL, such as `DPOConfig`.
        settings: Learning rate, batches and epochs.
        directory: Where checkpoints go.
        seed: Seeds the order of the data too.
        on_cpu: True keeps the trainer off any GPU.
        own: What this trainer is given besides; in place of what all share, where it has the same name.

    Raises:
        TrainingError: A setting that the class does not have, would change, or would read past; or one that TRL
            refuses itself.
    """
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(own.keys() - known):
        hint = did_you_mean(unknown[0], list(known))
        raise TrainingError(f"TRL's {kind.__name__} has no setting {unknown[0]!r}{hint}")
    shared = _shared(settings, directory, seed=seed, on_cpu=on_cpu)
    if "activation_checkpointing" not in known:  # transformers 5.17
        shared["gradient_checkpointing"] = shared.pop("activation_checkpointing")
    values = {name: value for name, value in shared.items() if name in known} | own
    _check_effects(kind, own, values, known)
    try:
        config = kind(**values)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"TRL's {kind.__name__} refuses its settings: {error}") from error
    changed = [
        f"{name} {getattr(config, name)!r}, where {given!r} was asked for"
        for name, given in values.items()
        if getattr(config, name) not in (given, [given])
    ]
    if changed:
        raise TrainingError(f"TRL's {kind.__name__} makes {'; '.join(changed)}")
    if config.mixed_precision != "no":  # type: ignore[attr-defined]
        raise TrainingError("the environment variable ACCELERATE_MIXED_PRECISION is set: training is in float32")
    return config


def trainer_arguments(
    kind: type[Config], settings: TrainerSettings, rows: Sequence[Mapping[str, Any]], run: RunContext, **own: Any
) -> dict[str, Any]:
    """What any TRL trainer is given that trains the policy of a run on rows; `own` is for its configuration."""
    from datasets import Dataset

    from alignbench.models.adapters import lora_config

    policy, on_cpu = run.policy, run.policy.device.type == "cpu"
    return {
        "model": policy.model,
        "args": trl_config(kind, settings, run.checkpoints, seed=run.seed, on_cpu=on_cpu, **own),
        "train_dataset": Dataset.from_list(list(rows)),
        "processing_class": policy.tokenizer,
        "peft_config": lora_config(run.lora, policy.model) if run.lora else None,
    }


def _check_effects(
    kind: type, own: Mapping[str, Any], values: Mapping[str, Any], known: Mapping[str, Field[Any]]
) -> None:
    """TrainingError for a setting that differs from TRL's default and that the trainer would not read."""

    def value_of(name: str) -> Any:
        return values[name] if name in values else default_of(known[name])

    if value_of("max_steps") > 0:
        raise TrainingError(f"TRL's {kind.__name__} reads past num_train_epochs where max_steps is given: give epochs")
    names = {parent.__name__ for parent in kind.__mro__}
    if names & NEEDS_LENGTH and value_of("max_length") is None:
        raise TrainingError(f"TRL's {kind.__name__} does not take every text whole where max_length is None: give it")
    effects = [effect for name in names for effect in HAS_EFFECT.get(name, {}).items()]
    for name, (other, where) in effects:
        if name not in own or own[name] == default_of(known[name]):
            continue
        chosen = value_of(other)
        if not where.intersection(chosen if isinstance(chosen, list) else [chosen]):
            expected = " or ".join(sorted(map(str, where)))
            raise TrainingError(
                f"TRL's {kind.__name__} reads past {name}, got {own[name]!r}, where {other} is {chosen!r}; leave it "
                f"out, or set {other} to {expected}"
            )


def _shared(settings: TrainerSettings, directory: Path, *, seed: int, on_cpu: bool) -> dict[str, Any]:
    """What all trainers are given, where their configuration has the name."""
    return {
        "output_dir": str(directory),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": on_cpu,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "per_device_train_batch_size": settings.rows_at_once,
        "gradient_accumulation_steps": settings.batch_size // settings.rows_at_once,
        "num_train_epochs": settings.epochs,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "optim": "adamw_torch",
        "bf16": False,
        "fp16": False,
        "activation_checkpointing": False,
        "disable_dropout": True,
        "max_length": None,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": CHECKPOINT_EVERY,
        "save_total_limit": None,  # `Vouching` deletes the one before, once the next is vouched for
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
    }
