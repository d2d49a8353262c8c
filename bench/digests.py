"""sha256 of what a row was measured on: documents, queries, judgements, by content rather than by file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from retrieval.types import Document, Query

_BATCH = 1000  # documents between two looks at the clock


class CorpusFacts(NamedTuple):
    """How many documents, and the sha256 of them."""

    documents: int
    sha256: str


def corpus_facts(documents: Iterable[Document], progress: Callable[[int], None] | None = None) -> CorpusFacts:
    """Of the id, the title and the text of each document, in order. progress: as of Index.add."""
    digest = hashlib.sha256()
    count = 0
    for document in documents:
        digest.update(f"{document.doc_id}\0{document.title}\0{document.text}\0".encode())
        count += 1
        if progress is not None and count % _BATCH == 0:
            progress(_BATCH)
    return CorpusFacts(count, digest.hexdigest())


def queries_sha256(queries: Iterable[Query]) -> str:
    """Of the id and the text of each query, in order."""
    digest = hashlib.sha256()
    for query_id, text in queries:
        digest.update(f"{query_id}\0{text}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def judgements_sha256(judgements: Mapping[str, Mapping[str, int]], query_ids: Sequence[str]) -> str:
    """Of the judgements of these queries, in their order; documents in the order of their ids."""
    digest = hashlib.sha256()
    for query_id in query_ids:
        for doc_id, grade in sorted(judgements[query_id].items()):
            digest.update(f"{query_id}\0{doc_id}\0{grade}\0".encode())
    return digest.hexdigest()
