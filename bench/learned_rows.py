"""The index and the reference of the re-scoring benchmark: arrays with a forward view, and dicts of dicts.

The reference is what TILDEv2's published inference does with 1,000 candidates, written anew from its
description: {document: {term: weight}} in memory, a loop over candidates and query tokens, and a sort. Two
forms: `plain` holds Python's own ints and floats; `numpy` holds NumPy scalars, int16 terms and float16
weights, which is what iterating over the arrays of its index file gives and what it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval import registry
from retrieval.bench.engines_ours import Arrays, ArraysBuilder

if TYPE_CHECKING:
    from retrieval.part import Part

FORMS = ("plain", "numpy")
DirectIndex = dict[str, dict[Any, Any]]


@registry.register("rows", kind="sparse method")
class Rows(Arrays):
    """The arrays of a corpus folder, as inverted lists and as a forward view."""

    kind = "rows"

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Rows:
        made = super().create(model, analyzer_name, options)
        return cls({**made.settings, "forward": True}, model)

    def builder(self, scratch: str, budget: int) -> Any:
        return RowsBuilder(self, Path(self._path), scratch, budget)


class RowsBuilder(ArraysBuilder):
    """One segment."""

    def finish(self, part: Part) -> None:
        names = [f"t{number}" for number in range(int(self.terms.max()) + 1)]
        self.writer.finish(part, names, compact=self.compact, forward=True)


def direct_index(corpus: Path, documents: Sequence[int], form: str) -> DirectIndex:
    """The reference's index of some documents of a corpus, d0 and so on."""
    offsets = np.load(corpus / "offsets.npy", mmap_mode="r")
    terms = np.load(corpus / "terms.npy", mmap_mode="r")
    weights = np.load(corpus / "weights.npy", mmap_mode="r")
    shared = list(range(int(np.iinfo(np.int16).max)))  # one int a term: less memory, to the loop's advantage
    found: DirectIndex = {}
    for document in documents:
        span = slice(int(offsets[document]), int(offsets[document + 1]))
        if form == "plain":
            row = {shared[t]: float(w) for t, w in zip(terms[span].tolist(), weights[span].tolist())}
        else:
            row = dict(zip(terms[span].astype(np.int16), weights[span].astype(np.float16)))
        found[f"d{document}"] = row
    return found


def rerank_plain(
    index: Mapping[str, Mapping[int, float]], query: Sequence[int], candidates: Sequence[str]
) -> list[tuple[float, str]]:
    """(score, document), best first; ties by document, descending."""
    scores = []
    for document in candidates:
        weights = index[document]
        score = 0.0
        for token in query:
            if token in weights:
                score += weights[token]
        scores.append(score)
    return sorted(zip(scores, candidates), reverse=True)


def rerank_numpy(
    index: Mapping[str, Mapping[Any, Any]], query: Sequence[int], candidates: Sequence[str]
) -> list[tuple[float, str]]:
    """The same where weights are NumPy scalars, of which each is made a float when it is added."""
    scores = []
    for document in candidates:
        weights = index[document]
        score = 0.0
        for token in query:
            if token in weights:
                score += weights[token].item()
        scores.append(score)
    return sorted(zip(scores, candidates), reverse=True)


RERANK = {"plain": rerank_plain, "numpy": rerank_numpy}
