"""The configurations of all trainers of the installed TRL."""

import dataclasses
import importlib
import pkgutil

import pytest
import transformers
import trl

from alignbench.errors import TrainingError
from alignbench.methods.trl.arguments import HAS_EFFECT, NEEDS_LENGTH, trl_config
from alignbench.methods.trl.settings import TrainerSettings

SETTINGS = TrainerSettings(learning_rate=1e-4, batch_size=8, micro_batch_size=2, epochs=3)
REQUIRED = {
    "ServerDistillationConfig": {"teacher_model_server_url": "http://localhost", "beta": 0.0, "loss_top_k": 1},
    **{name: {"max_length": 1024} for name in NEEDS_LENGTH},
}
"""What TRL itself insists on, beside what all trainers are given."""


def all_configs():
    """Every configuration of a trainer that TRL has and that can be imported here."""
    found = {}
    for module in pkgutil.walk_packages(trl.__path__, "trl."):
        if not module.name.endswith("_config"):
            continue
        try:
            names = vars(importlib.import_module(module.name))
        except ImportError:  # what it needs is not installed
            continue
        for name, kind in names.items():
            if isinstance(kind, type) and name.endswith("Config") and issubclass(kind, transformers.TrainingArguments):
                found[name] = kind
    return {name: kind for name, kind in found.items() if name[0] != "_"}


CONFIGS = all_configs()


def config(kind, tmp_path, on_cpu=True, **own):
    return trl_config(kind, SETTINGS, tmp_path, seed=3, on_cpu=on_cpu, **own)


def test_the_ones_that_methods_need_are_among_them():
    assert {"DPO", "KTO", "ORPO", "CPO", "SFT", "Reward", "GRPO", "RLOO", "OnlineDPO"} <= {
        name.removesuffix("Config") for name in CONFIGS
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_left_to_trl(tmp_path, name):
    """Neither what assumes a GPU with bfloat16, nor what differs between its trainers."""
    made = config(CONFIGS[name], tmp_path, **REQUIRED.get(name, {}))
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (2, 4)
    assert (made.learning_rate, made.num_train_epochs, made.max_steps) == (1e-4, 3, -1)
    assert (made.seed, made.data_seed) == (3, 3)
    assert not any((made.bf16, made.fp16, made.bf16_full_eval, made.fp16_full_eval))
    assert made.mixed_precision == "no"
    assert not any((made.gradient_checkpointing, getattr(made, "activation_checkpointing", False)))
    assert made.device.type == "cpu"
    assert made.optim == "adamw_torch"
    assert (made.lr_scheduler_type, made.warmup_steps, made.weight_decay) == ("linear", 0, 0.0)
    assert (made.report_to, made.logging_steps) == ([], 1)
    assert not made.remove_unused_columns
    for setting, wanted in {"use_vllm": False, "disable_dropout": True}.items():
        assert getattr(made, setting, wanted) == wanted


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_class_has_no_name_for_is_refused_with_the_nearest_one(tmp_path, name):
    own = REQUIRED.get(name, {}) | {"learning_rat": 1.0}
    expected = f"TRL's {name} has no setting 'learning_rat', did you mean 'learning_rate'"
    with pytest.raises(TrainingError, match=expected):
        config(CONFIGS[name], tmp_path, **own)


@pytest.mark.parametrize("name", sorted(NEEDS_LENGTH))
def test_a_trainer_that_would_cut_texts_is_told_where(tmp_path, name):
    with pytest.raises(TrainingError, match=f"TRL's {name} does not take every text whole where max_length is None"):
        config(CONFIGS[name], tmp_path)


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in HAS_EFFECT for setting in HAS_EFFECT[name]])
def test_a_setting_without_effect_is_refused(tmp_path, name, setting):
    """With TRL's own default of the other setting it has one, or is refused; with a value that reads it it is taken."""
    fields = {field.name: field for field in dataclasses.fields(CONFIGS[name])}
    other, where = HAS_EFFECT[name][setting]
    plain = REQUIRED.get(name, {})
    default = fields[setting].default
    value = 0.25 if default is None or isinstance(default, float) else default + 1
    given = getattr(config(CONFIGS[name], tmp_path, **plain), other)
    elsewhere = {"loss_type": "ipo" if name[0] in "DCT" else "cispo" if setting != "epsilon_high" else "sapo"}
    unread = elsewhere.get(other, given)
    with pytest.raises(TrainingError, match=rf"TRL's {name} reads past {setting}, got {value}, where {other} is"):
        config(CONFIGS[name], tmp_path, **plain, **{other: unread, setting: value})
    read = sorted(where, key=str)[0]
    made = config(CONFIGS[name], tmp_path, **plain, **{other: read, setting: value})
    assert getattr(made, setting) == value
    left_alone = config(CONFIGS[name], tmp_path, **plain, **{other: unread, setting: default})
    assert getattr(left_alone, setting) == default


def test_conservative_dpo_is_not_trained_in_silence(tmp_path):
    """`trl.DPOTrainer` computes the sigmoid loss without label_smoothing, whatever that says."""
    expected = r"label_smoothing, got 0\.1, where loss_type is \['sigmoid'\]; leave it out"
    with pytest.raises(TrainingError, match=expected):
        config(CONFIGS["DPOConfig"], tmp_path, loss_type=["sigmoid"], label_smoothing=0.1)


def test_a_setting_that_trl_changes_is_refused(tmp_path):
    expected = r"TRL's CPOConfig makes loss_type 'simpo', .*; cpo_alpha 0\.0, where 0\.5 was asked for"
    with pytest.raises(TrainingError, match=expected):
        config(CONFIGS["CPOConfig"], tmp_path, max_length=64, loss_type="alphapo", cpo_alpha=0.5)


def test_steps_in_place_of_epochs_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="reads past num_train_epochs where max_steps is given"):
        config(CONFIGS["SFTConfig"], tmp_path, max_steps=10)


def test_what_trl_refuses_names_the_class(tmp_path):
    with pytest.raises(TrainingError, match=r"TRL's GRPOConfig refuses its settings: generation_batch_size \(8\)"):
        config(CONFIGS["GRPOConfig"], tmp_path, num_generations=3)


def test_half_precision_by_the_environment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(TrainingError, match="ACCELERATE_MIXED_PRECISION is set"):
        config(CONFIGS["DPOConfig"], tmp_path)
