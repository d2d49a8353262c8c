"""Analyzers, text to terms: `analyzer("english")`; the identity is stored in the index and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from retrieval.errors import UnknownName
from retrieval.index import stopwords
from retrieval.index.stemming import Stem, languages, lucene_porter, snowball
from retrieval.index.unicode import UNICODE_WORDS, Rules, normalise, truncate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CACHE_WORDS = 50_000  # a query analyzer that serves for months must not grow


class TermEncoder(Protocol):
    """Numbers terms over many batches. Not for several threads at once."""

    terms: list[str]  # term id -> term

    @property
    def nbytes(self) -> int:
        """Estimate of the memory held, in bytes."""

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets int64[n + 1], term ids int32[offsets[n]]), ids dense in order of first sight."""


class Analyzer(Protocol):
    """Text to terms. `encoder().encode` gives the same terms as `terms`, for every text."""

    name: str

    @property
    def identity(self) -> dict[str, str]:
        """What decides the terms; two analyzers with the same identity give the same terms."""

    def terms(self, text: str) -> list[str]:
        """The terms of a text in order, repeats kept, stop words removed."""

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, term) of each term, in characters of the text as it was given."""

    def encoder(self) -> TermEncoder:
        """A new encoder without terms; the compiled path (numba)."""


class _Terms(dict[bytes, str]):
    """UTF-8 word -> term, "" for a stop word; emptied when full."""

    def __init__(self, analyzer: WordAnalyzer) -> None:
        super().__init__()
        self._analyzer = analyzer

    def __missing__(self, word: bytes) -> str:
        if len(self) >= _CACHE_WORDS:
            self.clear()
        term = self[word] = self._analyzer.terms_of([truncate(word.decode())])[0]
        return term


class WordAnalyzer:
    """Words by rule, one spelling each (`prepare`), then stop list, then stemmer; each distinct word once."""

    def __init__(
        self,
        name: str,
        rules: Rules,
        stop: frozenset[str] = stopwords.NONE,
        stemmer: str = "none",
        stem: Stem | None = None,
        prepare: Callable[[str], str] = normalise,
    ) -> None:
        self.name = name
        self.rules = rules
        self.stop = stop
        self.stemmer = stemmer
        self._stem = stem
        self._prepare = prepare
        self._ascii_is_plain = prepare is normalise
        self._cache = _Terms(self)
        self._plain = bytes(self.rules.class_bytes(chr(code).lower())[0] for code in range(128))
        self._split = bytes(
            ord(chr(code).lower()) if self._plain[code] else 32 for code in range(128)
        ) + bytes(128)

    def __repr__(self) -> str:
        return f"analyzer({self.name!r})"

    @property
    def identity(self) -> dict[str, str]:
        """Name, word rules with their version, sha256 of the stop list, stemmer."""
        return {
            "name": self.name,
            "rules": self.rules.name,
            "stop": stopwords.digest(self.stop),
            "stemmer": self.stemmer,
        }

    def terms_of(self, words: Sequence[str]) -> list[str]:
        """The term of each word that the rules cut; "" for a stop word."""
        plain = (
            words
            if self._ascii_is_plain and all(map(str.isascii, words))
            else list(map(self._prepare, words))
        )
        stemmed = self._stem(plain) if self._stem else plain
        stop = self.stop
        return [
            "" if word in stop else term if len(term) < 64 else truncate(term)
            for word, term in zip(plain, stemmed)
        ]

    def terms(self, text: str) -> list[str]:
        """The terms of a text in order, repeats kept, stop words removed."""
        cache = self._cache
        if text.isascii() and not self.rules.max_units and len(text) < 1000:
            return [term for word in text.encode().translate(self._split).split() if (term := cache[word])]
        return [term for _, _, term in self.spans(text)]

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, term) of each term, in characters of the text as it was given."""
        lowered = self.rules.lower(text)
        cache = self._cache
        found = [
            (start, end, term)
            for start, end in self.rules.spans(lowered)
            if (term := cache[truncate(lowered[start:end]).encode()])
        ]
        if len(lowered) == len(text):
            return found
        # A character that became several (I with a dot): back from places in the lowered text.
        places = [i for i, char in enumerate(text) for _ in self.rules.lower(char)]
        return [(places[start], places[end - 1] + 1, term) for start, end, term in found]

    def encoder(self) -> TermEncoder:
        """A new encoder without terms (imports numba; about 30 ms for the class table, once a process)."""
        from retrieval.index.encoder import WordEncoder

        return WordEncoder(self)


def analyzer(name: str = "english") -> Analyzer:
    """The analyzer of this name.

    `english` (default), `lucene`, `words` or `none`, a Snowball language (`german` or `snowball:german`),
    `wordpiece:FILE`. Raises UnknownName, which suggests the nearest.
    """
    kind, _, rest = name.partition(":")
    if kind == "wordpiece":
        from retrieval.index.wordpiece import WordPieceAnalyzer

        return WordPieceAnalyzer(name, rest)
    if name in ("words", "none"):
        return WordAnalyzer("words", UNICODE_WORDS)
    if name == "lucene":
        from retrieval.index.lucene import STANDARD, without_possessive

        return WordAnalyzer(
            name, STANDARD, stopwords.ENGLISH, "porter-lucene", lucene_porter(), without_possessive
        )
    language = name.removeprefix("snowball:")
    if language in languages():
        stop = stopwords.stop_list(language)
        return WordAnalyzer(language, UNICODE_WORDS, stop, f"snowball-{language}", snowball(language))
    prefix = "snowball:" if kind == "snowball" else ""
    known = ["lucene", "none", "words", "wordpiece:FILE", *(prefix + known for known in languages())]
    raise UnknownName("analyzer", name, known)
