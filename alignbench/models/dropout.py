"""Dropout, which is off in every model."""

from __future__ import annotations

from typing import Any

import torch


def without_dropout(model: Any) -> Any:
    """Turns every dropout of a built model off, in place; it then computes the same in training mode.

    Modules alone are not enough: many families hold probabilities as plain numbers (OPT, Llama, T5), or read them from
    a configuration, of which parts of the model may have their own copy (T5).
    """
    configs = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if hasattr(module, "config"):
            configs[id(module.config)] = module.config
    for config in configs.values():
        zero_dropout(config)
    return model


def zero_dropout(config: Any) -> Any:
    """Sets every dropout probability of a model configuration to 0, in place."""
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, key, 0.0)
    return config
