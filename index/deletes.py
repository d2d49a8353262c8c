"""Deletions of a segment: a bitmap, and what the deleted documents took from the collection statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.postings import Postings

if TYPE_CHECKING:
    from retrieval.artefact import Transaction

_GROUP = 1 << 22  # postings looked at together


def write_deletes(
    transaction: Transaction, entry: dict[str, Any], dead: NDArray[np.bool_], lists: Mapping[str, Postings]
) -> None:
    """Writes the part and names it in the segment's entry. dead bool[documents]: all deleted by now."""
    part = transaction.part()
    part.array("deleted.npy", np.packbits(dead, bitorder="little"))
    tokens = {}
    for name, postings in lists.items():
        numbers, counts = lost_terms(postings, dead)
        part.array(f"{name}.terms.npy", numbers)
        part.array(f"{name}.counts.npy", counts)
        tokens[name] = 0 if postings.weighted else int(lost_tokens(postings, dead))
    part.json("tokens.json", tokens)
    entry["deletes"] = {"file": f"{part.name}/deleted.npy"}
    entry["deleted"] = int(dead.sum())


def lost_tokens(postings: Postings, dead: NDArray[np.bool_]) -> int:
    """Tokens of the dead documents."""
    gone = dead[postings.order] if len(postings.order) else dead
    return int(postings.lengths[postings.codes[gone]].sum(dtype=np.int64))


def lost_terms(postings: Postings, dead: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(term numbers, in how many dead documents each stands): one pass over the lists."""
    from retrieval.index.rescore import count_marked

    marked = (dead[postings.order] if len(postings.order) else dead).astype(np.uint8)
    vocabulary = len(postings.df)
    counts = np.zeros(vocabulary, np.uint32)
    ends = np.cumsum(postings.df, dtype=np.int64)
    term = 0
    while term < vocabulary:
        base = int(ends[term - 1]) if term else 0
        end = max(term + 1, int(np.searchsorted(ends, base + _GROUP)))
        end = min(end, vocabulary)
        lists, places = postings.whole(term, end)
        count_marked(
            lists.docs, lists.dir_chunk, lists.dir_count, places.first, places.dir_first, places.dir_last,
            marked, counts[term:end],
        )  # fmt: skip
        term = end
    numbers = np.flatnonzero(counts).astype(np.uint32)
    return numbers, counts[numbers]
