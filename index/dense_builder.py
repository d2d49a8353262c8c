"""Documents to the vectors of one segment: encoded, journaled, and a structure for search above them."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.diskio import disk_errors
from retrieval.encoder import DenseEncoder
from retrieval.errors import MissingExtra, UserError
from retrieval.index.record_builder import FACTS, RecordBuilder
from retrieval.index.vector_part import write_vectors

if TYPE_CHECKING:
    from retrieval.artefact import Transaction
    from retrieval.index.ann import Ann
    from retrieval.index.encoded import Cache
    from retrieval.index.view import View
    from retrieval.part import Part

_BLOCK = 1 << 14  # vectors copied together
_HEAD = struct.Struct("<2I")  # of a record: tokens, dropped; then the vector


class Spill:
    """Vectors in a file of the scratch directory, for as long as a segment is being made."""

    def __init__(self, scratch: str, dim: int) -> None:
        self._dim = dim
        self.rows = 0
        with disk_errors("create", scratch):
            self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (lives as long as this)

    def write(self, data: bytes) -> None:
        """Appends whole rows. Raises StorageError."""
        with disk_errors("write", "vectors"):
            self._file.write(data)
        self.rows += len(data) // (4 * self._dim)

    def vectors(self) -> NDArray[np.float32]:
        """All rows so far, float32[n, dim], mapped."""
        with disk_errors("write", "vectors"):
            self._file.flush()
        if not self.rows:
            return np.empty((0, self._dim), np.float32)
        return np.memmap(self._file, "<f4", "r", shape=(self.rows, self._dim))

    def close(self) -> None:
        """Gives the space back."""
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()


class DenseBuilder(RecordBuilder):
    """One segment. load: makes the encoder, at the first document that no journal holds."""

    def __init__(
        self,
        identity: str,
        dim: int,
        load: Callable[[], DenseEncoder],
        structure: Mapping[str, Any],
        scratch: str,
        cache: Cache | None = None,
    ) -> None:
        super().__init__(identity, cache)
        self._dim = dim
        self._load = load
        self._structure = structure
        self._spill = Spill(scratch, dim)

    def _sound(self, record: bytes) -> bool:
        if len(record) != _HEAD.size + 4 * self._dim:
            return False
        return bool(np.isfinite(np.frombuffer(record, "<f4", offset=_HEAD.size)).all())

    def _records(self, texts: list[str]) -> list[bytes]:
        made = self._load().encode(texts, "passage")
        if made.rows.shape != (len(texts), self._dim) or not np.isfinite(made.rows).all():
            raise UserError(
                f"the encoder gave vectors of the shape {made.rows.shape} for {len(texts)} texts, or numbers "
                f"that are not finite; the index holds vectors of {self._dim} numbers"
            )
        rows = np.ascontiguousarray(made.rows, "<f4")
        counts = zip(made.tokens.tolist(), made.dropped.tolist(), strict=True)
        return [_HEAD.pack(*pair) + row.tobytes() for pair, row in zip(counts, rows, strict=True)]

    def _write(self, records: list[bytes]) -> None:
        self._spill.write(b"".join(record[_HEAD.size :] for record in records))

    def finish(self, part: Part) -> None:
        """Writes the part's files, and builds the structure above the vectors where they are many."""
        vectors = self._spill.vectors()
        write_vectors(part, vectors, built(vectors, self._structure))
        part.json(FACTS, self.facts)
        self._spill.close()


def built(vectors: NDArray[np.float32], structure: Mapping[str, Any]) -> Ann | None:
    """What is built above vectors: `structure` is {"kind", "threads"}. None for exact search.

    Raises UserError, MissingExtra for a kind that was asked for where faiss is not installed.
    """
    kind = structure.get("kind", "auto")
    if kind == "exact":
        return None
    from retrieval.index import ann_kinds

    if kind == "auto" and ann_kinds.choose(*vectors.shape)[0] == "exact":
        return None
    from retrieval.index.ann import Ann

    try:
        return Ann.build(vectors, kind, threads=int(structure.get("threads", 1)))
    except MissingExtra:
        if kind == "auto":
            return None  # exact search takes longer and finds the same
        raise


def merge_vectors(transaction: Transaction, view: View, name: str, structure: Mapping[str, Any]) -> str:
    """A part with the vectors of all live documents, in order; its name."""
    parts = [(segment, segment.vectors(name)) for segment in view.segments]
    spill = Spill(transaction.scratch(), parts[0][1].dim)
    for segment, held in parts:
        for start in range(0, segment.documents, _BLOCK):
            block = held.vectors[start : start + _BLOCK]
            if segment.deleted:
                block = block[segment.alive[start : start + _BLOCK] == 1]
            spill.write(block.astype("<f4", copy=False).tobytes())
    part = transaction.part()
    vectors = spill.vectors()
    write_vectors(part, vectors, built(vectors, structure))
    spill.close()
    return part.name
