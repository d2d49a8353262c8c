"""Full verification of an index, and the explicit way back to the former commit."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval import manifest
from retrieval.diskio import disk_errors
from retrieval.errors import CorruptIndex, UnsupportedFormat
from retrieval.idtable import IdTable
from retrieval.manifest import STRUCTURE_FACTS
from retrieval.publish import old_path, prepare, switch, take_lock, version
from retrieval.snapshot import Snapshot, newest_commit, old_commits, open_snapshot

_BACK = re.compile(r"go back\s+one commit with `retrieve check DIR --rollback`")


def deleted_mask(snapshot: Snapshot, segment: dict[str, Any]) -> NDArray[np.bool_]:
    """bool[docs]: which documents of a segment are deleted.

    Its "deletes" entry, where there is one, is {"file": "seg-.../deleted.npy"}: uint8, packed bits, the first
    document in the lowest bit. Raises CorruptIndex when the bits and the counts do not fit.
    """
    docs, deleted = segment["docs"], segment.get("deleted", 0)
    mask = np.zeros(docs, np.bool_)
    entry = segment.get("deletes")
    name = entry.get("file") if isinstance(entry, dict) else None
    if isinstance(name, str):
        bits = snapshot.array(name)
        if bits.dtype != np.uint8 or bits.shape != (-(-docs // 8),):
            raise CorruptIndex(f"{name} does not fit the {docs} documents of its segment; index them again")
        mask = np.unpackbits(bits, count=docs, bitorder="little").view(np.bool_)
    if int(mask.sum()) != deleted:
        raise CorruptIndex(f"segment {segment['name']} counts {deleted} deleted documents, its bits do not")
    return mask


def live_ids(snapshot: Snapshot) -> Iterator[bytes]:
    """The ids of all live documents in UTF-8, ascending by code point, streamed. Raises CorruptIndex."""
    return heapq.merge(*(_segment_ids(snapshot, segment) for segment in snapshot.commit["segments"]))


def _segment_ids(snapshot: Snapshot, segment: dict[str, Any]) -> Iterator[bytes]:
    ids = IdTable(snapshot, segment["name"])
    if len(ids) != segment["docs"]:
        raise CorruptIndex(
            f"segment {segment['name']} counts {segment['docs']} documents and has {len(ids)} ids"
        )
    deleted = deleted_mask(snapshot, segment)
    for ordinal, raw in ids.sorted_items():
        if not deleted[ordinal]:
            yield raw


def check(path: str | os.PathLike[str], full: bool = True) -> dict[str, Any]:
    """Verify an index: {"generation", "docs", "ids_sha256", "representations"}.

    full: hash every byte, remembered or not, those of the former commit included. ids_sha256 is the sha256 of
    the sorted ids of live documents joined by newlines. Raises UserError (no index there),
    CorruptIndex naming the file, UnsupportedFormat, StorageError.
    """
    path = os.fspath(path)
    try:
        with open_snapshot(path, full=full) as snapshot:
            facts = summary(snapshot)
            if full:
                _check_former(path, snapshot)
    except UnsupportedFormat:
        raise
    except CorruptIndex as error:
        if not _BACK.search(str(error)) or _way_back(path):
            raise
        raise CorruptIndex(_BACK.sub("index the corpus again with --overwrite", str(error))) from error
    return facts


def _way_back(path: str) -> bool:
    """Whether rollback() would find a commit that is whole and holds documents."""
    current = _readable(path)
    for generation in reversed(old_commits(path)):
        if current is None or generation < current["generation"]:
            try:
                former = manifest.read_commit(old_path(path, generation))
                with Snapshot(path, former, full=True):
                    return bool(former["docs"])
            except (CorruptIndex, FileNotFoundError):
                continue
    return False


def summary(snapshot: Snapshot) -> dict[str, Any]:
    """What check() answers about one snapshot. Raises CorruptIndex when ids and counts disagree."""
    digest, docs, last = hashlib.sha256(), 0, None
    for chunk in _chunks(live_ids(snapshot), 1 << 15):
        for raw in chunk:
            if raw == last:
                raise CorruptIndex(f"document id {raw.decode()!r} is live twice; index the documents again")
            last = raw
        digest.update((b"\n" if docs else b"") + b"\n".join(chunk))
        docs += len(chunk)
    if docs != snapshot.commit["docs"]:
        raise CorruptIndex(
            f"COMMIT counts {snapshot.commit['docs']} documents, there are {docs}; index them again"
        )
    built = structures(snapshot)
    return {
        "generation": snapshot.generation,
        "docs": docs,
        "ids_sha256": digest.hexdigest(),
        "representations": snapshot.commit["representations"],
        **({"structures": built} if built else {}),
    }


def structures(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """Representation -> what was built above the vectors of each of its segments, where something was."""
    found: dict[str, list[dict[str, Any]]] = {}
    for segment in snapshot.commit["segments"]:
        for name, part in segment.get("parts", {}).items():
            if f"{part}/{STRUCTURE_FACTS}" in snapshot:
                facts = snapshot.json(f"{part}/{STRUCTURE_FACTS}")
                if isinstance(facts, dict):
                    found.setdefault(name, []).append(facts)
    return found


def _chunks(items: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _check_former(path: str, snapshot: Snapshot) -> None:
    """LOCK is empty, and the former commit, where this is not the first, is whole."""
    lock = os.path.join(path, "LOCK")
    with disk_errors("read", lock):
        if os.path.lexists(lock) and (not os.path.isfile(lock) or os.path.getsize(lock)):
            raise CorruptIndex(f"{lock} is not an empty file, as it should be; empty it")
    for generation in reversed(old_commits(path)):
        if generation < snapshot.generation:
            name = old_path(path, generation)
            try:
                commit = manifest.read_commit(name)
                with Snapshot(path, commit, full=True):
                    return
            except FileNotFoundError:
                if newest_commit(path)["generation"] > snapshot.generation:
                    return  # collected by a writer meanwhile
                raise CorruptIndex(
                    f"{name} is missing or names missing files; the next commit renews it"
                ) from None
            except CorruptIndex as error:
                advice = "wait for the next commit, which renews it"
                raise CorruptIndex(_BACK.sub(advice, str(error))) from error
    if snapshot.generation and newest_commit(path)["generation"] == snapshot.generation:
        raise CorruptIndex(f"no former commit is in {os.path.join(path, 'old')}; the next commit renews it")


def rollback(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Go back to the former commit, whatever the newest one is like; answers as check() does.

    The former content becomes a new generation, so that readers see the number advance. A newest commit that
    can be read is kept as the former one of that: a second rollback undoes the first. Every file is hashed
    before. Raises Locked, CorruptIndex when there is no whole commit to go back to, UserError, StorageError.
    """
    path = os.fspath(path)
    _readable(path)  # before a LOCK is made where there is no index
    lock = take_lock(path)
    try:
        current = _readable(path)
        problem: Exception | None = None
        for generation in reversed(old_commits(path)):
            if current is not None and generation >= current["generation"]:
                continue
            try:
                former = manifest.read_commit(old_path(path, generation))
                with Snapshot(path, former, full=True) as snapshot:
                    facts = summary(snapshot)
            except (CorruptIndex, FileNotFoundError) as error:
                problem = problem or error
                continue
            newest = max(generation + 1, current["generation"] if current else 0)
            commit = {**former, "generation": newest + 1, "written_by": version()}
            switch(prepare(path, commit, current))
            return {**facts, "generation": commit["generation"]}
    finally:
        os.close(lock)
    reason = f"the former commit is damaged too ({problem})" if problem else "there is no former commit"
    raise CorruptIndex(
        f"cannot roll {path!r} back: {reason}; restore it from a copy or index the documents again"
    )


def _readable(path: str) -> dict[str, Any] | None:
    """The newest commit, None where COMMIT is damaged or lost. One of a newer format is not passed over."""
    try:
        return newest_commit(path)
    except UnsupportedFormat:
        raise
    except CorruptIndex:
        return None
