"""The terms of a segment: UTF-8 text in one blob, found by binary search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from retrieval.index.consistency import corrupt

if TYPE_CHECKING:
    from retrieval.part import Part
    from retrieval.snapshot import PartSource


def write_lexicon(part: Part, terms: Sequence[str]) -> None:
    """Writes terms.bin (the terms by number), terms_ptr.npy and terms_sorted.npy (numbers in byte order)."""
    encoded = [term.encode("utf-8", "surrogatepass") for term in terms]
    ends = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=ends[1:])
    with part.stream("terms.bin") as file:
        file.write(b"".join(encoded))
    part.array("terms_ptr.npy", ends.astype(np.uint32) if ends[-1] < 2**32 else ends)
    part.array("terms_sorted.npy", np.array(sorted(range(len(encoded)), key=encoded.__getitem__), np.uint32))


class Lexicon:
    """Term -> number of one segment."""

    def __init__(self, snapshot: PartSource, part: str) -> None:
        self._part = part
        self._blob = snapshot.bytes(f"{part}/terms.bin")
        self._ends = snapshot.array(f"{part}/terms_ptr.npy")
        self._sorted = snapshot.array(f"{part}/terms_sorted.npy")
        self._cache: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sorted)

    @property
    def nbytes(self) -> int:
        """Bytes of all terms."""
        return len(self._blob)

    def _bytes(self, number: int) -> bytes:
        return bytes(self._blob[int(self._ends[number]) : int(self._ends[number + 1])])

    def __getitem__(self, number: int) -> str:
        try:
            return self._bytes(number).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise corrupt(self._part, "terms.bin", f"does not hold UTF-8 at term {number}") from None

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    def find(self, term: str) -> int:
        """The term's number, or -1."""
        number = self._cache.get(term)
        if number is not None:
            return number
        key = term.encode("utf-8", "surrogatepass")
        lo, hi = 0, len(self._sorted)
        while lo < hi:
            mid = (lo + hi) >> 1
            if self._bytes(int(self._sorted[mid])) < key:
                lo = mid + 1
            else:
                hi = mid
        found = lo < len(self._sorted) and self._bytes(int(self._sorted[lo])) == key
        number = int(self._sorted[lo]) if found else -1
        if len(self._cache) >= 100_000:  # a reader that serves for months must not grow
            self._cache.clear()
        self._cache[term] = number
        return number
