"""The lock of an index and the step that makes a commit the newest one, or withdraws it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from typing import Any, NamedTuple

from retrieval import manifest
from retrieval.diskio import disk_errors, storage_error, sync_directory, write_all
from retrieval.errors import Locked

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def take_lock(path: str) -> int:
    """Take the write lock; returns the descriptor that holds it. Raises Locked, UserError, StorageError."""
    lock = os.path.join(path, "LOCK")
    with disk_errors("write to", path, placing=True):
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise Locked(
                f"another process is writing to {path!r}; wait for it to end, then run this again"
            ) from None
        raise storage_error(error, "lock", path) from error
    return fd


def version() -> str:
    """What COMMIT says it was written by."""
    import retrieval

    return f"retrieval {getattr(retrieval, '__version__', '0')}"


def old_path(path: str, generation: int) -> str:
    """Where the COMMIT of a former generation is kept."""
    return os.path.join(path, "old", f"commit-{generation}")


def temporary_path(path: str) -> str:
    """A new name that readers ignore and the next writer removes."""
    return os.path.join(path, f"tmp-{uuid.uuid4().hex}")


class Prepared(NamedTuple):
    """A commit that is written and synced but not yet the newest one."""

    path: str
    temporary: str
    kept: str  # another name of the COMMIT that it replaces, or ""
    passing: bool  # whether that name goes once the commit stands


def prepare(path: str, commit: dict[str, Any], former: dict[str, Any] | None) -> Prepared:
    """Write `commit` beside COMMIT and keep what COMMIT holds. The caller holds the lock.

    former: the commit that COMMIT holds now, to be kept in old/; None where there is none that can be read.
    Raises StorageError.
    """
    final = os.path.join(path, "COMMIT")
    temporary = _write(path, commit)
    kept = ""
    try:
        if former is not None:
            kept = old_path(path, former["generation"])
            with disk_errors("write to", os.path.dirname(kept)):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(os.path.dirname(kept))
                try:
                    _link(final, kept)
                except FileExistsError:  # left by a commit that was withdrawn
                    os.unlink(kept)
                    _link(final, kept)
                sync_directory(os.path.dirname(kept))
        elif os.path.lexists(final):
            kept = temporary_path(path)
            with disk_errors("write", kept):
                _link(final, kept)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return Prepared(path, temporary, kept, former is None and bool(kept))


def switch(prepared: Prepared) -> None:
    """Make a prepared commit the newest one, durably, or withdraw it and raise StorageError."""
    path, temporary, kept, passing = prepared
    try:
        with disk_errors("commit to", path):
            os.rename(temporary, os.path.join(path, "COMMIT"))
            sync_directory(path)
    except BaseException:
        _withdraw(path, kept)
        raise
    if passing:
        with contextlib.suppress(OSError):
            os.unlink(kept)


def _write(path: str, commit: dict[str, Any]) -> str:
    temporary = temporary_path(path)
    with disk_errors("write", temporary):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_all(fd, manifest.encode(commit))
            os.fsync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(fd)
    return temporary


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where the file system has no hard links. Raises OSError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        data = manifest.read_small(source)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)


def _withdraw(path: str, kept: str) -> None:
    """Put the former COMMIT back after a sync that failed. Its own sync is left to the next writer."""
    final = os.path.join(path, "COMMIT")
    with contextlib.suppress(OSError):
        if kept:
            temporary = temporary_path(path)
            _link(kept, temporary)
            os.rename(temporary, final)
        else:
            os.unlink(final)
