"""LoRA: low-rank updates of linear layers, trained alone, merged, saved in the file format of PEFT.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), section 4.1: y = W x + (alpha/r)
B A x with A random, B zero at the start. Files are those that PEFT writes (adapter_config.json and
adapter_model.safetensors with base_model.model.NAME.lora_A.weight), so that adapters go both ways.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.diskio import disk_errors, make_directories
from retrieval.errors import UserError
from retrieval.index.llm_files import read_json
from retrieval.index.llm_quantise import Int8Linear, to_dense

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TARGETS = {
    "q": ("q_proj",), "k": ("k_proj",), "v": ("v_proj",), "o": ("o_proj", "dense"),
    "gate": ("gate_proj",), "up": ("up_proj", "fc1", "c_fc"), "down": ("down_proj", "fc2", "c_proj"),
    "qkv": ("qkv_proj",), "gate_up": ("gate_up_proj",),
}  # fmt: skip
ALL = "q,k,v,o,gate,up,down"
_FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}  # Phi-3 has them in one


@dataclass(frozen=True)
class LoraConfig:
    """rank and alpha (the update is scaled by alpha / rank), dropout of its input, and the layers.

    targets: names of ALL, or endings of module names, with commas between them.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = ALL

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"LoRA of rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}: give a rank of 1 or "
                "more, an alpha above 0, a dropout from 0 to below 1"
            )


class LoraLinear(nn.Module):
    """A linear layer that stays as it is, and its update of low rank in float32."""

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.scaling = alpha / rank
        device = next(iter([*base.parameters(), *base.buffers()])).device
        inner, outer = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        self.lora_A = nn.Parameter(torch.empty(rank, inner, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outer, rank, device=device))
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        update: Tensor = self.dropout(x).to(self.lora_A.dtype) @ self.lora_A.T @ self.lora_B.T
        return y + (update * self.scaling).to(y.dtype)

    def delta(self) -> Tensor:
        """float32[out, in]: what the update adds to the weights."""
        return (self.lora_B @ self.lora_A).detach() * self.scaling


def add_lora(module: nn.Module, config: LoraConfig) -> list[str]:
    """Wraps the chosen linear layers, in place; from then on only their updates take gradients.

    Returns the names of the layers. Raises UserError where no layer has such a name.
    """
    chosen = [(name, child) for name, child in _linear(module) if _matches(name, config.targets, module)]
    if not chosen:
        raise UserError(f"the model has no linear layer named {config.targets!r}; the usual ones are {ALL}")
    module.requires_grad_(False)
    for name, child in chosen:
        _replace(module, name, LoraLinear(child, config.rank, config.alpha, config.dropout))
    return [name for name, _ in chosen]


def merge_lora(module: nn.Module) -> int:
    """Adds the updates to the weights and unwraps the layers; returns how many there were.

    int8 layers become floats again: adding to integers would round the update away.
    """
    layers = lora_layers(module)
    for name, layer in layers.items():
        base: Any = layer.base
        with torch.no_grad():
            if isinstance(base, Int8Linear):
                to_dense(layer)
                base = layer.base
            if type(base) is nn.Linear:
                base.weight.copy_((base.weight.float() + layer.delta()).to(base.weight.dtype))
            else:
                raise UserError(
                    f"cannot merge LoRA into a {type(base).__name__} ({name}); open the model without "
                    "quantise"
                )
        _replace(module, name, base)
    return len(layers)


def lora_layers(module: nn.Module) -> dict[str, LoraLinear]:
    """The wrapped layers by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, LoraLinear)}


def save_lora(module: nn.Module, directory: str, config: LoraConfig, base: str = "") -> None:
    """Writes the updates as PEFT does. base: name of the model that they belong to. Raises StorageError."""
    from safetensors.torch import save_file

    layers = lora_layers(module)
    tensors = {}
    for name, layer in layers.items():
        for part in ("lora_A", "lora_B"):
            tensor = getattr(layer, part).detach().cpu().contiguous()
            tensors[f"base_model.model.model.{name}.{part}.weight"] = tensor
    described = {
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": base,
        "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout, "bias": "none",
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in layers}),
        "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False, "use_dora": False,
    }  # fmt: skip
    with disk_errors("write an adapter to", directory, placing=True):
        make_directories(directory)
        save_file(tensors, os.path.join(directory, WEIGHTS), metadata={"format": "pt"})
        with open(os.path.join(directory, CONFIG), "w", encoding="utf-8") as file:
            json.dump(described, file, indent=2, sort_keys=True)


def load_lora(module: nn.Module, directory: str) -> LoraConfig:
    """Wraps a decoder's layers with the updates of a PEFT adapter.

    Raises UserError for an adapter of another kind (DoRA, bias, other layers), or of another model's shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not os.path.isdir(directory):
        raise UserError(f"no adapter {directory!r}; give a directory with {CONFIG} and {WEIGHTS}")
    found = read_json(directory, CONFIG, needed=True)
    _check_kind(found, directory)
    try:
        tensors = load_file(os.path.join(directory, WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {WEIGHTS} of {directory!r}: {error}") from None
    linear = dict(_linear(module))
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = _layer_of(key, linear)
        if name is None:
            raise UserError(f"{directory!r}: the model has no layer for {key!r}; is it of another model?")
        pairs.setdefault(name, {})[part] = tensor
    module.requires_grad_(False)
    alpha = _number(found, "lora_alpha", 8, directory)
    rank = int(_number(found, "r", 8, directory))
    config = LoraConfig(rank, alpha, _number(found, "lora_dropout", 0, directory), ",".join(sorted(pairs)))
    for name, pair in pairs.items():
        base: Any = linear[name]
        if set(pair) != {"lora_A", "lora_B"}:
            raise UserError(f"{directory!r} holds only a half of the update of {name!r}; copy it again")
        if any(tensor.ndim != 2 or not tensor.numel() for tensor in pair.values()):
            raise UserError(f"{directory!r}: the update of {name!r} is no pair of matrices; copy it again")
        own, scale = len(pair["lora_A"]), _alpha(found, name, alpha, directory)
        if found.get("use_rslora"):
            scale *= math.sqrt(own)  # scaled by alpha / sqrt(rank)
        layer = LoraLinear(base, own, scale, config.dropout)
        for part, tensor in pair.items():
            parameter = getattr(layer, part)
            if parameter.shape != tensor.shape:
                raise UserError(
                    f"{directory!r}: {part} of {name!r} is {tuple(tensor.shape)} and the model asks for "
                    f"{tuple(parameter.shape)}; the adapter is of another model"
                )
            with torch.no_grad():
                parameter.copy_(tensor)
        _replace(module, name, layer)
    return config


def _check_kind(found: Mapping[str, Any], directory: str) -> None:
    kind = found.get("peft_type", "LORA")
    if kind != "LORA":
        raise UserError(f"{directory!r} is an adapter of kind {kind!r}; this reads LORA")
    for name in ("use_dora", "modules_to_save", "fan_in_fan_out", "layer_replication", "lora_bias"):
        if found.get(name):
            raise UserError(f"{directory!r} uses {name}, which this does not have; merge it with PEFT first")
    if found.get("bias", "none") != "none":
        raise UserError(f"{directory!r} changes biases too; merge it with PEFT first")


def _number(found: Mapping[str, Any], name: str, default: float, directory: str) -> float:
    """A number of an adapter's configuration. Raises UserError."""
    value = found.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{directory!r}: {CONFIG} gives {name} as {value!r}; it is a number")
    return float(value)


def _alpha(found: Mapping[str, Any], name: str, default: float, directory: str) -> float:
    patterns = found.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{directory!r}: alpha_pattern of {CONFIG} is no object; copy it again")
    ending = next((ending for ending in patterns if name.endswith(ending)), "")
    return _number(patterns, ending, default, directory)


def _layer_of(key: str, linear: Mapping[str, nn.Module]) -> tuple[str | None, str]:
    """(name of the layer that a tensor of an adapter belongs to, lora_A or lora_B)."""
    stem, _, last = key.rpartition(".lora_")
    part = f"lora_{last[:1]}"
    if not stem or part not in ("lora_A", "lora_B"):
        return None, part
    for prefix in ("base_model.model.model.", "base_model.model.", "model.", ""):
        if stem.startswith(prefix) and stem.removeprefix(prefix) in linear:
            return stem.removeprefix(prefix), part
    return None, part


def _linear(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers by name, those of low-bit libraries among them, not those inside a LoraLinear."""
    inside: list[str] = []
    for name, child in module.named_modules():
        if isinstance(child, LoraLinear):
            inside.append(f"{name}.")
        elif isinstance(child, nn.Linear | Int8Linear) and not name.startswith(tuple(inside)):
            yield name, child


def _matches(name: str, targets: str, module: nn.Module) -> bool:
    last = name.rsplit(".", 1)[-1]
    for target in filter(None, (target.strip() for target in targets.split(","))):
        fused = _TARGETS.get(_FUSED.get(target, ""), ())
        if last in (*_TARGETS.get(target, ()), *fused) or name == target or name.endswith(f".{target}"):
            return True
    return False


def _replace(module: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)
