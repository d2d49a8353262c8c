"""A small index whose queries prefer one representation over the other, and a re-ranker that knows more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval import Index
from retrieval.registry import register
from retrieval.rerank.text_stage import TextStage
from retrieval.types import Query, Run

WORDS = [
    "sun",
    "star",
    "moon",
    "wind",
    "rain",
    "snow",
    "tree",
    "leaf",
    "root",
    "bark",
    "fish",
    "bird",
    "wolf",
    "bear",
    "deer",
    "hare",
]


@register("knowing")
class Knowing(TextStage):
    """Scores a document by the number behind `worth` in its text."""

    name = "knowing"

    def __init__(self, model: str = "x") -> None:
        self.params = {"model": model}

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        given, lookup = self._given(run)
        texts = [one.full_text() for one in lookup([given.doc_ids[doc] for doc in given.docs.tolist()])]
        scores = np.array([float(text.split("worth")[1]) for text in texts], np.float32)
        return Run(queries, given.offsets, given.docs, scores, given.doc_ids)


def make_index(path: Path, documents: int = 60) -> Index:
    """Documents of words, of which `knowing` reads a worth that BM25 does not see."""
    draw = np.random.default_rng(0)
    index = Index.create(path, ["bm25", "short=bm25"])
    index.add(
        {"_id": f"d{at:02d}", "text": " ".join([*draw.choice(WORDS, 6), "worth", str(at % 7)])}
        for at in range(documents)
    )
    index.commit()
    return index


def make_queries(index: Index, count: int = 30) -> tuple[list[Query], dict[str, dict[str, int]]]:
    """Queries of two words; relevant is what holds one of them and is worth 5 or 6."""
    draw = np.random.default_rng(1)
    queries = [Query(f"q{at}", " ".join(draw.choice(WORDS, 2, replace=False))) for at in range(count)]
    judged = {}
    for query in queries:
        hits = [hit.doc_id for hit in index.pipeline("bm25")([query])[query.query_id]]
        worth = {doc: int(doc[1:]) % 7 for doc in hits}
        judged[query.query_id] = {doc: int(worth[doc] >= 5) + 1 for doc in hits if worth[doc] >= 4}
    return [query for query in queries if judged[query.query_id]], judged
