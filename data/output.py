"""Files that appear whole or not at all, gzip-compressed by their suffix, the same bytes every time."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from retrieval.diskio import disk_errors
from retrieval.errors import UserError


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Callable[[bytes], object]]:
    """A function that writes bytes to a file beside `path`, renamed to it at the end; errors leave nothing.

    What stands there and is no regular file (/dev/stdout, a pipe) is written to directly. Raises UserError
    for a place that cannot be written, StorageError where the disk fails.
    """
    with disk_errors("write", path, placing=True), contextlib.ExitStack() as stack:
        try:
            place = Path(os.path.realpath(path))  # a link stays a link
            # /dev/stdout is written to where it leads, even to a file: others may write there too.
            direct = os.fspath(path).startswith("/dev/") or (
                os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode)
            )
            made = Path(path) if direct else place.with_name(f".{place.name[:50]}.{secrets.token_hex(6)}.tmp")
            file = stack.enter_context(open(made, "wb" if direct else "xb"))
        except ValueError:  # a NUL in the path
            raise UserError(f"cannot write {str(path)!r}: no file can have that name") from None
        try:
            if Path(path).suffix == ".gz":
                # No name and no time in the header: equal content gives equal bytes.
                with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                    yield packed.write
            else:
                yield file.write
            file.flush()
            if not direct:
                os.fsync(file.fileno())
                os.replace(made, place)
        except BaseException:
            if not direct:
                with contextlib.suppress(OSError):
                    made.unlink()
            raise


def json_line(record: Any) -> bytes:
    """A record as one line of JSON. Raises UserError for a value that JSON has no word for."""
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:  # orjson.JSONEncodeError is one
        raise UserError(f"{str(record)[:80]!r} cannot be written as JSON: {error}") from None
