"""Readers and writers of corpora, queries, judgements and runs; the packaged sample. Names load when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus as Corpus
    from retrieval.data.corpus import open_corpus as open_corpus
    from retrieval.data.jsonl import write_corpus as write_corpus
    from retrieval.data.lines import Limits as Limits
    from retrieval.data.qrels import read_qrels as read_qrels
    from retrieval.data.qrels import write_qrels as write_qrels
    from retrieval.data.queries import read_queries as read_queries
    from retrieval.data.queries import write_queries as write_queries
    from retrieval.data.runs import read_run as read_run
    from retrieval.data.runs import read_scores as read_scores
    from retrieval.data.runs import write_run as write_run
    from retrieval.data.wordnet import sample_path as sample_path

_HOME = {
    "Corpus": "corpus",
    "Limits": "lines",
    "open_corpus": "corpus",
    "read_qrels": "qrels",
    "read_queries": "queries",
    "read_run": "runs",
    "read_scores": "runs",
    "sample_path": "wordnet",
    "write_corpus": "jsonl",
    "write_qrels": "qrels",
    "write_queries": "queries",
    "write_run": "runs",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'retrieval.data' has no attribute {name!r}")
    value = getattr(import_module(f"retrieval.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value
