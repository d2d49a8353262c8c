"""Sentences: spans that cover the text, line breaks, windows over long runs, scripts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from retrieval.longdoc import sentences
from retrieval.longdoc.sentences import sentence_spans
from tests.longdoc.splitting import texts


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@given(texts)
def test_spans_cover_the_text(text: str) -> None:
    found = split(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in found)
    assert all(before[1] <= after[0] for before, after in pairwise(sentence_spans(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Wu paid $3.50 at 5 p.m. once. He left!", ["Dr. Wu paid $3.50 at 5 p.m. once.", "He left!"]),
        ("これは文です。次の文です！Это другое. А это? वह गया। Done.",
         ["これは文です。", "次の文です！", "Это другое.", "А это?", "वह गया।", "Done."]),
        ("Ann: Hm .\nBob: No", ["Ann: Hm .", "Bob: No"]),
        ("Prose that\ngoes on in\r\nlower case.", ["Prose that\ngoes on in\r\nlower case."]),
        ("a paragraph\n\nand another", ["a paragraph", "and another"]),
        ("🙂👍🏽 Yes. 🙂 No.", ["🙂👍🏽 Yes.", "🙂 No."]),
        (" \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_a_language_has_its_own_abbreviations() -> None:
    text = "Das gilt bzw. Gas kostet mehr. Ende."
    assert len(sentence_spans(text, "de")) == 2
    assert len(sentence_spans(text, "en")) == len(sentence_spans(text, "unknown")) == 3


def test_windows_over_a_long_run_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"Sentence {'very ' * (number % 23)}long is number {number}." for number in range(300))
    whole = sentence_spans(text)
    assert len(whole) == 300
    for size in (200, 333, 1000):  # 23 words of five letters fit
        monkeypatch.setattr(sentences, "_WINDOW", size)
        assert sentence_spans(text) == whole


def test_a_sentence_longer_than_a_window_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"First one. {'Word' + ' word' * 500}. {'X' * 500}. Last one."
    for size in range(60, 80):  # the end of the sentence and that of a window meet
        monkeypatch.setattr(sentences, "_WINDOW", size)
        assert [len(sentence) for sentence in split(text)] == [10, 2505, 501, 9]
