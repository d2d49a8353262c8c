"""Training data of a long-document encoder: python -m retrieval.bench.m2bert_data BEIR@train --out DIR.

Of a collection's training split alone it writes DIR/texts.jsonl, the judged documents, and DIR/windows.jsonl,
pairs of a query and a window of a document, for training on short texts before long ones: each training query
with the windows of its own document that share its rarest words, and spans of windows with the windows they
came from, most of them taken out there. Documents and queries of other splits are not read.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from retrieval.data import beir
from retrieval.data.corpus import open_corpus
from retrieval.data.output import atomic
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries

_WORD = re.compile(r"\w+")


def windows(text: str, size: int) -> list[str]:
    """A text in pieces of `size` words; what is left over at the end joins the last one."""
    words = text.split()
    count = max(1, len(words) // size)
    return [" ".join(words[at * size : (at + 1) * size if at < count - 1 else None]) for at in range(count)]


def nearest(query: str, pieces: Sequence[str], weights: dict[str, float], count: int) -> list[int]:
    """The `count` pieces that hold the heaviest words of a query, for their length."""
    wanted = set(_WORD.findall(query.lower()))
    scores = []
    for piece in pieces:
        found = _WORD.findall(piece.lower())
        scores.append(sum(weights.get(word, 0.0) for word in wanted & set(found)) / math.sqrt(len(found) + 1))
    return [int(at) for at in np.argsort(-np.array(scores), kind="stable")[:count]]


def weights_of(pieces: Sequence[str]) -> dict[str, float]:
    """The inverse document frequency of each word, over pieces."""
    seen = Counter(word for piece in pieces for word in set(_WORD.findall(piece.lower())))
    return {word: math.log(len(pieces) / count) for word, count in seen.items()}


def span(piece: str, rng: np.random.Generator, remove: float) -> tuple[str, str]:
    """20 to 60 words of a piece, and the piece, without them in a share of `remove`."""
    words = piece.split()
    count = min(int(rng.integers(20, 61)), max(1, len(words) // 2))
    start = int(rng.integers(0, len(words) - count + 1))
    kept = words[:start] + words[start + count :] if rng.random() < remove else words
    return " ".join(words[start : start + count]), " ".join(kept)


def pairs(
    texts: dict[str, str],
    judged: Sequence[tuple[str, str]],
    size: int,
    near: int,
    spans: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Examples: `near` windows of each (query, document id), then `spans` windows of every document."""
    rng = np.random.default_rng(seed)
    cut = {name: windows(text, size) for name, text in texts.items()}
    weights = weights_of([piece for pieces in cut.values() for piece in pieces])
    for query, name in judged:
        for at in nearest(query, cut[name], weights, near):
            yield {"query": query, "positive": cut[name][at]}
    for pieces in cut.values():
        for at in rng.permutation(len(pieces))[:spans].tolist():
            query, piece = span(pieces[at], rng, 0.8)
            yield {"query": query, "positive": piece}


def read_split(source: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(texts of the documents that a split judges relevant, pairs of a query's text and a document's id)."""
    folder, split = beir.split_source(source)
    judgements = read_qrels(f"{folder}@{split or 'train'}")
    queries = {query.query_id: query.text for query in read_queries(f"{folder}@{split or 'train'}")}
    judged = [
        (queries[query], document)
        for query, grades in judgements.items()
        for document, grade in grades.items()
        if grade > 0
    ]
    wanted = {document for _, document in judged}
    texts = {d.doc_id: d.full_text() for d in open_corpus(folder) if d.doc_id in wanted}
    return texts, judged


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="retrieval.bench.m2bert_data", description=__doc__.split("\n")[0])
    parser.add_argument("source", help="BEIR folder, PATH@SPLIT (train unless said)")
    parser.add_argument("--out", required=True)
    parser.add_argument("--words", type=int, default=160, help="of a window")
    parser.add_argument("--near", type=int, default=2, help="windows of a training query")
    parser.add_argument("--spans", type=int, default=16, help="windows of a document that give a span")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    texts, judged = read_split(given.source)
    os.makedirs(given.out, exist_ok=True)
    with atomic(os.path.join(given.out, "texts.jsonl")) as write:
        for name, text in texts.items():
            write(orjson.dumps({"_id": name, "text": text}, option=orjson.OPT_APPEND_NEWLINE))
    count = 0
    with atomic(os.path.join(given.out, "windows.jsonl")) as write:
        for pair in pairs(texts, judged, given.words, given.near, given.spans, given.seed):
            write(orjson.dumps(pair, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    report = {"documents": len(texts), "queries": len(judged), "windows": count}
    sys.stdout.write(orjson.dumps(report).decode() + "\n")


if __name__ == "__main__":
    main()
