"""What tuning says that an early exit reads is what the stage itself reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.bench.tune_tables import Tables
from retrieval.rerank.interpolate import Interpolate
from tests.bench.tune_stages import make_index, make_queries


@pytest.mark.parametrize("weight", [0.1, 0.4, 0.8])
def test_reads(tmp_path: Path, weight: float) -> None:
    index = make_index(tmp_path / "i", 400)
    queries, judged = make_queries(index, 12)
    tables = Tables(index, queries, judged, ["bm25"], lambda done: None)
    wanted = tables.docs >= 0
    tables.scores["knowing"] = tables.score(
        index.pipeline("bm25 >> knowing").parts[1], wanted, lambda done: None
    )
    stage = Interpolate("knowing", weight, 0.0, 6.0)
    ranked, read = tables.interpolated(*tables.fused(["bm25"], [1.0]), stage, "knowing", 10)
    run = index.pipeline(f"bm25 >> {stage!r} % 10")(queries)
    steps = [step for step in run.trace if step.stage.startswith("knowing")]
    assert sum(step.candidates_in for step in steps) == read.sum()
    first = [tables.docs[row][ranked[row, :10]].tolist() for row in range(len(queries))]
    assert run.docs.reshape(len(queries), 10).tolist() == first
    assert (weight > 0.5) or read.sum() < np.count_nonzero(wanted)
