"""The ids of documents that wait for a commit: found again by two 64-bit hashes, 20 bytes a document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.idtable import hash_ids

_Columns = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint32]]


class IdSet:
    """Id -> number, in sorted runs that are merged as they grow.

    Two ids count as one if both hashes agree (2**-128).
    """

    def __init__(self) -> None:
        self._runs: list[_Columns] = []
        self.count = 0

    def add(self, ids: Sequence[str]) -> None:
        """Appends ids, numbered on; one that is there already is found by its new number from now on."""
        hashes, others = hash_ids(ids), _second(ids)
        order = np.argsort(hashes, kind="stable")
        numbers = np.arange(self.count, self.count + len(ids), dtype=np.uint32)
        self._runs.append((hashes[order], others[order], numbers[order]))
        self.count += len(ids)
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_merged(*self._runs[-2:])]

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Number of each id, -1 for those not in the set, int64[len(ids)]."""
        found = np.full(len(ids), -1, np.int64)
        if not self._runs or not ids:
            return found
        hashes, others = hash_ids(ids), _second(ids)
        for run, second, numbers in self._runs:
            at = np.searchsorted(run, hashes)
            open_ = np.flatnonzero(at < len(run))
            while len(open_):  # equal first hashes stand side by side, versions of an id among them
                open_ = open_[run[at[open_]] == hashes[open_]]
                hit = open_[second[at[open_]] == others[open_]]
                found[hit] = np.maximum(found[hit], numbers[at[hit]])
                at[open_] += 1
                open_ = open_[at[open_] < len(run)]
        return found


def _second(ids: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _merged(a: _Columns, b: _Columns) -> _Columns:
    hashes = np.concatenate([a[0], b[0]])
    order = np.argsort(hashes, kind="stable")
    return hashes[order], np.concatenate([a[1], b[1]])[order], np.concatenate([a[2], b[2]])[order]
