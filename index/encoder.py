"""Texts to term ids through the compiled tokeniser; each distinct word is stopped and stemmed once.

Imported only by `Analyzer.encoder()`: it needs numba, and the cold path does not.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.index.tokenize import BLOB, BLOCK, PADDING, TOKENS, WORDS, rehash, scan, to_terms
from retrieval.index.unicode import MAX_BYTES

if TYPE_CHECKING:
    from retrieval.index.analysis import WordAnalyzer

Scalar = TypeVar("Scalar", bound=np.generic)


class WordEncoder:
    """Texts to term ids, batch by batch; keeps the words and terms it has seen. Not for several threads."""

    def __init__(self, analyzer: WordAnalyzer) -> None:
        self._analyzer = analyzer
        rules = analyzer.rules
        self._classes = rules.table
        self._steps = np.frombuffer(rules.steps, dtype=np.uint8)
        self._accepting = np.frombuffer(rules.accepting, dtype=np.uint8)
        self._table = np.zeros(4 << 16, dtype=np.uint64)
        self._blob = np.empty(1 << 20, dtype=np.uint8)
        self._starts = np.zeros((1 << 15) + 1, dtype=np.int64)
        self._term_of_word = np.empty(1 << 15, dtype=np.int32)
        self._term_ids = {"": -1}
        self._words = 0
        self._blob_used = 0
        self._term_bytes = 0
        self.terms: list[str] = []

    @property
    def nbytes(self) -> int:
        """Estimate of the memory held, in bytes."""
        arrays = (self._table, self._blob, self._starts, self._term_of_word)
        return sum(array.nbytes for array in arrays) + self._term_bytes + 110 * len(self.terms)

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets int64[n + 1], term ids int32[offsets[n]]): text i has ids[offsets[i]:offsets[i + 1]]."""
        data = self._bytes(texts)
        length = len(data) - PADDING
        buffer = np.frombuffer(data, dtype=np.uint8)
        ids = np.empty(length + 1, dtype=np.int32)  # a word has a byte; untouched pages cost nothing
        ends = np.empty(len(texts), dtype=np.int64)
        state = np.array([0, 0, 0, self._words, self._blob_used], dtype=np.int64)
        rules = self._analyzer.rules
        while not scan(
            buffer, length, self._classes, self._steps, self._accepting, rules.max_units,
            self._table, self._blob, self._starts, ids, ends, state,
        ):  # fmt: skip
            self._grow(int(state[WORDS]), int(state[BLOB]))
        first, self._words, self._blob_used = self._words, int(state[WORDS]), int(state[BLOB])
        if self._words > first:
            self._name(first)
        terms = np.empty(int(state[TOKENS]) + 1, dtype=np.int32)
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        total = to_terms(ids, ends, self._term_of_word, terms, offsets)
        return offsets, terms[:total]

    def _bytes(self, texts: list[str]) -> bytes:
        """The batch in lower case, each text ended by a NUL, and padding that may be read past the end."""
        tail = "\0" * PADDING
        joined = "\0".join([*texts, tail])
        if joined.count("\0") != len(texts) + PADDING:
            return self._bytes([text.replace("\0", " ") for text in texts])
        if joined.isascii():
            return joined.lower().encode()
        lower = self._analyzer.rules.lower
        return b"\0".join([
            *[lower(text).encode("utf-8", "surrogatepass") for text in texts], tail.encode(),
        ])  # fmt: skip

    def _grow(self, words: int, used: int) -> None:
        if words + BLOCK > min(self._table.size // 8, self._starts.size - 1):
            table = np.zeros(self._table.size * 2, dtype=np.uint64)
            rehash(self._table, table)
            self._table = table
            self._starts = _longer(self._starts, words + 1, table.size // 8 + 1)
        if used + BLOCK * MAX_BYTES > self._blob.size:
            self._blob = _longer(self._blob, used, self._blob.size * 2)

    def _name(self, first: int) -> None:
        """Give the new words their terms: each distinct word is stopped and stemmed once."""
        bounds = self._starts[first : self._words + 1]
        text = self._blob[bounds[0] : bounds[-1]].tobytes()
        bounds = (bounds - bounds[0]).tolist()
        if text.isascii():
            plain = text.decode()
            words = [plain[low:high] for low, high in pairwise(bounds)]
        else:
            words = [text[low:high].decode() for low, high in pairwise(bounds)]
        terms = self._analyzer.terms_of(words)
        ids = self._term_ids
        new = [term for term in dict.fromkeys(terms) if term not in ids]
        ids.update(zip(new, range(len(self.terms), len(self.terms) + len(new))))
        self.terms += new
        self._term_bytes += sum(map(len, new))
        if self._term_of_word.size < self._words:
            self._term_of_word = _longer(self._term_of_word, first, self._starts.size)
        self._term_of_word[first : self._words] = list(map(ids.__getitem__, terms))


def _longer(array: NDArray[Scalar], used: int, size: int) -> NDArray[Scalar]:
    longer = np.empty(size, dtype=array.dtype)
    longer[:used] = array[:used]
    return longer
