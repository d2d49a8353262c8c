"""The terms of single documents with their values: what expansion learns from.

Methods of weights keep them document by document (the forward view). BM25 does not: there the stored text is
analysed again, which gives the frequencies that were indexed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError

if TYPE_CHECKING:
    from retrieval.index.method import SparseMethod
    from retrieval.index.postings import Postings
    from retrieval.index.view import View


def term_vectors(
    view: View, name: str, method: SparseMethod, docs: NDArray[np.int32]
) -> list[dict[str, float]]:
    """Term -> value of the documents `docs`, ordinals, in a sparse representation.

    Raises UserError where the index has neither the forward view nor what it could be made from.
    """
    found: list[dict[str, float]] = [{} for _ in docs]
    for at in np.argsort(docs, kind="stable").tolist():  # each block of texts is decompressed once
        ordinal = int(docs[at])
        segment = view.segment_of(ordinal)
        postings = segment.postings(name)
        if postings.facts.get("forward"):
            found[at] = _row(postings, ordinal - segment.base)
        elif postings.weighted:
            raise UserError(
                f"{name} keeps no forward view, so a document's terms cannot be read; index again with one"
            )
        elif not segment.entry.get("text", True):
            raise UserError(
                f"the index was built without text, which {name} needs to know a document's terms; index the "
                "corpus again without --no-text (store_text=False)"
            )
        else:
            found[at] = method.query(segment.store.get(ordinal - segment.base).full_text())
    return found


def _row(postings: Postings, local: int) -> dict[str, float]:
    ends, terms, values = postings.rows
    number = int(postings.places[local]) if len(postings.order) else local
    span = slice(int(ends[number]), int(ends[number + 1]))
    pairs = zip(terms[span].tolist(), values[span].tolist(), strict=True)
    return {postings.lexicon[term]: float(value) for term, value in pairs}
