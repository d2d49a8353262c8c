"""The compiled tokeniser: equal to `terms` on every text, growth, text boundaries, long words."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.analysis import analyzer
from retrieval.index.lucene import STANDARD
from retrieval.index.tokenize import PADDING, _keys
from retrieval.index.unicode import UNICODE_WORDS, Rules

NAMES = ["english", "lucene", "words", "german", "turkish", "arabic"]
# Characters at which word rules, lower casing and UTF-8 decoding can go wrong.
HARD = [
    *"abzABZ019 .,;:'\"_-\n\t\0/",
    *"\u00a9\u00ad\u00aa\u00b2\u00b7\u00bd\u00df\u00e9\u0130\u0131\u01c5\u0300\u0301\u0345\u03a3\u03c2\u03c3",
    *"\u05d0\u05d1\u0660\u066b\u0e01\u0e31\u0e33\u1ec7\u200b\u200c\u200d\u2019\u202f\u2060\u20e3\u2160\u24b6",
    *"\u3005\u3042\u304b\u3099\u30ab\u30fc\u4e2d\uac00\ud800\udfff\ufb01\ufe0f\ufeff\uff21\uff76\uff9e\ufdfa",
    *"\U00010400\U0001d400\U0001f1e9\U0001f3fd\U0001f44d\U0001f600\U00020000\U000e0101\U0010ffff",
    *("word", "it's", "O'Neil's", "3.14", "logy", "\u039f\u0394\u039f\u03a3", "the"),
]
hard_text = st.lists(st.sampled_from(HARD), max_size=30).map("".join)
any_text = st.text(st.characters(exclude_categories=[]), max_size=60)


def encoded(name: str, texts: list[str], batch: int = 1_000) -> list[list[str]]:
    encoder = analyzer(name).encoder()
    found = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        offsets, ids = encoder.encode(part)
        assert offsets.dtype == np.int64
        assert ids.dtype == np.int32
        assert offsets[0] == 0
        assert len(offsets) == len(part) + 1
        assert offsets[-1] == len(ids)
        words = [encoder.terms[i] for i in ids]
        found += [words[low:high] for low, high in pairwise(offsets)]
    return found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(hard_text | any_text, max_size=5))
def test_encode_equals_terms(name: str, texts: list[str]) -> None:
    cold = analyzer(name)
    assert encoded(name, texts) == [cold.terms(text) for text in texts]


@pytest.mark.parametrize("rules", [UNICODE_WORDS, STANDARD], ids=lambda rules: rules.name)
def test_the_table_holds_the_class_of_every_code_point(rules: Rules) -> None:
    step = 7  # every code point takes seconds; a step of 7 meets every block
    codes = range(0, 0x110000, step)
    assert rules.table[::step].tolist() == [rules.classify(chr(code)) for code in codes]


@pytest.mark.parametrize("rules", [UNICODE_WORDS, STANDARD], ids=lambda rules: rules.name)
def test_ascii_letters_and_digits_join_in_every_state(rules: Rules) -> None:
    # The compiled path takes such a run without asking the automaton.
    text = "a1b22cc3"
    for start in range(len(text)):
        assert list(rules.spans(text[start:])) == [(0, len(text) - start)]


def test_ids_are_dense_in_order_of_first_sight() -> None:
    encoder = analyzer("english").encoder()
    offsets, ids = encoder.encode(["Dogs the runs", "running dog cats"])
    assert encoder.terms == ["dog", "run", "cat"]
    assert ids.tolist() == [0, 1, 1, 0, 2]
    assert offsets.tolist() == [0, 2, 5]
    _, ids = encoder.encode(["cat bird Bird's"])
    assert ids.tolist() == [2, 3, 3, 4]
    assert encoder.terms[3:] == ["bird", "s"]


def test_a_nul_in_a_text_is_a_separator_and_no_end_of_text() -> None:
    assert encoded("words", ["a\0b", "\0", "c"]) == [["a", "b"], [], ["c"]]
    assert encoded("words", ["\u00e4\0b", "\0", "c"]) == [["\u00e4", "b"], [], ["c"]]


def test_no_texts_and_empty_texts() -> None:
    assert encoded("english", []) == []
    offsets, ids = analyzer("english").encoder().encode([])
    assert offsets.tolist() == [0]
    assert ids.tolist() == []
    assert encoded("english", ["", " ", "the", ""]) == [[], [], [], []]


def test_the_densest_text() -> None:
    # One byte and two bytes in turn, each a token: more tokens than half the bytes.
    assert encoded("lucene", ["x\u00a9" * 50_000]) == [["x", "\u00a9"] * 50_000]


def test_final_sigma_does_not_see_the_next_text() -> None:
    # str.lower() looks at the neighbours of a capital sigma; a batch is not one text.
    texts = ["\u039f\u03a3", "\u0391", "\u03a3", "\u0391\u03a3 \u0391"]
    assert encoded("words", texts) == [analyzer("words").terms(text) for text in texts]
    assert encoded("words", texts)[0] == ["\u03bf\u03c2"]


def test_it_grows_over_many_batches() -> None:
    chance = random.Random(4)
    letters = "abcdefgh\u00e9"
    texts = [
        " ".join("".join(chance.choices(letters, k=chance.randint(1, 24))) for _ in range(60))
        for _ in range(3_000)
    ]
    encoder = analyzer("words").encoder()
    before = encoder.nbytes
    known: dict[str, int] = {}
    for start in range(0, len(texts), 700):
        part = texts[start : start + 700]
        _, ids = encoder.encode(part)
        expected = [known.setdefault(word, len(known)) for text in part for word in text.split()]
        assert ids.tolist() == expected
    assert encoder.terms == list(known)
    assert len(known) > 100_000
    assert encoder.nbytes > before + sum(map(len, known))


def test_two_words_with_the_same_hash_are_told_apart() -> None:
    # Found by search: equal first bytes, equal length, equal 56-bit hash. Only their bytes differ.
    words = ["collides3dgig25ubdlpwrjf", "collidesticrv56duvz05x8i"]
    keys = [_keys(np.frombuffer(word.encode() + bytes(PADDING), dtype=np.uint8), 0, 24) for word in words]
    assert keys[0] == keys[1]
    assert encoded("words", [" ".join(words * 2)]) == [words * 2]


def test_words_that_share_their_first_eight_bytes_and_length_are_told_apart() -> None:
    words = [f"{'x' * 8}{i:020d}{'y' * (i % 3)}" for i in range(5_000)]
    words += ["a" * n for n in range(1, 256)]
    assert encoded("words", [" ".join(words)]) == [words]


@pytest.mark.parametrize("name", ["words", "lucene"])
@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u0e01", "\U00010428"])
@pytest.mark.parametrize("length", [63, 64, 84, 85, 86, 126, 127, 128, 254, 255, 256, 300, 511, 600])
def test_long_words(name: str, letter: str, length: int) -> None:
    text = f"{letter * length} b"
    terms = analyzer(name).terms(text)
    assert encoded(name, [text]) == [terms]
    assert all(len(term.encode()) <= 255 for term in terms)
    assert terms[-1] == "b"
    units = length * (2 if letter > "\uffff" else 1)
    if name == "words":  # cut, the rest skipped
        assert terms[:-1] == [letter * min(length, 255 // len(letter.encode()))]
    else:  # split as Lucene splits
        assert len(terms) - 1 == -(-length // (255 // (units // length)))


@pytest.mark.parametrize("name", ["english", "lucene", "german"])
def test_a_long_word_is_cut_before_it_is_stemmed(name: str) -> None:
    suffixes = ("ies", "ings", "\u00fcngen", "\u2019s")
    texts = ["b" * length + suffix for length in range(250, 256) for suffix in suffixes]
    assert encoded(name, texts) == [analyzer(name).terms(text) for text in texts]


@pytest.mark.parametrize(
    "unit", ["a", "_", "'", "a.\u0301", "\u0301", "\u4e2d", "\U0001f1e9", "\u3042\u3099"]
)
@pytest.mark.parametrize("name", ["english", "lucene"])
def test_a_megabyte_without_white_space(name: str, unit: str) -> None:
    # Without the linear-time guards these take hours, not seconds.
    text = unit * (1_000_000 // len(unit.encode()))
    offsets, _ = analyzer(name).encoder().encode([text, "end"])
    assert offsets[2] - offsets[1] == 1
    short = text[:100_000]
    assert encoded(name, [short]) == [analyzer(name).terms(short)]
