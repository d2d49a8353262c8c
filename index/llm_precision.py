"""Device and precision of a decoder: what is asked for, what pays here, what the gate lets through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retrieval.errors import UserError
from retrieval.index import gate
from retrieval.index.llm_quantise import to_int8
from retrieval.index.llm_settings import LlmSettings
from retrieval.index.processor import bfloat16_pays

_COMPARED = 2 << 30  # parameters; of larger models two copies would not fit, and no cosine is taken


def choose_device(name: str) -> torch.device:
    """The device of auto, cpu, cuda or cuda:1. Raises UserError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"device is {name!r}; give auto, cpu, cuda or cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name}: torch finds {torch.cuda.device_count()} CUDA devices; give device=cpu"
        )
    return torch.device(name)


def narrow(
    module: nn.Module,
    settings: LlmSettings,
    device: torch.device,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
) -> dict[str, Any]:
    """Brings float32 weights to the precision that is asked for, in place; {"precision", "gate"}.

    encode: vectors of texts by this module, which are compared before and after. bfloat16 is taken by itself
    where it is faster and the gate lets it through. Raises UserError where the gate refuses what was asked.
    """
    precision = settings.precision
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else bfloat16_pays()
        precision = "bfloat16" if fast else "float32"
    if precision == "float32" and settings.quantise == "none":
        return {"precision": precision}
    compared = sum(parameter.numel() for parameter in module.parameters()) < _COMPARED
    before = encode(gate.PROBE) if compared else None
    if settings.quantise == "int8":
        to_int8(module)
    wide = {name: parameter.data for name, parameter in module.named_parameters()}
    if precision == "bfloat16":
        for parameter in module.parameters():  # buffers, such as rotary frequencies, stay exact
            parameter.data = parameter.data.to(torch.bfloat16)
    if before is None:
        return {"precision": precision, "gate": None}
    found = gate.measure(encode(gate.PROBE), before)
    if not gate.holds(found) and settings.precision == "auto" and settings.quantise == "none":
        for name, parameter in module.named_parameters():
            parameter.data = wide[name]
        return {"precision": "float32"}
    if settings.quantise == "none":
        gate.refuse(found, f"precision={precision}")
    elif not gate.holds(found):
        raise UserError(
            f"quantise={settings.quantise} changes this model's vectors too much: cosine to float32 "
            f"{found['min']:.4f} at worst on the probe, and {gate.LEAST} is the least; leave it out"
        )
    return {"precision": precision, "gate": found}
