"""Lucene's EnglishAnalyzer: StandardTokenizer's rules (UAX #29), possessive, lower case, 33 stops, Porter.

What differs from Lucene 9: character classes come from the interpreter's Unicode tables, not from Unicode
12.1 (scripts added since then are words here); a Thai, Lao, Khmer or Myanmar mark without its letter is no
token; terms are cut at 255 UTF-8 bytes.
"""

from __future__ import annotations

import unicodedata

from retrieval.index.unicode import EXTEND, SEPARATOR, SINGLE, START, WORD, Rules, ranges, within

# Classes beside those of unicode.py (WORD: a letter). Word_Break property values in brackets below.
NUMERIC, JOINER, MID_LETTER, MID_NUMBER, MID_BOTH, QUOTE, DOUBLE = range(4, 11)
HEBREW, KATAKANA, COMPLEX, EMOJI, ZWJ, FLAG, TONE = range(11, 18)
_SINGLES = ranges(  # [Script Han, Hiragana]
    (0x2E80, 0x2FD5), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3041, 0x3096),
    (0x309D, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAD9), (0x1B001, 0x1B11F),
    (0x1B150, 0x1B152), (0x1F200, 0x1F200), (0x20000, 0x3FFFD),
)  # fmt: skip
_KATAKANA = ranges(
    (0x3031, 0x3035), (0x309B, 0x309C), (0x30A0, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF),
    (0x32D0, 0x32FE), (0x3300, 0x3357), (0xFF66, 0xFF9D), (0x1AFF0, 0x1B000), (0x1B164, 0x1B167),
)  # fmt: skip
# [LineBreak SA]: Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Tai Viet: a run is one token.
_COMPLEX = ranges(
    (0x0E01, 0x0E3A), (0x0E40, 0x0E4E), (0x0E81, 0x0ECD), (0x0EDC, 0x0EDF), (0x1000, 0x103F),
    (0x1050, 0x108F), (0x109A, 0x109F), (0x1780, 0x17D3), (0x17D7, 0x17D7), (0x17DC, 0x17DD),
    (0x1950, 0x1974), (0x1980, 0x19C9), (0x19DA, 0x19DF), (0x1A20, 0x1AAD), (0xA9E0, 0xA9EF),
    (0xA9FA, 0xA9FE), (0xAA60, 0xAAC2), (0xAADB, 0xAADF),
)  # fmt: skip
_HEBREW = ranges((0x05D0, 0x05EA), (0x05EF, 0x05F2), (0xFB1D, 0xFB1D), (0xFB1F, 0xFB28), (0xFB2A, 0xFB4F))
# Letters by Word_Break though not by category: circled letters, and modifier signs used as letters.
_LETTERS_TOO = ranges(
    (0x02C2, 0x02C5), (0x02D2, 0x02D7), (0x02DE, 0x02DF), (0x02ED, 0x02ED), (0x02EF, 0x02FF),
    (0x055B, 0x055C), (0x055E, 0x055E), (0x05F3, 0x05F3), (0x24B6, 0x24E9), (0xA708, 0xA716),
    (0xA720, 0xA721), (0xA789, 0xA78A), (0xAB5B, 0xAB5B), (0x1F130, 0x1F149), (0x1F150, 0x1F169),
    (0x1F170, 0x1F189),
)  # fmt: skip
# Scripts whose letters are ideographs to Word_Break, and no Han: Tangut, Khitan, Nushu. No tokens.
_IDEOGRAPHIC = ranges((0x17000, 0x18DFF), (0x1B170, 0x1B2FF))
# [Extended_Pictographic]
_EMOJI = ranges(
    (0xA9, 0xA9), (0xAE, 0xAE), (0x203C, 0x203C), (0x2049, 0x2049), (0x2122, 0x2122), (0x2139, 0x2139),
    (0x2194, 0x2199), (0x21A9, 0x21AA), (0x231A, 0x231B), (0x2328, 0x2328), (0x2388, 0x2388),
    (0x23CF, 0x23CF), (0x23E9, 0x23F3), (0x23F8, 0x23FA), (0x24C2, 0x24C2), (0x25AA, 0x25AB),
    (0x25B6, 0x25B6), (0x25C0, 0x25C0), (0x25FB, 0x25FE), (0x2600, 0x2605), (0x2607, 0x2612),
    (0x2614, 0x2685), (0x2690, 0x2705), (0x2708, 0x2712), (0x2714, 0x2714), (0x2716, 0x2716),
    (0x271D, 0x271D), (0x2721, 0x2721), (0x2728, 0x2728), (0x2733, 0x2734), (0x2744, 0x2744),
    (0x2747, 0x2747), (0x274C, 0x274C), (0x274E, 0x274E), (0x2753, 0x2755), (0x2757, 0x2757),
    (0x2763, 0x2767), (0x2795, 0x2797), (0x27A1, 0x27A1), (0x27B0, 0x27B0), (0x27BF, 0x27BF),
    (0x2934, 0x2935), (0x2B05, 0x2B07), (0x2B1B, 0x2B1C), (0x2B50, 0x2B50), (0x2B55, 0x2B55),
    (0x3030, 0x3030), (0x303D, 0x303D), (0x3297, 0x3297), (0x3299, 0x3299), (0x1F000, 0x1F0FF),
    (0x1F10D, 0x1F10F), (0x1F12F, 0x1F12F), (0x1F16C, 0x1F16F), (0x1F18E, 0x1F18E), (0x1F191, 0x1F19A),
    (0x1F1AD, 0x1F1E5), (0x1F201, 0x1F20F), (0x1F21A, 0x1F21A), (0x1F22F, 0x1F22F), (0x1F232, 0x1F23A),
    (0x1F23C, 0x1F23F), (0x1F249, 0x1F3FA), (0x1F400, 0x1F53D), (0x1F546, 0x1F64F), (0x1F680, 0x1F6FF),
    (0x1F774, 0x1F77F), (0x1F7D5, 0x1F7FF), (0x1F80C, 0x1F80F), (0x1F848, 0x1F84F), (0x1F85A, 0x1F85F),
    (0x1F888, 0x1F88F), (0x1F8AE, 0x1F8FF), (0x1F90C, 0x1F93A), (0x1F93C, 0x1F945), (0x1F947, 0x1FFFD),
)  # fmt: skip
_MARKS = {
    **dict.fromkeys(":\u00b7\u0387\u05f4\u2027\ufe13\ufe55\uff1a", MID_LETTER),  # [MidLetter]
    **dict.fromkeys(
        ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b", MID_NUMBER
    ),  # [MidNum]
    **dict.fromkeys(".\u2018\u2019\u2024\ufe52\uff07\uff0e", MID_BOTH),  # [MidNumLet]
    **dict.fromkeys(
        "_\u202f\u203f\u2040\u2054\ufe33\ufe34\ufe4d\ufe4e\ufe4f\uff3f", JOINER
    ),  # [ExtendNumLet]
    "\u066b": NUMERIC,
    "\u200d": ZWJ,
    **dict.fromkeys("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff", TONE),  # skin tones
    "'": QUOTE,
    '"': DOUBLE,
}


_BLOCKS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (SINGLE, _SINGLES),
    (KATAKANA, _KATAKANA),
    (COMPLEX, _COMPLEX),
    (HEBREW, _HEBREW),
    (WORD, _LETTERS_TOO),
    (EMOJI, _EMOJI),
    (FLAG, ranges((0x1F1E6, 0x1F1FF))),
    (SEPARATOR, _IDEOGRAPHIC),
)


def _classify(char: str) -> int:
    if char in _MARKS:
        return _MARKS[char]
    code, category = ord(char), unicodedata.category(char)
    if category[0] == "M" or (category == "Cf" and code != 0x200B) or code in (0xFF9E, 0xFF9F):
        return EXTEND
    if category == "Nd":
        return NUMERIC
    for class_, bounds in _BLOCKS:
        if code >= bounds[0] and within(code, bounds):
            return class_
    return WORD if category[0] == "L" or category == "Nl" else SEPARATOR


_X, _L, _L_MID, _H, _H_QUOTE, _H_DOUBLE, _N, _N_MID, _XW, _K, _S, _C, _E, _E_ZWJ, _F, _FF = range(2, 18)
_LETTERS = {WORD: _L, HEBREW: _H}
_ANY = {**_LETTERS, NUMERIC: _N, JOINER: _XW}
_AFTER_LETTER = {**_ANY, MID_LETTER: _L_MID, MID_BOTH: _L_MID}
_AFTER_JOINER = {**_LETTERS, NUMERIC: _N, KATAKANA: _K}

# WB5 to WB16. WB4: marks and joiners are transparent, they stay in every state but the start (below).
_STEPS: dict[int, dict[int, int]] = {
    START: {
        **_LETTERS,
        NUMERIC: _N,
        JOINER: _X,
        KATAKANA: _K,
        SINGLE: _S,
        COMPLEX: _C,
        EMOJI: _E,
        TONE: _E,
        FLAG: _F,
    },
    _X: {JOINER: _X, **_AFTER_JOINER},
    _L: {QUOTE: _L_MID, **_AFTER_LETTER},
    _L_MID: _LETTERS,
    _H: {QUOTE: _H_QUOTE, DOUBLE: _H_DOUBLE, **_AFTER_LETTER},
    _H_QUOTE: _ANY,
    _H_DOUBLE: {HEBREW: _H},
    _N: {**_ANY, MID_NUMBER: _N_MID, MID_BOTH: _N_MID, QUOTE: _N_MID},
    _N_MID: {NUMERIC: _N},
    _XW: {JOINER: _XW, **_AFTER_JOINER},
    _K: {KATAKANA: _K, JOINER: _XW},
    _S: {},
    _C: {COMPLEX: _C},
    _E: {ZWJ: _E_ZWJ},
    _E_ZWJ: {EMOJI: _E},
    _F: {FLAG: _FF},
    _FF: {},
}
_STEPS = {
    state: row
    if state == START
    else {EXTEND: _E if state == _E_ZWJ else state, TONE: state, ZWJ: state, **row}
    for state, row in _STEPS.items()
}
_WORDS = frozenset({_L, _H, _H_QUOTE, _N, _XW, _K, _S, _C, _E, _E_ZWJ, _FF})


def _lower(text: str) -> str:
    # Java lowers character by character: no final sigma, and the dotted capital I becomes a plain i.
    if not text.isascii():
        text = text.replace("\u0130", "i").replace("\u03a3", "\u03c3")
    return text.lower()


STANDARD = Rules("uax29-lucene-1", _classify, _STEPS, _WORDS, lower=_lower, max_units=255)


def without_possessive(word: str) -> str:
    """The word without a trailing 's, as EnglishPossessiveFilter leaves it."""
    return word[:-2] if word.endswith(("'s", "\u2019s", "\uff07s")) else word
