"""Queries from TSV (id, text), JSON lines, a BEIR folder with or without `@split`, or an ir_datasets id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from retrieval.data import beir, irds, qrels
from retrieval.data.fields import id_problem, shown, text_problem
from retrieval.data.jsonl import json_objects
from retrieval.data.lines import STDIN, Source, text_lines
from retrieval.data.output import atomic, json_line
from retrieval.errors import BadLine, UserError
from retrieval.types import Query

_IDS = ("_id", "id", "query_id", "qid")
_TEXTS = ("text", "query", "contents")
_HEADERS = {"_id", "id", "qid", "query_id", "query-id"}, {"text", "query"}


def read_queries(source: str | os.PathLike[str]) -> list[Query]:
    """Queries in the order of their file; of a BEIR folder, those judged in the split (`test` unless said).

    A BEIR folder without judgements gives all its queries. Raises BadLine for a line without id and text
    and for an id that comes twice, UserError for a source that cannot be read, is empty, or lacks a judged
    query.
    """
    path, split = beir.split_source(source)
    if os.path.isdir(path):
        return _judged(path, split)
    if (
        not isinstance(source, Path)
        and path != STDIN
        and not os.path.lexists(path)
        and irds.looks_like_id(path)
    ):
        found = _unique(path, enumerate(irds.queries(path), 1))
    else:
        with Source(path) as file:
            lines = text_lines(file)
            found = _unique(path, _from_json(path, lines) if file.is_json else _from_tsv(path, lines))
    if not found:
        raise UserError(f"{path} holds no query; a line is: id, tab, text")
    return found


def write_queries(queries: Iterable[Query], path: str | os.PathLike[str]) -> int:
    """Write queries as JSON lines (.jsonl[.gz]) or else TSV, whole or not at all; returns their number.

    Raises UserError for an id or a text that the form cannot hold.
    """
    as_json = Path(path).name.removesuffix(".gz").endswith((".jsonl", ".json"))
    count = 0
    with atomic(path) as write:
        for count, (query_id, text) in enumerate(queries, 1):  # noqa: B007
            problem = _problem(query_id, text)
            if problem is None and not as_json and ({"\t", "\n", "\r"} & {*text}):
                problem = "the text holds a tab or a line end; write JSON lines"
            if problem is not None:
                raise UserError(f"cannot write query {shown(query_id)}: {problem}")
            write(json_line({"_id": query_id, "text": text}) if as_json else f"{query_id}\t{text}\n".encode())
    return count


def _judged(folder: str, split: str | None) -> list[Query]:
    queries = read_queries(beir.queries_file(folder))
    if split is None and not beir.splits(folder):
        return queries
    judged = set(qrels.read_qrels(beir.qrels_file(folder, split)))
    missing = sorted(judged.difference(query.query_id for query in queries))
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} queries judged in split {split or beir.SPLIT!r} have no text, "
            f"first {shown(missing[0])}; complete queries.jsonl"
        )
    return [query for query in queries if query.query_id in judged]


def _from_tsv(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Query]]:
    first = True
    for at, line in lines:
        query_id, mark, text = line.partition("\t")
        if not mark or "\t" in text:
            raise BadLine(name, at, f"{line.count(chr(9)) + 1} columns; a line is: id, tab, text")
        header = first and query_id.lower() in _HEADERS[0] and text.lower() in _HEADERS[1]
        first = False
        if not header:
            yield at, Query(query_id, text)


def _from_json(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, Query]]:
    for at, record in json_objects(name, lines):
        yield at, Query(_first(record, _IDS), _first(record, _TEXTS))


def _first(record: Mapping[str, Any], fields: tuple[str, ...]) -> Any:
    return next((record[field] for field in fields if record.get(field) is not None), None)


def _unique(name: str, queries: Iterable[tuple[int, Query]]) -> list[Query]:
    seen: dict[str, int] = {}
    found: list[Query] = []
    for at, query in queries:
        problem = _problem(*query)
        if problem is None and query.query_id in seen:
            problem = f"the id {shown(query.query_id)} comes twice, first in line {seen[query.query_id]}"
        if problem is not None:
            raise BadLine(name, at, problem)
        seen[query.query_id] = at
        found.append(query)
    return found


def _problem(query_id: Any, text: Any) -> str | None:
    problem = id_problem(query_id) or ("no text" if text is None else text_problem(text, "text"))
    return problem or (None if text.strip() else "the text is empty")
