"""Disk primitives of the store: errors named for people, durable writes, hashed files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from retrieval.errors import RetrievalError, StorageError, UserError

CHUNK = 1 << 20
_BUFFER = 1 << 18

_SHORTAGE = {
    errno.ENOSPC: "no space left on the device; free some space and run the command again",
    errno.EDQUOT: "the disk quota is exceeded; free some of it and run the command again",
    errno.EFBIG: "the file size limit is exceeded; raise it (ulimit -f) and run the command again",
    errno.EIO: "the device reports an input/output error; check the disk before running the command again",
    errno.EROFS: "the file system has become read-only; check the disk (dmesg) before going on",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n) or merge the index",
    errno.ENFILE: "the system has too many open files; close some programs",
    errno.ENOMEM: "out of memory; close some programs or lower the memory budget",
    errno.ENOLCK: "the file system offers no locks; put the index on a local disk",
    errno.EOPNOTSUPP: "the file system lacks an operation that the index needs; put it on a local disk",
}
_PLACE = {
    errno.EACCES: "permission denied; choose a place that you may use",
    errno.EPERM: "the operation is not permitted there; choose a place that you may use",
    errno.ENOTDIR: "a part of the path is not a directory; choose another path",
    errno.EISDIR: "it is a directory; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "the path is a loop of symbolic links; choose another path",
    errno.ENOENT: "a part of the path does not exist; choose another path",
}


def storage_error(error: OSError, action: str, path: str | os.PathLike[str]) -> RetrievalError:
    """The error of the tree that stands for an OSError met while doing `action` to `path`.

    A place that cannot be used at all is the user's to change (exit 2); a shortage or a device that fails is
    a StorageError (exit 5).
    """
    code = error.errno or 0
    where = f"cannot {action} {str(path)!r}"
    if code in _PLACE:
        return UserError(f"{where}: {_PLACE[code]}")
    name = errno.errorcode.get(code, "OSError")
    return StorageError(f"{where}: {_SHORTAGE.get(code, error.strerror or str(error))} ({name})")


@contextlib.contextmanager
def disk_errors(action: str, path: str | os.PathLike[str], *, placing: bool = False) -> Iterator[None]:
    """Turn OSError and MemoryError into errors of the tree.

    placing: a place is being chosen for writing, so that a read-only file system is the user's to change.
    """
    try:
        yield
    except OSError as error:
        if placing and error.errno == errno.EROFS:
            raise UserError(
                f"cannot {action} {str(path)!r}: the file system is read-only; choose another place"
            ) from error
        raise storage_error(error, action, path) from error
    except MemoryError as error:
        raise StorageError(
            f"cannot {action} {str(path)!r}: out of memory; close some programs or lower the memory budget"
        ) from error


def sync_directory(path: str | os.PathLike[str]) -> None:
    """fsync a directory: its names are durable afterwards. Raises OSError; never retry it (fsyncgate)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: str) -> None:
    """mkdir -p whose new names are durable. Raises OSError."""
    missing = []
    at = os.path.abspath(path)
    while not os.path.lexists(at):
        missing.append(at)
        at = os.path.dirname(at)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another writer may be quicker
            os.mkdir(each)
        sync_directory(os.path.dirname(each))


def open_regular(path: str) -> tuple[int, os.stat_result] | None:
    """Open a regular file for reading without following a link or waiting for a pipe.

    Returns (descriptor, stat), or None when what is there is not a regular file. Raises OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return None
    return fd, status


def hash_descriptor(fd: int, size: int) -> str:
    """sha256 of the first `size` bytes behind fd, by reads and not through a map (no SIGBUS)."""
    digest = hashlib.sha256()
    buffer = bytearray(min(size, CHUNK) or 1)
    view = memoryview(buffer)
    at = 0
    while at < size:
        got = os.preadv(fd, [view[: min(CHUNK, size - at)]], at)
        if not got:
            break  # shorter than it was a moment ago: the hash will not match
        digest.update(view[:got])
        at += got
    return digest.hexdigest()


def hash_bytes(data: bytes) -> str:
    """sha256 of what read_descriptor() read."""
    return hashlib.sha256(data).hexdigest()


def read_descriptor(fd: int, size: int) -> bytes:
    """The first `size` bytes behind fd, fewer when the file has become shorter. Raises OSError."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    at = 0
    while at < size and (got := os.preadv(fd, [view[at:]], at)):
        at += got
    return bytes(view[:at])


def write_all(fd: int, data: memoryview | bytes | bytearray) -> None:
    """Write every byte, whatever the kernel takes at a time. Raises OSError."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


class HashedFile:
    """A new file, hashed while it is written and durable once closed.

    Created with O_EXCL; small writes are gathered. `size` and `sha256` are set by close(). A failed write or
    fsync leaves the file to be discarded with its directory: nothing is tried twice.
    """

    def __init__(self, path: str, *, hashing: bool = True) -> None:
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._digest = hashlib.sha256() if hashing else None
        self._pending: list[bytes] = []
        self._pending_size = 0
        with disk_errors("create", path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    @property
    def closed(self) -> bool:
        """Whether close() or discard() has run."""
        return self._fd < 0

    def write(self, data: Any) -> int:
        """Append bytes (anything with a contiguous buffer); returns their number. Raises StorageError."""
        view = memoryview(data)
        count = view.nbytes
        if not count:
            return 0
        with disk_errors("write", self.path):
            if count < _BUFFER:
                self._pending.append(bytes(view))
                self._pending_size += count
                if self._pending_size >= _BUFFER:
                    self._flush()
            else:
                self._flush()
                flat = view if view.format == "B" and view.ndim == 1 else view.cast("B")
                for at in range(0, count, CHUNK):
                    self._put(flat[at : at + CHUNK])
        self.size += count
        return count

    def _flush(self) -> None:
        if self._pending:
            data = b"".join(self._pending)
            self._pending, self._pending_size = [], 0
            self._put(memoryview(data))

    def _put(self, view: memoryview) -> None:
        if self._digest is not None:
            self._digest.update(view)
        write_all(self._fd, view)

    def close(self, head: bytes = b"") -> None:
        """Flush, fsync and close. `head` overwrites the first bytes of a file that was opened unhashed."""
        with disk_errors("write", self.path):
            try:
                self._flush()
                if head:
                    os.pwrite(self._fd, head, 0)
                self.sha256 = (
                    self._digest.hexdigest() if self._digest else hash_descriptor(self._fd, self.size)
                )
                os.fsync(self._fd)
            finally:
                self.discard()

    def discard(self) -> None:
        """Close without a promise; the directory's removal takes the file."""
        fd, self._fd = self._fd, -1
        self._pending = []
        if fd >= 0:
            os.close(fd)
