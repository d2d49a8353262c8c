"""Documents to term weights by a model: windows, batches, one weight a term, records that survive a kill.

The same road for every learned sparse method (tilde, tildev2, bprop). A document's tokens are cut into
windows that the model can read; each is weighed by itself, and a term's weight in the document is its
largest over the windows, as TILDEv2 takes the largest over positions. Windows beyond the limit are left
out, and their tokens counted: nothing is truncated silently.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.record_builder import FACTS, RecordBuilder

if TYPE_CHECKING:
    from retrieval.index.encoded import Cache
    from retrieval.index.method import SparseMethod
    from retrieval.index.quantise import Quantiser
    from retrieval.part import Part

_HEAD = struct.Struct("<4I")  # of a record: tokens, dropped, clamped, terms


class Windows(NamedTuple):
    """Windows of n documents, in order.

    ids      token ids of each window, int32, without special tokens
    owner    int64[w], the document of each
    tokens   int64[n], how many tokens each document has
    dropped  int64[n], how many of them are in no window
    """

    ids: list[NDArray[np.int32]]
    owner: NDArray[np.int64]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int64]


def cut_windows(documents: Sequence[NDArray[np.int32]], size: int, limit: int) -> Windows:
    """At most `limit` windows a document, of at most `size` tokens, about equally long.

    A document without tokens has no window.
    """
    tokens = np.array([len(document) for document in documents], np.int64)
    kept = np.minimum(tokens, size * limit)
    counts = -(-kept // size)
    ids: list[NDArray[np.int32]] = []
    for document, total, count in zip(documents, kept.tolist(), counts.tolist(), strict=True):
        ids += [document[i * total // count : (i + 1) * total // count] for i in range(count)]
    return Windows(ids, np.repeat(np.arange(len(tokens)), counts), tokens, tokens - kept)


class Weights(NamedTuple):
    """Term weights of n documents: document i has terms[ends[i]:ends[i + 1]], ascending, each once."""

    ends: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]


def strongest(
    owner: NDArray[np.int64],
    terms: NDArray[Any],
    weights: NDArray[np.float32],
    documents: int,
    kept: NDArray[np.bool_],
) -> Weights:
    """The largest positive weight of each term of each document.

    owner, terms, weights: of T tokens, in any order; kept bool[V]: the terms that count. Raises UserError
    for a weight that is not finite.
    """
    if not np.isfinite(weights).all():
        raise UserError(
            "the model gives weights that are not finite; its files are damaged, or its training failed"
        )
    wanted = np.flatnonzero((weights > 0) & kept[terms])
    keys = owner[wanted] * len(kept) + terms[wanted]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.empty(0, np.int64)
    best = np.maximum.reduceat(weights[wanted][order], first) if len(first) else np.empty(0, np.float32)
    document, term = np.divmod(keys[first], len(kept))
    ends = np.searchsorted(document, np.arange(documents + 1))
    return Weights(ends.astype(np.int64), term.astype(np.int32), best.astype(np.float32))


class Encoded(NamedTuple):
    """What an encoder makes of n texts: weights above 0, and how many tokens were read and left out."""

    weights: Weights
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int64]


class TermEncoder(Protocol):
    """A loaded model that weighs terms."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The weights of some texts; the same for a text whatever stands beside it."""


class EncodingBuilder(RecordBuilder):
    """One segment of documents that a model weighs: what builder() of a method with `encodes` returns.

    method  its settings say how lists are stored, and with its `encoder` what a record depends on
    load    makes the encoder, at the first document that is in no cache
    terms   the text of each term number
    """

    def __init__(
        self,
        method: SparseMethod,
        load: Callable[[], TermEncoder],
        quantiser: Quantiser,
        terms: Sequence[str],
        scratch: str,
        budget: int,
        cache: Cache | None = None,
    ) -> None:
        from retrieval.index.encoded import encoder_of
        from retrieval.index.postings_writer import PostingsWriter

        super().__init__(encoder_of(method), cache)
        self._load = load
        self._encoder: TermEncoder | None = None
        self._quantiser = quantiser
        self._writer = PostingsWriter(scratch, budget, weighted=True)
        self._compact, self._forward = (bool(method.settings.get(form)) for form in ("compact", "forward"))
        self._all_terms = terms
        self._number = np.full(len(terms), -1, np.int32)  # term -> its number in the lists
        self._terms: list[str] = []

    def _sound(self, record: bytes) -> bool:
        if len(record) < _HEAD.size:
            return False
        count = _HEAD.unpack_from(record)[3]
        if len(record) != _HEAD.size + 5 * count:
            return False
        terms = np.frombuffer(record, "<i4", count, _HEAD.size)
        inside = not count or (terms[0] >= 0 and terms[-1] < len(self._number))
        return bool(inside and (np.diff(terms) > 0).all()) and 0 not in record[_HEAD.size + 4 * count :]

    def _records(self, texts: list[str]) -> list[bytes]:
        """The record of each text: _HEAD, term numbers int32, values uint8."""
        if self._encoder is None:
            self._encoder = self._load()
        (ends, terms, weights), tokens, dropped = self._encoder.encode(texts)
        values, clamped = self._quantiser.quantise(weights)
        kept = values > 0
        running = np.append(0, np.cumsum(clamped))
        beyond = running[ends[1:]] - running[ends[:-1]]
        ends = np.append(0, np.cumsum(kept))[ends]
        terms, values = terms[kept].astype("<i4"), values[kept]
        places = ends.tolist()
        heads = zip(tokens.tolist(), dropped.tolist(), beyond.tolist(), places[:-1], places[1:], strict=True)
        return [
            _HEAD.pack(read, lost, above, b - a) + terms[a:b].tobytes() + values[a:b].tobytes()
            for read, lost, above, a, b in heads
        ]

    def _write(self, records: list[bytes]) -> None:
        heads = [_HEAD.unpack_from(record) for record in records]
        counts = np.array([head[3] for head in heads], np.int64)
        ends = np.zeros(len(records) + 1, np.int64)
        np.cumsum(counts, out=ends[1:])
        at = _HEAD.size
        terms = np.frombuffer(b"".join(r[at : at + 4 * h[3]] for r, h in zip(records, heads)), "<i4")
        values = np.frombuffer(b"".join(r[at + 4 * h[3] :] for r, h in zip(records, heads)), np.uint8)
        self._facts["clamped"] += sum(head[2] for head in heads)
        fresh = np.unique(terms[self._number[terms] < 0])
        self._number[fresh] = np.arange(len(self._terms), len(self._terms) + len(fresh))
        self._terms += [self._all_terms[term] for term in fresh.tolist()]
        self._writer.add(ends, self._number[terms], values)

    def finish(self, part: Part) -> None:
        """Writes the part's files, and what became of the tokens."""
        self._writer.finish(part, self._terms, compact=self._compact, forward=self._forward)
        part.json(FACTS, self.facts)
