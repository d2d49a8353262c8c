"""A text encoder written as a model directory, in sentence-transformers' layout, for either to open."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from retrieval.errors import UserError
from retrieval.index.layout import Step
from retrieval.index.model_files import CARD, CONFIG, WEIGHTS, placed
from retrieval.index.text_tokens import FILES

_TYPES = {"dense": "Dense", "layer_norm": "LayerNorm", "normalise": "Normalize"}
_MODULE = "sentence_transformers.models."
_FLAT = {
    CONFIG, WEIGHTS, CARD, "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    *FILES,
}  # fmt: skip


def write(directory: str, files: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes a directory whole or not at all; a model of this layout that stood there is replaced.

    files: by path, bytes or what becomes JSON; tensors: by path, of one safetensors file each. Raises
    UserError where the path is something else, or a tensor is not finite; StorageError.
    """
    path = os.path.abspath(directory)
    _may_replace(path)
    with placed(path) as temporary:
        for name, value in files.items():
            data = value if isinstance(value, bytes) else (json.dumps(value, indent=2) + "\n").encode()
            _place(temporary, name)
            with open(os.path.join(temporary, name), "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name, group in tensors.items():
            _save(temporary, name, group)


def describe(
    steps: tuple[Step, ...], pooling: tuple[str, ...], width: int, *, normalise: bool, include_prompt: bool
) -> tuple[dict[str, Any], list[str]]:
    """The files that say how vectors are made, and the folder of each of the steps."""
    kinds = [_TYPES[step.kind] for step in steps]
    folders = [f"{number}_{kind}" for number, kind in enumerate(kinds, 2)]
    if normalise and kinds[-1:] != ["Normalize"]:
        kinds.append("Normalize")
    places = ["", "1_Pooling", *(f"{number}_{kind}" for number, kind in enumerate(kinds, 2))]
    modules = [
        {"idx": number, "name": str(number), "path": place, "type": _MODULE + kind}
        for number, (place, kind) in enumerate(zip(places, ("Transformer", "Pooling", *kinds), strict=True))
    ]
    flags = {
        "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens",
        "mean_sqrt_len": "mean_sqrt_len_tokens",
        "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
    }  # fmt: skip
    said: dict[str, Any] = {"word_embedding_dimension": width}
    said |= {f"pooling_mode_{flag}": mode in pooling for mode, flag in flags.items()}
    if [mode for mode in flags if mode in pooling] != list(pooling):  # flags know one order only
        said = {"embedding_dimension": width, "pooling_mode": list(pooling)}
    files = {"modules.json": modules, "1_Pooling/config.json": {**said, "include_prompt": include_prompt}}
    return files, folders


def _save(root: str, name: str, tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"tensor {key!r} holds NaN or infinite values; the model is not saved")
    _place(root, name)
    file = os.path.join(root, name)
    whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt"})
    os.chmod(file, os.stat(os.path.join(root, CONFIG)).st_mode)  # save_file makes it 0600
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def _place(root: str, name: str) -> None:
    os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)


def _may_replace(path: str) -> None:
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path) or os.path.islink(path):
        raise UserError(f"cannot write a model to {path!r}: it is not a directory; choose another path")
    for name in sorted(os.listdir(path)):
        number, _, kind = name.partition("_")
        ours = name in _FLAT or (number.isdigit() and kind in ("Pooling", *_TYPES.values()))
        if not ours:
            raise UserError(
                f"cannot write a model to {path!r}: it holds {name!r}, which is no part of a model; choose "
                "another directory"
            )
