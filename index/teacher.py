"""A teacher: a dense encoder on disk whose cosines say how well texts fit. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import Kind
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder
from retrieval.stage import Param


class Teacher:
    """`encode(texts)` are unit vectors, `score(queries, passages)` the cosines of pairs.

    directory  of any dense encoder, as `--dense` takes it
    bf16       multiply in bfloat16: faster where the processor has it, cosines change by about 1e-3
    """

    def __init__(self, directory: str, *, bf16: bool = False, device: str = "cpu") -> None:
        if not os.path.exists(directory):
            raise UserError(f"no teacher {directory!r}; give a directory with an encoder's files")
        precision = "bfloat16" if bf16 else "float32"
        params: dict[str, Param] = {"precision": precision, "device": device, "normalise": True}
        self.encoder = open_encoder(directory, params=params)
        self.size = self.encoder.dim

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder's."""
        return self.encoder.identity

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> NDArray[np.float32]:
        """float32[n, d], rows of length 1. kind: "query" or "passage", for teachers that have prompts."""
        return self.encoder.encode(texts, kind).rows

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> NDArray[np.float32]:
        """float32[n]: the cosine of each query with the passage beside it."""
        rows = self.encode(queries, "query") * self.encode(passages)
        return np.asarray(rows.sum(1), np.float32)
