"""The models of a system by the sha256 of their files: of its representations, of stages that name one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrieval.bench.system import System
from retrieval.index.file_hashes import sha256_of
from retrieval.index.index import Index
from retrieval.stage import Stage

_NAMES = {"config.json": "config", "tokenizer.json": "tokenizer", "vocab.txt": "tokenizer"}


def models(stage: Stage, index: Index | None, system: System) -> dict[str, dict[str, Any]]:
    """Name of a representation, or text of a stage -> what identifies its model; of a run file, the file."""
    found: dict[str, dict[str, Any]] = {}
    if index is not None:
        for name in system.representations:
            settings = index.representations[name]
            settings = settings.get("of", settings)  # of blocks: the method inside
            identity = settings.get("model", settings.get("identity"))
            if isinstance(identity, dict):
                found[name] = identity
    for leaf in _leaves(stage):
        model, identity = leaf.params.get("model"), getattr(leaf, "identity", None)
        if isinstance(identity, Mapping):  # a model that is shipped, or of the hub's cache, too
            found[repr(leaf)] = dict(identity)
        elif isinstance(model, str) and os.path.exists(model):
            found[repr(leaf)] = _hashes(Path(model))
    return found


def _hashes(path: Path) -> dict[str, Any]:
    """{"file": sha256}, or {"weights": ..., "tokenizer": ..., "config": ...} of a directory."""
    if path.is_file():
        return {"file": sha256_of(str(path))}
    found: dict[str, Any] = {}
    for file in sorted(path.iterdir()):
        name = "weights" if file.suffix in (".safetensors", ".gguf") else _NAMES.get(file.name)
        if name and file.is_file():
            found[file.name if name in found else name] = sha256_of(str(file))
    return found


def _leaves(stage: Stage) -> Iterator[Stage]:
    if not stage.parts:
        yield stage
    for part in stage.parts:
        yield from _leaves(part)
