"""What the tests of blocks share: tokenizers of ten lines, and texts of random sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray


def words(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """A token is a word."""
    return [
        np.array([m.span() for m in re.finditer(r"\S+", text)], np.int64).reshape(-1, 2) for text in texts
    ]


def pieces(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """As WordPiece: words in pieces of three letters, other characters alone, control characters nothing."""
    pattern = re.compile(r"[^\W_]{1,3}|[^\w\s\x00-\x1f]|_")
    return [np.array([m.span() for m in pattern.finditer(text)], np.int64).reshape(-1, 2) for text in texts]


def octets(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """As byte-level vocabularies: a token a byte, all of one character with the same place; spaces too."""
    return [
        np.array(
            [(i, i + 1) for i, char in enumerate(text) for _ in char.encode("utf-8", "replace")], np.int64
        ).reshape(-1, 2)
        for text in texts
    ]


Tokenizer = Callable[[Sequence[str]], list[NDArray[np.int64]]]
tokenizers = st.sampled_from([words, pieces, octets])
capacities = st.integers(1, 12)

# Anything, with what matters to a splitter made likely.
texts = st.lists(
    st.one_of(
        st.sampled_from(
            [". ", "! ", "? ", "\n", "\n\n", " ", " ", "。", "। ", '"', "“", "(", ")", "# ", "Ann Lee: ",
             "II. ", "TITLE", "Mr. ", "x" * 40, "字" * 9, "🙂", "\u200b", "\x00", "\ud800", "e\u0301",
             "مرحبا ", "=====\n"]
        ),
        st.text(max_size=6),
        st.from_regex(r"[A-Za-z]{1,8}", fullmatch=True),
    ),
    max_size=40,
).map("".join)  # fmt: skip

# Sentences whose ends nobody can mistake: lists of the number of words of each.
lengths = st.lists(st.integers(1, 40), max_size=30)


def document(counts: Sequence[int]) -> str:
    """A text of sentences of so many words, one a line."""
    return "\n".join(" ".join(["Word", *["word"] * (count - 1)]) for count in counts)
