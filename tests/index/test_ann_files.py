"""Files of approximate structures from anyone: every flipped byte is refused or does no harm."""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

import numpy as np
import pytest

from retrieval.errors import CorruptIndex
from retrieval.index import exact
from retrieval.index.ann import Ann
from retrieval.index.ann_files import _HEAD

faiss = pytest.importorskip("faiss")

N, D = 90, 8
VECTORS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
KINDS = [
    ("ivf", {"lists": 3}), ("hnsw", {"neighbours": 4}), ("pq", {"lists": 0}), ("pq", {"lists": 3}),
    ("sq8", {"lists": 0}), ("sq8", {"lists": 3}),
]  # fmt: skip


@pytest.fixture(
    params=KINDS, ids=[f"{kind}-{options.get('lists', 0)}" for kind, options in KINDS], scope="module"
)
def stored(request: pytest.FixtureRequest) -> tuple[bytes, dict[str, Any]]:
    made = Ann.build(VECTORS, request.param[0], options=request.param[1], measured=3)
    assert made is not None
    return made.to_bytes(), made.facts


def harmless(data: bytes, facts: Any) -> bool:
    """Whether it is refused (False), or searches give rows that exist with their exact scores (True)."""
    try:
        loaded = Ann.load(data, facts, VECTORS)
    except CorruptIndex:
        return False
    effort = loaded.facts["ladder"][-1]["effort"]
    for query, (rows, scores) in zip(VECTORS[:3], loaded.search(VECTORS, VECTORS[:3], 5, effort=effort)):
        assert len(rows) == 5
        assert scores.tolist() == exact.rescore(VECTORS, query, rows).tolist()
    return True


def test_every_flipped_byte(stored: tuple[bytes, dict[str, Any]]) -> None:
    data, facts = stored
    assert harmless(data, facts)
    places = [*range(min(len(data), 300)), *range(300, len(data), 31)]
    refused = 0
    for place in places:
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= flip
            refused += not harmless(bytes(changed), facts)
    assert refused > 100


def test_truncated_or_longer(stored: tuple[bytes, dict[str, Any]]) -> None:
    data, facts = stored
    for size in (0, 3, 16, 40, 80, len(data) // 2, len(data) - 1):
        assert not harmless(data[:size], facts)
    assert not harmless(data + b"\0", facts)


def test_another_type_inside(stored: tuple[bytes, dict[str, Any]]) -> None:
    data, facts = stored
    for other in (b"IxPT", b"IxMp", b"null", b"IxFI", b"IwFl", b"IHNf"):
        if data[_HEAD.size : _HEAD.size + 4] != other:
            assert not harmless(data[: _HEAD.size] + other + data[_HEAD.size + 4 :], facts)
    if facts["options"].get("lists"):
        place = _HEAD.size + 53
        assert data[place : place + 4] == b"IxFI"
        for other in (b"IHNf", b"null", b"IxF2", b"IwFl"):
            assert not harmless(data[:place] + other + data[place + 4 :], facts)


def test_sizes_that_would_take_all_memory(stored: tuple[bytes, dict[str, Any]]) -> None:
    data, facts = stored
    huge = struct.pack("<Q", 1 << 40)
    for place in range(_HEAD.size, min(len(data) - 8, 400)):
        harmless(data[:place] + huge + data[place + 8 :], facts)


def test_limits_of_faiss_are_put_back(stored: tuple[bytes, dict[str, Any]]) -> None:
    before = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
    harmless(stored[0], stored[1])
    harmless(stored[0][:60] + b"\xff" * 30 + stored[0][90:], stored[1])
    assert before == (faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit())


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "exact"}, {"kind": "flat"}, {"kind": 3}, {"kind": []}, {"options": {}}, {"options": None},
        {"options": {"lists": -1}}, {"documents": N + 1}, {"dim": "8"}, {"ladder": []}, {"ladder": None},
        {"ladder": [{}]}, {"ladder": [{"effort": {"nprobe": 0}, "recall10": 1, "recall100": 1}]},
        {"ladder": [{"effort": {"nprobe": True, "ef": 1}, "recall10": 1, "recall100": 1}]},
    ],
)  # fmt: skip
def test_facts_that_do_not_fit(stored: tuple[bytes, dict[str, Any]], change: dict[str, Any]) -> None:
    data, facts = stored
    with pytest.raises(CorruptIndex):
        Ann.load(data, {**copy.deepcopy(facts), **change}, VECTORS)
    with pytest.raises(CorruptIndex):
        Ann.load(data, None, VECTORS)


def test_other_options_than_the_file_has(stored: tuple[bytes, dict[str, Any]]) -> None:
    data, facts = stored
    for name, value in facts["options"].items():
        if name == "ef_construction":
            continue  # not read by a search
        with pytest.raises(CorruptIndex):
            Ann.load(data, {**facts, "options": {**facts["options"], name: value + 1}}, VECTORS)


def test_facts_survive_json(stored: tuple[bytes, dict[str, Any]]) -> None:
    assert json.loads(json.dumps(stored[1])) == stored[1]
