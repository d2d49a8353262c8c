"""Peers of the engine comparison that search text: tantivy, bm25s, rank-bm25."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retrieval.bench.engines_files import load_texts


def spread(search: Any, queries: list[Any], k: int, threads: int, mode: str) -> None:
    """Queries over a pool of Python threads, for engines without a batch of their own."""
    if threads == 1:
        for query in queries:
            search(query, k, mode)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda query: search(query, k, mode), queries, chunksize=16))


class Tantivy:
    """tantivy through tantivy-py: k1 1.2 and b 0.75 are fixed, words split at white space, no positions."""

    def schema(self, stored: bool) -> Any:
        import tantivy

        builder = tantivy.SchemaBuilder()
        # An unsigned field panics in the writer thread: integer.
        builder.add_integer_field("number", stored=False, indexed=False, fast=True)
        builder.add_text_field("text", stored=stored, tokenizer_name="whitespace", index_option="freq")
        return builder.build()

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        import tantivy

        index.mkdir(parents=True)
        engine = tantivy.Index(self.schema(option == "stored"), path=str(index))
        writer = engine.writer(heap_size=256_000_000, num_threads=1)
        for number, (_, text) in enumerate(load_texts(corpus)):
            writer.add_document(tantivy.Document(number=number, text=text))
        writer.commit()
        writer.wait_merging_threads()
        engine.reload()
        lists = sum(path.stat().st_size for path in index.glob("*.idx"))
        return {"list_bytes": lists, "segments": engine.searcher().num_segments}

    def open(self, corpus: Path, index: Path) -> list[str]:
        import tantivy

        self.index = tantivy.Index.open(str(index))
        self.searcher = self.index.searcher()
        self.fields, self.query, self.should = self.index.schema, tantivy.Query, tantivy.Occur.Should
        return ["or"]

    def search(self, query: str, k: int, mode: str) -> Any:
        term = self.query.term_query
        words = [(self.should, term(self.fields, "text", word)) for word in query.split()]
        return self.searcher.search(self.query.boolean_query(words), limit=k, count=False)

    def hits(self, result: Any) -> list[tuple[str, float]]:
        places = [place for _, place in result.hits]
        numbers = self.searcher.fast_field_values("number", places) if places else []
        return [(f"d{number}", score) for number, (score, _) in zip(numbers, result.hits)]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        spread(self.search, queries, k, threads, mode)


class BM25S:
    """bm25s with its numba backend, Lucene's formula; one query a call, or all in one call (batch)."""

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        import bm25s

        texts = [text for _, text in load_texts(corpus)]
        tokens = bm25s.tokenize(texts, token_pattern=r"\S+", stopwords=None, show_progress=False)
        engine = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend="numba")
        engine.index(tokens, show_progress=False)
        engine.save(str(index))
        lists = sum(path.stat().st_size for path in index.glob("*.csc.index.npy"))
        return {"list_bytes": lists}

    def open(self, corpus: Path, index: Path) -> list[str]:
        import bm25s

        self.engine = bm25s.BM25.load(str(index), mmap=True)
        self.engine.backend = "numba"
        self.engine.activate_numba_scorer()
        return ["numba"]

    def search(self, query: str, k: int, mode: str) -> Any:
        return self.engine.retrieve([query.split()], k=k, show_progress=False, n_threads=1)

    def hits(self, result: Any) -> list[tuple[str, float]]:
        pairs = zip(result.documents[0].tolist(), result.scores[0].tolist())
        return [(f"d{number}", score) for number, score in pairs if score > 0]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        tokens = [query.split() for query in queries]
        self.engine.retrieve(tokens, k=k, show_progress=False, n_threads=threads)


class RankBM25:
    """rank-bm25: Python lists in memory; nothing on disk, so that `open` builds again."""

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        from rank_bm25 import BM25Okapi

        index.mkdir(parents=True)
        self.ids, texts = zip(*load_texts(corpus))
        self.engine = BM25Okapi([text.split() for text in texts], k1=0.9, b=0.4)
        return {"list_bytes": 0}

    def open(self, corpus: Path, index: Path) -> list[str]:
        if not hasattr(self, "engine"):
            index = index / "again"
            self.build(corpus, index, "")
            index.rmdir()
        return ["okapi"]

    def search(self, query: str, k: int, mode: str) -> Any:
        import numpy as np

        scores = self.engine.get_scores(query.split())
        top = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        top = top[np.argsort(-scores[top])]
        return top, scores[top]

    def hits(self, result: Any) -> list[tuple[str, float]]:
        return [(self.ids[i], score) for i, score in zip(result[0].tolist(), result[1].tolist())]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        spread(self.search, queries, k, threads, mode)
