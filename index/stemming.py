"""Stemmers by name: every Snowball algorithm of PyStemmer, and Porter's as Lucene has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Stem = Callable[[Sequence[str]], list[str]]


def languages() -> list[str]:
    """The Snowball algorithms that PyStemmer has, sorted."""
    import Stemmer

    return sorted(Stemmer.algorithms())


def snowball(language: str) -> Stem:
    """Stem a list of lower-case words; PyStemmer's own cache is off, callers keep the distinct words."""
    import Stemmer

    stem: Stem = Stemmer.Stemmer(language, 0).stemWords
    return stem


def lucene_porter() -> Stem:
    """Porter's stemmer with the departures of Lucene's PorterStemmer.

    They are: `bli` and `logi` in step 2, words of one or two letters are left alone, and every doubled
    consonant is undoubled (`grokking`). Snowball's `porter` is equal elsewhere (tested on words made of
    suffixes), and compiled: only words that could meet a departure take the slow way.
    """
    fast = snowball("porter")

    def stems(words: Sequence[str]) -> list[str]:
        return [
            porter(word)
            if len(word) < 3
            or "bl" in word
            or "log" in word
            or stem[-1:] == stem[-2:-1]
            or stem.endswith("yi")
            else stem
            for word, stem in zip(words, fast(words))
        ]

    return stems


_STEP2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"),
    ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive"), ("fulness", "ful"),
    ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("logi", "log"),
)  # fmt: skip
_STEP3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
)  # fmt: skip
_STEP4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def porter(word: str) -> str:
    """One lower-case word, step by step as in M. F. Porter, An algorithm for suffix stripping (1980)."""
    if len(word) < 3:
        return word
    word = _step1(word)
    word = _replace(word, _STEP2)
    word = _replace(word, _STEP3)
    for suffix in _STEP4:
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            if suffix == "ion" and not stem.endswith(("s", "t")):
                continue
            if _measure(stem) > 1:
                word = stem
            break
    measure = _measure(word)
    if word.endswith("e") and (measure > 1 or (measure == 1 and not _short(word[:-1]))):
        word = word[:-1]
    if word.endswith("ll") and measure > 1:
        word = word[:-1]
    return word


def _step1(word: str) -> str:
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        if _measure(word[:-3]) > 0:
            word = word[:-1]
    elif word.endswith(("ed", "ing")):
        stem = word[: -2 if word.endswith("ed") else -3]
        if "v" in _shape(stem):
            word = stem
            if word.endswith(("at", "bl", "iz")):
                word += "e"
            elif len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c":
                if word[-1] not in "lsz":
                    word = word[:-1]
            elif _measure(word) == 1 and _short(word):
                word += "e"
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    return word


def _replace(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    for suffix, replacement in rules:
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            return stem + replacement if _measure(stem) > 0 else word
    return word


def _shape(word: str) -> str:
    """`c` for each consonant, `v` for each vowel; y is a vowel after a consonant."""
    shape = ""
    for char in word:
        vowel = char in "aeiou" or (char == "y" and shape[-1:] == "c")
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    """Porter's m: how many times a vowel is followed by a consonant."""
    return _shape(word).count("vc")


def _short(word: str) -> bool:
    """Ends consonant, vowel, consonant, the last one not w, x or y."""
    return _shape(word)[-3:] == "cvc" and word[-1] not in "wxy"
