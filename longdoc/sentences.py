"""Sentences of a text as character spans: sentencex, kept linear on any input, and line breaks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

try:
    from sentencex import get_sentence_boundaries
except ImportError as error:
    from retrieval.errors import MissingExtra

    raise MissingExtra("long", "splitting texts into sentences") from error

from retrieval.index.text_tokens import clean

_WINDOW = 1 << 15  # characters that sentencex sees at a time: it is quadratic in unclosed quotation marks
_BREAK = re.compile(r"[^\S\n]*\n\s*")


def sentence_spans(text: str, language: str = "en") -> list[tuple[int, int]]:
    """(start, end) of each sentence, in characters of the text, in order and without white space around.

    All that is not white space lies in exactly one of them. language: a code of ISO 639 that sentencex knows
    (abbreviations differ); an unknown one is read by its general rules. A line break ends a sentence, as
    transcripts and lists need, unless the next line goes on in lower case (wrapped prose). Time is linear in
    the text's length.
    """
    text = clean(text)
    spans = []
    for start, end in _runs(text):
        edges = [*_sentences(text, start, end, language), end]
        spans += [_strip(text, *edge) for edge in pairwise(edges)]
    return [(start, end) for start, end in spans if start < end]


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Parts of the text within which no line break ends a sentence."""
    start = 0
    for found in _BREAK.finditer(text):
        after = found.end()
        if found.group().count("\n") == 1 and text[after : after + 1].islower():
            continue
        if found.start() > start:
            yield start, found.start()
        start = after
    if start < len(text):
        yield start, len(text)


def _sentences(text: str, start: int, end: int, language: str) -> Iterator[int]:
    """Where sentences of text[start:end] begin, `start` first.

    A window moves over the run. Its last sentence may go on behind it, so the next window begins with that;
    where one sentence fills a window, with its last word, which decides whether a sentence ends there.
    """
    yield start
    while end - start > _WINDOW:
        edge = start + _WINDOW
        found = _starts(text[start:edge], language)
        yield from (start + at for at in found)
        word = text.rfind(" ", start + _WINDOW // 2, edge) + 1
        start = start + found[-1] if found else word or edge
    yield from (start + at for at in _starts(text[start:end], language))


def _starts(part: str, language: str) -> list[int]:
    """Where sentences but the first begin in a part of the text."""
    found = {int(each["start_index"]) for each in get_sentence_boundaries(language, part)}
    return sorted(at for at in found if 0 < at < len(part))


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
