"""Analyzers: words of every kind of script, stop words, stems, spans, names, identities."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UnknownName
from retrieval.index import stopwords
from retrieval.index.analysis import WordAnalyzer, analyzer
from retrieval.index.stemming import languages
from retrieval.index.unicode import UNICODE_WORDS, truncate

NAMES = ["english", "lucene", "words", "german"]
any_text = st.text(st.characters(exclude_categories=[]), max_size=80)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Solar-wind, 3.14 (x2)", ["solar", "wind", "3", "14", "x2"]),
        ("it's foo_bar", ["it", "s", "foo", "bar"]),
        ("", []),
        (" \t\n\u00a0\u3000\x85", []),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "caf\u00e9"]),  # composed and not: one word
        ("\u0301a \u0301", ["a"]),  # a mark does not start a word
        ("Stra\u00dfe STRASSE", ["stra\u00dfe", "strasse"]),
        ("I \u0131 \u0130", ["i", "\u0131", "i\u0307"]),  # lower case, whatever the locale
        ("\u039f\u0394\u039f\u03a3 \u03a3\u0391", ["\u03bf\u03b4\u03bf\u03c2", "\u03c3\u03b1"]),
        ("\ufb01re o\ufb03ce \uff21\uff42\uff43\uff11", ["fire", "office", "abc1"]),
        ("x\u00b2 \u00bd \u2163", ["x2", "\u00bd", "iv"]),
        ("zero\u200dwidth soft\u00adhyphen\u200bspace", ["zerowidth", "softhyphen", "space"]),
        ("\u6771\u4eac\u30bf\u30ef\u30fc x", ["\u6771", "\u4eac", "\u30bf", "\u30ef", "\u30fc", "x"]),
        ("\u304b\u3099 \uff76\uff9e", ["\u304c", "\u30ac"]),  # kana with a voicing mark: one token
        ("a\u4e2db", ["a", "\u4e2d", "b"]),
        ("\ud55c\uad6d\uc5b4", ["\ud55c\uad6d\uc5b4"]),
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"]),
        (
            "\u0643\u0650\u062a\u064e\u0627\u0628 \u0664\u0662",
            ["\u0643\u0650\u062a\u064e\u0627\u0628", "\u0664\u0662"],
        ),
        ("\U0001f600a\U0001f468\u200d\U0001f469\ufe0fb", ["a", "b"]),
        ("a\ud800b\udfff", ["a", "b"]),
        ("\U00010400 \U00020000x", ["\U00010428", "\U00020000", "x"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert analyzer("words").terms(text) == words


def test_english_stops_then_stems() -> None:
    assert analyzer().terms("The Runners were running AND ran to its houses") == [
        "runner", "were", "run", "ran", "it", "hous",
    ]  # fmt: skip
    # "its" is no stop word though its stem is one: the list is asked before the stemmer.
    assert analyzer().name == "english"


def test_repeats_and_order_are_kept() -> None:
    assert analyzer().terms("winds wind solar wind") == ["wind", "wind", "solar", "wind"]


def test_the_english_list_has_33_words() -> None:
    assert len(stopwords.ENGLISH) == 33
    assert analyzer("english").terms(" ".join(stopwords.ENGLISH)) == []
    assert stopwords.stop_list("german") == frozenset()


@pytest.mark.parametrize("language", languages())
def test_every_snowball_language(language: str) -> None:
    plain, prefixed = analyzer(language), analyzer(f"snowball:{language}")
    assert plain.identity == prefixed.identity
    assert plain.identity["stemmer"] == f"snowball-{language}"
    text = "H\u00e4user nationalities \u043a\u043d\u0438\u0433\u0438 \u0628\u064a\u062a"
    assert plain.terms(text) == prefixed.terms(text)
    assert len(plain.terms(text)) == 4


def test_stemmers_differ() -> None:
    assert analyzer("german").terms("H\u00e4user") == ["haus"]
    assert analyzer("french").terms("continuellement") == ["continuel"]
    assert analyzer("words").terms("houses") == ["houses"]


@pytest.mark.parametrize("name", NAMES)
@given(text=any_text)
def test_spans_point_into_the_original_text(name: str, text: str) -> None:
    spans = analyzer(name).spans(text)
    assert [term for _, _, term in spans] == analyzer(name).terms(text)
    last = 0
    for start, end, term in spans:
        assert last <= start < end <= len(text)
        last = end
        if name != "lucene":  # there a word in isolation may be cut again: "a.b" is one, "a." is not
            assert analyzer(name).terms(text[start:end])[:1] == [term] or "\u03a3" in text


def test_spans_behind_a_character_that_grows_in_lower_case() -> None:
    text = "\u0130\u0130 \u0130stanbul Dogs \u0130"
    assert [text[start:end] for start, end, _ in analyzer().spans(text)] == text.split()
    assert analyzer().spans(text)[2] == (12, 16, "dog")
    assert analyzer("lucene").spans(text)[2] == (12, 16, "dog")


def test_spans_leave_stop_words_out() -> None:
    assert analyzer().spans("The running Dogs") == [(4, 11, "run"), (12, 16, "dog")]
    assert analyzer("lucene").spans("it's the dog's") == [(9, 14, "dog")]


def test_a_long_word_is_cut_at_255_bytes() -> None:
    for text, term in [("x" * 3_000, "x" * 255), ("\u00e9" * 3_000, "\u00e9" * 127)]:
        assert analyzer("words").terms(f"{text} end") == [term, "end"]
        assert analyzer("words").spans(f"{text} end") == [(0, 3_000, term), (3_001, 3_004, "end")]
    assert analyzer("words").terms("x" * 300) == analyzer("words").terms("x" * 256)  # short texts too
    assert truncate("\U00010428" * 64) == "\U00010428" * 63


def test_the_cache_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.index.analysis._CACHE_WORDS", 10)
    words = analyzer("words")
    assert isinstance(words, WordAnalyzer)
    for i in range(100):
        assert words.terms(f"word{i} again") == [f"word{i}", "again"]
        assert len(words._cache) <= 10


def test_identity_tells_analyzers_apart() -> None:
    english, words = analyzer("english").identity, analyzer("none").identity
    assert english == {
        "name": "english",
        "rules": "unicode-words-1",
        "stop": "5ab0bdc84068272da9eaf89365d149e89567e7583715c83b3f56483daa1f2b73",
        "stemmer": "snowball-english",
    }
    assert words["name"] == "words"
    identities = [analyzer(name).identity for name in [*NAMES, *languages()]]
    assert len({tuple(sorted(identity.items())) for identity in identities}) == len(languages()) + 2
    assert analyzer("snowball:english").identity == english


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("englsh", "english"),
        ("Lucene", "lucene"),
        ("snowball:germann", "snowball:german"),
        ("", None),
        ("klingon", None),
    ],
)
def test_unknown_names(name: str, near: str | None) -> None:
    with pytest.raises(UnknownName) as caught:
        analyzer(name)
    assert repr(name) in str(caught.value)
    if near:
        assert f"did you mean '{near}'?" in str(caught.value)


def test_repr_rebuilds() -> None:
    assert repr(analyzer("snowball:german")) == "analyzer('german')"


def test_the_cold_path_imports_no_compiler(root: Path) -> None:
    code = (
        "import sys; from retrieval.index.analysis import analyzer; "
        "[analyzer(n).spans('The S\u00f6lar winds') for n in ('english', 'lucene')]; "
        "print([m for m in ('numpy', 'numba', 'tokenizers', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_classes_do_not_depend_on_the_order_of_asking() -> None:
    asked = UNICODE_WORDS.class_bytes("a\u4e2d\u0301 ")
    assert asked == bytes([1, 2, 3, 0])
