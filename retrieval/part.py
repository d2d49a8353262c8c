"""A part: one directory of files that a commit will name, written once, hashed and synced on the way."""

from __future__ import annotations

import builtins
import io
import os
import secrets
import uuid
from typing import Any

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from retrieval.diskio import HashedFile, disk_errors, sync_directory
from retrieval.manifest import FILE_NAME


class Part:
    """A new part directory, unfinished (tmp-<uuid>) until its transaction commits.

    name    the final name, seg-<16 hex>: write it into the commit's segments
    files   {file name: {"size", "sha256"}} of the files that are closed
    File names match [a-z0-9_.]{1,40}. Every method raises StorageError when the disk fails.
    """

    def __init__(self, index_path: str) -> None:
        self.name = f"seg-{secrets.token_hex(8)}"
        self.files: dict[str, dict[str, Any]] = {}
        self.path = os.path.join(index_path, f"tmp-{uuid.uuid4().hex}")
        self._open: dict[str, HashedFile] = {}
        with disk_errors("create", self.path):
            os.mkdir(self.path)

    def array(self, name: str, array: NDArray[Any]) -> None:
        """Write an array as .npy version 1.0 (no objects), without copying it when it is C-contiguous."""
        array = np.ascontiguousarray(array, stored_dtype(name, array.dtype))
        with self.stream(name) as file:
            file.write(npy_header(array.dtype, array.shape))
            file.write(array.reshape(-1).view(np.uint8))

    def bytes(self, name: str, data: Any) -> None:
        """Write a whole file from anything with a contiguous buffer."""
        with self.stream(name) as file:
            file.write(data)

    def json(self, name: str, value: Any) -> None:
        """Write canonical JSON."""
        self.bytes(name, orjson.dumps(value, option=orjson.OPT_SORT_KEYS))

    def stream(self, name: str) -> PartStream:
        """A file to write piece by piece; leaving its context finishes it."""
        return PartStream(self, name, self._create(name))

    def array_stream(self, name: str, dtype: DTypeLike, length: int | None = None) -> ArrayStream:
        """A one-dimensional .npy to append to. With its length given it is hashed on the way; without, its
        header is filled in at the end and the file read once more for the hash."""
        return ArrayStream(self, name, np.dtype(dtype), length)

    def _create(self, name: str, *, hashing: bool = True) -> HashedFile:
        if not FILE_NAME.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{name!r} is no file name of an index; use 1 to 40 of a-z 0-9 _ .")
        if name in self.files or name in self._open:
            raise ValueError(f"{name!r} was written to part {self.name} already")
        file = self._open[name] = HashedFile(os.path.join(self.path, name), hashing=hashing)
        return file

    def finish_file(self, name: str, head: builtins.bytes = b"") -> None:
        """Close a stream's file (the streams call this)."""
        file = self._open.pop(name)
        file.close(head)
        self.files[name] = {"size": file.size, "sha256": file.sha256}

    def sync(self) -> None:
        """Make the names of the files durable; all of them must be closed."""
        if self._open:
            raise ValueError(f"{', '.join(sorted(self._open))} of part {self.name} still open at the commit")
        with disk_errors("sync", self.path):
            sync_directory(self.path)

    def abandon(self) -> None:
        """Close what is open; the transaction removes the directory."""
        for file in self._open.values():
            file.discard()
        self._open = {}


class PartStream:
    """One file of a part being written; see Part.stream."""

    def __init__(self, part: Part, name: str, file: HashedFile) -> None:
        self._part = part
        self._name = name
        self._file = file

    def write(self, data: Any) -> int:
        """Append bytes, or any contiguous buffer; returns the number of bytes. Raises StorageError."""
        return self._file.write(data)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.size

    def close(self) -> None:
        """Flush, fsync, note size and hash."""
        if not self._file.closed:
            self._part.finish_file(self._name)

    def __enter__(self) -> PartStream:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.discard()


class ArrayStream:
    """A one-dimensional array of a part being written; see Part.array_stream."""

    def __init__(self, part: Part, name: str, dtype: np.dtype[Any], length: int | None) -> None:
        self._part = part
        self._name = name
        self._dtype = dtype = stored_dtype(name, dtype)
        self._promised = length
        self.length = 0
        self._file = part._create(name, hashing=length is not None)
        self._file.write(npy_header(dtype, (length or 0,)))

    def write(self, array: NDArray[Any]) -> None:
        """Append elements; other dtypes are cast where that loses nothing. Raises StorageError."""
        array = np.ascontiguousarray(array).astype(self._dtype, casting="safe", copy=False).reshape(-1)
        self._file.write(array.view(np.uint8))
        self.length += len(array)

    def close(self) -> None:
        """Flush, fsync, note size and hash."""
        if self._file.closed:
            return
        if self._promised is None:
            self._part.finish_file(self._name, npy_header(self._dtype, (self.length,)))
        elif self._promised != self.length:
            raise ValueError(f"{self._name}: {self.length} elements were written instead of {self._promised}")
        else:
            self._part.finish_file(self._name)

    def __enter__(self) -> ArrayStream:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.discard()


def stored_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The little-endian dtype written for `dtype`; raises TypeError for other than numbers and flags."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise TypeError(f"{name}: an array of {dtype} cannot be stored; flags, integers and floats can")
    return dtype.newbyteorder("<")


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of a C-ordered .npy version 1.0; as long for every number of rows."""
    head = io.BytesIO()
    facts = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(head, facts)
    return head.getvalue()
