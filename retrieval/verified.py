"""The hash-once memory: which files were hashed in full, kept by their stat in the user's cache directory.

A file whose (device, inode, size, mtime_ns, ctime_ns) is known is not hashed again. Rot that leaves all five
unchanged is found by `retrieve check`, which never asks this memory. Losing or damaging it costs one hashing;
a place that cannot be written to is put up with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time

import orjson

# A file that changes twice within a tick of the kernel's clock keeps its times; the young are not remembered.
_YOUNG_NS = 100_000_000
_KEPT = 512


def cache_directory() -> str | None:
    """`$XDG_CACHE_HOME/retrieval` or `~/.cache/retrieval`; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return os.path.join(base, "retrieval") if os.path.isabs(base) else None


def _key(status: os.stat_result) -> str:
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, parts))


class VerifiedFiles:
    """What is known of one index's files: stat -> sha256. One small JSON file per index."""

    def __init__(self, index_path: str) -> None:
        home = cache_directory()
        name = hashlib.sha256(os.fsencode(os.path.realpath(index_path))).hexdigest()[:32] + ".json"
        self._path = os.path.join(home, "verified", name) if home else None
        self._known: dict[str, str] = {}
        self._seen: dict[str, str] = {}

    def load(self) -> None:
        """Read the memory; whatever is wrong with it, nothing is known then."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError), open(self._path, "rb") as file:
            status = os.fstat(file.fileno())
            # what others can write to is no memory of ours
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                known = orjson.loads(file.read(64 << 20))
                if isinstance(known, dict):
                    self._known = known

    def knows(self, status: os.stat_result, sha256: str) -> bool:
        """Whether a file with this stat was found to have this hash."""
        key = _key(status)
        if self._known.get(key) != sha256:
            return False
        self._seen[key] = sha256
        return True

    def recall(self, status: os.stat_result) -> str | None:
        """The hash of the file with this stat, None where it is not known."""
        sha256 = self._known.get(_key(status))
        if sha256 is not None:
            self._seen[_key(status)] = sha256
        return sha256

    def remember(self, status: os.stat_result, sha256: str) -> None:
        """Note a file that has just been hashed in full; `status` is from before the hashing."""
        if time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) > _YOUNG_NS:
            self._seen[_key(status)] = sha256

    def save(self) -> None:
        """Write what this snapshot saw, if it is news. Never fails."""
        if self._path is None or all(self._known.get(key) == sha for key, sha in self._seen.items()):
            return
        folder = os.path.dirname(self._path)
        temporary = f"{self._path}.{os.getpid()}.{time.time_ns()}"
        with contextlib.suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "wb") as file:
                    file.write(orjson.dumps(self._seen))
                os.replace(temporary, self._path)
            except OSError:
                os.unlink(temporary)
            _prune(folder)


def _prune(folder: str) -> None:
    """Keep the memories of the indices that were opened last."""
    names = os.listdir(folder)
    if len(names) > _KEPT:
        ages = sorted((os.stat(os.path.join(folder, name)).st_mtime_ns, name) for name in names)
        for _, name in ages[: len(names) - _KEPT]:
            os.unlink(os.path.join(folder, name))
