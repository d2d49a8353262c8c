"""Encoder protocols: texts to vectors, whatever the model behind them.

A dense encoder is opened from a model directory by a function that is registered as "dense encoder":

    @register("bert", kind="dense encoder")
    def open_encoder(path: str, params: Mapping[str, Param]) -> DenseEncoder: ...

`params` are what the user wrote in brackets, `minilm=./minilm(precision=bfloat16)`. The function raises
UserError for one that the encoder does not have, and before it reads any weights wherever it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = 'Literal["query", "passage"]'


class Vectors(NamedTuple):
    """What an encoder makes of n texts, in their order.

    rows     float32[n, dim], finite
    tokens   int64[n], tokens of each text with what the encoder puts around it, before it is cut
    dropped  int64[n], how many of them were cut off
    """

    rows: NDArray[np.float32]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int64]


class DenseEncoder(Protocol):
    """A model that makes one vector of a text; the inner product of two is how well they fit.

    identity  JSON: all that decides about a vector beyond rounding: "encoder" (the registered name), "model"
              (name and sha256 of weights, tokenizer and config), "dim", "pooling", "normalise", "length"
              (tokens), "prompts" {"query", "passage"}, and what else the architecture has. Encoders with
              equal identities may share an index
    runtime   JSON: how it is computed, which changes the last digits alone: "backend", "precision", and
              "gate", its cosine to float32 on a probe, where it is not float32
    dim       length of a vector

    One may have as well offsets(texts): where the tokens of each text lie, int64[tokens, 2] each; without it
    blocks are counted in words (longdoc/splitter.py).
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def runtime(self) -> Mapping[str, Any]: ...
    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """The vectors of some texts; that of a text is the same (to rounding) whatever stands beside it.

        Queries and passages get the prompts that the model has for them. An empty text has a vector too.
        Raises UserError for a model that gives no finite numbers, StorageError out of memory.
        """
        ...
