"""The `lucene` analyzer against terms that Lucene 9.9.1's EnglishAnalyzer gave, and its Porter stemmer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from retrieval.index.analysis import analyzer
from retrieval.index.stemming import lucene_porter, porter, snowball

SUFFIXES = """
ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness fulness ousness aliti
iviti biliti logi icate ative alize iciti ical ful ness al ance er ic able ant ement ment ent ion ou ism ate
iti ous ive ize ed ing eed ies sses y s e ll zz kk 's
"""
# [text, terms] pairs by EnglishAnalyzer (of Anserini 1.7.1's jar): by hand, and random hard characters.
GOLDEN = json.loads((Path(__file__).parent / "lucene_terms.json").read_text())


def test_the_terms_of_lucene() -> None:
    assert len(GOLDEN) > 150
    lucene = analyzer("lucene")
    assert [[text, lucene.terms(text)] for text, _ in GOLDEN] == GOLDEN


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("it's O'Neil's", ["o'neil"]),
        ("3.14 1,000 wi-fi foo_bar a.b. x:y", ["3.14", "1,000", "wi", "fi", "foo_bar", "a.b", "x:y"]),
        ("___ _x_", ["_x_"]),
        ("dogs\u2019 dog\u2019s", ["dog", "dog"]),
        ("\u4e2d\u6587\u30ab\u30bf", ["\u4e2d", "\u6587", "\u30ab\u30bf"]),
        ("1st 2nd", ["1st", "2nd"]),
    ],
)
def test_standard_rules(text: str, terms: list[str]) -> None:
    assert analyzer("lucene").terms(text) == terms


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("caresses", "caress"), ("ponies", "poni"), ("cats", "cat"), ("agreed", "agre"), ("feed", "feed"),
        ("plastered", "plaster"), ("motoring", "motor"), ("hopping", "hop"), ("falling", "fall"),
        ("filing", "file"), ("happy", "happi"), ("sky", "sky"), ("relational", "relat"),
        ("rational", "ration"), ("digitizer", "digit"), ("vietnamization", "vietnam"),
        ("triplicate", "triplic"), ("formative", "form"),
        ("hopefulness", "hope"), ("adoption", "adopt"), ("replacement", "replac"), ("probate", "probat"),
        ("rate", "rate"), ("cease", "ceas"), ("controll", "control"), ("roll", "roll"),
        ("as", "as"), ("assembly", "assembl"), ("apologies", "apolog"), ("grokking", "grok"),
        ("tryying", "try"),
    ],
)  # fmt: skip
def test_porter(word: str, stem: str) -> None:
    assert porter(word) == stem
    assert lucene_porter()([word]) == [stem]


def test_the_compiled_way_is_the_slow_way() -> None:
    chance = random.Random(2)
    suffixes = SUFFIXES.split()
    words = [
        "".join(chance.choices("aeioybcdlnstrwxz1\u00e9", k=chance.randint(1, 6)))
        + "".join(chance.choices(suffixes, k=chance.randint(0, 3)))
        for _ in range(20_000)
    ]
    assert lucene_porter()(words) == [porter(word) for word in words]
    assert snowball("porter")(words) != [porter(word) for word in words]
