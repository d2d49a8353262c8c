"""From texts to lists: windows, the largest weight of a term, records that are used again, facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Document, UserError
from retrieval.index.encoding import (
    Encoded,
    EncodingBuilder,
    Weights,
    cut_windows,
    strongest,
)
from retrieval.index.postings import Postings
from retrieval.index.quantise import Quantiser

IDS = st.lists(st.integers(0, 99), max_size=40).map(lambda ids: np.array(ids, np.int32))


@given(st.lists(IDS, max_size=5), st.integers(1, 9), st.integers(1, 4))
def test_windows_hold_every_token_once_and_in_order(documents: list[Any], size: int, limit: int) -> None:
    windows = cut_windows(documents, size, limit)
    assert (np.diff(windows.owner) >= 0).all()
    for i, document in enumerate(documents):
        mine = [ids for ids, owner in zip(windows.ids, windows.owner) if owner == i]
        kept = document[: size * limit]
        assert np.concatenate([np.empty(0), *mine]).tolist() == kept.tolist()
        assert len(mine) == -(-len(kept) // size) <= limit
        assert all(0 < len(ids) <= size for ids in mine)
        if mine:
            assert max(map(len, mine)) - min(map(len, mine)) <= 1
        assert windows.tokens[i] == len(document)
        assert windows.dropped[i] == len(document) - len(kept)


TOKENS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.floats(0, 4, width=32)), max_size=40)


@given(TOKENS, st.sets(st.integers(0, 7)))
def test_strongest_is_the_maximum(tokens: list[tuple[int, int, float]], kept: set[int]) -> None:
    mask = np.zeros(8, bool)
    mask[list(kept)] = True
    best: dict[tuple[int, int], float] = {}
    for owner, term, weight in tokens:
        if weight > 0 and term in kept:
            best[owner, term] = max(weight, best.get((owner, term), 0.0))
    owners, terms, weights = (np.array([token[i] for token in tokens]) for i in range(3))
    found = strongest(owners.astype(np.int64), terms.astype(np.int64), weights.astype(np.float32), 4, mask)
    assert {
        (document, int(found.terms[at])): float(found.weights[at])
        for document in range(4)
        for at in range(found.ends[document], found.ends[document + 1])
    } == best
    assert len(found.terms) == len(best)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        strongest(
            np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([bad], np.float32), 1, np.ones(1, bool)
        )


class Letters:
    """Weighs each letter of a text by how often it stands; counts what it is asked."""

    terms: Sequence[str] = "abcdefghij"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.asked += texts
        ids = [np.array(["abcdefghij".find(char) for char in text], np.int32) for text in texts]
        windows = cut_windows([one[one >= 0] for one in ids], 4, 2)
        owner = np.repeat(windows.owner, [len(window) for window in windows.ids])
        flat = np.concatenate([np.empty(0, np.int32), *windows.ids]).astype(np.int64)
        counts = np.array([np.sum((owner == o) & (flat == t)) for o, t in zip(owner, flat)], np.float32)
        weights = strongest(owner, flat, counts, len(texts), np.ones(10, bool))
        return Encoded(weights, windows.tokens, windows.dropped)


class Memory:
    """A cache in memory."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.records.get(key) for key in keys]

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.records.update(zip(keys, values, strict=True))


class Method:
    """What the builder reads of a method."""

    kind = "letters"
    most = 255.0

    def __init__(self, **settings: Any) -> None:
        self.settings = {"kind": "letters", "compact": False, "forward": True, **settings}


def method(**settings: Any) -> Any:
    """A Method for whoever wants a whole SparseMethod."""
    return Method(**settings)


def built(
    tools: Any, scratch: Path, texts: Sequence[str], cache: Any = None, least: int = 1
) -> tuple[dict[str, dict[str, int]], Any, Letters]:
    """(text -> term -> value in the lists, facts, the encoder)."""
    encoder = Letters()
    builder = EncodingBuilder(
        method(),
        lambda: encoder,
        Quantiser.of(2.0, least=least),
        Letters.terms,
        str(scratch),
        1 << 20,
        cache,
    )
    for at in range(0, len(texts), 3):
        builder.add([Document(str(i), text) for i, text in enumerate(texts[at : at + 3])])
    part = tools.MemoryPart()
    builder.finish(part)
    postings = Postings(part, "p")
    found: dict[str, dict[str, int]] = {text: {} for text in texts}
    for number, term in enumerate(postings.lexicon):
        docs, values = postings.posting(number)
        for doc, value in zip(docs.tolist(), values.tolist()):
            found[texts[doc]][term] = value
    return found, part.json("p/encoding.json"), encoder


TEXTS = ["abca", "", "ccccd", "zzz", "aaabbbbbcccc", "jih"]
LISTS = {
    "abca": {"a": 255, "b": 127, "c": 127},
    "": {},
    "ccccd": {"c": 255, "d": 127},
    "zzz": {},
    "aaabbbbbcccc": {"a": 255, "b": 255},
    "jih": {"j": 127, "i": 127, "h": 127},
}


def test_lists_and_facts(tools: Any, tmp_path: Path) -> None:
    found, facts, _ = built(tools, tmp_path, TEXTS)
    assert found == LISTS
    seconds = facts.pop("seconds")
    assert seconds >= 0
    assert facts == {"documents": 6, "reused": 0, "tokens": 24, "dropped": 4, "cut": 1, "clamped": 3}


def test_what_was_encoded_is_not_encoded_again(tools: Any, tmp_path: Path) -> None:
    cache: Any = Memory()
    built(tools, tmp_path, TEXTS[:4], cache)
    found, facts, encoder = built(tools, tmp_path, TEXTS, cache)
    assert found == LISTS
    assert encoder.asked == TEXTS[4:]
    assert facts["reused"] == 4
    assert (facts["tokens"], facts["dropped"], facts["clamped"]) == (24, 4, 3)


@pytest.mark.parametrize("damage", [
    lambda record: b"",
    lambda record: record[:-1],
    lambda record: record + b"\1",
    lambda record: record[:16] + b"\xff\xff\xff\xff" + record[20:],  # a term below 0
    lambda record: record[:16] + b"\x63\0\0\0" + record[20:],  # beyond the vocabulary
    lambda record: record[:16] + record[20:24] * 2 + record[24:],  # a term twice
    lambda record: record[:-1] + b"\0",  # a value of 0
])  # fmt: skip
def test_a_record_that_cannot_be_ours_is_made_again(tools: Any, tmp_path: Path, damage: Any) -> None:
    cache: Any = Memory()
    built(tools, tmp_path, TEXTS, cache)
    cache.records = {key: damage(record) for key, record in cache.records.items()}
    found, facts, _ = built(tools, tmp_path, TEXTS, cache)
    assert found == LISTS
    assert facts["reused"] <= 2  # of those without terms, some damage leaves a good record


def test_records_of_another_encoder_are_not_taken(tools: Any, tmp_path: Path) -> None:
    cache: Any = Memory()
    for maximum in (2.0, 4.0):
        encoder = Letters()
        quantiser = Quantiser.of(maximum)
        load = [encoder].pop
        builder = EncodingBuilder(
            method(maximum=maximum), load, quantiser, Letters.terms, str(tmp_path), 1 << 20, cache
        )
        builder.add([Document("1", "abc")])
        assert encoder.asked == ["abc"]
    assert len(cache.records) == 2


def test_small_values_leave_where_asked(tools: Any, tmp_path: Path) -> None:
    class Small(Letters):
        def encode(self, texts: Sequence[str]) -> Encoded:
            (ends, terms, weights), tokens, dropped = super().encode(texts)
            return Encoded(Weights(ends, terms, (weights / 1000).astype(np.float32)), tokens, dropped)

    for least in (0, 1):
        builder = EncodingBuilder(
            method(),
            Small,
            Quantiser.of(2.0, least=least),
            Letters.terms,
            str(tmp_path),
            1 << 20,
        )
        builder.add([Document("1", "abc")])
        part = tools.MemoryPart()
        builder.finish(part)
        assert Postings(part, "p").facts["postings"] == 3 * least
