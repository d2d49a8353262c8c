"""The faiss structures: which kinds there are, which one suits a collection, and how each is made.

    ivf    IVF-Flat: vectors in lists by nearest centroid, all in float32
    hnsw   a graph of neighbours over the vectors
    pq     4-bit product quantisation, read by fast-scan; above 100,000 vectors in lists
    sq8    8 bits an element; above 100,000 vectors in lists

All are by inner product. Centroids and lists are computed here, in numpy: the BLAS inside faiss-cpu 1.15 may
not know the processor (3 times as long, measured once), and the result is the same for a seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import MissingExtra, UnknownName
from retrieval.index.exact import Vectors

KINDS = ("exact", "hnsw", "ivf", "pq", "sq8")
FACTORY = {  # kind, whether in lists -> what faiss calls it, on disk and in Python
    ("ivf", True): (b"IwFl", "IndexIVFFlat"),
    ("hnsw", False): (b"IHNf", "IndexHNSWFlat"),
    ("pq", False): (b"IPfs", "IndexPQFastScan"),
    ("pq", True): (b"IwPQ", "IndexIVFPQ"),  # packed for fast-scan when it is complete
    ("sq8", False): (b"IxSQ", "IndexScalarQuantizer"),
    ("sq8", True): (b"IwSq", "IndexIVFScalarQuantizer"),
}
Progress = Callable[[int, int], None]  # vectors added so far, of how many
_EXACT = 1 << 25  # elements that are searched exactly in a few milliseconds
_LISTS_FROM = 100_000  # vectors
_SAMPLE = 64  # vectors a centroid is trained on
_ROUNDS = 10  # of k-means
_BLOCK = 65_536  # vectors added at once


class Made(NamedTuple):
    """A structure. lists int32[n]: the list of each vector, of IVF-Flat; else empty."""

    index: Any
    options: dict[str, int]
    lists: NDArray[np.int32]


def import_faiss() -> ModuleType:
    """The module. Raises MissingExtra."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss", "approximate vector search") from error
    if not hasattr(faiss, "set_deserialization_loop_limit"):
        raise MissingExtra("faiss", f"faiss 1.15 or newer (this is {faiss.__version__})")
    module: ModuleType = faiss
    return module


def gpus(faiss: ModuleType) -> int:
    """How many GPUs faiss can use: 0 where it was built without them, or finds no driver."""
    try:
        return int(faiss.get_num_gpus())
    except (AttributeError, RuntimeError):
        return 0


def available_memory() -> int:
    """Bytes that may still be taken, as the system says."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 62


def choose(n: int, d: int, memory: int | None = None) -> tuple[str, dict[str, int]]:
    """(kind, options) for n vectors of d elements; memory in bytes, None: what is available now.

    | elements n * d | kind | why (1M x 384, one thread: docs/dense.md) |
    |---|---|---|
    | up to 2**25 | exact | a scan takes milliseconds, and nothing is lost |
    | more, float32 in half the memory | ivf | a far shorter build than hnsw's; its products are exact |
    | more, a byte an element in half the memory | sq8 | a quarter of ivf's memory, re-scored from the truth |
    | more | pq | an eighth of a byte an element, re-scored from the truth; the lowest recall |

    hnsw answers fastest and is never chosen by itself: its build does not pay below many thousand queries.
    """
    free = (available_memory() if memory is None else memory) // 2
    if n * d <= _EXACT:
        return "exact", {}
    kind = "ivf" if 4 * n * d <= free else "sq8" if n * d <= free else "pq"
    return kind, defaults(kind, n, d)


def defaults(kind: str, n: int, d: int) -> dict[str, int]:
    """The build options of a kind. Raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName("kind of vector index", kind, KINDS)
    if kind == "exact":
        return {}
    if kind == "hnsw":
        return {"neighbours": 16, "ef_construction": 64}
    lists = 0
    if kind == "ivf" or n >= _LISTS_FROM:
        lists = 1 << max(0, round(np.log2(2 * np.sqrt(max(n, 1)))))  # 1M: 2,048
        lists = max(1, min(lists, n // 8, 65_536))
    if kind == "pq":
        width = next(width for width in (4, 3, 2, 1) if d % width == 0)
        return {"lists": lists, "subvectors": d // width}
    return {"lists": lists}


def make(
    faiss: ModuleType,
    vectors: Vectors,
    kind: str,
    options: Mapping[str, int],
    seed: int,
    progress: Progress | None,
) -> Made:
    """Builds the structure over all vectors; with one thread, the same one for the same seed."""
    n, d = vectors.shape
    rng = np.random.default_rng(seed)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, options["neighbours"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = options["ef_construction"]
        index.hnsw.rng = faiss.RandomGenerator(seed)
        _add(vectors, lambda block, _: index.add(block), progress)
        return Made(index, dict(options), np.empty(0, np.int32))
    lists = np.empty(0, np.int32)
    quantiser = None
    sample = np.ascontiguousarray(vectors[_some(rng, n, max(_SAMPLE * options["lists"], 65_536))])
    if options["lists"]:
        centroids = train_centroids(faiss, sample, options["lists"], rng)
        quantiser = faiss.IndexFlatIP(d)
        quantiser.add(centroids)
        lists = assign(faiss, vectors, centroids)
    index = _empty(faiss, kind, d, options, quantiser, sample, seed)
    if quantiser is None:
        _add(vectors, lambda block, _: index.add(block), progress)
    else:
        index.own_fields = True
        quantiser.this.disown()
        fill(faiss, index, vectors, lists, progress)
    return Made(index, dict(options), lists if kind == "ivf" else np.empty(0, np.int32))


def _empty(
    faiss: ModuleType,
    kind: str,
    d: int,
    options: Mapping[str, int],
    quantiser: Any,
    sample: Vectors,
    seed: int,
) -> Any:
    """A trained index without vectors."""
    metric, lists = faiss.METRIC_INNER_PRODUCT, options["lists"]
    if kind == "ivf":
        index = faiss.IndexIVFFlat(quantiser, d, lists, metric)
    elif kind == "sq8":
        if quantiser is None:
            index = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, metric)
        else:
            index = faiss.IndexIVFScalarQuantizer(
                quantiser, d, lists, faiss.ScalarQuantizer.QT_8bit, metric, False
            )
        index.sq.train(sample)
    else:
        count = options["subvectors"]
        if quantiser is None:
            index = faiss.IndexPQFastScan(d, count, 4, metric)
        else:
            index = faiss.IndexIVFPQ(quantiser, d, lists, count, 4, metric)
            index.by_residual = False
        index.pq.cp.seed, index.pq.cp.min_points_per_centroid = seed, 1
        index.pq.train(sample)
    index.is_trained = True
    return index


def searchable(faiss: ModuleType, kind: str, made: Made) -> Any:
    """What answers queries: the index, or 4-bit codes in lists packed anew for fast-scan."""
    if kind != "pq" or not made.options["lists"]:
        return made.index
    packed = faiss.IndexIVFPQFastScan(made.index, 32)
    packed.own_fields, made.index.own_fields = True, False
    return packed


def fill(
    faiss: ModuleType,
    index: Any,
    vectors: Vectors,
    lists: NDArray[np.int32],
    progress: Progress | None = None,
) -> None:
    """Adds all vectors to the given lists of a trained IVF index."""

    def add(block: Vectors, first: int) -> None:
        ids = np.arange(first, first + len(block), dtype=np.int64)
        places = lists[first : first + len(block)].astype(np.int64)
        index.add_core(len(block), *(faiss.swig_ptr(array) for array in (block, ids, places)))

    _add(vectors, add, progress)


def _add(vectors: Vectors, add: Callable[[Vectors, int], Any], progress: Progress | None) -> None:
    for first in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[first : first + _BLOCK])
        add(block, first)
        if progress is not None:
            progress(first + len(block), len(vectors))


def _some(rng: np.random.Generator, n: int, most: int) -> Any:
    """Row numbers int64, ascending: all, or `most` drawn."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def assign(faiss: ModuleType, vectors: Vectors, centroids: Vectors) -> NDArray[np.int32]:
    """The centroid of the largest inner product for each vector, int32[n]; the first among equals."""
    out = np.empty(len(vectors), np.int32)
    device = None
    if gpus(faiss):
        flat = faiss.IndexFlatIP(centroids.shape[1])
        flat.add(centroids)
        device = faiss.index_cpu_to_all_gpus(flat)
    step = _BLOCK if device else max(256, (32 << 20) // (4 * len(centroids)))
    for first in range(0, len(vectors), step):
        block = np.ascontiguousarray(vectors[first : first + step])
        if device is not None:
            out[first : first + step] = device.search(block, 1)[1][:, 0]
        else:
            out[first : first + step] = (block @ centroids.T).argmax(axis=1)
    return out


def train_centroids(faiss: ModuleType, sample: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Spherical k-means (as faiss does it for inner products): float32[count, d] of norm 1.

    A list that loses all its vectors begins anew at one that is drawn.
    """
    centroids = _unit(sample[rng.choice(len(sample), count, replace=len(sample) < count)])
    for _ in range(_ROUNDS):
        nearest = assign(faiss, sample, centroids)
        order = np.argsort(nearest, kind="stable")
        present, starts = np.unique(nearest[order], return_index=True)
        centroids = _unit(sample[rng.choice(len(sample), count, replace=len(sample) < count)])
        ends = [*starts[1:].tolist(), len(sample)]
        for place, start, end in zip(present.tolist(), starts.tolist(), ends):
            centroids[place] = _unit(sample[order[start:end]].sum(axis=0, dtype=np.float64)[None])[0]
    return np.ascontiguousarray(centroids, np.float32)


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
