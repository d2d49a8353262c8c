"""What stands in brackets behind a text encoder's name, read and checked before any weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from retrieval.errors import UnknownName, UserError
from retrieval.index.layout import MODES
from retrieval.stage import Param

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
BACKENDS = ("auto", "torch", "onnx", "openvino")
_CHOICES = {"precision": PRECISIONS, "backend": BACKENDS}
_LEAST = {"length": 3, "threads": 0, "batch": 1}


@dataclass(frozen=True)
class TextParams:
    """Parameters of a text encoder; None and "auto" leave it to the model's files or to the machine.

    precision   float32, bfloat16, int8 (onnx only); auto: bfloat16 where it is measured to be faster here and
                its vectors hold (gate.py)
    backend     torch, onnx, openvino; auto: openvino or onnx where it is installed, else torch
    length      tokens that a text is cut to
    pooling     cls, max, mean, mean_sqrt_len, weightedmean, lasttoken, or several joined by +
    normalise   vectors of length 1
    query_prompt, passage_prompt   what stands before a text
    query_prompt_name, passage_prompt_name   the model's prompt of that name
    threads     that compute; 0: as many as the library takes
    device      auto, cpu, cuda, cuda:1 ...
    batch       tokens of one batch
    """

    precision: str = "auto"
    backend: str = "torch"
    length: int | None = None
    pooling: str | None = None
    normalise: bool | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    query_prompt_name: str | None = None
    passage_prompt_name: str | None = None
    threads: int = 0
    device: str = "auto"
    batch: int | None = None

    @property
    def modes(self) -> tuple[str, ...] | None:
        """The pooling modes that were asked for."""
        return None if self.pooling is None else tuple(self.pooling.split("+"))


def read_params(params: Mapping[str, Param]) -> TextParams:
    """Raises UnknownName for a parameter that does not exist, UserError for a value that it cannot have."""
    known = {field.name: str(field.type) for field in fields(TextParams)}
    values: dict[str, Any] = {}
    for name, value in params.items():
        if name not in known:
            raise UnknownName("parameter of a text encoder", name, known)
        kind = known[name].removesuffix(" | None")
        wanted = {"str": str, "int": int, "bool": bool}[kind]
        if not isinstance(value, wanted) or (kind == "int" and isinstance(value, bool)):
            word = {"str": "a text", "int": "a whole number", "bool": "true or false"}[kind]
            raise UserError(f"{name}={value!r}: it must be {word}")
        if isinstance(value, int) and value < _LEAST.get(name, 0):
            raise UserError(f"{name}={value}: give {_LEAST[name]} or more")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise UserError(f"{name}={value!r}: it must be one of {', '.join(_CHOICES[name])}")
        values[name] = value
    made = TextParams(**values)
    for mode in made.modes or ():
        if mode not in MODES:
            raise UnknownName("pooling", mode, MODES)
    for kind in ("query", "passage"):
        if getattr(made, f"{kind}_prompt") is not None and getattr(made, f"{kind}_prompt_name") is not None:
            raise UserError(f"{kind}_prompt and {kind}_prompt_name both say what stands first; give one")
    if made.precision == "int8" and made.backend not in ("onnx", "auto"):
        raise UserError(
            f"precision=int8 is not offered with backend={made.backend} (torch's loses too much); "
            "add backend=onnx"
        )
    return made
