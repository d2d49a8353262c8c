"""Judgements in TREC form (MS MARCO's too), in BEIR form, or by ir_datasets id; told by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from retrieval.data import beir, irds
from retrieval.data.fields import id_problem, shown
from retrieval.data.lines import STDIN, Source, text_lines
from retrieval.data.output import atomic
from retrieval.errors import BadLine, UserError
from retrieval.types import Qrels

_HEADER = "query-id\tcorpus-id\tscore"
_HEADERS = {"query-id", "qid", "query"}, {"corpus-id", "doc-id", "docid", "pid"}
_FORMS = (
    "a line is: query, 0, document, relevance (TREC); or query, document, relevance under a header (BEIR)"
)


def read_qrels(source: str | os.PathLike[str]) -> Qrels:
    """Judgements of a file, of a BEIR folder (`PATH@split`, `test` unless said), or of an ir_datasets id.

    Relevance is an integer, negative ones included. Raises BadLine for a line of another form and for a
    document judged twice, differently; UserError for a source that cannot be read or is empty.
    """
    path, split = beir.split_source(source)
    if os.path.isdir(path):
        path = str(beir.qrels_file(path, split))
    judgements: dict[str, dict[str, int]] = {}
    if (
        not isinstance(source, Path)
        and path != STDIN
        and not os.path.lexists(path)
        and irds.looks_like_id(path)
    ):
        _gather(path, enumerate(irds.qrels(path), 1), judgements)
    else:
        with Source(path) as file:
            _gather(path, _judgements(path, text_lines(file)), judgements)
    if not judgements:
        raise UserError(f"{path} holds no judgement; {_FORMS}")
    return Qrels(judgements)


def write_qrels(qrels: Qrels, path: str | os.PathLike[str], form: Literal["trec", "beir"] = "trec") -> None:
    """Write judgements (.gz by the suffix). A query without judgements leaves no trace.

    The file appears whole or not at all. Raises UserError for an id with white space or control characters.
    """
    if form not in ("trec", "beir"):
        raise UserError(f"unknown form of qrels {form!r}; choose 'trec' or 'beir'")
    between = "\t" if form == "beir" else " 0 "
    last = "\t" if form == "beir" else " "
    with atomic(path) as write:
        if form == "beir":
            write(f"{_HEADER}\n".encode())
        for query_id, judged in qrels.items():
            for name in (query_id, *judged):
                problem = id_problem(name)
                if problem is not None:
                    raise UserError(f"cannot write the judgements of query {shown(query_id)}: {problem}")
            lines = [
                f"{query_id}{between}{doc_id}{last}{relevance}\n" for doc_id, relevance in judged.items()
            ]
            write("".join(lines).encode())


def _judgements(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, tuple[str, str, int]]]:
    columns = 0
    for at, line in lines:
        cells = line.split()
        if not columns:
            columns = len(cells)
            if columns not in (3, 4):
                raise BadLine(name, at, f"{columns} columns; {_FORMS}")
            if columns == 3 and _is_header(cells):
                continue
        if len(cells) != columns:
            raise BadLine(name, at, f"{len(cells)} columns, where the first line has {columns}")
        grade = _integer(cells[-1])
        if grade is None:
            raise BadLine(name, at, f"the relevance {shown(cells[-1])} is not an integer")
        yield at, (cells[0], cells[-2], grade)


def _is_header(cells: list[str]) -> bool:
    query_id, doc_id = (cell.lower().replace("_", "-") for cell in cells[:2])
    return query_id in _HEADERS[0] and doc_id in _HEADERS[1]


def _integer(cell: str) -> int | None:
    digits = cell.lstrip("+-")
    if len(cell) - len(digits) > 1 or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        return None
    return int(cell)


def _gather(
    name: str, found: Iterable[tuple[int, tuple[str, str, int]]], judgements: dict[str, dict[str, int]]
) -> None:
    for at, (query_id, doc_id, grade) in found:
        judged = judgements.get(query_id)
        if judged is None:
            problem = id_problem(query_id, "query id")
            if problem is not None:
                raise BadLine(name, at, problem)
            judged = judgements[query_id] = {}
        if not (doc_id.isascii() and doc_id.isalnum()):
            problem = id_problem(doc_id, "document id")
            if problem is not None:
                raise BadLine(name, at, problem)
        if judged.setdefault(doc_id, grade) != grade:
            raise BadLine(
                name,
                at,
                f"document {shown(doc_id)} of query {shown(query_id)} is judged {judged[doc_id]} and {grade}",
            )
