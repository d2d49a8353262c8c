"""Conformance checks for whoever extends this: each raises AssertionError with the rule that is broken.

check_stage(stage, queries, run)   for anything that a pipeline may call
check_index(create)                for anything that stands in for retrieval.Index
check_encoder(open)                for anything that --dense may name
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from retrieval.encoder import DenseEncoder
from retrieval.errors import RetrievalError
from retrieval.pipeline import parse
from retrieval.stage import Given, Param, Stage
from retrieval.types import Document, Queries, Query, Run, as_queries

UNKNOWN = "qzxv jjkwq"
"""Words that no collection holds."""


def check_stage(stage: Stage, queries: Queries, run: Run | None = None, *, tolerance: float = 1e-5) -> None:
    """Checks a stage on these queries; `run` is what it re-scores, needed where `stage.needs_run`.

    Rules: the same run twice; queries in order; the tie rule; no document twice; finite scores; of a given
    run only its documents (unless the stage `expands`), and the run itself untouched; no queries, an empty
    query and unknown words are no error; a batch ranks as one by one does; `%` takes the front; repr reads
    back; a trace with right counts.
    `tolerance` is how far scores may lie apart between batches, relative to the largest: 0 for exact methods.
    """
    asked = as_queries(queries)
    _expect(len(asked) > 0, "check_stage needs a query or more")
    before = None if run is None else run.aligned(asked)
    kept = None if before is None else _rows(before)
    found = stage(asked, before)
    _check_run(found, asked)
    again = stage(asked, before)
    _expect(_rows(again) == _rows(found), "the same queries give another run the second time")
    if before is not None:
        _expect(_rows(before) == kept, "the stage changed the run that it was given")
        given, after = before.to_dict(), found.to_dict()
        for name in given:
            strange = sorted(after[name].keys() - given[name].keys())
            _expect(
                stage.expands or not strange, f"query {name!r}: not in the run that was given: {strange[:3]}"
            )
    _check_odd_queries(stage, asked, before)
    for query in asked:
        _check_close(stage([query], before), found, query, tolerance)
    cut = (stage % 3)(asked, before)
    for query in asked:
        _check_close(cut, found.cut(3), query, tolerance)
    _check_text(stage)
    _check_trace(stage, found, before)


def check_index(create: Callable[[Path], Any]) -> None:
    """Checks an index class through its own interface; `create` makes an empty one at a path that is free.

    Rules: what is added is found after commit and not before, by a reopened index too; an id that is known is
    refused and changes nothing; a deleted document is gone and its id free again; readers see nothing that is
    not committed; Documents, dicts and strings are accepted; the tie rule holds over several commits.
    """
    documents = [
        Document("a", "solar wind and solar flares"),
        Document("b", "the wind blows over the sea", "Sea wind"),
        Document("c", "a ship at sea"),
    ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index = create(path)
        _expect(index.search("solar") == [], "an empty index finds something")
        index.add(documents[:2])
        _expect(_found(type(index).open(path), "solar") == [], "a reader sees what is not committed")
        index.commit()
        for one in (index, type(index).open(path)):
            _expect(_found(one, "solar") == ["a"], "a committed document is not found")
            _expect(sorted(_found(one, "wind")) == ["a", "b"], "not every committed document is found")
            _expect(_found(one, UNKNOWN) == [] and _found(one, "") == [], "no word of the query, yet a hit")
        _refused(index, Document("a", "another text"))
        _expect(_found(index, "another") == [], "a refused document is found")
        index.add([documents[2]])
        index.commit()
        _expect(sorted(_found(index, "sea")) == ["b", "c"], "a second commit lost or hid documents")
        index.delete(["b"])
        index.commit()
        for one in (index, type(index).open(path)):
            _expect(_found(one, "sea") == ["c"], "a deleted document is still found")
        index.add([{"id": "b", "text": "solar sea", "year": 1969}])
        index.commit()
        _expect(sorted(_found(index, "solar")) == ["a", "b"], "the id of a deleted document is not free")
        index.delete(["a"])
        _expect("a" in _found(type(index).open(path), "solar"), "an uncommitted deletion shows")
        index.commit()
        for name in ("t1", "t3", "t2"):
            index.add([Document(name, "equal words")])
            index.commit()
        _expect(_found(index, "equal") == ["t3", "t2", "t1"], "equal scores are not in descending id order")
        _expect(_found(index, "equal", k=2) == ["t3", "t2"], "k cuts a tie against the tie rule")
        strings = create(Path(folder) / "strings")
        strings.add(["first text", "second text"])
        strings.commit()
        _expect(len(_found(strings, "text")) == 2, "plain strings are not indexed")


def check_encoder(open_encoder: Callable[[], DenseEncoder], *, tolerance: float = 1e-4) -> None:
    """Checks a dense encoder, which `open_encoder` opens anew at each call.

    Rules: rows, tokens and dropped tokens of the right shapes and types; finite numbers, for an empty text,
    odd characters and a very long text too; length 1 where it normalises; the same vector for a text alone,
    in company and in another order; texts that differ have vectors that differ; queries and passages alike;
    an identity that JSON can hold and that two openings share. `tolerance`: how far numbers may lie apart.
    """
    encoder = open_encoder()
    texts = [
        "solar wind",
        "",
        "the sea",
        "Straße 東京 \U0001f30d \x00 \u202e",
        "solar wind " * 3000,
        "a ship at sea",
    ]
    made = encoder.encode(texts)
    _expect(
        made.rows.dtype == np.float32 and made.rows.shape == (len(texts), encoder.dim),
        "rows: float32[n, dim]",
    )
    for counts in (made.tokens, made.dropped):
        _expect(counts.dtype == np.int64 and counts.shape == (len(texts),), "tokens and dropped are int64[n]")
    _expect(
        bool((made.dropped >= 0).all() and (made.dropped <= made.tokens).all()), "more dropped than there was"
    )
    _expect(bool(np.isfinite(made.rows).all()), "a vector holds a number that is not finite")
    if encoder.identity.get("normalise"):
        lengths = np.linalg.norm(made.rows, axis=1)
        _expect(
            bool(np.allclose(lengths, 1, atol=1e-3)), f"it normalises, but a vector has the length {lengths}"
        )
    scale = max(1.0, float(np.abs(made.rows).max()))
    for place, text in enumerate(texts):
        apart = float(np.abs(encoder.encode([text]).rows[0] - made.rows[place]).max())
        _expect(apart <= tolerance * scale, f"{text[:20]!r} alone has another vector, {apart:.2g} apart")
    back = encoder.encode(texts[::-1]).rows[::-1]
    _expect(
        bool(np.abs(back - made.rows).max() <= tolerance * scale), "the order of the texts changes vectors"
    )
    _expect(
        float(np.abs(made.rows[0] - made.rows[5]).max()) > tolerance, "different texts have the same vector"
    )
    asked = encoder.encode(texts[:1], "query").rows
    _expect(
        asked.shape == (1, encoder.dim) and bool(np.isfinite(asked).all()), "queries are encoded differently"
    )
    _expect(encoder.encode([]).rows.shape == (0, encoder.dim), "no texts do not give no rows")
    for key in ("encoder", "model", "dim"):
        _expect(key in encoder.identity, f"the identity lacks {key!r}")
    again = open_encoder()
    _expect(json.loads(json.dumps(encoder.identity)) == again.identity, "two openings have two identities")
    _expect(json.loads(json.dumps(encoder.runtime)) == again.runtime, "two openings have two runtimes")


def _expect(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)


def _rows(run: Run) -> list[tuple[str, str, float]]:
    return [(query, hit.doc_id, hit.score) for query, hits in run.items() for hit in hits]


def _check_run(run: Run, queries: Sequence[Query]) -> None:
    asked = [query.query_id for query in queries]
    _expect(run.query_ids == asked, f"the run answers {run.query_ids[:3]}..., asked was {asked[:3]}...")
    _expect(bool(np.isfinite(run.scores).all()), "a score is not finite")
    for query_id, hits in run.items():
        _expect(len({hit.doc_id for hit in hits}) == len(hits), f"query {query_id!r}: a document comes twice")
        place = [(hit.score, hit.doc_id) for hit in hits]
        ranked = sorted(place, reverse=True)
        _expect(place == ranked, f"query {query_id!r}: not by score, then id, descending")


def _check_odd_queries(stage: Stage, asked: list[Query], run: Run | None) -> None:
    _expect(len(stage([], run)) == 0, "no queries give a run that is not empty")
    first = asked[0].query_id
    for text in ("", "  ", UNKNOWN, "\x00", "�" * 10, "?!" * 1000):
        odd = [Query(first, text)]
        try:
            found = stage(odd, run)
        except RetrievalError as error:
            raise AssertionError(f"the query {text[:20]!r} is refused: {error}") from error
        _check_run(found, odd)


def _check_close(one: Run, batch: Run, query: Query, tolerance: float) -> None:
    left = {hit.doc_id: hit.score for hit in one[query.query_id]}
    right = {hit.doc_id: hit.score for hit in batch[query.query_id]}
    label = f"query {query.query_id!r}, alone or cut and in a batch"
    _expect(len(left) == len(right), f"{label}: {len(left)} and {len(right)} documents")
    scale = max([1e-9, *map(abs, left.values()), *map(abs, right.values())])
    # A document on one side only may have just missed the end of the other.
    last_left, last_right = min(left.values(), default=0.0), min(right.values(), default=0.0)
    for doc in left.keys() | right.keys():
        apart = abs(left.get(doc, last_left) - right.get(doc, last_right)) / scale
        missing = doc not in left or doc not in right
        _expect(apart <= tolerance, f"{label}: the scores of {doc!r} differ by {apart:.2g} of the largest")
        _expect(tolerance > 0 or not missing, f"{label}: only one has {doc!r}")


def _check_text(stage: Stage) -> None:
    def resolve(name: str, params: dict[str, Param]) -> Stage:
        leaf = Stage()
        leaf.name, leaf.params = name, params
        return leaf

    text = repr(stage)
    _expect(repr(parse(text, resolve, given=True)) == text, f"repr does not read back: {text}")


def _check_trace(stage: Stage, found: Run, run: Run | None) -> None:
    history = found.trace[0 if run is None else len(run.trace) :]
    _expect(len(history) > 0, "the stage left no trace")
    if not stage.parts and not isinstance(stage, Given):
        step = history[0]
        counts = (0 if run is None else len(run.docs), len(found.docs))
        _expect((step.candidates_in, step.candidates_out) == counts, f"trace {step} but {counts} documents")
        _expect(len(history) == 1 and step.seconds >= 0, "a leaf stage leaves one trace with its time")


def _found(index: Any, query: str, k: int = 10) -> list[str]:
    hits = index.search(query, k=k)
    ranks = [hit.rank for hit in hits]
    _expect(ranks == list(range(1, len(hits) + 1)), f"{query!r}: ranks do not count from 1: {ranks}")
    return [hit.doc_id for hit in hits]


def _refused(index: Any, document: Document) -> None:
    try:
        index.add([document])
        index.commit()
    except RetrievalError:
        return
    raise AssertionError(f"the known id {document.doc_id!r} was accepted a second time")
