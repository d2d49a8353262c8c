"""Training examples: pairs and triples in JSON lines or TSV, MS MARCO's own files, BEIR folders."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.data import beir
from retrieval.data.corpus import open_corpus
from retrieval.data.fields import shown, text_problem
from retrieval.data.jsonl import json_objects
from retrieval.data.lines import Source, text_lines
from retrieval.data.marco import is_marco, marco_examples
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import BadLine, UserError

TRAIN = "train"  # the split of a BEIR folder, unless another one is named


class Example(NamedTuple):
    """A query, a passage that answers it, passages that do not, and a teacher's scores, positive first."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


def read_examples(source: str | os.PathLike[str]) -> Iterator[Example]:
    """The examples of a source, streamed. Forms:

    JSON lines    {"query", "positive", "negatives"?, "scores"?}; passages are texts or {"title", "text"}
    TSV           query, positive, or query, positive, negative (MS MARCO's triples.train.small.tsv)
    a folder      with MS MARCO's collection.tsv, queries.train.tsv and qidpidtriples.train*.tsv or
                  qrels.train.tsv; or a BEIR folder, PATH@split (`train` unless said)
    Files may be gzip-compressed. Raises BadLine for a line of another form, UserError for a source that
    cannot be read or holds no example.
    """
    name, split = beir.split_source(source)
    if os.path.isdir(name):
        found = _from_marco(name) if split is None and is_marco(name) else _from_beir(name, split or TRAIN)
    else:
        found = _from_file(name)
    empty = True
    for example in found:
        empty = False
        yield example
    if empty:
        raise UserError(f"{os.fspath(source)} holds no training example; a line is: query, tab, passage")


def _from_file(name: str) -> Iterator[Example]:
    with Source(name) as file:
        lines = text_lines(file)
        yield from _from_json(name, lines) if file.is_json else _from_tsv(name, lines)


def _from_tsv(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[Example]:
    columns = 0
    for at, line in lines:
        cells = line.split("\t")
        columns = columns or len(cells)
        if len(cells) not in (2, 3):
            raise BadLine(name, at, f"{_columns(len(cells))}; a line is: query, passage[, negative passage]")
        if len(cells) != columns:
            raise BadLine(name, at, f"{_columns(len(cells))}, where the first line has {columns}")
        for what, cell in zip(("query", "passage", "negative passage"), cells):
            if not cell.strip():
                raise BadLine(name, at, f"the {what} is empty")
        yield Example(cells[0], cells[1], tuple(cells[2:]))


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"


def _from_json(name: str, lines: Iterator[tuple[int, str]]) -> Iterator[Example]:
    for at, record in json_objects(name, lines):
        made = _example(record)
        if isinstance(made, str):
            raise BadLine(name, at, made)
        yield made


def _example(record: Mapping[str, Any]) -> Example | str:
    """The example that an object holds, or what is wrong with it."""
    query, problem = _text(record.get("query"), "query")
    positive, other = _text(record.get("positive"), "positive")
    if problem or other:
        return problem or other
    negatives = record.get("negatives", [])
    if not isinstance(negatives, list):
        return 'the field "negatives" is not a list'
    texts = []
    for number, negative in enumerate(negatives, 1):
        text, problem = _text(negative, f"negative {number}")
        if problem:
            return problem
        texts.append(text)
    scores = record.get("scores", [])
    if not isinstance(scores, list) or not all(_is_number(score) for score in scores):
        return 'the field "scores" is not a list of numbers'
    if scores and len(scores) != 1 + len(texts):
        return f"{len(scores)} scores for {1 + len(texts)} passages (the positive first, then the negatives)"
    return Example(query, positive, tuple(texts), tuple(map(float, scores)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any, what: str) -> tuple[str, str]:
    """(text, "") or ("", what is wrong)."""
    if value is None:
        return "", f"no {what}"
    if isinstance(value, dict):
        parts = [value.get("title") or "", value.get("text") or value.get("contents") or ""]
        if not all(isinstance(part, str) for part in parts):
            return "", f"the title or the text of the {what} is not a string"
        value = " ".join(part for part in parts if part)
    problem = text_problem(value, what)
    if problem is None and not value.strip():
        problem = f"the {what} is empty"
    return ("", problem) if problem else (value, "")


def _from_beir(folder: str, split: str) -> Iterator[Example]:
    """One example for each relevant document of a judged query; judged irrelevant ones are its negatives."""
    source = f"{folder}@{split}"
    qrels = read_qrels(source)
    queries = read_queries(source)
    wanted = {doc_id for judged in qrels.values() for doc_id in judged}
    texts = {doc.doc_id: doc.full_text() for doc in open_corpus(folder) if doc.doc_id in wanted}
    missing = sorted(wanted - texts.keys())
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} documents judged in split {split!r} are not in the corpus, first "
            f"{shown(missing[0])}"
        )
    for query_id, text in queries:
        judged = qrels[query_id]
        negatives = tuple(texts[doc_id] for doc_id, grade in judged.items() if grade <= 0)
        for doc_id, grade in judged.items():
            if grade > 0:
                yield Example(text, texts[doc_id], negatives)


def _from_marco(folder: str) -> Iterator[Example]:
    for query, positive, negative in marco_examples(Path(folder)):
        yield Example(query, positive, (negative,) if negative is not None else ())
