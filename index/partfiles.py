"""Reading the files of parts not committed yet: what deletions and merges of one transaction need."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

if TYPE_CHECKING:
    from retrieval.artefact import Part, Transaction


class PartFiles:
    """A PartSource as a Snapshot is one, of the transaction's own parts."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def _find(self, path: str) -> tuple[Part, str]:
        name, _, file = path.partition("/")
        for part in self._transaction.new_parts:
            if part.name == name:
                return part, file
        raise KeyError(path)

    def __contains__(self, path: object) -> bool:
        try:
            part, file = self._find(str(path))
        except KeyError:
            return False
        return file in part.files

    def _path(self, path: str) -> str:
        part, file = self._find(path)
        return os.path.join(part.path, file)

    def array(self, path: str) -> NDArray[Any]:
        """The array, mapped read-only."""
        array = np.load(self._path(path), mmap_mode="r", allow_pickle=False)
        return np.asarray(array)

    def bytes(self, path: str) -> memoryview:
        """The whole file."""
        with open(self._path(path), "rb") as file:
            return memoryview(file.read())

    def json(self, path: str) -> Any:
        """The parsed file."""
        return orjson.loads(self.bytes(path))
