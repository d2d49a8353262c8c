"""A reader's view of one committed generation: files verified at the opening, small ones read by then, the
others mapped when asked for."""

from __future__ import annotations

import math
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval import diskio
from retrieval.diskio import disk_errors, open_regular, storage_error
from retrieval.errors import CorruptIndex, UserError
from retrieval.manifest import OLD_NAME, PART_NAME, read_commit
from retrieval.verified import VerifiedFiles

TINY = 8 << 20  # an index smaller than this is hashed at every open
SMALL = 64 << 10  # a file below this is read whole: many small segments must not use up the descriptors
_HEADER = 1024
# What Part writes and nothing else: no objects, no records, no Python to evaluate.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<|][biuf][1248])', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,18}, ?){0,4}(?:[0-9]{1,18})?)\), \} *\n",
    re.DOTALL,
)


class PartSource(Protocol):
    """What files of parts are read from by their path "seg-.../name": a Snapshot, or parts being written."""

    def __contains__(self, name: object, /) -> bool: ...
    def array(self, name: str, /) -> NDArray[Any]: ...
    def bytes(self, name: str, /) -> memoryview: ...
    def json(self, name: str, /) -> Any: ...


class _Gone(FileNotFoundError):
    """A file that the commit names is not there: collected meanwhile, or missing."""


def open_snapshot(path: str, *, full: bool = False) -> Snapshot:
    """Open the newest commit of the index at `path`, verified.

    full: hash every byte, whatever is remembered. Raises UserError (no index there), CorruptIndex,
    UnsupportedFormat, StorageError. A reader that loses the race to the collection of its generation reads
    COMMIT again, as long as the generation advances.
    """
    path = os.fspath(path)
    while True:
        commit = newest_commit(path)
        try:
            return Snapshot(path, commit, full=full)
        except _Gone as gone:
            generation = commit["generation"]
            if newest_commit(path)["generation"] <= generation:
                raise CorruptIndex(
                    f"{gone} is missing; restore it from a copy, or go back one commit with "
                    "`retrieve check DIR --rollback`"
                ) from None


def newest_commit(path: str) -> dict[str, Any]:
    """The checked JSON of COMMIT. Raises as open_snapshot does."""
    try:
        return read_commit(os.path.join(path, "COMMIT"))
    except FileNotFoundError:
        pass
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        raise UserError(
            f"no index at {path!r}: the directory does not exist; make one with `retrieve index`"
        ) from None
    except OSError as error:
        raise storage_error(error, "read", path) from error
    if was_index(names):
        raise CorruptIndex(
            f"{os.path.join(path, 'COMMIT')} is missing; restore it from a copy, or go back one commit with "
            "`retrieve check DIR --rollback`"
        )
    raise UserError(f"no index in {path!r}; make one with `retrieve index`")


def was_index(names: list[str]) -> bool:
    """Whether a listing without COMMIT shows that one has been lost."""
    return "old" in names or any(PART_NAME.fullmatch(name) for name in names)


class Snapshot:
    """One generation of an index, which stays whole for as long as it is held, whatever writers do.

    path, generation, uuid; commit: the JSON of COMMIT, not to be changed. Arrays are read-only: of the
    bytes that were verified (files below SMALL), or maps of the descriptors that were. A larger file takes
    one descriptor, its own until it is mapped and the map's from then on. Safe to share among threads.
    """

    def __init__(self, path: str, commit: dict[str, Any], *, full: bool = False) -> None:
        self.path = path
        self.commit = commit
        self.generation: int = commit["generation"]
        self.uuid: str = commit["index_uuid"]
        self._lock = threading.Lock()  # a descriptor is closed once its map is there
        self._descriptors: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap | bytes] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        try:
            self._verify(full)
        except BaseException:
            self.close()
            raise

    def _verify(self, full: bool) -> None:
        files = self.commit["files"]
        tiny = sum(facts["size"] for facts in files.values()) < TINY
        verified = VerifiedFiles(self.path)
        if not (tiny or full):
            verified.load()
        unknown = []
        for name in sorted(files):
            status, steady = self._open(name, files[name]["size"])
            if tiny or full or not (steady and verified.knows(status, files[name]["sha256"])):
                unknown.append((name, status))
        work = [(name, status.st_size) for name, status in unknown]
        if sum(size for _, size in work) > 8 * TINY and (os.cpu_count() or 1) > 1:
            from concurrent.futures import ThreadPoolExecutor  # a tenth of a cold opening

            with ThreadPoolExecutor(2) as pool:  # hashing releases the interpreter's lock
                hashes = list(pool.map(self._hash, work))
        else:
            hashes = [self._hash(each) for each in work]
        for (name, status), sha256 in zip(unknown, hashes, strict=True):
            if sha256 != files[name]["sha256"]:
                raise self._damaged(name, "its content does not match its checksum")
            verified.remember(status, sha256)
        if not tiny:
            verified.save()

    def _open(self, name: str, size: int) -> tuple[os.stat_result, bool]:
        """Open one file, and read it if it is small: (stat, whether that still held after the reading)."""
        path = os.path.join(self.path, name)
        try:
            opened = open_regular(path)
        except FileNotFoundError:
            raise _Gone(path) from None
        except NotADirectoryError:
            raise self._damaged(name, "its folder is not a folder") from None
        except OSError as error:
            raise storage_error(error, "read", path) from error
        if opened is None:
            raise self._damaged(name, "it is not a regular file")
        fd, status = opened
        self._descriptors[name] = fd
        if status.st_size != size:
            raise self._damaged(name, f"it holds {status.st_size} bytes instead of {size}")
        if size >= SMALL:
            return status, True
        with disk_errors("read", path):
            data = diskio.read_descriptor(fd, size)
            after = os.fstat(fd)
        if len(data) != size:
            raise self._damaged(name, f"it holds {len(data)} bytes instead of {size}")
        self._maps[name] = data
        os.close(self._descriptors.pop(name))
        return status, (after.st_mtime_ns, after.st_ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)

    def _hash(self, work: tuple[str, int]) -> str:
        name, size = work
        data = self._maps.get(name)
        if isinstance(data, bytes):  # the very bytes that are used
            return diskio.hash_bytes(data)
        with disk_errors("read", os.path.join(self.path, name)):
            return diskio.hash_descriptor(self._descriptors[name], size)

    def _damaged(self, name: str, problem: str) -> CorruptIndex:
        return CorruptIndex(
            f"{os.path.join(self.path, name)} is damaged: {problem}; restore it from a copy, or go back "
            "one commit with `retrieve check DIR --rollback`"
        )

    def __contains__(self, name: object) -> bool:
        return name in self.commit["files"]

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self.commit["files"][name]["size"])

    def files(self, prefix: str = "") -> list[str]:
        """Paths ("seg-.../name") of the generation's files that begin with `prefix`, sorted."""
        return sorted(name for name in self.commit["files"] if name.startswith(prefix))

    def _map(self, name: str) -> mmap.mmap | bytes:
        held = self._maps.get(name)
        if held is not None:
            return held
        size = self._facts(name)["size"]
        with self._lock, disk_errors("map", os.path.join(self.path, name)):
            held = self._maps.get(name)
            if held is not None:  # another thread was quicker
                return held
            fd = self._descriptors[name]
            if os.fstat(fd).st_size != size:  # a map that ends beyond its file kills the process
                raise self._damaged(name, "its size has changed since it was opened")
            held = self._maps[name] = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            os.close(self._descriptors.pop(name))  # the map keeps a descriptor of its own
        return held

    def _facts(self, name: str) -> dict[str, Any]:
        facts = self.commit["files"].get(name)
        if facts is None:
            raise CorruptIndex(
                f"{os.path.join(self.path, 'COMMIT')} lacks {name!r}, which a segment needs; index again"
            )
        return facts  # type: ignore[no-any-return]

    def bytes(self, name: str) -> memoryview:
        """The content of a file, read-only; a large one is mapped."""
        return memoryview(self._map(name))

    def json(self, name: str) -> Any:
        """The content of a small JSON file."""
        try:
            return orjson.loads(self.bytes(name))
        except (ValueError, RecursionError):
            raise self._damaged(name, "it does not hold JSON") from None

    def array(self, name: str) -> NDArray[Any]:
        """A .npy file as a read-only array. Object arrays and sizes that do not fit are refused."""
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._as_array(name)
        return array

    def _as_array(self, name: str) -> NDArray[Any]:
        data = self._map(name)
        match = _NPY.match(data[:_HEADER])
        if match is None or match.end() != 10 + int.from_bytes(match[1], "little"):
            raise self._damaged(name, "it does not begin as a .npy file of this index does")
        dtype = np.dtype(match[2].decode())
        shape = tuple(int(each) for each in match[3].split(b",") if each.strip())
        if match.end() + math.prod(shape) * dtype.itemsize != len(data):
            raise self._damaged(name, "its array and its size do not fit")
        return np.frombuffer(data, dtype, math.prod(shape), match.end()).reshape(shape)

    def parts(self) -> Iterator[str]:
        """Names of the part directories of this generation."""
        yield from sorted({name.split("/", 1)[0] for name in self.commit["files"]})

    def close(self) -> None:
        """Let go of the descriptors. Arrays that are still held stay valid."""
        with self._lock:
            descriptors, self._descriptors = self._descriptors, {}
            self._maps, self._arrays = {}, {}
        for fd in descriptors.values():
            os.close(fd)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound here, because a module may have been emptied before this when the interpreter ends.
        for fd in getattr(self, "_descriptors", {}).values():
            close(fd)

    def __repr__(self) -> str:
        return f"<Snapshot: {self.path!r}, generation {self.generation}>"


def old_commits(path: str) -> list[int]:
    """Generations that old/ holds, ascending."""
    try:
        names = os.listdir(os.path.join(path, "old"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, "read", os.path.join(path, "old")) from error
    return sorted(int(match[1]) for match in map(OLD_NAME.fullmatch, names) if match)
