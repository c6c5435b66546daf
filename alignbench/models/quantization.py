"""Frozen weights in 8 or 4 bits through bitsandbytes, for an adapter to be trained on (QLoRA).

8 bits: LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339), activations rounded to 8 bits too, outliers left out.
4 bits: NormalFloat with doubly quantized scales (Dettmers et al. 2023, arXiv:2305.14314); multiplied in the precision
of the activations. Embeddings, norms and the output layer stay as they are.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch

from alignbench.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

Quantization = Literal["none", "8bit", "4bit"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def require_bitsandbytes(key: str, got: str) -> None:
    """ModelError, naming the recipe key that asked for it, where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{key}: got {got}, which needs bitsandbytes, and it is not installed: pip install 'alignbench[quantized]'"
        )


def quantized(
    quantization: Quantization, dtype: str, device: torch.device, *, is_encoder_decoder: bool
) -> dict[str, Any]:
    """Arguments of `from_pretrained` for quantized weights on a device.

    Raises:
        ModelError: bitsandbytes is not installed, or the model is an encoder-decoder one.
    """
    from transformers import BitsAndBytesConfig

    require_bitsandbytes("policy.quantization", quantization)
    if is_encoder_decoder:
        raise ModelError(
            f"policy.quantization: got {quantization}, expected none for an encoder-decoder policy, "
            "with which it is untested"
        )
    # It would warn at every product that float32 is rounded, and of a package that it can do without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[dtype],
        )
    return {"quantization_config": config, "device_map": {"": device}}


def settled(model: nn.Module) -> nn.Module:
    """Makes a model that was loaded with `quantized` ready for training on a CPU as on a GPU; returns it.

    On a CPU with bfloat16 instructions the first pass without gradients would repack 4-bit weights for products that
    autograd does not see (bitsandbytes 0.50), and adapters below would silently learn nothing. And weights that are not
    quantized would keep the whole file mapped in memory.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
    return model


def dequantized(model: Any) -> Any:
    """A model with the numbers that its quantized weights stand for in their place; any other as it is."""
    if getattr(model, "is_quantized", False):
        model = model.dequantize()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return model


def n_weights(parameter: torch.Tensor) -> int:
    """Number of weights in a parameter; 4-bit ones lie two to a byte, the shape of their matrix beside them."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())
