"""Whole words of a WordPiece vocabulary: texts as word numbers, words as pieces, and collections of them.

Words are what BERT's own splitting makes of a text (lower case, punctuation apart), so that a word is exactly
its pieces and nothing is analysed twice. A word of one piece has that piece's id as its number; words of
several pieces are numbered behind the vocabulary, in order of first sight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.vocabulary import Vocabulary

Ints = NDArray[np.int32]


class WordTable:
    """Numbers words; `len(table)` counts pieces and words of several pieces."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._numbers: dict[bytes, int] = {}  # pieces int32 as bytes -> number
        self._long: list[bytes] = []

    def __len__(self) -> int:
        return self.vocabulary.size + len(self._long)

    def add(self, ids: Ints, word: Ints) -> Ints:
        """The words of a text, int32[w], from Vocabulary.words()."""
        if not len(ids):
            return np.empty(0, np.int32)
        first = np.flatnonzero(np.append(True, word[1:] != word[:-1]))
        sizes = np.diff(np.append(first, len(ids)))
        numbers = ids[first].astype(np.int32)
        for at in np.flatnonzero(sizes > 1).tolist():
            key = ids[first[at] : first[at] + sizes[at]].astype("<i4").tobytes()
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self)
                self._long.append(key)
            numbers[at] = number
        return numbers

    def pieces(self, number: int) -> Ints:
        """The ids of a word's pieces, int32."""
        size = self.vocabulary.size
        return (
            np.array([number], np.int32) if number < size else np.frombuffer(self._long[number - size], "<i4")
        )

    def sizes(self, words: NDArray[Any]) -> NDArray[np.int64]:
        """How many pieces each word has, int64[n]."""
        lengths = np.ones(len(words), np.int64)
        size = self.vocabulary.size
        for at in np.flatnonzero(words >= size).tolist():
            lengths[at] = len(self._long[int(words[at]) - size]) // 4
        return lengths

    def tokens(self, words: NDArray[Any]) -> tuple[Ints, NDArray[np.int64]]:
        """(ids of all pieces of the words, place of each piece's word in `words`)."""
        if not len(words):
            return np.empty(0, np.int32), np.empty(0, np.int64)
        parts = [self.pieces(number) for number in words.tolist()]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def text(self, number: int) -> str:
        """The word as one string, continuation marks removed."""
        names = self.vocabulary.pieces
        head, *tail = (names[piece] for piece in self.pieces(number).tolist())
        return str(head) + "".join(piece.removeprefix("##") for piece in tail)

    def alphabetic(self) -> NDArray[np.bool_]:
        """bool[len(self)]: which numbers are words of letters, and no special or continuation piece alone."""
        special = self.vocabulary.special
        plain = [
            number not in special and piece.isalpha() for number, piece in enumerate(self.vocabulary.pieces)
        ]
        return np.array([*plain, *(self.text(n).isalpha() for n in range(len(plain), len(self)))], np.bool_)

    def state(self) -> dict[str, NDArray[Any]]:
        """The words of several pieces as arrays, to be stored beside documents; `restore` reads them."""
        sizes = np.array([len(key) // 4 for key in self._long], np.int32)
        return {"long_ids": np.frombuffer(b"".join(self._long), "<i4"), "long_sizes": sizes}

    @classmethod
    def restore(cls, vocabulary: Vocabulary, state: dict[str, NDArray[Any]]) -> WordTable:
        """The table that `state` describes."""
        table = cls(vocabulary)
        ends = np.append(0, np.cumsum(state["long_sizes"])).tolist()
        for start, end in pairwise(ends):
            key = state["long_ids"][start:end].astype("<i4").tobytes()
            table._numbers[key] = len(table)
            table._long.append(key)
        return table


class Ragged:
    """Rows of different lengths in one array, grown by `add`; `rows[i]` is a view."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._dtype = dtype
        self._parts: list[NDArray[Any]] = []
        self._sizes: list[int] = []
        self._joined: tuple[NDArray[Any], NDArray[np.int64]] | None = None

    @classmethod
    def of(cls, flat: NDArray[Any], ends: NDArray[np.int64]) -> Ragged:
        """From its two arrays (`flat`, `ends`)."""
        rows = cls(flat.dtype.type)
        rows._joined = (flat, ends)
        rows._sizes = np.diff(ends).tolist()
        return rows

    def add(self, row: NDArray[Any]) -> None:
        """One more row, copied."""
        self._parts.append(row.astype(self._dtype))
        self._sizes.append(len(row))

    def _join(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if self._parts or self._joined is None:
            before = [] if self._joined is None else [self._joined[0]]
            flat = np.concatenate([np.empty(0, self._dtype), *before, *self._parts])
            self._joined = (flat, np.append(0, np.cumsum(self._sizes)).astype(np.int64))
            self._parts = []
        return self._joined

    @property
    def flat(self) -> NDArray[Any]:
        """All rows behind one another."""
        return self._join()[0]

    @property
    def ends(self) -> NDArray[np.int64]:
        """int64[n + 1]: row i is flat[ends[i]:ends[i + 1]]."""
        return self._join()[1]

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, row: int) -> NDArray[Any]:
        flat, ends = self._join()
        return flat[ends[row] : ends[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))


def cut_to(words: Sequence[int] | NDArray[Any], sizes: NDArray[np.int64], limit: int) -> int:
    """How many whole words from the front have at most `limit` pieces together."""
    return int(np.searchsorted(np.cumsum(sizes), limit, side="right")) if len(words) else 0
