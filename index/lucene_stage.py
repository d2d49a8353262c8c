"""An index of Lucene as a first stage: `lucene(./msmarco.lucene, k1=0.82, b=0.68) % 1000 >> cross(./model)`.

For who has indexes that Anserini or Pyserini made (BM25 over the field "contents") and wants this package's
stages on top. Documents are known by their ids: stages of an index of the same corpus re-score them; without
one, a stage that reads texts gets what Lucene has stored (-storeRaw). Scores and their order are Anserini's:
rounded to four places, ties by ascending id and set apart by 1e-6.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval.errors import CompositionError, UserError
from retrieval.index.lucene_java import AnseriniSearcher, need_lucene
from retrieval.registry import register
from retrieval.stage import Lookup, Stage
from retrieval.types import Document, Query, Run


class LuceneSearcher(Protocol):
    """What is asked of an opened index."""

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """(document id, score) of the best k, best first."""
        ...

    def stored(self, doc_id: str) -> str | None:
        """What is stored of a document, if anything."""
        ...


@register("lucene")
class Lucene(Stage):
    """The stage; Java starts with the first query (a second or two).

    model  the index's directory
    k1, b  of BM25 (0.9 and 0.4, Anserini's defaults)

    Raises UserError for a directory without an index and for parameters out of range, MissingExtra.
    """

    name = "lucene"

    def __init__(self, model: str, k1: float = 0.9, b: float = 0.4) -> None:
        for key, value, most in (("k1", k1, 1e6), ("b", b, 1.0)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= most:
                raise UserError(f"lucene cannot take {key}={value!r}; k1 is 0 or more and b from 0 to 1")
        path = str(model)
        if not any(Path(path).glob("segments_*")):
            raise UserError(
                f"{path!r} holds no Lucene index (a directory with a file segments_N); give one that "
                "Anserini or Pyserini made"
            )
        need_lucene()
        usual = {"k1": 0.9, "b": 0.4}
        self.params = {
            "model": path, **{key: value for key, value in (("k1", k1), ("b", b)) if value != usual[key]},
        }  # fmt: skip
        self._path, self._k1, self._b = path, float(k1), float(b)
        self._opened: list[LuceneSearcher] = []  # one, shared by what within() copies

    @property
    def searcher(self) -> LuceneSearcher:
        """The index, opened once. Raises UserError, MissingExtra."""
        if not self._opened:
            self._opened.append(AnseriniSearcher(self._path, self._k1, self._b))
        return self._opened[0]

    @property
    def documents(self) -> Lookup:  # type: ignore[override]
        """The documents that Lucene has stored, by id."""
        return self._read

    def _read(self, ids: Sequence[str]) -> list[Document]:
        return [self._document(doc_id) for doc_id in ids]

    def _document(self, doc_id: str) -> Document:
        """The stored document: "contents" of JSON, or else the raw text. Raises UserError."""
        stored = self.searcher.stored(doc_id)
        if stored is None:
            raise UserError(
                f"the Lucene index {self._path!r} has stored nothing of document {doc_id!r}, whose text a "
                "stage reads; build it with -storeRaw, or use a pipeline of an index of the corpus"
            )
        try:
            contents = json.loads(stored)["contents"]
        except (ValueError, KeyError, TypeError, RecursionError):  # not JSON, or not of JsonCollection
            return Document(doc_id, stored)
        return Document(doc_id, contents if isinstance(contents, str) else stored)

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if run is not None:
            raise CompositionError(
                f"{self!r} searches and cannot re-score; put it at the head of the pipeline"
            )
        numbers: dict[str, int] = {}
        docs: list[int] = []
        scores: list[float] = []
        offsets = [0]
        for query in queries:
            text = query.text.encode("utf-8", "replace").decode()  # Java takes no half of a surrogate pair
            hits = self.searcher.search(text, self.depth) if text.strip() else []
            best: dict[str, float] = {}
            for doc_id, score in hits:  # an index can hold an id twice
                best.setdefault(doc_id, score)
            docs += [numbers.setdefault(doc_id, len(numbers)) for doc_id in best]
            scores += best.values()
            offsets.append(len(docs))
        return Run(queries, offsets, np.array(docs, np.int32), np.array(scores, np.float32), list(numbers))
