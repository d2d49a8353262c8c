"""Parts in memory, so that property tests build hundreds of segments without a disk; a brute-force scorer."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from retrieval.index.bounds import length_norms
from retrieval.index.postings import Postings
from retrieval.index.postings_writer import PostingsWriter
from retrieval.index.scoring import Bm25Scoring, ImpactScoring
from retrieval.index.searcher import Searcher, Segment, fixed_point
from retrieval.index.statistics import Statistics


class MemoryPart:
    """Takes files as a Part does and gives them back as a Snapshot does."""

    name = "p"

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def array(self, name: str, *rest: Any) -> Any:
        if not rest:
            return self.files[name.removeprefix("p/")]
        value = np.ascontiguousarray(rest[0])
        value.flags.writeable = False  # as a mapped file is
        self.files[name] = value
        return value

    def bytes(self, name: str) -> Any:
        return self.files[name.removeprefix("p/")]

    def json(self, name: str, *rest: Any) -> Any:
        if rest:
            self.files[name] = orjson.dumps(rest[0])
        return orjson.loads(self.files[name.removeprefix("p/")])

    def __contains__(self, name: object) -> bool:
        return str(name).removeprefix("p/") in self.files

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[Any]:
        pieces: list[bytes] = []

        class Stream:
            write = staticmethod(lambda data: pieces.append(bytes(data)))

        yield Stream
        self.files[name] = b"".join(pieces)

    def array_stream(self, name: str, dtype: Any, length: int | None = None) -> Any:
        part = self

        class Stream:
            def __init__(self) -> None:
                self.pieces = [np.empty(0, dtype)]

            def write(self, array: Any) -> None:
                self.pieces.append(np.array(array, dtype))

            def close(self) -> None:
                whole = np.concatenate(self.pieces)
                assert length is None or len(whole) == length
                part.array(name, whole)

            def __enter__(self) -> Stream:
                return self

            def __exit__(self, *_: object) -> None:
                self.close()

        return Stream()


Docs = Sequence[Sequence[str]]


def bm25_postings(
    documents: Docs, scratch: Path, *, compact: bool = False, budget: int = 1 << 20
) -> Postings:
    """A segment of documents that are lists of terms."""
    numbers: dict[str, int] = {}
    writer = PostingsWriter(str(scratch), budget)
    for start in range(0, len(documents), 7):  # several batches
        batch = documents[start : start + 7]
        tokens = [numbers.setdefault(term, len(numbers)) for document in batch for term in document]
        ends = np.cumsum([0, *(len(document) for document in batch)]).astype(np.int64)
        writer.add(ends, np.array(tokens, np.int32))
    part = MemoryPart()
    writer.finish(part, list(numbers), compact=compact)  # type: ignore[arg-type]
    return Postings(part, "p")  # type: ignore[arg-type]


def impact_postings(
    vectors: Sequence[Mapping[str, int]], scratch: Path, *, compact: bool = False, forward: bool = False
) -> Postings:
    """A segment of documents that are mappings term -> 1..255."""
    numbers: dict[str, int] = {}
    writer = PostingsWriter(str(scratch), weighted=True)
    tokens = [numbers.setdefault(term, len(numbers)) for vector in vectors for term in vector]
    weights = [weight for vector in vectors for weight in vector.values()]
    ends = np.cumsum([0, *map(len, vectors)]).astype(np.int64)
    writer.add(ends, np.array(tokens, np.int32), np.array(weights, np.uint8))
    part = MemoryPart()
    writer.finish(part, list(numbers), compact=compact, forward=forward)  # type: ignore[arg-type]
    return Postings(part, "p")  # type: ignore[arg-type]


def statistics_of(documents: Docs) -> Statistics:
    df = Counter(term for document in documents for term in set(document))
    return Statistics(len(documents), sum(map(len, documents)), df)


def bm25_searcher(
    segments: Sequence[tuple[Postings, Sequence[int], Sequence[int]]],
    statistics: Statistics,
    k1: float = 0.9,
    b: float = 0.4,
) -> Searcher:
    """segments: (postings, rank of each document's id, 1 for live documents or empty)."""
    made, base = [], 0
    for postings, rank, alive in segments:
        scoring = Bm25Scoring(postings, statistics.mean, k1, b)
        made.append(Segment(postings, scoring, base, np.array(rank, np.int32), np.array(alive, np.uint8)))
        base += postings.documents
    return Searcher(made, 1.0)


def impact_searcher(postings: Postings, rank: Sequence[int], alive: Sequence[int] = ()) -> Searcher:
    segment = Segment(
        postings, ImpactScoring(postings), 0, np.array(rank, np.int32), np.array(alive, np.uint8)
    )
    return Searcher([segment], 255.0)


def brute_bm25(
    documents: Docs, query: Mapping[str, float], statistics: Statistics, k1: float, b: float
) -> list[float]:
    """Each document's score as the format page defines it, one posting at a time."""
    weights = {term: weight * statistics.idf(term) for term, weight in query.items()}
    terms, scaled, scale = fixed_point({t: w for t, w in weights.items() if w > 0}, 1.0)
    scores = []
    for document in documents:
        norm = length_norms(np.array([len(document)], np.int32), statistics.mean, k1, b)[0]
        counts = Counter(document)
        total = 0
        for term, weight in zip(terms, scaled, strict=True):
            tf = np.float32(counts[term])
            total += int(np.float32(weight) * (tf / (tf + norm))) if tf else 0
        scores.append(float(np.float32(total) / np.float32(scale)))
    return scores


def plain_bm25(documents: Docs, query: Mapping[str, float], k1: float, b: float) -> list[float]:
    """The textbook formula in float64."""
    n = len(documents)
    mean = sum(map(len, documents)) / n
    scores = []
    for document in documents:
        counts = Counter(document)
        score = 0.0
        for term, weight in query.items():
            df = sum(term in other for other in documents)
            tf = counts[term]
            if tf:
                idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
                score += weight * idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


def best(
    scores: Sequence[float], rank: Sequence[int], alive: Sequence[int], k: int
) -> list[tuple[int, float]]:
    """The top k by (score, rank of the id) descending, of live documents that match."""
    hits = [
        (score, rank[doc], doc)
        for doc, score in enumerate(scores)
        if score > 0 and (not len(alive) or alive[doc])
    ]
    return [(doc, score) for score, _, doc in sorted(hits, reverse=True)[:k]]


Build = Callable[..., Any]


@pytest.fixture(scope="session")
def tools() -> Any:
    """The functions of this file, which tests cannot import."""
    import types

    return types.SimpleNamespace(
        **{name: value for name, value in globals().items() if not name.startswith("_")}
    )


@pytest.fixture
def pair(tiny_model: Callable[..., Path]) -> Callable[..., Path]:
    """A TILDEv2 model beside the TILDE model that it expands with."""

    def make(top: int = 12, **settings: Any) -> Path:
        tiny_model("tilde", seed=3)
        expansion = {"model": "../tilde", "top": top}
        return tiny_model("tildev2", **{"seed": 4, "window": 20, "expansion": expansion, **settings})

    return make


@pytest.fixture
def placed(parity: Path) -> Callable[..., Path]:
    """placed(kind, target, **settings): a parity model of TILDE or TILDEv2 as a model directory."""

    def make(kind: str, target: Path, **settings: Any) -> Path:
        source = parity / "tilde"
        target.mkdir()
        shutil.copyfile(source / f"{kind}.safetensors", target / "model.safetensors")
        shutil.copyfile(source / "vocab.txt", target / "vocab.txt")
        config = orjson.loads((source / "config.json").read_bytes())
        (target / "config.json").write_bytes(
            orjson.dumps({**config, "retrieval": {"kind": kind, **settings}})
        )
        return target

    return make


@pytest.fixture(scope="session")
def m2bert_models() -> Any:
    """The module m2bert_models.py beside this file."""
    spec = importlib.util.spec_from_file_location(
        "m2bert_models", Path(__file__).with_name("m2bert_models.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
