"""Weights of kernel and learned pooling, fitted to judged queries on a representation of blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from retrieval.longdoc.block_stage import BlockStage
from retrieval.longdoc.pooling import Weights, fit
from retrieval.types import Run


def fit_stage(
    stage: BlockStage,
    run: Run,
    judgements: Mapping[str, Mapping[str, int]],
    how: str = "learned",
    k: int = 5,
    penalty: float = 1e-3,
) -> Weights:
    """The weights with which `stage` ranks the candidates of a run best (pooling.fit says by which loss).

    run         candidates of training queries, such as (index.bm25() % 100)(queries)
    judgements  query id -> document id -> grade; above 0 is relevant. A candidate without one is not

    Scores of BM25 and of cosines differ, so weights are of one representation. Raises UserError where no
    query has both a relevant and another candidate, and for a document that is not in the index.
    """
    docs = stage.ordinals(run).astype(np.int64)
    starts = stage.blocks.offsets[docs]
    sizes = stage.blocks.offsets[docs + 1] - starts
    ends = np.append(0, np.cumsum(sizes))
    blocks = (np.repeat(starts - ends[:-1], sizes) + np.arange(ends[-1])).astype(np.int32)
    scores, _ = stage.inner.scores(list(run.queries), ends[run.offsets], blocks)
    relevant = np.array(
        [judgements.get(name, {}).get(hit.doc_id, 0) > 0 for name, hits in run.items() for hit in hits], bool
    )
    return fit(scores, ends, run.offsets, relevant, how, k, penalty)
