"""Approximate structures as bytes: what is kept, and what is checked before and after faiss reads it.

faiss's files carry no checksum and its reader trusts what they say. The index's manifest has the hash, so a
damaged file never comes here; a hostile one may. So: our own header first; the type of the index and of what
it holds are read from the bytes and must be the ones of the kind; faiss reads with its limits set to the size
of the file; then every number that a search follows is compared with the facts and the vectors.

Nothing is kept twice: IVF-Flat's file holds the centroids and the list of each vector, HNSW's the graph; both
take the vectors from the truth when they are loaded. Layout: b"RANN", then as uint32 the version (1) and the
bytes of faiss's part, uint64, that part, lists int32[n] (IVF-Flat).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from retrieval.index.ann_kinds import FACTORY, Made, defaults, fill
from retrieval.index.consistency import corrupt
from retrieval.index.exact import Vectors

_HEAD = struct.Struct("<4sIQ")
_HEADER = struct.Struct("<4siq")  # of faiss: type, d, ntotal; then two dummies, is_trained, metric
_QUANTISER = 53  # where the type of an IVF's quantiser stands
_SPARE = 1 << 20  # bytes for small tables that are larger in memory than in the file
_LIMITS = threading.Lock()  # faiss's limits are global
FILE = "ann.bin"


def to_bytes(faiss: ModuleType, kind: str, made: Made) -> bytes:
    """The file of a structure."""
    index, flags = made.index, 0
    if kind == "hnsw":
        flags = faiss.IO_FLAG_SKIP_STORAGE
    if kind == "ivf":
        index = _emptied(faiss, index)
    part: bytes = faiss.serialize_index(index, flags).tobytes()
    lists: bytes = made.lists.astype("<i4").tobytes()
    return _HEAD.pack(b"RANN", 1, len(part)) + part + lists


def _emptied(faiss: ModuleType, index: Any) -> Any:
    empty = faiss.IndexIVFFlat(index.quantizer, index.d, index.nlist, index.metric_type)
    empty.is_trained = True
    return empty


def from_bytes(
    faiss: ModuleType, data: Any, kind: str, options: Mapping[str, int], vectors: Vectors, part: str
) -> Made:
    """The structure of a file over `vectors`, checked. part: what errors name. Raises CorruptIndex."""
    view = memoryview(data).cast("B")
    n, d = vectors.shape
    wanted = defaults(kind, n, d)
    if kind == "exact" or set(options) != set(wanted) or any(type(v) is not int for v in options.values()):
        raise corrupt(part, "facts.json", f"gives the options {dict(options)!r} for {kind}")
    if not all(0 <= value <= max(n, 1 << 16) for value in options.values()):
        raise corrupt(part, "facts.json", f"gives the options {dict(options)!r} for {kind}")
    if len(view) < _HEAD.size:
        raise corrupt(part, FILE, f"has only {len(view)} bytes")
    magic, version, size = _HEAD.unpack_from(view)
    held = n if kind == "ivf" else 0
    if magic != b"RANN" or version != 1 or len(view) != _HEAD.size + size + 4 * held:
        raise corrupt(part, FILE, "is no structure of this version and size")
    body = view[_HEAD.size : _HEAD.size + size]
    listed = bool(options.get("lists"))
    fourcc, name = FACTORY.get((kind, listed), (b"", ""))
    if size < 57 or _HEADER.unpack_from(body) != (fourcc, d, 0 if kind == "ivf" else n):
        raise corrupt(part, FILE, f"is no {kind} of {n} vectors of {d} elements")
    if listed and bytes(body[_QUANTISER : _QUANTISER + 4]) != b"IxFI":
        raise corrupt(part, FILE, "has a quantiser of another type")
    index = _read(faiss, body, faiss.IO_FLAG_SKIP_STORAGE if kind == "hnsw" else 0, part)
    if type(index).__name__ != name or index.d != d or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise corrupt(part, FILE, f"holds a {type(index).__name__} of {index.d} elements")
    if index.ntotal != (0 if kind == "ivf" else n) or not index.is_trained:
        raise corrupt(part, FILE, f"holds {index.ntotal} vectors instead of {n}")
    lists = np.frombuffer(view, "<i4", held, _HEAD.size + size).astype(np.int32)
    try:
        if listed:
            _check_lists(faiss, index, options["lists"], 0 if kind == "ivf" else n, part)
        if kind == "ivf":
            if n and (int(lists.min()) < 0 or int(lists.max()) >= options["lists"]):
                raise corrupt(part, FILE, f"names lists beyond the {options['lists']} there are")
            fill(faiss, index, vectors, lists)
        elif kind == "hnsw":
            _check_graph(faiss, index.hnsw, options["neighbours"], n, part)
            index.storage = _storage(faiss, vectors)
            index.own_fields = True
        elif kind == "pq":
            _check_pq(faiss, index, options["subvectors"], n, listed, part)
        else:
            _check_sq(faiss, index, n, listed, part)
    except (RuntimeError, AttributeError) as error:
        raise corrupt(part, FILE, f"is refused by faiss ({_first_line(error)})") from error
    return Made(index, dict(options), lists)


def _storage(faiss: ModuleType, vectors: Vectors) -> Any:
    storage = faiss.IndexFlatIP(vectors.shape[1])
    for first in range(0, len(vectors), 65_536):
        storage.add(np.ascontiguousarray(vectors[first : first + 65_536]))
    storage.this.disown()  # the graph owns it
    return storage


def _read(faiss: ModuleType, body: memoryview, flags: int, part: str) -> Any:
    with _LIMITS:
        before = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_loop_limit(1 << 17)
        faiss.set_deserialization_vector_byte_limit(len(body) + _SPARE)
        try:
            return faiss.deserialize_index(np.frombuffer(body, np.uint8), flags)
        except (RuntimeError, MemoryError) as error:
            raise corrupt(part, FILE, f"is refused by faiss ({_first_line(error)})") from error
        finally:
            faiss.set_deserialization_loop_limit(before[0])
            faiss.set_deserialization_vector_byte_limit(before[1])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][-120:]


def _must(condition: bool, part: str, what: str) -> None:
    if not condition:
        raise corrupt(part, FILE, f"holds {what} that do not fit")


def _check_lists(faiss: ModuleType, index: Any, count: int, n: int, part: str) -> None:
    """Centroids for `count` lists; every vector in one of them, once."""
    quantiser = faiss.downcast_index(index.quantizer)
    _must(type(quantiser).__name__ in ("IndexFlatIP", "IndexFlat"), part, "centroids")
    _must((quantiser.ntotal, quantiser.d, index.nlist) == (count, index.d, count), part, "centroids")
    _must(quantiser.metric_type == faiss.METRIC_INNER_PRODUCT, part, "centroids")
    centroids = faiss.vector_to_array(quantiser.codes)
    _must(len(centroids) == 4 * count * index.d, part, "centroids")
    _must(bool(np.isfinite(centroids.view(np.float32)).all()), part, "centroids")
    _must(index.direct_map.type == 0, part, "lists")
    held = faiss.downcast_InvertedLists(index.invlists)
    _must(held is not None and held.nlist == count, part, "lists")
    _must(type(held).__name__ in ("ArrayInvertedLists",), part, "lists")
    sizes = [held.list_size(i) for i in range(count)]
    _must(sum(sizes) == n, part, "lists")
    seen = np.zeros(n, np.bool_)
    for i, size in enumerate(sizes):
        if size:
            ids = faiss.rev_swig_ptr(held.get_ids(i), size)
            _must(int(ids.min()) >= 0 and int(ids.max()) < n, part, "vector numbers")
            seen[ids] = True
    _must(bool(seen.all()), part, "vector numbers")  # n of them, all seen: each once


def _check_graph(faiss: ModuleType, graph: Any, neighbours: int, n: int, part: str) -> None:
    """Every place that a walk over the graph reads."""
    levels = faiss.vector_to_array(graph.levels)
    offsets = faiss.vector_to_array(graph.offsets).astype(np.int64)
    width = faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64)
    links = faiss.vector_to_array(graph.neighbors)
    _must(len(levels) == n and len(offsets) == n + 1 and len(width) > 1, part, "levels")
    _must(width[0] == 0 and bool((width[1:] >= width[:-1]).all()), part, "levels")
    _must(int(width[1]) == 2 * neighbours, part, "levels")
    _must(n == 0 or (int(levels.min()) >= 1 and int(levels.max()) < len(width)), part, "levels")
    _must(offsets[0] == 0 and offsets[-1] == len(links), part, "offsets")
    _must(bool((np.diff(offsets) == width[levels]).all()), part, "offsets")
    _must(not len(links) or (int(links.min()) >= -1 and int(links.max()) < n), part, "neighbours")
    top = int(levels.max(initial=0)) - 1
    _must(graph.max_level == top and (-1 if n == 0 else 0) <= graph.entry_point < n, part, "an entry point")
    _must(n == 0 or int(levels[graph.entry_point]) == top + 1, part, "an entry point")
    # A neighbour on a level must have that level: its own links there are read next.
    for level in range(1, top + 1):
        here = np.flatnonzero(levels > level)
        span = np.arange(int(width[level]), int(width[level + 1]))
        there = links[(offsets[here][:, None] + span).ravel()]
        _must(bool((levels[there[there >= 0]] > level).all()), part, "neighbours")


def _check_pq(faiss: ModuleType, index: Any, count: int, n: int, listed: bool, part: str) -> None:
    pq, d = index.pq, index.d
    _must((pq.d, pq.M, pq.nbits) == (d, count, 4), part, "codes")
    _must(faiss.vector_to_array(pq.centroids).size == 16 * d, part, "code words")
    if listed:  # the reader sizes the codes of a list by its code_size
        held = faiss.downcast_InvertedLists(index.invlists)
        _must(not index.by_residual and index.polysemous_ht == 0, part, "codes")
        _must(index.code_size == held.code_size == pq.code_size == (count + 1) // 2, part, "codes")
        return
    even, padded = (count + 1) // 2 * 2, -(-n // 32) * 32
    _must((index.M, index.nbits, index.ksub, index.M2, index.bbs) == (count, 4, 16, even, 32), part, "codes")
    _must(
        index.ntotal2 == padded and faiss.vector_to_array(index.codes).size == padded * even // 2,
        part,
        "codes",
    )
    _must(index.implem == 0, part, "codes")


def _check_sq(faiss: ModuleType, index: Any, n: int, listed: bool, part: str) -> None:
    sq, d = index.sq, index.d
    _must((sq.qtype, sq.d, sq.code_size) == (faiss.ScalarQuantizer.QT_8bit, d, d), part, "codes")
    _must(faiss.vector_to_array(sq.trained).size == 2 * d and index.code_size == d, part, "ranges")
    if listed:
        _must(not index.by_residual, part, "codes")
        _must(faiss.downcast_InvertedLists(index.invlists).code_size == d, part, "codes")
    else:
        _must(index.codes.size() == n * d, part, "codes")
