"""The builder of a method whose terms are words: any number of them, unlike the pieces of a vocabulary.

As EncodingBuilder (encoding.py), but that a record of the journal spells its terms: tokens, dropped, clamped
and number of terms (uint32 each), the values (uint8), the terms in UTF-8 with a NUL between two.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from retrieval.errors import UserError
from retrieval.index.encoding import EncodingBuilder

if TYPE_CHECKING:
    from retrieval.index.bprop import WordWeights
    from retrieval.index.encoded import Cache
    from retrieval.index.method import SparseMethod
    from retrieval.index.quantise import Quantiser

_HEAD = struct.Struct("<4I")


class WordEncoder(Protocol):
    """A loaded model that weighs words."""

    def encode(self, texts: Sequence[str]) -> list[WordWeights]:
        """The weights of some texts; the same for a text whatever stands beside it."""


class WordBuilder(EncodingBuilder):
    """One segment. load: makes the encoder, at the first document that is in no cache."""

    def __init__(
        self,
        method: SparseMethod,
        load: Callable[[], WordEncoder],
        quantiser: Quantiser,
        scratch: str,
        budget: int,
        cache: Cache | None = None,
    ) -> None:
        super().__init__(method, load, quantiser, (), scratch, budget, cache)  # type: ignore[arg-type]
        self._load_words = load
        self._words: WordEncoder | None = None
        self._numbers: dict[str, int] = {}

    def _sound(self, record: bytes | None) -> bool:
        """Whether a record of a journal, which may be a stranger's, can be what _records made."""
        if record is None or len(record) < _HEAD.size:
            return False
        count = _HEAD.unpack_from(record)[3]
        values = record[_HEAD.size : _HEAD.size + count]
        try:
            terms = _terms(record, count)
        except UnicodeDecodeError:
            return False
        good = len(values) == count and 0 not in values and len(terms) == count
        return good and "" not in terms and len(set(terms)) == count

    def _records(self, texts: list[str]) -> list[bytes]:
        if self._words is None:
            self._words = self._load_words()
        records = []
        for terms, weights, tokens, dropped in self._words.encode(texts):
            if not np.isfinite(weights).all():
                raise UserError(
                    "the model gives weights that are not finite; its files are damaged, or training failed"
                )
            values, above = self._quantiser.quantise(weights)
            kept = np.flatnonzero(values)
            names = "\0".join([terms[i] for i in kept.tolist()]).encode()
            head = _HEAD.pack(tokens, dropped, int(above.sum()), len(kept))
            records.append(head + values[kept].tobytes() + names)
        return records

    def _write(self, records: list[bytes]) -> None:
        ends, tokens, values = [0], [], []
        numbers, facts = self._numbers, self._facts
        for record in records:
            _, _, clamped, count = _HEAD.unpack_from(record)
            facts["clamped"] += clamped
            tokens += [numbers.setdefault(term, len(numbers)) for term in _terms(record, count)]
            values.append(record[_HEAD.size : _HEAD.size + count])
            ends.append(ends[-1] + count)
        self._terms = list(numbers)
        joined = np.frombuffer(b"".join(values), np.uint8)
        self._writer.add(np.array(ends, np.int64), np.array(tokens, np.int32), joined)


def _terms(record: bytes, count: int) -> list[str]:
    names = record[_HEAD.size + count :].decode()
    return names.split("\0") if names else []
