"""A BERT as a graph for ONNX Runtime or OpenVINO: exported once, kept in the user's cache, verified.

A cached graph is a directory of its files and their sha256, named after all that decides about it: weights,
configuration, versions. It is written whole or not at all; one that does not match its sums is made again.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.diskio import disk_errors
from retrieval.index.bert import Bert
from retrieval.index.file_hashes import sha256_of
from retrieval.verified import cache_directory

_FORMAT = 1  # of the graph: rises with every change of Padded
_SUMS = "sums.json"
_OPSET = 17
_NEVER = -1e30  # added to the attention to padding


class Padded(nn.Module):
    """`padded(ids, mask)`, int64[B, L] each, 1 for a token: the last layer's states, float[B, L, H].

    The computation of Bert, in operations that exporters know. States of padding mean nothing.
    """

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        bert, config = self.bert, self.bert.config
        rows, length = ids.shape[0], ids.shape[1]
        tables = bert.embeddings
        first = config.position_offset
        hidden: Tensor = tables.word_embeddings(ids) + tables.token_type_embeddings.weight[0]
        hidden = hidden + tables.position_embeddings.weight[first : first + length]
        hidden = tables.LayerNorm(hidden)
        bias = (mask == 0)[:, None, None, :] * _NEVER
        if bert.encoder.relative_attention_bias is not None:
            bias = bias + bert.encoder.distances(length)
        for layer in bert.encoder.layer:
            attention = cast(Any, layer).attention.self
            parts = (attention.query, attention.key, attention.value)
            shape = (rows, length, config.num_attention_heads, -1)
            q, k, v = (part(hidden).view(shape).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            flat = mixed.transpose(1, 2).reshape(rows, length, config.hidden_size)
            hidden = cast(Any, layer).after_attention(flat, hidden)
        return hidden


def examples() -> tuple[Tensor, Tensor]:
    """Two tensors to trace with, distinct: an exporter makes one input of an object that comes twice."""
    ids = torch.arange(33).view(3, 11) % 7 + 3
    mask = torch.ones(3, 11, dtype=torch.int64)
    mask[0, 5:] = 0
    return ids, mask


def export_onnx(bert: Bert, file: str) -> None:
    """Writes the graph, float32, for any batch and length."""
    axes = {name: {0: "batch", 1: "length"} for name in ("ids", "mask", "hidden")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that are the same for every input
        torch.onnx.export(
            Padded(bert).eval(), examples(), file, dynamo=False, input_names=["ids", "mask"],
            output_names=["hidden"], dynamic_axes=axes, opset_version=_OPSET,
        )  # fmt: skip


def cached(key: Mapping[str, Any], make: Callable[[str], None]) -> str:
    """The directory of a graph; make(directory) writes its files where they are not cached or are damaged.

    Without a cache directory it is a temporary one, made anew in each process. Raises StorageError.
    """
    text = json.dumps({**key, "format": _FORMAT, "opset": _OPSET}, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    home = cache_directory()
    if home is None:
        scratch = tempfile.mkdtemp(prefix="retrieval-graph-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return _made(os.path.join(scratch, name), make)
    path = os.path.join(home, "graphs", name)
    if os.path.isdir(path):
        if _is_whole(path):
            return path
        shutil.rmtree(path, ignore_errors=True)
    return _made(path, make)


def _made(path: str, make: Callable[[str], None]) -> str:
    parent = os.path.dirname(path)
    temporary = f"{path}.{uuid.uuid4().hex[:12]}"
    with disk_errors("write a graph to", path):
        os.makedirs(parent, mode=0o700, exist_ok=True)
        os.mkdir(temporary, 0o700)
        try:
            make(temporary)
            sums = {name: sha256_of(os.path.join(temporary, name)) for name in sorted(os.listdir(temporary))}
            with open(os.path.join(temporary, _SUMS), "x", encoding="utf-8") as file:
                json.dump(sums, file)
            try:
                os.rename(temporary, path)
            except OSError:  # another process was faster
                if not _is_whole(path):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def _is_whole(path: str) -> bool:
    try:
        with open(os.path.join(path, _SUMS), encoding="utf-8") as file:
            sums = json.load(file)
        present = set(os.listdir(path)) - {_SUMS}
        return present == set(sums) and all(
            sha256_of(os.path.join(path, name)) == total for name, total in sums.items()
        )
    except (OSError, ValueError, TypeError):
        return False
