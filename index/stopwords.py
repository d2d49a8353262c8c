"""Stop lists: Lucene's 33 English words for analyzers, NLTK's 179 for the learned sparse models."""

from __future__ import annotations

import hashlib

# Apache Lucene, EnglishAnalyzer.ENGLISH_STOP_WORDS_SET (Apache License 2.0).
_LUCENE = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they
this to was will with
"""
ENGLISH = frozenset(_LUCENE.split())
NONE: frozenset[str] = frozenset()

# NLTK's English list as the learned sparse models were published with it: 179 words. Later releases of NLTK
# changed theirs; the stop ids of TILDE come from this one.
_NLTK = """
i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his
himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom
this that that'll these those am is are was were be been being have has had having do does did doing a an the
and but if or because as until while of at by for with about against between into through during before after
above below to from up down in out on off over under again further then once here there when where why how
all any both each few more most other some such no nor not only own same so than too very s t can will just
don don't should should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't
hadn hadn't hasn hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't
shouldn shouldn't wasn wasn't weren weren't won won't wouldn wouldn't
"""
NLTK_ENGLISH = frozenset(_NLTK.split())

# Stemmers of English share its list. A list in another language is a change of that analyzer's identity.
_BY_LANGUAGE = {"english": ENGLISH, "porter": ENGLISH, "lovins": ENGLISH}


def stop_list(language: str) -> frozenset[str]:
    """The stop words of a Snowball language; empty where none is kept."""
    return _BY_LANGUAGE.get(language, NONE)


def digest(words: frozenset[str]) -> str:
    """sha256 (hex) of the sorted words, each ended by a newline; of nothing for the empty list."""
    return hashlib.sha256("".join(word + "\n" for word in sorted(words)).encode()).hexdigest()
