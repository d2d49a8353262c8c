"""Runs of passages to runs of documents, by whatever pooling.py knows.

Passages are told by their ids, such as "D123#4" for the fifth passage of D123.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.longdoc.pooling import HOW, Weights, pool
from retrieval.ordering import rank_order
from retrieval.types import Run

__all__ = ["HOW", "Documents", "aggregate", "split_id"]


class Documents(NamedTuple):
    """A run of documents, and where each was found.

    run   as many queries as the run of passages
    best  int32[n]: for each row of `run`, its best passage, an ordinal of the passages' `doc_ids`
    """

    run: Run
    best: NDArray[np.int32]


def split_id(passage: str) -> tuple[str, int]:
    """("D123", 4) of "D123#4": the document and the passage's number. Raises UserError for another id."""
    document, mark, number = passage.rpartition("#")
    if not mark or not document or not (number.isascii() and number.isdigit()):
        raise UserError(f"{passage!r} is no passage id; write the document's id, # and a number, as in D12#0")
    return document, int(number)


def aggregate(
    passages: Run,
    how: str = "max",
    *,
    k: int = 3,
    weights: Weights | None = None,
    first: int = 0,
    split: Callable[[str], tuple[str, int]] = split_id,
) -> Documents:
    """A run of documents out of a run of their passages.

    how, k, weights  as in pooling.pool(); first: the passage numbered `first`, documents without it in the
                     run are left out
    split            (document, number) of a passage's id

    A passage that is not in the run counts nowhere, so take the run deep. Raises UserError as pool() does,
    and for ids that `split` refuses.
    """
    documents: dict[str, int] = {}
    used, place = np.unique(passages.docs, return_inverse=True)
    pairs = [split(passages.doc_ids[doc]) for doc in used.tolist()]
    parent = np.array([documents.setdefault(name, len(documents)) for name, _ in pairs], np.int64)[place]
    query = np.repeat(np.arange(len(passages)), np.diff(passages.offsets))
    kept = np.arange(len(place))
    if how == "first":
        kept = kept[np.array([number == first for _, number in pairs], np.bool_)[place]]
    # A stable sort by (query, document) leaves the passages of each in rank order, the best one first.
    key = query[kept] * max(len(documents), 1) + parent[kept]
    order = np.argsort(key, kind="stable")
    rows, found = kept[order], key[order]
    begins = np.flatnonzero(np.diff(found, prepend=-1))
    ends = np.append(begins, len(rows))
    stored = pool(passages.scores[rows], ends, "max" if how == "first" else how, k, weights)
    asked, docs = np.divmod(found[begins], max(len(documents), 1))
    offsets = np.searchsorted(asked, np.arange(len(passages) + 1))
    ids = list(documents)
    ranked = rank_order(offsets, docs.astype(np.int32), stored, ids)
    best = passages.docs[rows[begins]][ranked]
    run = Run(
        passages.queries, offsets, docs[ranked], stored[ranked], ids, ordered=True, trace=passages.trace
    )
    return Documents(run, best)
