"""The COMMIT file: its bytes, its checks, and the names that an index directory may hold."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any

import orjson

from retrieval.diskio import disk_errors, open_regular, storage_error
from retrieval.errors import CorruptIndex, UnsupportedFormat

FORMAT = 4
OLDEST = 1
MAX_COMMIT = 256 << 20

HEADER = re.compile(rb"retrieve-index ([1-9][0-9]{0,5}) ([0-9a-f]{64})\n")
PART_NAME = re.compile(r"seg-[0-9a-f]{16}")
FILE_NAME = re.compile(r"[a-z0-9_.]{1,40}")
FILE_PATH = re.compile(r"(seg-[0-9a-f]{16})/([a-z0-9_.]{1,40})")
JOURNAL_NAME = re.compile(r"cache-[0-9a-f]{32}")
LITTER_NAME = re.compile(r"tmp-[0-9a-f]{32}")
OLD_NAME = re.compile(r"commit-(0|[1-9][0-9]{0,17})")
ASSETS = "assets"  # key of a representation's entry: the part that holds its assets, from format 2 on
STRUCTURE_FACTS = "ann.json"  # file of a part with vectors: what was built above them
DENSE = "dense"  # kind of a representation by vectors, from format 3 on
BLOCKS = "blocks"  # kind of a representation of documents' blocks, from format 4 on
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{32}")


def empty_commit(uuid: str, written_by: str) -> dict[str, Any]:
    """The JSON of generation 0: an index without documents."""
    return {
        "format": FORMAT,
        "min_reader": OLDEST,
        "written_by": written_by,
        "index_uuid": uuid,
        "generation": 0,
        "docs": 0,
        "representations": {},
        "segments": [],
        "files": {},
        "options": {},
    }


def min_reader(commit: dict[str, Any]) -> int:
    """The oldest format whose readers understand a commit.

    Assets came with format 2, vectors with 3, blocks with 4.
    """
    entries = commit["representations"].values()
    if any(entry.get("kind") == BLOCKS for entry in entries):
        return 4
    if any(entry.get("kind") == DENSE for entry in entries):
        return 3
    return 2 if any(ASSETS in entry for entry in entries) else 1


def encode(commit: dict[str, Any]) -> bytes:
    """The bytes of a COMMIT file: the header line, then canonical JSON."""
    body = orjson.dumps(commit, option=orjson.OPT_SORT_KEYS)
    return b"retrieve-index %d %s\n" % (commit["format"], hashlib.sha256(body).hexdigest().encode()) + body


def decode(data: bytes, where: str) -> dict[str, Any]:
    """Parse and check the bytes of a COMMIT file named `where`.

    Raises CorruptIndex for damage, UnsupportedFormat for a format that this build does not read.
    """
    match = HEADER.match(data)
    if not match:
        raise CorruptIndex(f"{where} is damaged: its first line is not that of an index; {_WAY_OUT}")
    body = memoryview(data)[match.end() :]
    if hashlib.sha256(body).hexdigest().encode() != match[2]:
        raise CorruptIndex(f"{where} is damaged: its content does not match its checksum; {_WAY_OUT}")
    written = int(match[1])
    try:
        commit = orjson.loads(body)
    except (ValueError, RecursionError) as error:
        if not OLDEST <= written <= FORMAT:
            raise _unsupported(where, written) from error
        raise CorruptIndex(f"{where} is damaged: it does not hold JSON; {_WAY_OUT}") from error
    if not isinstance(commit, dict) or commit.get("format") != written:
        raise CorruptIndex(f"{where} is damaged: its two format numbers differ; {_WAY_OUT}")
    needed = commit.get("min_reader")
    if type(needed) is not int or not 1 <= needed <= written:
        raise CorruptIndex(f"{where} is damaged: min_reader is {needed!r}; {_WAY_OUT}")
    if written < OLDEST or needed > FORMAT:
        raise _unsupported(where, written)
    problem = _problem(commit)
    if problem:
        raise CorruptIndex(f"{where} is damaged: {problem}; {_WAY_OUT}")
    return commit


_WAY_OUT = "restore it from a copy, or go back one commit with `retrieve check DIR --rollback`"


def _unsupported(where: str, written: int) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"{where}: format {written}, this build reads {OLDEST}..{FORMAT}; "
        "install a version that reads it, or index the documents again"
    )


def _problem(commit: dict[str, Any]) -> str | None:
    """What is wrong with the fields of a commit, or None. Everything that others rely on is checked here."""
    for key, kind in (("representations", dict), ("segments", list), ("files", dict), ("options", dict)):
        if not isinstance(commit.get(key), kind):
            return f"{key} is missing or of the wrong type"
    for key in ("generation", "docs"):
        if not _count(commit.get(key)):
            return f"{key} is {commit.get(key)!r}"
    uuid = commit.get("index_uuid")
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        return f"index_uuid is {uuid!r}"
    for path, facts in commit["files"].items():
        if not FILE_PATH.fullmatch(path):
            return f"{path!r} is not a path inside an index"
        if not isinstance(facts, dict) or not _count(facts.get("size")):
            return f"the size of {path!r} is wrong"
        if not isinstance(facts.get("sha256"), str) or not _SHA256.fullmatch(facts["sha256"]):
            return f"the checksum of {path!r} is wrong"
    if not all(isinstance(entry, dict) for entry in commit["representations"].values()):
        return "a representation is not described"
    for segment in commit["segments"]:
        if not isinstance(segment, dict) or not isinstance(segment.get("parts", {}), dict):
            return "a segment is not described"
        name, docs, deleted = segment.get("name"), segment.get("docs"), segment.get("deleted", 0)
        if not isinstance(name, str) or not PART_NAME.fullmatch(name):
            return f"a segment is named {name!r}"
        if not (_count(docs) and _count(deleted) and deleted <= docs):
            return f"the counts of segment {name} are wrong"
    held = {path[:20] for path in commit["files"]}
    try:
        absent = [name for name in references(commit) if name not in held]
    except RecursionError:
        return "it is nested too deeply"
    return f"no file of part {absent[0]} is listed" if absent else None


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def references(commit: dict[str, Any]) -> set[str]:
    """Names of the parts that segments and representations point to, wherever they stand in them."""
    return set(_references([commit["segments"], commit["representations"]]))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if PART_NAME.fullmatch(value) or FILE_PATH.fullmatch(value):
            yield value[:20]
    elif isinstance(value, dict):
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def read_commit(path: str) -> dict[str, Any]:
    """Read and check one COMMIT file. FileNotFoundError passes through for the caller to judge."""
    return decode(read_small(path), path)


def read_small(path: str) -> bytes:
    """The bytes of a COMMIT file. FileNotFoundError passes through; raises CorruptIndex, StorageError."""
    try:
        opened = open_regular(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(error, "read", path) from error
    if opened is None:
        raise CorruptIndex(f"{path} is damaged: it is not a regular file; {_WAY_OUT}")
    fd, status = opened
    try:
        if status.st_size > MAX_COMMIT:
            raise CorruptIndex(f"{path} is damaged: it holds {status.st_size} bytes; {_WAY_OUT}")
        with disk_errors("read", path):
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
            return b"".join(parts)
    finally:
        os.close(fd)
