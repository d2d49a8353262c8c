"""[NAME=][METHOD:]MODEL[(param=value, ...)] of the command line, and the encoder that it names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from retrieval import registry
from retrieval.encoder import DenseEncoder
from retrieval.errors import CompositionError, UserError
from retrieval.index.method import checked_name
from retrieval.stage import Param

_SPEC = re.compile(r"(?:(?P<name>[^=()/]*)=)?(?P<model>[^()]*)(?:\((?P<params>.*)\))?", re.DOTALL)
_DECODERS = (  # whose files may name the bare network, without its language model
    "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "opt",
    "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2",
)  # fmt: skip
_FORM = "write NAME=DIR(precision=bfloat16, ann=hnsw)"
KIND = "dense encoder"


class DenseSpec(NamedTuple):
    """The parts of a spec. method "": told from the model's files."""

    name: str
    method: str
    model: str
    params: dict[str, Param]


def parse_dense(text: str) -> DenseSpec:
    """Reads `minilm=./minilm`, `m2bert:DIR` or `e5=./e5(precision=bfloat16)`. Raises UserError."""
    from retrieval.pipeline import parse_params

    found = _SPEC.fullmatch(text)
    if found is None or not found["model"].strip():
        raise UserError(
            f"{text!r} names no model; write NAME=DIR, such as minilm=./minilm(precision=bfloat16)"
        )
    method, colon, model = found["model"].strip().partition(":")
    if not colon or method not in registry.names(KIND):
        method, model = "", found["model"].strip()
    try:
        params = parse_params(found["params"] or "")
    except CompositionError as error:
        problem = str(error).partition("; write it like")[0].removeprefix("pipeline ")
        raise UserError(f"{text!r}: {problem}; {_FORM}") from None
    if "model" in params:
        raise UserError(f"{text!r}: {params['model']!r} is no setting with a value; {_FORM}")
    name = found["name"]
    if name is None:
        last = os.path.basename(model.rstrip("/")) or method
        name = re.sub(r"[^a-z0-9_]+", "_", last.lower()).strip("_")[:20]
    return DenseSpec(checked_name(name), method, model, params)


def open_encoder(model: str, method: str = "", params: Mapping[str, Param] | None = None) -> DenseEncoder:
    """The encoder of a model directory, GGUF file or fetched hub id; method "": as its files say.

    Raises UserError, UnknownName, MissingExtra.
    """
    from retrieval.index.hub import resolve

    path = resolve(model)
    factory: Any = registry.lookup(method or detect(path), kind=KIND)
    encoder: DenseEncoder = factory(path, dict(params or {}))
    return encoder


def detect(path: str) -> str:
    """The method that a model's files ask for: m2bert, llm, or bert for every other encoder."""
    if _is_gguf(path):
        return "llm"
    names = os.listdir(path) if os.path.isdir(path) else []
    if "config.json" not in names and ("adapter_config.json" in names or any(map(_is_gguf, names))):
        return "llm"
    config = _config(os.path.join(path, "config.json"))
    settings = config.get("retrieval")
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if kind in registry.names(KIND):
        return str(kind)
    if "long_conv_l_max" in config or "residual_long_conv" in config:
        return "m2bert"
    architectures = config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    bare = config.get("model_type") in _DECODERS and "modules.json" not in names
    return "llm" if first.endswith("ForCausalLM") or bare else "bert"


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")


def _config(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as opened:
            config = json.load(opened)
    except (OSError, ValueError, RecursionError):
        return {}  # the encoder's own reader says what is wrong
    return config if isinstance(config, dict) else {}
