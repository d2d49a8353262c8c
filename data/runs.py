"""Runs in TREC form, MS MARCO's (query, document, rank) and BEIR's JSON, both ways."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.data.fields import id_problem, shown
from retrieval.data.jsonl import json_problem
from retrieval.data.lines import Source, text_lines
from retrieval.data.output import atomic, json_line
from retrieval.errors import BadLine, UserError
from retrieval.types import Run

_FORMS = "a line is: query Q0 document rank score tag (TREC); or query document rank (MS MARCO)"
_NORMAL = 0x0080_0000  # bits of the smallest normal float32


def read_run(path: str | os.PathLike[str]) -> Run:
    """A run from a file of any form, told by its content. Scores become float32, ties broken by the tie rule.

    Raises as read_scores, and UserError for a score beyond float32.
    """
    return Run.from_dict(read_scores(path))


def read_scores(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """{query id: {document id: score}} as the file has it, in its order and precision.

    MS MARCO's form has ranks only: the score is minus the rank. Raises BadLine for a line of another form,
    a score that is not finite, a document that a query has twice; UserError for a file that cannot be read
    or is empty.
    """
    name = os.fspath(path)
    with Source(name) as file:
        if file.is_json:
            return _from_json(name, file)
        run: dict[str, dict[str, float]] = {}
        columns = 0
        for at, line in text_lines(file):
            cells = line.split(None, 5)
            columns = columns or len(cells)
            if columns not in (3, 6):
                raise BadLine(name, at, f"{columns} columns; {_FORMS}")
            if len(cells) != columns:
                raise BadLine(name, at, f"{len(cells)} columns, where the first line has {columns}")
            query_id, doc_id = cells[0], cells[2 if columns == 6 else 1]
            score = _score(cells[4]) if columns == 6 else _rank(cells[2])
            if score is None:
                what = "score" if columns == 6 else "rank"
                raise BadLine(
                    name, at, f"the {what} {shown(cells[4 if columns == 6 else 2])} is not a finite number"
                )
            hits = run.get(query_id)
            if hits is None:
                hits = run[query_id] = {}
                _check_id(name, at, query_id, "query id")
            if not (doc_id.isascii() and doc_id.isalnum()):
                _check_id(name, at, doc_id, "document id")
            if doc_id in hits:
                raise BadLine(name, at, f"query {shown(query_id)} has document {shown(doc_id)} twice")
            hits[doc_id] = score
    if not run:
        raise UserError(f"{name} holds no result; {_FORMS}")
    return run


def write_run(
    run: Run,
    path: str | os.PathLike[str],
    tag: str = "retrieval",
    form: Literal["trec", "msmarco", "beir"] = "trec",
) -> None:
    """Write a run (.gz by the suffix): the file appears whole or not at all.

    Scores fall strictly within each query: a tied one is lowered by the smallest step of float32, so that
    every scorer, whatever it does with ties, sees the order that the run has. A query without hits leaves a
    trace in BEIR's form only. Raises UserError for ids or a tag with white space and for scores that are
    not finite.
    """
    write_runs([run], path, tag, form)


def write_runs(
    runs: Iterable[Run],
    path: str | os.PathLike[str],
    tag: str = "retrieval",
    form: Literal["trec", "msmarco", "beir"] = "trec",
) -> None:
    """As write_run: runs of different queries one after another, each written as it comes."""
    if form not in ("trec", "msmarco", "beir"):
        raise UserError(f"unknown form of run {form!r}; choose 'trec', 'msmarco' or 'beir'")
    problem = id_problem(tag, "tag")
    if problem is not None:
        raise UserError(f"{problem}; give a tag of one word")
    with atomic(path) as write:
        before = b"{"
        for run in runs:
            if form == "trec":
                for text in trec_lines(run, tag):
                    write(text.encode())
                continue
            for query_id, docs, scores in _queries(run):
                if form == "msmarco":
                    lines = [f"{query_id}\t{doc}\t{rank}\n" for rank, doc in enumerate(docs, 1)]
                    write("".join(lines).encode())
                else:
                    hits = dict(zip(docs, map(float, scores)))
                    write(before + orjson.dumps(query_id) + b":" + json_line(hits).rstrip())
                    before = b",\n"
        if form == "beir":
            write(b"{}\n" if before == b"{" else b"}\n")


def trec_lines(run: Run, tag: str = "retrieval") -> Iterator[str]:
    """The lines of a run in TREC form, those of each query in one text. Raises UserError as write_run."""
    for query_id, docs, scores in _queries(run):
        lines = [
            f"{query_id} Q0 {doc} {rank} {score} {tag}\n"
            for rank, (doc, score) in enumerate(zip(docs, scores), 1)
        ]
        yield "".join(lines)


def falling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores float32[n] in rank order, lowered where they must be so that each is below the one before.

    Steps are the smallest that float32 has between normal numbers: denormal ones, which some programs take
    for zero, are not used. Raises UserError where a score is not finite or there is no room below.
    """
    if not np.isfinite(scores).all():
        raise UserError("a score of the run is not finite; it cannot be ranked")
    bits = scores.view(np.int32).astype(np.int64)
    steps = np.maximum((bits & 0x7FFF_FFFF) - (_NORMAL - 1), 0)  # 0 is zero, then the normal numbers by size
    steps[bits < 0] *= -1
    place = np.arange(len(steps))
    steps = np.minimum.accumulate(steps + place) - place
    size = np.abs(steps)
    lowered = np.where(size == 0, 0, size + (_NORMAL - 1)).astype(np.uint32)
    lowered |= (steps < 0).astype(np.uint32) << 31
    found = lowered.view(np.float32)
    if not np.isfinite(found).all():
        raise UserError("the scores of the run are too low to break their ties; scale them")
    return found


def _queries(run: Run) -> Iterator[tuple[str, list[str], list[str]]]:
    """(query id, document ids in rank order, their scores as text)."""
    names: dict[int, str] = {}
    ends = run.offsets.tolist()
    for query_id, start, end in zip(run.query_ids, ends, ends[1:]):
        _refuse(query_id)
        docs = run.docs[start:end].tolist()
        for doc in docs:
            if doc not in names:
                names[doc] = run.doc_ids[doc]
                _refuse(names[doc])
        # The shortest text that gives the same float32 back: it falls as strictly as the numbers do.
        scores = falling(run.scores[start:end]).astype("U").tolist() if docs else []
        yield query_id, [names[doc] for doc in docs], scores


def _refuse(name: str) -> None:
    problem = id_problem(name)
    if problem is not None:
        raise UserError(f"cannot write the run: {problem}")


def _check_id(source: str, line: int, value: str, what: str) -> None:
    problem = id_problem(value, what)
    if problem is not None:
        raise BadLine(source, line, problem)


def _score(cell: str) -> float | None:
    try:
        score = float(cell) if cell.isascii() and "_" not in cell else math.nan
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _rank(cell: str) -> float | None:
    return -float(cell) if len(cell) < 10 and cell.isascii() and cell.isdigit() else None


def _from_json(name: str, file: Source) -> dict[str, dict[str, float]]:
    """{query: {document: score}} as one JSON object."""

    def reject(line: int, problem: str) -> None:
        raise BadLine(name, line, problem)

    file.limits = file.limits._replace(line_bytes=1 << 40)  # others write it all on one line
    text = b"\n".join([line for _, lines in file.blocks(reject) for line in lines])
    try:
        run: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadLine(name, error.lineno, json_problem(error)) from None
    for query_id, hits in run.items():
        _check_id(name, 1, query_id, "query id")
        if not isinstance(hits, dict):
            raise UserError(
                f"{name}: query {shown(query_id)} has {shown(hits)}, not an object of document: score"
            )
        for doc_id, score in hits.items():
            _check_id(name, 1, doc_id, "document id")
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise UserError(
                    f"{name}: query {shown(query_id)}: {shown(doc_id)} has {shown(score)}, not a number"
                )
            hits[doc_id] = float(score)
    return run  # type: ignore[no-any-return]
