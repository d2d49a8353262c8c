"""Word rules: character classes, the automaton that cuts words, and the Unicode word rules of `english`."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEPARATOR, WORD, SINGLE, EXTEND = 0, 1, 2, 3
WIDTH = 32  # classes in a row of the automaton, at most
DEAD, START = 0, 1  # states; every other state is numbered from 2
MAX_BYTES = 255  # of one term in UTF-8


def ranges(*closed: tuple[int, int]) -> tuple[int, ...]:
    """Closed ranges of code points as sorted bounds, for `within`."""
    return tuple(bound for low, high in sorted(closed) for bound in (low, high + 1))


def within(code: int, bounds: tuple[int, ...]) -> bool:
    """True where a code point lies in one of the ranges."""
    return bisect_right(bounds, code) & 1 == 1


# Han, kana: each character is a token of its own. Unassigned places of these blocks count too, so that
# the answer does not depend on the Unicode version of the interpreter.
_SINGLES = ranges(
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3041, 0x3096), (0x309D, 0x309F),
    (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFD),
)  # fmt: skip

# Blocks whose every place has one class: filled at once, only to build the table faster.
_PLAIN_BLOCKS = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xD800, 0xDFFF), (0xE000, 0xF8FF),
    (0x18E00, 0x1AFEF), (0x20000, 0x3FFFD), (0x3FFFE, 0xE0000), (0xE0200, 0x10FFFF),
)  # fmt: skip


class _Classes(dict[str, int]):
    """Character -> class, filled on demand: the cold path never builds the whole table."""

    def __init__(self, classify: Callable[[str], int]) -> None:
        super().__init__()
        self._classify = classify

    def __missing__(self, char: str) -> int:
        value = self[char] = self._classify(char)
        return value


class Rules:
    """How text is cut into words: lower casing, character classes and a longest-match automaton over them.

    `steps` maps a state to {class: next state}; states are numbered from 2, 1 is the start, 0 is the end. A
    word is the longest accepted run from its first character, and the next one is looked for where it ended.
    What is read beyond that end is at most one punctuation mark with its combining characters, and a run that
    is accepted nowhere is skipped whole, so time is linear in the text. ASCII letters and digits must always
    join one another: the compiled path relies on it.
    `max_units`: a longer word is split there (UTF-16 units, as Lucene counts); 0: no limit.
    """

    def __init__(
        self,
        name: str,
        classify: Callable[[str], int],
        steps: dict[int, dict[int, int]],
        accepting: frozenset[int],
        lower: Callable[[str], str] = str.lower,
        max_units: int = 0,
    ) -> None:
        self.name = name
        self.classify = classify
        self.lower = lower
        self.max_units = max_units
        self.classes = _Classes(classify)
        self.accepting = bytes(state in accepting for state in range(max(steps) + 1))
        rows = bytearray(WIDTH * len(self.accepting))
        for state, row in steps.items():
            for class_, target in row.items():
                rows[state * WIDTH + class_] = target
        self.steps = bytes(rows)
        self._ascii = bytes(classify(chr(code)) if code < 128 else 0 for code in range(256))

    def class_bytes(self, text: str) -> bytes:
        """The class of each character of a lower-cased text."""
        if text.isascii():
            return text.encode().translate(self._ascii)
        return bytes(map(self.classes.__getitem__, text))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) character offsets of each word of a text that `lower` has already folded."""
        classes, limit = self.class_bytes(text), self.max_units
        position, length = 0, len(classes)
        while position < length:
            if not classes[position]:
                position += 1
                continue
            end, reach = self._match(classes, position, min(length, position + limit) if limit else length)
            if limit and (reach - position) * 2 > limit and (cut := _cut(text, position, limit)) < reach:
                end, reach = self._match(classes, position, cut)
            if end > position:
                yield position, end
                position = end
            else:
                position = max(reach, position + 1)

    def _match(self, classes: bytes, start: int, stop: int) -> tuple[int, int]:
        """(end of the longest accepted run from start, place where the automaton died or stopped)."""
        steps, accepting = self.steps, self.accepting
        state, end, position = START, start, start
        while position < stop:
            state = steps[state * WIDTH + classes[position]]
            if not state:
                break
            position += 1
            if accepting[state]:
                end = position
        return end, position

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """uint8[0x110000]: the class of every code point (about 30 ms to build, once a process)."""
        import numpy as np

        table = np.zeros(0x110000, dtype=np.uint8)
        position = 0
        for low, high in (*_PLAIN_BLOCKS, (0x110000, 0x110000)):
            table[position:low] = [self.classify(chr(code)) for code in range(position, low)]
            if low < 0x110000:
                table[low : high + 1] = self.classify(chr(low))
            position = high + 1
        return table


def _cut(text: str, start: int, units: int) -> int:
    """The end of the longest stretch from start that has at most so many UTF-16 units."""
    if text.isascii():
        return min(len(text), start + units)
    position = start
    while position < len(text):
        units -= 1 if text[position] <= "\uffff" else 2
        if units < 0:
            break
        position += 1
    return position


def _classify(char: str) -> int:
    code = ord(char)
    if within(code, _SINGLES):
        return SINGLE
    category = unicodedata.category(char)
    # Marks continue a word and never start one; so do soft hyphen, joiners and the half-width voicing marks.
    if category[0] == "M" or (category == "Cf" and code != 0x200B) or 0xFF9E <= code <= 0xFF9F:
        return EXTEND
    return WORD if char.isalnum() else SEPARATOR


_IN_WORD, _IN_SINGLE = 2, 3

UNICODE_WORDS = Rules(
    "unicode-words-1",
    _classify,
    {
        START: {WORD: _IN_WORD, SINGLE: _IN_SINGLE},
        _IN_WORD: {WORD: _IN_WORD, EXTEND: _IN_WORD},
        _IN_SINGLE: {EXTEND: _IN_SINGLE},
    },
    frozenset({_IN_WORD, _IN_SINGLE}),
)


def normalise(word: str) -> str:
    """One spelling for a word: no format characters; compatibility forms (ligatures, full width) composed.

    A compatibility form that is no word (a fraction's slash) keeps its own spelling.
    """
    if word.isascii():
        return word
    plain = "".join(char for char in word if unicodedata.category(char) != "Cf")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).lower())
    if all(UNICODE_WORDS.classes[char] for char in folded):
        return folded
    return unicodedata.normalize("NFC", plain)


def truncate(word: str) -> str:
    """The word, or as many of its whole characters as fit in MAX_BYTES."""
    if len(word) * 4 <= MAX_BYTES:
        return word
    return word.encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore")
