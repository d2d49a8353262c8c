"""Low-bit weights of a decoder's linear layers: int8 on every device, 4 bits where CUDA kernels have them.

int8 is weight-only with one scale for each output channel, taken from its largest weight (Shen et al.,
"Q-BERT", AAAI 2020, groups finer; at 8 bits a row is fine enough). Activations stay as they are: quantising
them too, as torch's dynamic int8 does, costs far more accuracy. It saves memory, not time: the integers
become floats each time they are used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import MissingExtra, UserError

_SMALLEST = 1 << 10  # weights; smaller matrices are left alone


class Int8Linear(nn.Module):
    """A linear layer with int8 weights [out, in] and one scale a row; computes in its input's type."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", torch.round(weight / scale[:, None]).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def dense(self) -> Tensor:
        """float32[out, in]: the weights that these integers stand for."""
        return self.weight.float() * self.scale[:, None]


def to_int8(module: nn.Module) -> int:
    """Replaces the linear layers of a decoder, in place; returns how many there were."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child.weight.numel() >= _SMALLEST
    ]
    for parent, name, child in found:
        setattr(parent, name, Int8Linear(child))
    return len(found)


def to_dense(module: nn.Module) -> None:
    """The opposite, in place: linear layers of the floats that the integers stand for."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Int8Linear):
                dense = nn.Linear(child.in_features, child.out_features, child.bias is not None)
                with torch.no_grad():
                    dense.weight.copy_(child.dense())
                    if child.bias is not None:
                        dense.bias.copy_(child.bias)
                setattr(parent, name, dense.to(child.weight.device).requires_grad_(False))


def has_own_weights(module: nn.Module) -> bool:
    """Whether all linear layers are torch's or Int8Linear, not those of a library for few bits."""
    return getattr(module, "hf_quantizer", None) is None


def loader(bits: str, device: torch.device) -> Any:
    """What transformers is to quantise with while it loads: a config, or None where to_int8 does it.

    Raises UserError where the device has no such kernels, MissingExtra without the library that has them.
    """
    if bits == "none" or device.type != "cuda":
        if bits == "int4":
            raise UserError("quantise=int4: a CPU has no 4-bit kernels here; take int8, or a CUDA device")
        return None
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if find_spec("bitsandbytes") is not None:
        if bits == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    if find_spec("torchao") is not None:
        made: Any = import_module("torchao.quantization")
        return TorchAoConfig(made.Int8WeightOnlyConfig() if bits == "int8" else made.Int4WeightOnlyConfig())
    if bits == "int8":
        return None  # our own layers run there too
    raise MissingExtra("lowbit", "quantise=int4 on CUDA needs bitsandbytes or torchao")
