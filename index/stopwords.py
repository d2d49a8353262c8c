"""Stop lists: the 33 English words of Lucene's EnglishAnalyzer; other languages have none here."""

from __future__ import annotations

import hashlib

# Apache Lucene, EnglishAnalyzer.ENGLISH_STOP_WORDS_SET (Apache License 2.0).
_LUCENE = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they
this to was will with
"""
ENGLISH = frozenset(_LUCENE.split())
NONE: frozenset[str] = frozenset()

# Stemmers of English share its list. A list in another language is a change of that analyzer's identity.
_BY_LANGUAGE = {"english": ENGLISH, "porter": ENGLISH, "lovins": ENGLISH}


def stop_list(language: str) -> frozenset[str]:
    """The stop words of a Snowball language; empty where none is kept."""
    return _BY_LANGUAGE.get(language, NONE)


def digest(words: frozenset[str]) -> str:
    """sha256 (hex) of the sorted words, each ended by a newline; of nothing for the empty list."""
    return hashlib.sha256("".join(word + "\n" for word in sorted(words)).encode()).hexdigest()
