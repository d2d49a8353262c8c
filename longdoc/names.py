"""Where a text names something: runs of capitalised words, a rule that needs no model."""

from __future__ import annotations

import re

from retrieval.index.stopwords import NLTK_ENGLISH

_WORD = re.compile(r"[^\W_](?:[^\W_]|['’.&-](?=[^\W_]))*")
_LINKS = frozenset(
    ["of", "the", "de", "la", "du", "del", "da", "di", "von", "van", "der", "den", "al", "bin"]
)
_LINKED = 2  # such words that may stand between two of a name
_MOST = 8  # words of a name


def name_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of what looks like a name, in order; they do not overlap.

    A name begins with a capitalised word that is no stop word (sentences begin with them), goes on with such
    words, numbers, and small words in between, and ends with one of the first two: `Lake Superior`, `Bank of
    the West`, `Boeing 747`. Anything but one space, or ` & `, between two words parts them.
    """
    found: list[tuple[int, int]] = []
    name: tuple[int, int] | None = None  # of the name that is being read
    words = links = last = 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        word = match[0]
        if name is not None and (text[last:start] not in (" ", " & ") or words >= _MOST or links > _LINKED):
            found.append(name)
            name = None
        last = end
        if name is None:
            if word[0].isupper() and word.lower() not in NLTK_ENGLISH:
                name, words, links = (start, end), 1, 0
        elif word[0].isupper() or word[0].isdigit():
            name, words, links = (name[0], end), words + links + 1, 0
        elif word in _LINKS:
            links += 1
        else:
            found.append(name)
            name = None
    return [*found, name] if name is not None else found
