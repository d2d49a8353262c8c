"""The terms of single documents with their values: what expansion learns from.

Methods of weights keep them document by document (the forward view). BM25 does not: there the stored text is
analysed again, which gives the frequencies that were indexed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError

if TYPE_CHECKING:
    from retrieval.index.analysis import Analyzer, TermEncoder
    from retrieval.index.method import SparseMethod
    from retrieval.index.postings import Postings
    from retrieval.index.view import View

_MOST = 64 << 20  # bytes of words that the encoder may remember


class TermVectors:
    """Reads them from a sparse representation; for several threads."""

    def __init__(self, view: View, name: str, method: SparseMethod) -> None:
        self._view, self._name, self._method = view, name, method
        self._encoder: TermEncoder | None = None
        self._lock = threading.Lock()

    def read(self, docs: NDArray[np.int32]) -> list[dict[str, float]]:
        """Term -> value of the documents `docs`, ordinals.

        Raises UserError where the index has neither the forward view nor what it could be made from.
        """
        found: list[dict[str, float]] = [{} for _ in docs]
        texts: dict[int, str] = {}
        for at in np.argsort(docs, kind="stable").tolist():  # each block of texts is decompressed once
            ordinal = int(docs[at])
            segment = self._view.segment_of(ordinal)
            postings = segment.postings(self._name)
            if postings.facts.get("forward"):
                found[at] = _row(postings, ordinal - segment.base)
            elif postings.weighted:
                raise UserError(
                    f"{self._name} keeps no forward view, so that a document's terms cannot be read; index "
                    "again with one"
                )
            elif not segment.entry.get("text", True):
                raise UserError(
                    f"the index was built without text, which {self._name} needs to know a document's terms; "
                    "index the corpus again without --no-text (store_text=False)"
                )
            else:
                texts[at] = segment.store.get(ordinal - segment.base).full_text()
        for at, counts in zip(texts, self._counted(list(texts.values())), strict=True):
            found[at] = counts
        return found

    def _counted(self, texts: list[str]) -> Sequence[dict[str, float]]:
        """How often each term stands in each text."""
        analyzer: Analyzer | None = getattr(self._method, "analyzer", None)
        if analyzer is None or "numba" not in sys.modules:  # not loaded for a few texts: it takes longer
            return [self._method.query(text) for text in texts]
        with self._lock:
            if self._encoder is None or self._encoder.nbytes > _MOST:
                self._encoder = analyzer.encoder()
            offsets, numbers = self._encoder.encode(texts)
            terms = self._encoder.terms
        found = []
        for begin, end in pairwise(offsets.tolist()):
            distinct, counts = np.unique(numbers[begin:end], return_counts=True)
            pairs = zip(distinct.tolist(), counts.tolist(), strict=True)
            found.append({terms[number]: float(count) for number, count in pairs})
        return found


def _row(postings: Postings, local: int) -> dict[str, float]:
    ends, terms, values = postings.rows
    number = int(postings.places[local]) if len(postings.order) else local
    span = slice(int(ends[number]), int(ends[number + 1]))
    pairs = zip(terms[span].tolist(), values[span].tolist(), strict=True)
    return {postings.lexicon[term]: float(value) for term, value in pairs}
