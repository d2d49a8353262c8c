"""What a model has made of texts, kept until the commit: a journal in the index that survives a kill.

Encoding takes hours where the rest takes minutes. So every value goes into a file `cache-<32 hex>` of the
index directory as soon as it is made, under a key of its content; the command that is run again after a kill
(or a bad line, a full disk ...) finds it there. One file an encoder; the commit that used it removes it.

File: the line MAGIC, then records: key (16 bytes), length of the value (uint32), blake2b-8 of key, length and
value, value. Records are only appended, and never synced: a record that a kill or a power loss left behind
damaged ends what is believed, and is cut off together with all that follows.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.diskio import disk_errors, open_regular, write_all

if TYPE_CHECKING:
    from retrieval.artefact import Transaction

MAGIC = b"retrieve-cache 1\n"
KEY = 16  # bytes
_HEAD = struct.Struct("<16sI8s")
_READ = 1 << 20  # bytes at a time while the file is gone through
_GUESS = 4096  # bytes read at first for one value
_RECENT = 1 << 16  # keys that are held in a dict before they go into sorted arrays
_FORM = ("compact", "forward")  # settings that say how lists are stored, and nothing about what is in them


def text_key(encoder: str, text: str) -> bytes:
    """The key of a text under an encoder's identity, 16 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY, key=_digest(encoder)).digest()


def encoder_of(method: Any) -> str:
    """The identity of a method's encoder, JSON: its `encoder`, else its settings but for the lists' form."""
    facts: Mapping[str, Any] = getattr(method, "encoder", None) or {
        name: value for name, value in method.settings.items() if name not in _FORM
    }
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()


def open_cache(transaction: Transaction, method: Any) -> Cache:
    """The journal of a method's encoder in the index that the transaction writes. Raises StorageError."""
    return transaction.journal(_digest(encoder_of(method)).hex(), Cache)


def _digest(encoder: str) -> bytes:
    return blake2b(encoder.encode(), digest_size=KEY).digest()


class Cache:
    """One journal, open under the index's lock: values by key, 16 bytes of memory each and no more.

    get(keys)          the value of each key, None where there is none
    put(keys, values)  appends; values are written when it returns, so that a kill does not lose them
    len(cache)         how many values there are; `found` and `made`: how many get and put have dealt with
    A value comes from a file: whoever decodes it checks that it can be (the index may be a stranger's).
    Raises StorageError when the disk fails.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.found = self.made = 0
        self._keys = _Places()
        self._fd = -1
        with disk_errors("open", path):
            self._fd = _opened(path)
            self._end = self._replayed()
            if not self._end:
                os.ftruncate(self._fd, 0)
                os.lseek(self._fd, 0, os.SEEK_SET)
                write_all(self._fd, MAGIC)
                self._end = len(MAGIC)
            elif os.fstat(self._fd).st_size > self._end:
                os.ftruncate(self._fd, self._end)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, or None."""
        values: list[bytes | None] = [None] * len(keys)
        places = self._keys.find(keys)
        with disk_errors("read", self.path):
            for at in np.argsort(places, kind="stable").tolist():  # in the order of the file
                if places[at] >= 0:
                    values[at] = self._read(int(places[at]), keys[at])
        self.found += sum(value is not None for value in values)
        return values

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Appends the values that are new. A key is 16 bytes, a value less than 4 GiB."""
        new = dict(zip(keys, values, strict=True))
        known = self._keys.find(list(new))
        records, places, fresh = [], [], []
        at = self._end
        for (key, value), place in zip(new.items(), known.tolist(), strict=True):
            if place < 0:
                records += [_HEAD.pack(key, len(value), _check(key, value)), value]
                places.append(at)
                fresh.append(key)
                at += _HEAD.size + len(value)
        with disk_errors("write", self.path):
            os.lseek(self._fd, self._end, os.SEEK_SET)
            write_all(self._fd, b"".join(records))
        self._keys.add(fresh, places)
        self._end = at
        self.made += len(fresh)

    def close(self) -> None:
        """Close the file; it stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _read(self, place: int, key: bytes) -> bytes | None:
        """The value of the record at a place; None if it is another key's, or not what was written."""
        data = os.pread(self._fd, _GUESS, place)
        if len(data) < _HEAD.size:
            return None
        held, length, check = _HEAD.unpack_from(data)
        if held != key or place + _HEAD.size + length > self._end:
            return None
        value = data[_HEAD.size : _HEAD.size + length]
        while len(value) < length:
            more = os.pread(self._fd, length - len(value), place + _HEAD.size + len(value))
            if not more:
                return None
            value += more
        return value if _check(key, value) == check else None

    def _replayed(self) -> int:
        """Goes through the file; returns where its good part ends, 0 where it is not one of ours."""
        end, keys, places = 0, [], []
        for key, place, behind in _records(self._fd):
            end = behind
            if key:
                keys.append(key)
                places.append(place)
            if len(keys) == _RECENT:
                self._keys.add(keys, places)
                keys, places = [], []
        self._keys.add(keys, places)
        return end


def _opened(path: str) -> int:
    """The file, to read and write; whatever else stands in its place goes. Raises OSError."""
    opened = None
    try:
        opened = open_regular(path)
    except FileNotFoundError:
        pass
    else:
        if opened is None:
            os.unlink(path)
        else:
            os.close(opened[0])
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags if opened else flags | os.O_CREAT | os.O_EXCL, 0o666)


def _records(fd: int) -> Iterator[tuple[bytes, int, int]]:
    """(key, place, place behind) of each good record; first (b"", 0, length of MAGIC)."""
    size, place, held = os.fstat(fd).st_size, len(MAGIC), b""
    if os.pread(fd, place, 0) != MAGIC:
        return
    yield b"", 0, place
    start = place  # where `held` stands in the file
    while True:
        at = place - start
        if len(held) - at < _HEAD.size:
            held, start, at = held[at:] + os.pread(fd, _READ, start + len(held)), place, 0
            if len(held) < _HEAD.size:
                return
        key, length, check = _HEAD.unpack_from(held, at)
        behind = place + _HEAD.size + length
        if behind > size:  # a torn record, or no record
            return
        while start + len(held) < behind:
            more = os.pread(fd, max(_READ, behind - start - len(held)), start + len(held))
            if not more:
                return
            held, start, at = held[at:] + more, place, 0
        if _check(key, memoryview(held)[at + _HEAD.size : behind - start]) != check:
            return
        yield key, place, behind
        place = behind


def _check(key: bytes, value: bytes | memoryview) -> bytes:
    digest = blake2b(len(value).to_bytes(4, "little"), digest_size=8, key=key)
    digest.update(value)
    return digest.digest()


class _Places:
    """Key -> place in the file, by the first half of the key: sorted arrays that are merged as they grow.

    Two keys that share it (2**-64) are told apart at the record; the first one is found then.
    """

    def __init__(self) -> None:
        self._recent: dict[int, int] = {}
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(len(run) for run, _ in self._runs)

    def add(self, keys: Sequence[bytes], places: Sequence[int]) -> None:
        """Remembers where the records of new keys stand."""
        self._recent.update(zip(_halves(keys).tolist(), places, strict=True))
        if len(self._recent) >= _RECENT:
            run = np.fromiter(self._recent, np.uint64, len(self._recent))
            at = np.fromiter(self._recent.values(), np.int64, len(self._recent))
            self._recent = {}
            self._runs.append(_sorted(run, at))
            while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
                pair = [np.concatenate(column) for column in zip(*self._runs[-2:], strict=True)]
                self._runs[-2:] = [_sorted(*pair)]

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """The place of each key, -1 where there is none, int64[len(keys)]."""
        halves = _halves(keys)
        recent = self._recent
        found = np.fromiter((recent.get(half, -1) for half in halves.tolist()), np.int64, len(keys))
        for run, places in self._runs:
            at = np.minimum(np.searchsorted(run, halves), len(run) - 1)
            hit = run[at] == halves
            found[hit] = places[at[hit]]
        return found


def _halves(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    if any(len(key) != KEY for key in keys):
        raise ValueError(f"keys have {KEY} bytes each; use text_key()")
    return np.frombuffer(b"".join(keys), "<u8")[::2]


def _sorted(run: NDArray[Any], places: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    order = np.argsort(run, kind="stable")
    return run[order], places[order]
