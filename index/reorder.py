"""Document order by recursive graph bisection (Dhulipala et al., KDD 2016): similar documents stand close.

Lists then have small gaps, and block bounds tell more. Only the numbering within the lists changes: a part's
`order` maps it back to ordinals, so ids, documents and results stay what they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.forward import document_rows
from retrieval.index.invert import invert_weighted
from retrieval.index.jit import jit
from retrieval.index.list_files import CHUNK
from retrieval.index.partfiles import PartFiles
from retrieval.index.postings import Postings
from retrieval.index.postings_writer import PostingsWriter

if TYPE_CHECKING:
    from retrieval.artefact import Part, Transaction
    from retrieval.index.method import SparseMethod

LEAF = 32  # documents below which a partition is left as it is
ROUNDS = 12  # swaps between two halves, at most
_RARE = 16  # terms in fewer documents tell little and cost much


@jit()
def _gains(left, right, n_left, n_right):
    """What one document moving over saves for this term: (left to right, right to left), in bits."""

    def cost(a, b):
        total = 0.0
        if a > 0:
            total += a * np.log2(n_left / (a + 1.0))
        if b > 0:
            total += b * np.log2(n_right / (b + 1.0))
        return total

    now = cost(left, right)
    over = now - cost(left - 1, right + 1) if left > 0 else 0.0
    back = now - cost(left + 1, right - 1) if right > 0 else 0.0
    return over, back


@jit()
def _split(docs, ends, terms, left, right, over, back, touched):
    """Improves one bisection of docs (int32, changed in place); left to touched are scratch.

    left and right are zero on entry and exit.
    """
    n = len(docs)
    half = n // 2
    gain = np.empty(n, np.float32)
    for _ in range(ROUNDS):
        n_touched = 0
        for i in range(n):
            for p in range(ends[docs[i]], ends[docs[i] + 1]):
                t = terms[p]
                if left[t] == 0 and right[t] == 0:
                    touched[n_touched] = t
                    n_touched += 1
                if i < half:
                    left[t] += 1
                else:
                    right[t] += 1
        for x in range(n_touched):
            t = touched[x]
            over[t], back[t] = _gains(left[t], right[t], half, n - half)
            left[t] = 0
            right[t] = 0
        for i in range(n):
            total = np.float32(0)
            for p in range(ends[docs[i]], ends[docs[i] + 1]):
                total += over[terms[p]] if i < half else back[terms[p]]
            gain[i] = total
        first = np.argsort(-gain[:half])
        second = np.argsort(-gain[half:])
        swaps = 0
        for x in range(half):
            i = first[x]
            j = half + second[x]
            if gain[i] + gain[j] <= 0:
                break
            docs[i], docs[j] = docs[j], docs[i]
            swaps += 1
        if swaps == 0:
            break


@jit()
def bisection_order(ends, terms, vocabulary):
    """Permutation int32[n] (new number -> old) of documents with terms[ends[d]:ends[d + 1]]."""
    n = len(ends) - 1
    order = np.arange(n).astype(np.int32)
    left = np.zeros(vocabulary, np.int32)
    right = np.zeros(vocabulary, np.int32)
    over = np.zeros(vocabulary, np.float32)
    back = np.zeros(vocabulary, np.float32)
    touched = np.empty(vocabulary, np.uint32)
    size = n
    starts = np.array([0, n])
    while size > LEAF:
        halves = np.empty(2 * len(starts) - 1, np.int64)
        for x in range(len(starts) - 1):
            a = starts[x]
            b = starts[x + 1]
            if b - a > LEAF:
                _split(order[a:b], ends, terms, left, right, over, back, touched)
            halves[2 * x] = a
            halves[2 * x + 1] = a + (b - a) // 2
        halves[-1] = n
        starts = halves
        size = (size + 1) // 2
    for x in range(len(starts) - 1):
        order[starts[x] : starts[x + 1]] = np.sort(order[starts[x] : starts[x + 1]])
    return order


def reorder_part(transaction: Transaction, name: str, method: SparseMethod, memory: int) -> Part:
    """A new part with the lists of part `name` of this transaction in bisection order."""
    postings = Postings(PartFiles(transaction), name)
    ends, terms, values = document_rows(postings)
    keep = postings.df[terms] >= _RARE
    fewer = np.zeros(len(ends), np.int64)
    np.cumsum(np.add.reduceat(np.append(keep, False), ends[:-1]) * (np.diff(ends) > 0), out=fewer[1:])
    order = bisection_order(fewer, terms[keep], len(postings.df))
    del keep, fewer
    big = _big_frequencies(postings)
    writer = PostingsWriter(transaction.scratch(), memory // 2, weighted=postings.weighted)
    lengths = None if postings.weighted else postings.lengths[postings.codes]
    for start in range(0, len(order), CHUNK):
        mine = order[start : start + CHUNK]
        counts = ends[mine + 1] - ends[mine]
        offsets = np.zeros(len(mine) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        at = np.repeat(ends[mine] - offsets[:-1], counts) + np.arange(offsets[-1])
        run = invert_weighted(terms[at].astype(np.int32), values[at], offsets, 0, len(postings.df))
        if big:
            run = (*run[:4], _big_of(run, mine, big))
        writer.add_run(run, (counts if lengths is None else lengths[mine]).astype(np.int32))
    base = postings.order if len(postings.order) else np.arange(len(order), dtype=np.int32)
    part = transaction.part()
    writer.finish(
        part, list(postings.lexicon), compact=bool(method.settings.get("compact")),
        forward=bool(method.settings.get("forward")), order=base[order],
    )  # fmt: skip
    return part


def _big_frequencies(postings: Postings) -> dict[tuple[int, int], int]:
    """(term number, document) -> frequency, where it does not fit a byte."""
    found: dict[tuple[int, int], int] = {}
    if postings.weighted:
        return found
    lists, places = postings.whole()
    numbers = np.searchsorted(places.first + postings.df, lists.big_place, side="right")
    for number in np.unique(numbers).tolist():
        docs, values = postings.listed(number)
        large = np.flatnonzero(values >= 255)
        found.update(((number, int(docs[at])), int(values[at])) for at in large)
    return found


def _big_of(run: Any, mine: NDArray[np.int32], big: dict[tuple[int, int], int]) -> NDArray[np.int32]:
    """The run's large frequencies in posting order."""
    terms, counts, docs, values, _ = run
    places = np.flatnonzero(values == 255)
    number = terms[np.searchsorted(np.cumsum(counts), places, side="right")]
    pairs = zip(number.tolist(), mine[docs[places]].tolist(), strict=True)
    return np.array([big[pair] for pair in pairs], np.int32)
