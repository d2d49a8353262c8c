"""A decoder written as a model directory in transformers' own layout, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from retrieval.errors import UserError
from retrieval.index.llm_files import quiet, read_json
from retrieval.index.model_files import CONFIG, placed

_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja", ".md")  # of what stands in one


def write_model(path: str, module: Any, tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Write a decoder as a model directory, whole or not at all; a directory there must be a former one.

    In transformers' own layout, so that others open it too; settings become "retrieval" of config.json.
    Raises UserError where `path` holds something else, StorageError.
    """
    path = os.path.abspath(path)
    _may_replace(path)
    with placed(path) as temporary:
        with quiet():
            module.save_pretrained(temporary, safe_serialization=True)
            tokenizer.save_pretrained(temporary)
        config = read_json(temporary, CONFIG, needed=True)
        config.pop("quantization_config", None)
        config.pop("is_causal", None)  # our switch, see llm_attention; "retrieval" says it
        config["retrieval"] = dict(settings)
        with open(os.path.join(temporary, CONFIG), "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2, sort_keys=True)
        mode = os.stat(os.path.join(temporary, CONFIG)).st_mode  # safetensors makes its files 0600
        for name in os.listdir(temporary):
            os.chmod(os.path.join(temporary, name), mode)
            with open(os.path.join(temporary, name), "rb") as written:
                os.fsync(written.fileno())


def _may_replace(path: str) -> None:
    """Refuses to replace what is no model directory, or holds anything that a decoder's has not."""
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path) or os.path.islink(path):
        raise UserError(f"cannot write a model to {path!r}: it is not a directory; choose another path")
    names = sorted(os.listdir(path))
    for name in names:
        flat = os.path.isfile(os.path.join(path, name))
        if CONFIG not in names or not (flat and name.endswith(_SUFFIXES)):
            raise UserError(
                f"cannot write a model to {path!r}: it holds {name!r}, which is no part of a model; choose "
                "another path"
            )
