"""A query and a document as one sequence of tokens: where special tokens stand, and what is cut off.

`PairReader` is what `cross` asks of a model; cross_packed.py and cross_other.py have the two there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


class Frame(NamedTuple):
    """Special tokens before the query, between query and document, and after it.

    segments  of these five parts, in the order in which they stand: before, query, between, document, after
    """

    before: Ids
    between: Ids
    after: Ids
    segments: tuple[int, int, int, int, int] = (0, 0, 0, 1, 1)

    @property
    def size(self) -> int:
        """How many special tokens a pair has."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of_bert(cls, start: int, sep: int) -> Frame:
        """[CLS] query [SEP] document [SEP]."""
        first, last = np.array([start], np.int32), np.array([sep], np.int32)
        return cls(first, last, last)


class Joined(NamedTuple):
    """A pair as the model reads it, the segment of each token, and how many tokens did not fit."""

    ids: Ids
    segments: NDArray[np.int64]
    dropped: int


def join(query: Ids, document: Ids, limit: int, frame: Frame) -> Joined:
    """A pair of at most `limit` tokens: a query is cut to half of them, the document to what then is left."""
    kept = query[: max(1, limit // 2 - len(frame.before) - len(frame.between))]
    cut = document[: max(0, limit - frame.size - len(kept))]
    parts = (frame.before, kept, frame.between, cut, frame.after)
    segments = np.repeat(np.array(frame.segments), [len(part) for part in parts])
    return Joined(np.concatenate(parts), segments, len(query) - len(kept) + len(document) - len(cut))


class PairReader(Protocol):
    """A model that gives a pair a score.

    path      its directory
    longest   tokens of a pair that it has positions for; None where it says nothing
    length    tokens of a pair that it reads unless told otherwise
    batches   "packed" side by side, or "padded" to their longest
    precision of its products: float32 or bfloat16
    identity  its name, and the sha256 of its files
    """

    path: str
    longest: int | None
    length: int
    frame: Frame
    batches: str

    @property
    def precision(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, without special tokens."""
        ...

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """(start, end) of each token in characters of its text, int64[tokens, 2]."""
        ...

    def score(self, pairs: Sequence[Joined]) -> NDArray[np.float32]:
        """float32[n], in order; higher is better."""
        ...
