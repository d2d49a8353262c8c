"""Where the tokens of a long text lie: tables of character spans, made in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.text_tokens import _calls, _pieces

# Texts to the (start, end) of each token of each text, int64, shape (tokens, 2), without special tokens;
# such as the method `offsets` of index/text_tokens.py's Tokens and index/vocabulary.py's Vocabulary.
Offsets: TypeAlias = Callable[[Sequence[str]], Sequence[NDArray[np.int64]]]

_HELD = 1 << 20  # characters of texts that are tokenised together
_SPACES = np.array([c for c in range(0x3001) if chr(c).isspace()], np.uint32)


class TokenTable:
    """The tokens of one text and where it can be cut between them.

    starts, ends: int64, shape (tokens,), non-decreasing characters. Cut k, from 0 to tokens, stands before
    token k. `sound[k]`: no character lies on both sides of it; `spaced[k]`: white space is there.
    """

    def __init__(self, text: str, spans: NDArray[np.int64]) -> None:
        self.text = text
        self.starts: NDArray[np.int64] = np.maximum.accumulate(spans[:, 0])
        self.ends: NDArray[np.int64] = np.maximum.accumulate(spans[:, 1])
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        seen = np.concatenate([[0], np.cumsum(np.isin(codes, _SPACES))])  # white space before each character
        self.sound = np.ones(len(spans) + 1, np.bool_)
        self.spaced = np.ones(len(spans) + 1, np.bool_)
        if len(spans):
            self.sound[1:-1] = self.starts[1:] >= self.ends[:-1]
            # The first character counts too: tokens of byte-level vocabularies begin with their space.
            behind = np.minimum(self.starts[1:] + 1, len(text))
            self.spaced[1:-1] = self.sound[1:-1] & (seen[behind] > seen[self.ends[:-1]])

    def __len__(self) -> int:
        return len(self.starts)

    def place(self, cut: int) -> int:
        """The character where a cut stands."""
        if cut in (0, len(self)):
            return len(self.text) if cut else 0
        return int(self.starts[cut])

    def before(self, place: int) -> int:
        """How many tokens end at or before a character: the cut that stands there."""
        return int(np.searchsorted(self.ends, place, "right"))

    def cut(self, first: int, last: int, room: int, behind: int = 0) -> int:
        """Where tokens first to last are cut, later than `behind`, so that at most `room` stand before it.

        At the last white space in the second half of the room, so that a word stays whole and its tokens the
        same; else at the last sound cut; else, where one character has more tokens than `room`, behind it.
        """
        if last - first <= room:
            return last
        for allowed, low in ((self.spaced, first + room // 2 + 1), (self.sound, first + 1)):
            low = max(low, behind + 1)
            found = np.flatnonzero(allowed[low : first + room + 1])
            if len(found):
                return low + int(found[-1])
        after = int(np.flatnonzero(self.sound[first + room + 1 :])[0])
        return min(first + room + 1 + after, last)

    def reopen(self, first: int, last: int) -> int:
        """Where a window that may begin at `first` to `last` begins: at white space if there is any."""
        for allowed in (self.spaced, self.sound):
            found = np.flatnonzero(allowed[first : last + 1])
            if len(found):
                return first + int(found[0])
        return last


def token_tables(texts: Sequence[str], offsets: Offsets) -> Iterator[TokenTable]:
    """The table of each text, in order; memory is that of one table and of some 4 million characters' tokens.

    Long texts are tokenised in pieces that end before white space where there is any. Raises UserError where
    the answers of `offsets` cannot be offsets of its texts.
    """
    begun, held = 0, 0
    for at, text in enumerate(texts):
        held += len(text)
        if held >= _HELD or at == len(texts) - 1:
            yield from _read(texts[begun : at + 1], offsets)
            begun, held = at + 1, 0


def _read(texts: Sequence[str], offsets: Offsets) -> Iterator[TokenTable]:
    parts = [_pieces(text) for text in texts]
    flat = [piece for pieces in parts for piece in pieces]
    answers = iter([spans for first, last in _calls(flat) for spans in _checked(flat[first:last], offsets)])
    for text, pieces in zip(texts, parts):
        begin = np.cumsum([0, *map(len, pieces)])
        spans = [next(answers) + start for start in begin[:-1]]
        yield TokenTable(text, np.concatenate(spans))


def _checked(texts: Sequence[str], offsets: Offsets) -> list[NDArray[np.int64]]:
    found = [np.asarray(spans, np.int64).reshape(-1, 2) for spans in offsets(texts)]
    if len(found) != len(texts):
        raise UserError(
            f"offsets of {len(found)} texts came back for {len(texts)}; return one array per text"
        )
    for text, spans in zip(texts, found):
        if len(spans) and (spans.min() < 0 or spans.max() > len(text) or (spans[:, 0] > spans[:, 1]).any()):
            raise UserError(
                f"offsets {spans.min()} to {spans.max()} came back for {len(text)} characters of text; "
                "return (start, end), counted in characters from the text's start"
            )
    return found
