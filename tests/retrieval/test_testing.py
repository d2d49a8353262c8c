"""The conformance checks: what is right passes, and each fault is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from retrieval.encoder import Vectors
from retrieval.errors import UserError
from retrieval.stage import Stage
from retrieval.testing import check_encoder, check_index, check_stage
from retrieval.types import Document, Hit, Query, Run, StageTrace

DOCS = {"d1": "solar wind", "d2": "solar solar flare", "d3": "wind over sea", "d4": "sea wind", "d5": "wind"}
QUERIES = ["wind", "solar sea", "moon"]


class Good(Stage):
    name = "good"

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.calls = 0

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        self.calls += 1
        found: dict[str, dict[str, float]] = {}
        for query_id, text in queries:
            if self.fault == "empty" and not text.strip():
                raise UserError("an empty query")
            pool = DOCS if run is None else [hit.doc_id for hit in run[query_id]]
            if self.fault == "stranger" and run is not None:
                pool = DOCS
            counts = {doc: float(sum(DOCS[doc].split().count(word) for word in text.split())) for doc in pool}
            found[query_id] = {doc: count for doc, count in counts.items() if count}
            again, batch = self.calls > 1, len(queries) > 1
            if (self.fault, again) == ("forgetful", True) or (self.fault, batch) == ("batch", True):
                found[query_id] = {doc: count + 1 for doc, count in found[query_id].items()}
        made = Run.from_dict(found, {query.query_id: query.text for query in queries})
        if self.fault == "order" and len(queries) > 1:
            return made.aligned(queries[::-1])
        if self.fault == "ties":
            made.docs = made.docs[::-1]
        if self.fault == "twice" and len(made.docs):
            made.docs[:] = made.docs[0]
        if self.fault == "nan" and len(made.docs):
            made.scores[0] = float("nan")
        if self.fault == "mutates" and run is not None:
            run.scores += 1
        return made

    def __repr__(self) -> str:
        return "good(" if self.fault == "repr" else super().__repr__()

    def __call__(self, queries: Any, run: Run | None = None) -> Run:
        found = super().__call__(queries, run)
        if self.fault == "trace":
            return found.with_trace([StageTrace("good", 0.0, 0, 99, 0)])
        return found.with_trace([]) if self.fault == "untraced" else found


def given() -> Run:
    return Run.from_dict({str(number): {"d1": 3.0, "d3": 2.0, "d4": 1.0} for number in (1, 2, 3)})


def test_a_good_stage_passes_as_retriever_and_as_reranker() -> None:
    check_stage(Good(), QUERIES, tolerance=0)
    check_stage(Good(), QUERIES, given(), tolerance=0)
    check_stage(Good() % 4 >> Good() + Good() % 2, QUERIES)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("forgetful", "another run the second time"),
        ("order", "asked was"),
        ("ties", "not by score, then id"),
        ("twice", "a document comes twice"),
        ("nan", "not finite"),
        ("mutates", "changed the run"),
        ("stranger", "not in the run that was given"),
        ("empty", "is refused"),
        ("batch", "differ by"),
        ("repr", "expected"),
        ("trace", "documents"),
        ("untraced", "no trace"),
    ],
)
def test_each_fault_is_named(fault: str, rule: str) -> None:
    with pytest.raises((AssertionError, UserError), match=rule):
        check_stage(Good(fault), QUERIES, given() if fault in ("mutates", "stranger") else None)


def test_a_stage_that_expands_may_leave_the_run() -> None:
    stage = Good("stranger")
    stage.expands = True
    check_stage(stage, QUERIES, given(), tolerance=0)
    for composed in (stage % 2, Good() % 2 >> stage, Good() + stage):
        assert composed.expands
        check_stage(composed, QUERIES, given())
    assert not (Good() % 2 >> Good() + Good()).expands


class Shelf:
    """An index of the simplest kind: documents in memory, a committed copy for each path."""

    disk: ClassVar[dict[Path, dict[str, str]]] = {}
    fault = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending = dict(self.disk.setdefault(path, {}))

    @classmethod
    def open(cls, path: Path) -> Shelf:
        return cls(path)

    def add(self, documents: Iterable[Document | dict[str, Any] | str]) -> None:
        for one in documents:
            if isinstance(one, str):
                one = Document(str(len(self.pending) + 1), one)
            elif isinstance(one, dict):
                one = Document(one["id"], one["text"])
            if one.doc_id in self.pending and self.fault != "update":
                raise UserError("known id")
            self.pending[one.doc_id] = one.full_text().lower()
        if self.fault == "eager":
            self.commit()

    def delete(self, ids: list[str]) -> None:
        for one in ids if self.fault != "keeps" else []:
            del self.pending[one]

    def commit(self) -> None:
        self.disk[self.path] = dict(self.pending)

    def search(self, query: str, k: int = 10) -> list[Hit]:
        words = query.split()
        scores = {doc: sum(t.split().count(w) for w in words) for doc, t in self.disk[self.path].items()}
        found = [(float(score), doc) for doc, score in scores.items() if score]
        found.sort(reverse=True)
        if self.fault == "ties":
            found.sort(key=lambda pair: (-pair[0], pair[1]))
        return [Hit(doc, score, rank) for rank, (score, doc) in enumerate(found[:k], 1)]


def test_a_good_index_passes() -> None:
    Shelf.disk.clear()
    check_index(Shelf)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("eager", "not committed"),
        ("update", "accepted a second time"),
        ("keeps", "still found"),
        ("ties", "descending id order"),
    ],
)
def test_each_fault_of_an_index_is_named(fault: str, rule: str) -> None:
    Shelf.disk.clear()
    kind = type("Faulty", (Shelf,), {"fault": fault})
    with pytest.raises(AssertionError, match=rule):
        check_index(kind)


class Counter:
    """A dense encoder that counts letters, with a fault."""

    dim = 4
    runtime: ClassVar[dict[str, Any]] = {"backend": "none"}

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.identity: dict[str, Any] = {"encoder": "counter", "model": {}, "dim": 4, "normalise": True}
        if fault == "nameless":
            del self.identity["encoder"]
        if fault == "fickle":
            self.identity["opened"] = id(object())

    def encode(self, texts: Sequence[str], kind: str = "passage") -> Vectors:
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                rows[row, ord(letter) % self.dim] += 1
            rows[row, 0] += 1
            if self.fault == "company":
                rows[row, 1] += len(texts)
            if self.fault == "order":
                rows[row, 1] += row
            if self.fault == "nan" and not text:
                rows[row] = np.nan
            if self.fault == "constant":
                rows[row] = 1
        if self.fault != "raw":
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        counts = np.array([len(text.split()) for text in texts], np.int64)
        if self.fault == "double":
            rows = rows.astype(np.float64)
        return Vectors(rows, counts, counts + 1 if self.fault == "dropped" else counts * 0)


def test_a_right_encoder_passes() -> None:
    check_encoder(Counter)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("company", "alone has another"), ("order", "another vector|order of the texts"),
        ("nan", "not finite"),
        ("constant", "different texts"), ("raw", "it normalises"), ("double", "float32"),
        ("dropped", "more dropped"), ("nameless", "lacks 'encoder'"),
    ],
)  # fmt: skip
def test_faults_of_an_encoder_are_named(fault: str, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_encoder(lambda: Counter(fault))


def test_an_identity_that_changes_is_named() -> None:
    opened = iter([Counter(), Counter("fickle")])
    with pytest.raises(AssertionError, match="two identities"):
        check_encoder(lambda: next(opened))
