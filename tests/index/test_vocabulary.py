"""Vocabularies: encoding, words, spans, the two stop lists of TILDE, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.index.stopwords import NLTK_ENGLISH
from retrieval.index.vocabulary import QUESTION_WORDS, Vocabulary

PIECES = [
    "[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "what", "definition",
    "solar", "wind", "##s", "##farm", "##'", "##", "#", "don", "t", "'", "energy", "naïve", "e-mail",
    "e_mail", "42", ".", "naive", "S",
]  # fmt: skip
DATA = "".join(piece + "\n" for piece in PIECES).encode()


@pytest.fixture(scope="module")
def small() -> Vocabulary:
    return Vocabulary.from_bytes(DATA, "vocab.txt")


def pieces(vocabulary: Vocabulary, text: str) -> list[str]:
    (ids,) = vocabulary.encode([text])
    return [vocabulary.pieces[i] for i in ids]


def test_pieces_and_ids(small: Vocabulary) -> None:
    assert small.pieces == PIECES
    assert small.size == len(PIECES)
    assert (small.pad, small.unk, small.cls, small.sep, small.mask) == (0, 3, 4, 5, 6)
    assert small.special == {0, 3, 4, 5, 6}
    assert (small.id("solar"), small.id("moon")) == (10, None)


def test_encode(small: Vocabulary) -> None:
    first, second, empty = small.encode(["The solar windfarms.", "moon", ""])
    assert first.dtype == np.int32
    assert [PIECES[i] for i in first] == ["the", "solar", "wind", "##farm", "##s", "."]
    assert second.tolist() == [small.unk]
    assert empty.dtype == np.int32
    assert len(empty) == 0
    assert small.encode([]) == []


def test_text_holds_no_special_tokens(small: Vocabulary) -> None:
    ids = set(small.encode(["[CLS] solar [SEP] [MASK] [PAD]"])[0].tolist())
    assert small.id("solar") in ids
    assert ids & {small.cls, small.sep, small.mask, small.pad} == set()


@given(st.lists(st.text(max_size=30)), st.integers(0, 10))
def test_limit_is_a_prefix(texts: list[str], limit: int) -> None:
    vocabulary = Vocabulary.from_bytes(DATA, "vocab.txt")
    whole = [ids.tolist() for ids in vocabulary.encode(texts)]
    assert [ids.tolist() for ids in vocabulary.encode(texts, limit)] == [ids[:limit] for ids in whole]
    assert [ids.tolist() for ids, _ in vocabulary.words(texts)] == whole
    assert [[number for _, _, number in vocabulary.spans(text)] for text in texts] == whole


def test_words_count_words(small: Vocabulary) -> None:
    ((ids, word),) = small.words(["Windfarms. solar"])
    assert [PIECES[i] for i in ids] == ["wind", "##farm", "##s", ".", "solar"]
    assert word.tolist() == [0, 0, 0, 1, 2]
    assert word.dtype == np.int32


def test_spans_are_of_the_text_given(small: Vocabulary) -> None:
    text = "\ud800 Naïve  windfarm"  # the lone surrogate is dropped and keeps its place
    assert [(text[start:end], PIECES[number]) for start, end, number in small.spans(text)] == [
        ("Naïve", "naive"),
        ("wind", "wind"),
        ("farm", "##farm"),
    ]


def test_index_stop_list(small: Vocabulary) -> None:
    stop = {PIECES[i] for i in small.index_stop}
    # don and t are words of the list; "don't" itself is three pieces
    words = {"the", "don", "t"}
    marks = {"[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "#", "'", ".", "naïve"}
    assert stop == words | marks | {"##s"}


def test_expansion_stop_list(small: Vocabulary) -> None:
    more = {PIECES[i] for i in small.expansion_stop - small.index_stop}
    assert more == {"what", "definition"}
    assert small.index_stop < small.expansion_stop


def test_the_english_list() -> None:
    assert len(NLTK_ENGLISH) == 179
    assert QUESTION_WORDS < NLTK_ENGLISH
    assert all(word == word.lower().strip() for word in NLTK_ENGLISH)


def test_stop_ids_of_the_official_code(parity: Path) -> None:
    expected = json.loads((parity / "tilde" / "expected.json").read_text())
    vocabulary = Vocabulary.load(str(parity / "tilde"))
    assert sorted(vocabulary.index_stop) == expected["stop_ids"]
    # That case has a short English list and the fixed id 2015 instead of the piece ##s.
    official = set(expected["expansion_excluded_ids"]) - {2015}
    words = {vocabulary.id(word) for word in NLTK_ENGLISH - set(expected["stop_words_in_vocab"])} - {None}
    assert vocabulary.expansion_stop == official | words | {vocabulary.id("##s")}


def test_the_suffix_s_is_looked_up() -> None:
    without = [piece for piece in PIECES if piece != "##s"]
    vocabulary = Vocabulary.from_bytes("\n".join(without).encode(), "vocab.txt")
    assert without.index("##farm") not in vocabulary.index_stop


def test_a_file_and_its_bytes_agree(tmp_path: Path, small: Vocabulary) -> None:
    (tmp_path / "vocab.txt").write_bytes(DATA)
    loaded = Vocabulary.load(str(tmp_path))
    assert (loaded.data, loaded.name, loaded.sha256) == (DATA, "vocab.txt", small.sha256)
    (tmp_path / "tokenizer.json").write_text(small._tokenizer.to_str())
    as_json = Vocabulary.load(str(tmp_path))
    assert as_json.name == "tokenizer.json"
    assert as_json.sha256 != small.sha256
    again = Vocabulary.from_bytes(as_json.data, as_json.name)
    assert again.pieces == as_json.pieces == small.pieces
    assert pieces(again, "Windfarms what?") == pieces(small, "Windfarms what?")


def test_a_cased_vocab_txt(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(DATA)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = Vocabulary.load(str(tmp_path))
    assert pieces(cased, "S solar naïve The") == ["S", "solar", "naïve", "[UNK]"]
    again = Vocabulary.from_bytes(cased.data, cased.name)
    assert pieces(again, "S solar naïve The") == ["S", "solar", "naïve", "[UNK]"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("vocab.txt", b"the\nof\n", r"no piece \[UNK\]"),
        ("vocab.txt", b"[UNK]\n[CLS]\n[SEP]\n[PAD]\n", r"no piece \[MASK\]"),
        ("vocab.txt", b"\xff\xfe[UNK]", "no WordPiece vocabulary"),
        ("tokenizer.json", b'{"version": "1.0"', "no WordPiece vocabulary"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        Vocabulary.load(str(tmp_path))


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer: put the model's tokenizer.json or vocab.txt"):
        Vocabulary.load(str(tmp_path))
    (tmp_path / "vocab.txt").write_bytes(DATA)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        Vocabulary.load(str(tmp_path))
