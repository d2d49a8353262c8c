"""The index directory on disk, as one name: Store, with Snapshot to read, Transaction and Part to write.

LOCK            held by the writer through flock; never deleted
COMMIT          what the index is: one checked header line, then JSON; replaced only by rename
old/commit-<g>  the former COMMIT, for `check --rollback`
seg-<16 hex>/   a part: files that never change once a commit names them
tmp-<uuid>      anything unfinished; removed by the next writer
"""

from __future__ import annotations

import os
from typing import Any

from retrieval.errors import UserError
from retrieval.part import ArrayStream, Part, PartStream
from retrieval.snapshot import Snapshot, newest_commit, open_snapshot
from retrieval.transaction import Transaction

__all__ = ["ArrayStream", "Part", "PartStream", "Snapshot", "Store", "Transaction"]


class Store:
    """An index directory that was made ready for writing; see create().

    Reading: Store.open(path). Writing: Store.writer(path), or store.begin() after create().
    """

    def __init__(self, path: str, uuid: str, generation: int) -> None:
        self.path = path
        self._seen = (uuid, generation)

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, overwrite: bool = False) -> Store:
        """Make ready a directory for a new index: absent, empty, or without a committed document.

        overwrite: an index with documents may be there; it stays as it is until begin()'s first commit
        replaces it. Raises UserError for a directory of something else, Locked, CorruptIndex, StorageError.
        """
        with cls.writer(path, create=True, overwrite=overwrite) as transaction:
            current = transaction.snapshot
            return cls(os.fspath(path), current.uuid, current.generation)

    def begin(self) -> Transaction:
        """A writer that begins from nothing. Raises UserError if somebody has committed since create()."""
        return Transaction(self.path, replace=True, expected=self._seen)

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Snapshot:
        """The newest commit, verified. Raises UserError, CorruptIndex, UnsupportedFormat, StorageError."""
        return open_snapshot(os.fspath(path))

    @staticmethod
    def writer(path: str | os.PathLike[str], *, create: bool = False, overwrite: bool = False) -> Transaction:
        """A writer holding the lock: to the index at `path`, or with `create` to a new one (see create()).

        Raises Locked when another process is writing, UserError, CorruptIndex, StorageError.
        """

        def admit(commit: dict[str, Any]) -> None:
            if commit["docs"] and not overwrite:
                raise UserError(
                    f"{os.fspath(path)!r} already holds an index of {commit['docs']} documents; add to it "
                    "with --append, replace documents with --update, or replace the index with --overwrite"
                )

        if not create:
            return Transaction(os.fspath(path))
        return Transaction(os.fspath(path), create=True, replace=True, admit=admit)

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether an index is at `path`, with or without documents. Raises CorruptIndex, StorageError."""
        try:
            newest_commit(os.fspath(path))
        except UserError:
            return False
        return True
