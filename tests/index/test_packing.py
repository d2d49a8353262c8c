"""Packed lists decode to the lists that went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 200_000), st.data())
def test_round_trip(tools: Any, tmp_path: Path, documents: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    from retrieval.index.postings import Postings
    from retrieval.index.postings_writer import PostingsWriter

    density = data.draw(st.sampled_from([0.0001, 0.01, 0.5, 1.0]))
    lists = [np.flatnonzero(rng.random(documents) < density) for _ in range(3)]
    tokens = np.concatenate([np.full(len(docs), i) for i, docs in enumerate(lists)])
    order = np.argsort(np.concatenate(lists), kind="stable")
    weights = rng.integers(1, 256, len(tokens)).astype(np.uint8)
    ends = np.zeros(documents + 1, np.int64)
    np.cumsum(np.bincount(np.concatenate(lists), minlength=documents), out=ends[1:])
    parts = []
    for compact in (False, True):
        writer = PostingsWriter(str(tmp_path), weighted=True)
        writer.add(ends, tokens[order].astype(np.int32), weights[order])
        part = tools.MemoryPart()
        writer.finish(part, ["a", "b", "c"], compact=compact)
        parts.append(Postings(part, "p"))
    for number in range(3):
        (docs, values), (same_docs, same_values) = (part.posting(number) for part in parts)
        assert docs.tolist() == lists[number].tolist() == same_docs.tolist()
        assert values.tolist() == same_values.tolist()
