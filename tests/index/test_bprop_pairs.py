"""B-PROP: whole words, instances and masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.index.bprop_pairs import Instance, instance, mask_words, side_by_side
from retrieval.index.vocabulary import Vocabulary
from retrieval.index.wholewords import Ragged, WordTable, cut_to

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cab", "fox", "zoo", "s", "##s", "##y", "a", "b", "."]
WORDS = Vocabulary.from_bytes("".join(piece + "\n" for piece in PIECES).encode(), "vocab.txt")


# --- whole words ------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["cab", "cabs", "foxys", "zoo", "s", ".", "q", "ab", "Zoo"]), max_size=12))
def test_words_are_their_pieces_again(words: list[str]) -> None:
    text = " ".join(words)
    table = WordTable(WORDS)
    ((ids, word),) = WORDS.words([text])
    numbers = table.add(ids, word)
    tokens, place = table.tokens(numbers)
    assert tokens.tolist() == ids.tolist()
    assert place.tolist() == word.tolist()
    assert table.sizes(numbers).tolist() == [word.tolist().count(i) for i in range(len(numbers))]
    known = [word.lower() for word in words if word not in ("q", "ab")]
    assert [table.text(n) for n in numbers.tolist() if n != WORDS.unk] == known
    restored = WordTable.restore(WORDS, table.state())
    assert [restored.text(n) for n in range(len(restored))] == [table.text(n) for n in range(len(table))]
    assert restored.add(ids, word).tolist() == numbers.tolist()


def test_words_of_letters() -> None:
    table = WordTable(WORDS)
    for ids, word in WORDS.words(["cabs s. foxy q"]):
        table.add(ids, word)
    good = table.alphabetic()
    found = {table.text(n) for n in np.flatnonzero(good).tolist()}
    assert found == {"cab", "fox", "zoo", "s", "a", "b", "cabs", "foxy"}


def test_documents_are_cut_between_words() -> None:
    assert cut_to([1, 2, 3], np.array([1, 2, 2]), 4) == 2
    assert cut_to([1, 2, 3], np.array([1, 2, 2]), 5) == 3
    assert cut_to([], np.empty(0, np.int64), 5) == 0


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6), st.integers(0, 6))
def test_ragged_rows(rows: list[list[int]], at: int) -> None:
    found = Ragged(np.int32)
    for row in rows[:at]:
        found.add(np.array(row))
    assert len(found.flat) == sum(map(len, rows[:at]))
    for row in rows[at:]:
        found.add(np.array(row))
    assert [row.tolist() for row in found] == rows
    assert [row.tolist() for row in Ragged.of(found.flat, found.ends)] == rows


# --- instances and masks ----------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 30), st.integers(8, 40))
def test_instances_keep_their_form_and_length(chosen: int, size: int, limit: int) -> None:
    document = np.full(size, 5, np.int32)
    one = instance(np.full(chosen, 6, np.int32), document, np.arange(size), limit, WORDS)
    assert len(one.ids) == len(one.segments) == len(one.word) <= limit
    assert one.ids[0] == WORDS.cls
    assert one.ids[-1] == WORDS.sep
    head = one.ids.tolist().index(WORDS.sep) + 1
    assert one.segments.tolist() == [0] * head + [1] * (len(one.ids) - head)
    assert (one.word[:head] == -1).all()
    assert one.word[-1] == -1
    assert one.word[head:-1].tolist() == list(range(min(size, max(0, limit - 1 - head))))


def test_cutting_one_pair_leaves_the_document_whole_for_the_next() -> None:
    # Defect of the published code: truncation changed the token list that all pairs of a document shared.
    document = np.arange(5, 12).astype(np.int32)
    long, short = np.full(9, 6, np.int32), np.full(1, 6, np.int32)
    place = np.arange(7)
    first = side_by_side([(long, long, document, place)], 14, WORDS)
    assert [len(one.ids) for one in first] == [14, 14]
    both = side_by_side([(long, long, document, place), (short, short, document, place)], 14, WORDS)
    assert [int((one.word >= 0).sum()) for one in both] == [2, 2, 7, 7]
    assert document.tolist() == list(range(5, 12))


def a_document(rng: np.random.Generator, words: int) -> Instance:
    sizes = rng.integers(1, 4, words)
    document = rng.integers(5, 14, int(sizes.sum())).astype(np.int32)
    return instance(np.full(3, 6, np.int32), document, np.repeat(np.arange(words), sizes), 200, WORDS)


@given(st.integers(0, 999), st.integers(0, 40), st.floats(0, 1), st.integers(1, 20))
def test_whole_words_of_the_document_alone_are_masked(seed: int, words: int, share: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    one = a_document(rng, words)
    before = one.ids.copy()
    found = mask_words(one, WORDS, rng, share=share, most=most)
    assert (one.ids == before).all()
    assert (np.diff(found.places) > 0).all()
    assert (one.segments[found.places] == 1).all()  # labels are never inside the query segment
    masked = set(one.word[found.places].tolist())
    assert -1 not in masked
    assert found.places.tolist() == [i for i, word in enumerate(one.word.tolist()) if word in masked]
    assert found.labels.tolist() == before[found.places].tolist()
    changed = np.flatnonzero(found.ids != before)
    assert set(changed.tolist()) <= set(found.places.tolist())
    assert not (found.ids[changed] == WORDS.cls).any()
    assert bool(len(found.places)) == bool(words)
    number = min(most, max(1, round(share * int((one.word >= 0).sum()))))
    assert len(found.places) <= max(number, 3)


def test_masks_are_eighty_ten_ten() -> None:
    rng = np.random.default_rng(1)
    one = instance(
        np.full(2, 6, np.int32), rng.integers(5, 14, 9000).astype(np.int32), np.arange(9000), 20_000, WORDS
    )
    found = mask_words(one, WORDS, rng, share=0.5, most=10_000)
    new = found.ids[found.places]
    assert len(new) == 4500
    assert float((new == WORDS.mask).mean()) == pytest.approx(0.8, abs=0.02)
    kept = float((new == found.labels).mean())
    assert kept == pytest.approx(0.1 + 0.1 / 9, abs=0.02)  # a random piece may be the same one
    assert not np.isin(new, [WORDS.pad, WORDS.unk, WORDS.cls, WORDS.sep]).any()


def test_unknown_words_are_not_predicted() -> None:
    ids = np.array([WORDS.unk] * 20 + [5], np.int32)
    one = instance(np.full(1, 6, np.int32), ids, np.arange(21), 64, WORDS)
    found = mask_words(one, WORDS, np.random.default_rng(0), share=1.0)
    assert found.labels.tolist() == [5]
