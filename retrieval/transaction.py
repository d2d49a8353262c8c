"""The writer's side of an index: the lock, new parts, the commit with its order of syncs, the litter.

Order: files and their fsync, their directory, the index directory, COMMIT's successor and its fsync, the
former COMMIT linked into old/, rename, the index directory again. Only then is a commit told of; only then is
the state that it replaces collected. An fsync that fails is never repeated: its commit is withdrawn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from retrieval import manifest
from retrieval.diskio import disk_errors, make_directories, storage_error, sync_directory
from retrieval.errors import CorruptIndex, RetrievalError, UserError
from retrieval.manifest import JOURNAL_NAME, LITTER_NAME, OLD_NAME, PART_NAME
from retrieval.part import Part
from retrieval.publish import old_path, prepare, switch, take_lock, temporary_path, version
from retrieval.snapshot import Snapshot, newest_commit, old_commits, open_snapshot, was_index

_OURS = (JOURNAL_NAME, LITTER_NAME, PART_NAME)


class Journal(Protocol):
    """A file that outlives a transaction which ends without a commit."""

    def close(self) -> None: ...


J = TypeVar("J", bound=Journal)


def check_place(path: str) -> bool:
    """Whether there is an index (True) or room for a new one (False). Touches nothing.

    Raises UserError for a directory of something else, CorruptIndex for an index that lost its COMMIT.
    """
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, "use", path) from error
    if "COMMIT" in names:
        return True
    for name in names:
        if name not in ("LOCK", "old") and not any(ours.fullmatch(name) for ours in _OURS):
            raise UserError(
                f"{path!r} is not empty and holds no index (there is {name!r}); "
                "choose a new or an empty directory"
            )
    if was_index(names):
        newest_commit(path)  # raises: COMMIT is missing
    return False


class Transaction:
    """A writer holding the lock. Leaving its context discards the parts that were not committed.

    replace: begin from nothing and not from the newest commit, whose documents leave with the first commit.
    Commits may follow one another; each is durable when commit() returns.
    """

    def __init__(
        self,
        path: str,
        *,
        create: bool = False,
        replace: bool = False,
        expected: tuple[str, int] | None = None,
        admit: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._parts: list[Part] = []
        self._snapshot: Snapshot | None = None
        self._litter: list[str] = []
        self._journals: dict[str, Any] = {}
        if create:
            if not check_place(self.path):
                with disk_errors("create", self.path, placing=True):
                    make_directories(self.path)
        else:
            newest_commit(self.path)
        self._lock = take_lock(self.path)
        try:
            if create and not check_place(self.path):
                switch(prepare(self.path, manifest.empty_commit(uuid.uuid4().hex, version()), None))
            self._current = newest_commit(self.path)
            if expected and expected != (self._current["index_uuid"], self._current["generation"]):
                raise UserError(f"another process has changed {self.path!r} meanwhile; open the index again")
            if admit is not None:
                admit(self._current)
            self._base = dict(self._current)
            if replace:
                self._base = manifest.empty_commit(uuid.uuid4().hex, version())
            with disk_errors("sync", self.path):
                sync_directory(self.path)  # an earlier rename that was withdrawn must not come back
            self._collect()
        except BaseException:
            self.close()
            raise

    @property
    def base(self) -> dict[str, Any]:
        """The commit that the next one builds on: the newest one, or an empty one for a replacement."""
        return self._base

    @property
    def generation(self) -> int:
        """The newest committed generation."""
        return int(self._current["generation"])

    @property
    def snapshot(self) -> Snapshot:
        """The newest commit, opened and verified."""
        if self._snapshot is None or self._snapshot.generation != self.generation:
            self._snapshot = open_snapshot(self.path)
        return self._snapshot

    def part(self) -> Part:
        """A new part directory. It becomes part of the index when a commit names it."""
        part = Part(self.path)
        self._parts.append(part)
        return part

    @property
    def new_parts(self) -> list[Part]:
        """The parts made so far that no commit has named."""
        return list(self._parts)

    def scratch(self) -> str:
        """A new directory for spills, removed with the transaction or by the next writer."""
        path = temporary_path(self.path)
        with disk_errors("create", path):
            os.mkdir(path)
        self._litter.append(path)
        return path

    def journal(self, key: str, opener: Callable[[str], J]) -> J:
        """What `opener` makes of the path of the journal `key` (32 hex digits); once a transaction and key.

        It is closed with the transaction. Its file stays in the directory until a commit of a transaction
        that asked for it, whatever ends before: that is what it is for.
        """
        if key not in self._journals:
            name = f"cache-{key}"
            if not JOURNAL_NAME.fullmatch(name):
                raise ValueError(f"{key!r} is no key of a journal; use 32 hex digits")
            self._journals[key] = opener(os.path.join(self.path, name))
        journal: J = self._journals[key]
        return journal

    def drop_journals(self) -> None:
        """Remove all journals, those that no commit has used included."""
        self._close_journals()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                if JOURNAL_NAME.fullmatch(name):
                    _remove(os.path.join(self.path, name))

    def _close_journals(self) -> None:
        for journal in self._journals.values():
            journal.close()
        self._journals = {}

    def commit(self, update: dict[str, Any]) -> int:
        """Commit: `update` replaces keys of the base ("segments", "representations", "options" ...).

        Parts are kept if segments or representations name them, and dropped otherwise. "docs" defaults to the
        live documents of the segments. Returns the generation, which is durable then. Raises StorageError,
        after which the index is what it was before.
        """
        commit = {**self._base, **update}
        commit.update(
            format=manifest.FORMAT,
            min_reader=manifest.min_reader(commit),
            written_by=version(),
            generation=self.generation + 1,
        )
        if "docs" not in update:
            commit["docs"] = sum(each["docs"] - each.get("deleted", 0) for each in commit["segments"])
        named = manifest.references(commit)
        new = [part for part in self._parts if part.name in named]
        files = {path: facts for path, facts in self._base["files"].items() if path[:20] in named}
        for part in new:
            files.update({f"{part.name}/{name}": facts for name, facts in part.files.items()})
        commit["files"] = files
        manifest.decode(manifest.encode(commit), "the new commit")  # what cannot be read is not written
        for part in new:
            part.sync()
        for part in new:
            final = os.path.join(self.path, part.name)
            with disk_errors("rename", part.path):
                os.rename(part.path, final)
            part.path = final
        if new:
            with disk_errors("sync", self.path):
                sync_directory(self.path)
        prepared = prepare(self.path, commit, self._current)
        # From here on COMMIT may name the new parts on the disk: even if it is withdrawn, they are left to
        # the next writer, which syncs the directory before it removes them.
        self._parts = [part for part in self._parts if part not in new]
        switch(prepared)
        self._current, self._base = commit, dict(commit)
        self._discard()
        for key in self._journals:
            _remove(os.path.join(self.path, f"cache-{key}"))
        self._close_journals()
        with contextlib.suppress(OSError, RetrievalError):  # the commit stands; the next writer tidies up
            self._collect()
        return self.generation

    def _collect(self) -> None:
        """Remove what neither the newest commit nor the one before it names. Only under the lock."""
        with disk_errors("tidy", self.path):
            generation = self.generation
            former = [each for each in old_commits(self.path) if each < generation][-1:]
            kept = {path[:20] for path in self._current["files"]}
            for each in former:
                try:
                    commit = manifest.read_commit(old_path(self.path, each))
                    kept |= {path[:20] for path in commit["files"]}
                except (CorruptIndex, FileNotFoundError):
                    pass  # the way back is lost; the next commit makes a new one
            mine = {part.path for part in self._parts} | set(self._litter)
            for name in os.listdir(self.path):
                path = os.path.join(self.path, name)
                litter = LITTER_NAME.fullmatch(name) and path not in mine
                if litter or (PART_NAME.fullmatch(name) and name not in kept):
                    _remove(path)
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(os.path.join(self.path, "old")):
                    match = OLD_NAME.fullmatch(name)
                    if match and int(match[1]) not in former:
                        os.unlink(os.path.join(self.path, "old", name))

    def _discard(self) -> None:
        for part in self._parts:
            part.abandon()
            _remove(part.path)
        self._parts = []

    def close(self) -> None:
        """Discard what was not committed and let the lock go."""
        if self._lock < 0:
            return
        self._discard()
        self._close_journals()
        for path in self._litter:
            _remove(path)
        self._litter = []
        fd, self._lock = self._lock, -1
        os.close(fd)

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_lock", -1) >= 0:
            self.close()


def _remove(path: str) -> None:
    """Remove a file or a directory as far as possible; what stays is litter for the next writer."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
