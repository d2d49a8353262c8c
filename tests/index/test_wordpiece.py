"""WordPiece through `tokenizers`: a small vocabulary of our own, and a real one where it is present."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.index.analysis import Analyzer, analyzer

PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "solar", "wind", "##s", "un", "##aff", "##able", "[", "]",
    "sep", "mask", "cafe", ".", "\u2028", "a", "##b", "\ufffd",
]  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wordpiece") / "vocab.txt"
    path.write_text("".join(piece + "\n" for piece in PIECES), encoding="utf-8", newline="\n")
    return path


@pytest.fixture(scope="module")
def pieces(vocabulary: Path) -> Analyzer:
    return analyzer(f"wordpiece:{vocabulary}")


@pytest.fixture(params=["vocab.txt", "tokenizer.json"])
def real(request: pytest.FixtureRequest, collections: Path) -> Analyzer:
    path = collections.parent / "weights" / "bert-tiny" / request.param
    if not path.is_file():
        pytest.skip(f"no {path.name} of bert-tiny beside the collections")
    return analyzer(f"wordpiece:{path}")


def test_pieces_in_lower_case_without_accents(pieces: Analyzer) -> None:
    assert pieces.terms("Solar WINDS unaffable. CAF\u00c9") == [
        "solar", "wind", "##s", "un", "##aff", "##able", ".", "cafe",
    ]  # fmt: skip


def test_a_text_cannot_introduce_control_tokens(pieces: Analyzer) -> None:
    assert pieces.terms("[SEP][MASK]") == ["[", "sep", "]", "[", "mask", "]"]
    assert pieces.terms("[CLS]") == ["[", "]"]  # "cls" is no piece here


def test_unknown_words_are_dropped_and_nothing_is_truncated(pieces: Analyzer) -> None:
    assert pieces.terms("zzz wind qqq") == ["wind"]
    assert len(pieces.terms("wind " * 2_000)) == 2_000


def test_spans_count_characters_of_the_original(pieces: Analyzer) -> None:
    spans = pieces.spans("zz  Winds \U0001f600 \ud800 a")
    assert spans == [(4, 8, "wind"), (8, 9, "##s"), (14, 15, "a")]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=[]), max_size=20)
        | st.lists(st.sampled_from([*PIECES, " ", "solarwind", "\ud83d", "\udd3d"]), max_size=8).map("".join),
        max_size=4,
    )
)
def test_encode_equals_terms(pieces: Analyzer, texts: list[str]) -> None:
    encoder = pieces.encoder()
    offsets, ids = encoder.encode(texts)
    words = [encoder.terms[i] for i in ids]
    assert [words[low:high] for low, high in pairwise(offsets)] == [pieces.terms(text) for text in texts]
    assert [[term for _, _, term in pieces.spans(text)] for text in texts] == [
        pieces.terms(text) for text in texts
    ]
    assert encoder.terms == list(dict.fromkeys(words))


def test_ids_go_on_in_the_next_batch(pieces: Analyzer) -> None:
    encoder = pieces.encoder()
    encoder.encode(["wind solar"])
    offsets, ids = encoder.encode(["solar a", ""])
    assert ids.tolist() == [1, 2]
    assert offsets.tolist() == [0, 2, 2]
    assert encoder.nbytes > 0


def test_identity_follows_the_file_and_not_its_place(vocabulary: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other.txt"
    copy.write_bytes(vocabulary.read_bytes())
    assert analyzer(f"wordpiece:{copy}").identity == analyzer(f"wordpiece:{vocabulary}").identity
    copy.write_bytes(vocabulary.read_bytes() + b"more\n")
    assert analyzer(f"wordpiece:{copy}").identity != analyzer(f"wordpiece:{vocabulary}").identity


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\nworld\n",
        b"\xff\xfe[UNK]",
        b"{}",
        b"{",
        b'{"model_type": "bert"}',
        json.dumps([1]).encode(),
    ],
)
def test_a_file_that_is_no_vocabulary(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"vocab\.txt or tokenizer\.json"):
        analyzer(f"wordpiece:{path}")


@pytest.mark.parametrize("name", ["wordpiece:no/such/vocab.txt", "wordpiece:a\0b", "wordpiece:."])
def test_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match="cannot read"):
        analyzer(name)


@pytest.mark.parametrize("name", ["wordpiece", "wordpiece:"])
def test_no_file_is_named(name: str) -> None:
    with pytest.raises(UserError, match="wordpiece:FILE"):
        analyzer(name)


def test_a_real_vocabulary(real: Analyzer) -> None:
    assert real.terms("Unaffable [SEP] caf\u00e9") == ["una", "##ffa", "##ble", "[", "sep", "]", "cafe"]
    assert real.spans("Unaffable") == [(0, 3, "una"), (3, 6, "##ffa"), (6, 9, "##ble")]
    encoder = real.encoder()
    _, ids = encoder.encode(["Unaffable [SEP] caf\u00e9"])
    assert [encoder.terms[i] for i in ids] == real.terms("Unaffable [SEP] caf\u00e9")
