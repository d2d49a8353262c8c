"""Rows made up for the tests of leaderboards: no model, no index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def make_row() -> Callable[..., Any]:
    """make_row("BM25", [0.1, 0.4]): a row of these values; keywords replace its fields."""
    from retrieval.bench.statistics import bootstrap

    def figure(values: Sequence[float]) -> dict[str, Any]:
        mean, low, high = bootstrap(values)
        return {"mean": mean, "low": low, "high": high, "values": list(map(float, values))}

    def make(name: str, values: Sequence[float], *, p50: float | None = None, **fields: Any) -> Any:
        row = {
            "format": "retrieval-row/1",
            "system": {
                "name": name, "pipeline": "bm25", "representations": ["bm25"], "trained_on": "none",
                "file": "",
            },
            "suite": "made", "task": "one", "split": "test",
            "measures": {"nDCG@10": figure(values), "RR@10": figure(np.round(values, 1).tolist())},
            "data": {
                "documents": 9, "queries": len(values), "of": len(values), "corpus_sha256": "c" * 64,
                "queries_sha256": "a" * 64, "qrels_sha256": "b" * 64, "source": "data/made",
            },
            "index": {
                "generation": 1, "ids_sha256": "d" * 64, "representations": {"bm25": {"bytes": 1234567}},
            },
            "models": {}, "ties": "score descending, then document id descending", "depth": 1000, "seed": 0,
            "date": "2026-11-29", "command": "retrieve bench made", "versions": {"retrieval": "0.1.0"},
            "hardware": {"processor": "a processor", "cores": 2, "threads": 1, "gpu": None},
            "query_ids": [f"q{n}" for n in range(len(values))],
            "times_ms": None if p50 is None else {"p50": p50, "p99": 3 * p50},
            "tokens_dropped": {"documents": 12, "searching": 3},
        }  # fmt: skip
        return {**row, **fields}

    return make


@pytest.fixture
def rows(make_row: Callable[..., Any]) -> list[Any]:
    """Four systems on forty queries: `good` beats BM25 clearly, `slow` is worse, `even` is BM25 nearly."""
    random = np.random.default_rng(3)
    base = random.uniform(0.2, 0.6, 40)
    even = base + random.normal(0, 0.02, 40)
    even[:4] = base[:4]
    return [
        make_row("BM25", base, p50=2.0),
        make_row("even", even, p50=1.0),
        make_row("good", base + random.uniform(0, 0.3, 40), p50=30.0),
        make_row("slow", base - 0.05, p50=90.0),
    ]
