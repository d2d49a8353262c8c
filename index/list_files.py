"""The files of plain postings: documents two bytes, values one or a half; dense lists as arrays by document.

Where a term stands in at least a quarter (half-byte values) or three eighths (bytes) of a chunk's
documents, an array of one value a document is smaller than a list, and a probe of it costs one read. Such
blocks go into dense.npy in the order of the directory; their postings leave docs.npy and values.npy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from retrieval.index.packing import ListPacker
    from retrieval.part import Part

CHUNK = 65536
DENSE = {4: 16384, 8: 24576}  # postings of a chunk from which a list is dense, by bits of a value
DENSE_PLACE = 1 << 48  # where the places of dense postings begin: + block * 65536 + document


class ListFiles:
    """Writes docs.npy, values.npy and dense.npy, or hands the postings on to the packer."""

    def __init__(self, part: Part, listed: int, bits: int, packer: ListPacker | None) -> None:
        self._packer = packer
        self._bits = bits
        self._most = (1 << bits) - 1
        self._seen = self._listed = self._blocks = 0
        self._odd: NDArray[np.uint8] = np.empty(0, np.uint8)  # a value that waits for its other half
        self._large: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []
        if packer is None:
            self._docs = part.array_stream("docs.npy", np.uint16, listed)
            self._values = part.array_stream("values.npy", np.uint8, (listed * bits + 7) // 8)
            self._dense = part.array_stream("dense.npy", np.uint8)

    def write(
        self, docs: NDArray[np.uint16], values: NDArray[np.uint8], lists: Any, start: int, end: int
    ) -> None:
        """The postings of terms start:end; `lists` has dir_ptr and dir_count."""
        if self._packer is not None:
            self._packer.add(docs, values, lists, start, end)
            return
        counts = lists.dir_count[lists.dir_ptr[start] : lists.dir_ptr[end]].astype(np.int64) + 1
        ends = np.cumsum(counts)
        keep = np.ones(len(docs), bool)
        place = np.empty(len(docs), np.int64)
        for entry in np.flatnonzero(counts >= DENSE[self._bits]).tolist():
            mine = slice(int(ends[entry] - counts[entry]), int(ends[entry]))
            block = np.zeros(CHUNK, np.uint8)
            block[docs[mine]] = np.minimum(values[mine], self._most)
            self._dense.write(block if self._bits == 8 else block[0::2] | (block[1::2] << 4))
            keep[mine] = False
            place[mine] = DENSE_PLACE + self._blocks * CHUNK + docs[mine].astype(np.int64)
            self._blocks += 1
        kept = int(keep.sum())
        place[keep] = np.arange(self._listed, self._listed + kept)
        large = np.flatnonzero(values >= self._most)
        self._large.append((large + self._seen, place[large], values[large]))
        self._seen += len(docs)
        self._listed += kept
        if kept < len(docs):
            docs, values = docs[keep], values[keep]
        self._docs.write(docs)
        if self._bits == 8:
            self._values.write(values)
            return
        halves = np.concatenate([self._odd, np.minimum(values, self._most)])
        pairs = halves[: len(halves) & ~1]
        self._odd = halves[len(pairs) :].copy()
        self._values.write(pairs[0::2] | (pairs[1::2] << 4))

    def large(
        self, beyond: NDArray[np.int64], frequencies: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(places, exact frequencies) of the values that do not fit.

        beyond, frequencies: the same for a byte, by number of the posting in the order of write().
        """
        if not len(frequencies) and self._bits == 8:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        numbers = np.concatenate([np.empty(0, np.int64), *(large[0] for large in self._large)])
        places = np.concatenate([np.empty(0, np.int64), *(large[1] for large in self._large)])
        exact = np.concatenate([np.empty(0, np.uint8), *(large[2] for large in self._large)]).astype(np.int32)
        exact[np.searchsorted(numbers, beyond)] = frequencies
        order = np.argsort(places, kind="stable")
        return places[order], exact[order]

    def __enter__(self) -> ListFiles:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self._packer is not None:
            if kind is None:
                self._packer.close()
            return
        if kind is None and len(self._odd):
            self._values.write(self._odd)
        self._docs.__exit__(kind, *rest)
        self._values.__exit__(kind, *rest)
        self._dense.__exit__(kind, *rest)
