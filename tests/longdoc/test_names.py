"""What looks like a name in a text, and windows of words."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.longdoc.names import name_spans
from retrieval.longdoc.span_encoder import word_windows


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The Bank of the West, in Paris and London.", ["Bank of the West", "Paris", "London"]),
        ("In 1990 it bought a Boeing 747.", ["Boeing 747"]),
        ("Johnson & Johnson did not", ["Johnson & Johnson"]),
        ("Hegira, Hejira the flight of Muhammad", ["Hegira", "Hejira", "Muhammad"]),
        ("Leonardo da Vinci of the", ["Leonardo da Vinci"]),
        ("nothing here, of the kind", []),
        ("Lake  Superior\nMarie Curie", ["Lake", "Superior", "Marie Curie"]),
        ("Jean-Luc O'Neil's U.S. office", ["Jean-Luc O'Neil's U.S"]),
        ("One Two Three Four Five Six Seven Eight Nine", ["One Two Three Four Five Six Seven Eight", "Nine"]),
        ("", []),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    assert [text[start:end] for start, end in name_spans(text)] == names


@given(st.text(st.sampled_from("aB7 ,&of\n"), max_size=60))
def test_names_lie_in_order_and_apart(text: str) -> None:
    spans = name_spans(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert all(text[start].isupper() for start, _ in spans)


def test_windows_of_words_cover_the_text() -> None:
    text = " ".join(f"w{at}" for at in range(21))
    found = [text[start:end].split() for start, end in word_windows(text)]
    assert [words[0] for words in found] == ["w0", "w4", "w8", "w12", "w16"]
    assert [len(words) for words in found] == [8, 8, 8, 8, 5]
    assert word_windows("a b") == [(0, 3)]
    assert word_windows(" . ") == []
