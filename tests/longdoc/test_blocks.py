"""Blocks: the greedy filler against a reference, spans that tile the text, windows, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import UnknownName, UserError
from retrieval.index.vocabulary import Vocabulary
from retrieval.longdoc import tokens
from retrieval.longdoc.blocks import Block, fill, sentences, structure, windows
from retrieval.longdoc.sentences import sentence_spans
from retrieval.registry import lookup, names
from tests.longdoc.splitting import (
    Tokenizer,
    capacities,
    document,
    lengths,
    octets,
    pieces,
    texts,
    tokenizers,
    words,
)

SPLITTERS: list[Any] = [sentences, structure, windows]


def reference(counts: list[int], capacity: int, compat: bool) -> tuple[list[int], list[int]]:
    """Tokens and dropped of each block of sentences of so many tokens."""
    kept: list[int] = []
    dropped: list[int] = []
    for count in counts:
        while count:
            part = count if compat else min(count, capacity)
            if not kept or kept[-1] + part > capacity:
                kept.append(0)
                dropped.append(0)
            kept[-1] += min(part, capacity)
            dropped[-1] += max(part - capacity, 0)
            count -= part
    return kept, dropped


def solid(text: str) -> str:
    return "".join(text.split())


@given(lengths, capacities, st.booleans())
def test_greedy_filling_is_the_reference(counts: list[int], capacity: int, compat: bool) -> None:
    text = document(counts)
    (blocks,) = sentences([text], words, capacity, compat=compat)
    kept, dropped = reference(counts, capacity, compat)
    assert [block.tokens for block in blocks] == kept
    assert [block.dropped for block in blocks] == dropped
    place = 0
    for block in blocks:
        assert text[block.start : block.end].split() == text.split()[place : place + block.tokens]
        place += block.tokens + block.dropped


@given(lengths, capacities)
def test_filling_what_is_full_changes_nothing(counts: list[int], capacity: int) -> None:
    edges = np.cumsum([0, *counts]).tolist()
    blocks = list(fill(pairwise(edges), capacity))
    assert list(fill(blocks, capacity)) == blocks
    for (first, last), (_, following) in pairwise(blocks):  # a block could not have taken the next sentence
        assert edges[edges.index(last) + 1] - first > capacity
        assert last < following


@given(st.sampled_from([sentences, structure]), texts, tokenizers, capacities)
def test_blocks_tile_the_text(split: Any, text: str, tokenizer: Tokenizer, capacity: int) -> None:
    (blocks,) = split([text], tokenizer, capacity)
    total = len(tokenizer([text])[0])
    assert bool(blocks) == bool(total and text.strip())
    if not blocks:
        return
    assert solid("".join(text[block.start : block.end] for block in blocks)) == solid(text)
    assert all(before.end <= after.start for before, after in pairwise(blocks))
    blank = sum(map(str.isspace, text)) if tokenizer is octets else 0  # tokens of white space alone
    assert total - blank <= sum(block.tokens + block.dropped for block in blocks) <= total
    assert all(0 < block.tokens <= capacity for block in blocks)
    if tokenizer is not octets or capacity > 3:  # else one character does not fit
        assert not any(block.dropped for block in blocks)


@given(texts, st.integers(1, 30))
def test_a_sentence_that_fits_is_whole(text: str, capacity: int) -> None:
    (blocks,) = sentences([text], pieces, capacity)
    for start, end in sentence_spans(text):
        (spans,) = pieces([text[start:end]])
        if 0 < len(spans) <= capacity:
            first, last = start + spans[0, 0], start + spans[-1, 1]
            assert not any(first < block.start < last or first < block.end < last for block in blocks)


@given(st.sampled_from(SPLITTERS), st.lists(st.integers(1, 60), max_size=8), st.integers(6, 20))
def test_tokens_of_a_block_alone_are_those_counted(split: Any, counts: list[int], capacity: int) -> None:
    text = document(counts).replace("word ", "wording ")  # words of two and three pieces, cut at white space
    (blocks,) = split([text], pieces, capacity)
    again = pieces([text[block.start : block.end] for block in blocks])
    assert [len(spans) for spans in again] == [block.tokens for block in blocks]


@given(st.integers(0, 60), capacities, st.data())
def test_windows_are_the_reference(count: int, capacity: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, capacity - 1))
    (blocks,) = windows([document([count] if count else [])], words, capacity, overlap=overlap)
    starts = list(range(0, max(count - overlap, min(count, 1)), capacity - overlap))
    assert [block.tokens for block in blocks] == [min(capacity, count - start) for start in starts]


@given(texts, tokenizers, st.integers(4, 12), st.data())
def test_windows_cover_the_text(text: str, tokenizer: Tokenizer, capacity: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, capacity - 1))
    (blocks,) = windows([text], tokenizer, capacity, overlap=overlap)
    covered = {at for block in blocks for at in range(block.start, block.end)}
    if blocks:
        assert all(char.isspace() for at, char in enumerate(text) if at not in covered)
    assert all(0 < block.tokens <= capacity for block in blocks)
    total = len(tokenizer([text])[0])
    blank = sum(map(str.isspace, text)) if tokenizer is octets else 0
    assert total - blank <= sum(block.tokens for block in blocks) <= total + overlap * max(len(blocks) - 1, 0)
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(blocks)) or tokenizer is octets
    if not overlap:
        assert all(a.end <= b.start for a, b in pairwise(blocks))


@pytest.mark.parametrize("split", SPLITTERS)
@pytest.mark.parametrize(
    ("text", "tokenizer", "tokens"),
    [
        ("word " * 100_000, words, 100_000),  # one sentence
        ("x" * 100_000, pieces, 33_334),  # one word
        ("字" * 100_000, octets, 300_000),  # no white space
        ("word\n" * 20_000, words, 20_000),  # no sentence ends
        ("... !? " * 5_000, pieces, 25_000),
        ("." * 50_000, pieces, 50_000),
        ("“" * 20_000, pieces, 20_000),  # nothing closes them
        ("Он ушёл. 他走了。她也走了！ مرحبا؟ वह गया। He left. 🙂" * 300, octets, None),
        ("a \ud800 b. C d.", pieces, None),
    ],
)
def test_bad_input(split: Any, text: str, tokenizer: Tokenizer, tokens: int | None) -> None:
    (blocks,) = split([text], tokenizer, 29)
    assert sum(block.tokens for block in blocks) == (tokens or len(tokenizer([text])[0]))
    assert max(block.tokens for block in blocks) <= 29
    assert solid("".join(text[block.start : block.end] for block in blocks)) == solid(text)


@pytest.mark.parametrize("split", SPLITTERS)
def test_texts_without_tokens_have_no_blocks(split: Any) -> None:
    assert split(["", " \n\t ", "\x00", "a"], pieces, 5) == [[], [], [], [Block(0, 1, 1)]]
    assert split([], pieces, 5) == []
    assert split(["\n", "a\n\nb"], octets, 1) == [[], [Block(0, 1, 1), Block(3, 4, 1)]]


def test_compat_cuts_a_long_sentence_and_says_what_is_lost() -> None:
    text = "One two. Aa bb cc dd ee ff gg hh. Three four."
    assert sentences([text], words, 5, compat=True) == [
        [Block(0, 8, 2), Block(9, 23, 5, 3), Block(34, 45, 2)]
    ]
    split = [Block(0, 8, 2), Block(9, 23, 5), Block(24, 45, 5)]
    assert sentences([text], words, 5) == [split]
    (blocks,) = sentences([text], words, 5, compat=True, max_blocks=2)
    assert blocks == [Block(0, 8, 2), Block(9, 23, 5, 3 + 2)]


def test_where_a_long_sentence_is_cut() -> None:
    text = "x" * 18 + " " + "y" * 60 + " z"  # 6, 20 and 1 tokens
    spans = [(0, 18), (19, 49), (49, 79), (80, 81)]
    (blocks,) = sentences([text], pieces, 10)
    assert [(block.start, block.end) for block in blocks] == spans
    (blocks,) = sentences(
        ["x " + "y" * 60], pieces, 10
    )  # white space in the first half of the room does not count
    assert [block.tokens for block in blocks] == [10, 10, 1]


def test_windows_go_on_where_white_space_makes_them_short() -> None:
    (blocks,) = windows(["x" * 18 + " " + " ".join(["y" * 18] * 49)], pieces, 10, overlap=8)
    assert [block.tokens for block in blocks] == [6] * 50
    (blocks,) = windows([". . . Ann Lee: "], pieces, 4, overlap=3)
    assert [(block.start, block.end) for block in blocks] == [(0, 9), (2, 13), (4, 14)]


@pytest.mark.parametrize("split", SPLITTERS)
@pytest.mark.parametrize("allowed", [1, 3, 100])
def test_max_blocks_counts_what_it_leaves_out(split: Any, allowed: int) -> None:
    text = document([7, 3, 25, 8, 8])
    (whole,) = split([text], words, 10)
    (blocks,) = split([text], words, 10, max_blocks=allowed)
    assert [block[:3] for block in blocks] == [block[:3] for block in whole[:allowed]]
    assert sum(block.tokens + block.dropped for block in blocks) == 51


def test_texts_do_not_change_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [document([5, 40, 3]), "", "Ann: Hi. Bob: Ho.", document([9] * 20)]
    expected = [[split([text], words, 8)[0] for text in several] for split in SPLITTERS]
    monkeypatch.setattr(tokens, "_HELD", 60)
    assert [split(several, words, 8) for split in SPLITTERS] == expected


def test_a_long_text_is_tokenised_in_pieces() -> None:
    longest = 0

    def counted(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return words(texts)

    text = "words " * 40_000
    assert windows([text], counted, 300) == windows([text], words, 300)
    assert windows([text], counted, 300)[0][-1] == Block(239_400, 239_999, 100)
    assert longest < len(text)


def test_what_is_refused() -> None:
    for split in SPLITTERS:
        for settings in ({"capacity": 0}, {"capacity": 5, "max_blocks": 0}):
            with pytest.raises(UserError, match="give 1 or more"):
                split(["a"], words, **settings)
    for overlap in (-1, 5):
        with pytest.raises(UserError, match="give 0 to 4"):
            windows(["a"], words, 5, overlap=overlap)
    with pytest.raises(UserError, match="return one array per text"):
        sentences(["a", "b"], lambda texts: words(texts)[:1], 5)
    with pytest.raises(UserError, match="in characters from the text's start"):
        sentences(["a"], lambda texts: [np.array([[0, 2]])], 5)


def test_registry() -> None:
    assert names("block splitter") == ["sentences", "structure", "windows"]
    assert [lookup(name, "block splitter") for name in names("block splitter")] == SPLITTERS
    with pytest.raises(UnknownName, match="did you mean 'sentences'"):
        lookup("sentence", "block splitter")


def test_offsets_of_a_real_vocabulary() -> None:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "solar", "farm", "##s", "cafe", ".", "字"]
    vocabulary = Vocabulary.from_bytes("".join(entry + "\n" for entry in entries).encode(), "vocab.txt")
    text = "Solar farms. Café \ud800 字字."
    (spans,) = vocabulary.offsets([text])
    assert [text[start:end] for start, end in spans] == (["Solar", "farm", "s", ".", "Café", "字", "字", "."])
    assert [len(each) for each in vocabulary.offsets(["", "farms"])] == [0, 2]
    assert sentences([text], vocabulary.offsets, 5) == [[Block(0, 12, 4), Block(13, 23, 4)]]
