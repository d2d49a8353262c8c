"""The stage of a representation of blocks: its documents are scored by their blocks.

aggregate  max (default, MaxP), first (FirstP), sum (SumP), mean (of the best `best` blocks), or kernel or
           learned with weights=FILE (pooling.py)
candidates documents, found by their best block, whose blocks are all scored where aggregate is not max (1000)
Other parameters are those of the method inside (k1, b; recall, exact ...).

MaxP is exact: blocks are asked for until the documents asked for are certain. So is FirstP, which searches
the first blocks alone. The others are exact among the candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.index_stage import IndexStage
from retrieval.longdoc.block_view import block_view
from retrieval.longdoc.pooling import HOW, Weights, pool, read_weights
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.method import Method
    from retrieval.index.view import View
    from retrieval.stage import Param

_MINE = "aggregate", "best", "weights", "candidates"
_EACH = 4  # blocks asked for at first, for each document that is wanted
_LEAST = 64
Array = NDArray[Any]


class Passage(NamedTuple):
    """A block of a document: text[start:end], its number among the document's blocks, its score."""

    doc_id: str
    number: int
    start: int
    end: int
    score: float


class BlockStage(IndexStage):
    """Search and re-scoring of documents by their blocks. masks: per segment, of documents."""

    def __init__(
        self,
        view: View,
        name: str,
        of: Method,
        params: Mapping[str, Param],
        *,
        masks: Sequence[NDArray[np.uint8]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(view, name, params)
        self.blocks = block_view(view, name)
        self._how, self._best, self._weights, self._candidates = _settings(name, params)
        inner = {key: value for key, value in params.items() if key not in _MINE}
        given = view.masks(None) if masks is None else masks
        kept = [segment.repeated(mask) for segment, mask in zip(self.blocks.segments, given, strict=True)]
        if self._how == "first":
            kept = [_firsts(segment.table.offsets, mask) for segment, mask in zip(self.blocks.segments, kept)]
        made: Any = of.stage(self.blocks, name, inner, masks=kept, **options)
        self.inner: IndexStage = made

    @property
    def unread(self) -> str:
        """See DenseStage."""
        return getattr(self.inner, "unread", "")

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if run is not None:
            return self._rescore(queries, run)
        wanted = self.depth if self._how in ("max", "first") else max(self.depth, self._candidates)
        found, dropped = self._nearest(queries, min(wanted, max(1, len(self.view.ids))))
        offsets = np.cumsum([0, *(len(docs) for docs, _ in found)])
        docs = np.concatenate([np.empty(0, np.int32), *(docs for docs, _ in found)]).astype(np.int32)
        scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)])
        if self._how not in ("max", "first"):
            scores, dropped = self.scores(queries, offsets, docs)
        return Run(queries, offsets, docs, scores, self.view.ids, dropped=dropped).cut(self.depth)

    def _nearest(self, queries: list[Query], wanted: int) -> tuple[list[tuple[Array, Array]], int]:
        """(documents, the score of the best block of each), the first `wanted` among them; tokens dropped."""
        found: list[tuple[Array, Array]] = [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(queries)
        open_ = list(range(len(queries)))
        total = max(1, self.blocks.documents)
        ask = min(total, max(_LEAST, _EACH * wanted))
        dropped: int | None = None
        if 2 * wanted >= len(self.view.ids):
            ask = total
        while open_:
            asked: Any = self.inner.within(ask)
            run = asked._run([queries[at] for at in open_], None)
            dropped = run.dropped if dropped is None else dropped
            rest = []
            for place, at in enumerate(open_):
                span = slice(int(run.offsets[place]), int(run.offsets[place + 1]))
                docs, first = np.unique(self.blocks.parents(run.docs[span]), return_index=True)
                scores = run.scores[span]
                best = scores[first]  # in rank order, so the first block of a document is its best
                # Blocks that were not returned score no more than the last one, so documents above it stand.
                certain = int(np.count_nonzero(best > scores[-1])) if len(scores) else 0
                if len(scores) < ask or ask == total or certain >= wanted:
                    found[at] = docs.astype(np.int32), best
                else:
                    rest.append(at)
            open_, ask = rest, min(total, 4 * ask)
        return found, dropped or 0

    def scores(
        self, queries: list[Query], offsets: NDArray[np.int64], docs: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], int]:
        """See IndexStage: every block of each document is scored, then pooled."""
        blocks, ends = self._blocks_of(docs)
        found, dropped = self.inner.scores(queries, ends[offsets], blocks)
        return pool(found, ends, self._how, k=self._best, weights=self._weights), dropped

    def _blocks_of(self, docs: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(blocks, ends): those of document i are blocks[ends[i]:ends[i + 1]]; with aggregate=first one."""
        starts = self.blocks.offsets[docs]
        sizes = self.blocks.offsets[docs.astype(np.int64) + 1] - starts
        if self._how == "first":
            sizes = np.ones_like(sizes)
        ends = np.append(0, np.cumsum(sizes))
        return (np.repeat(starts - ends[:-1], sizes) + np.arange(ends[-1])).astype(np.int32), ends

    def best_blocks(
        self, queries: list[Query], offsets: NDArray[np.int64], docs: NDArray[np.int32], count: int = 1
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
        """(blocks, ends, tokens of the queries cut off): of document i, blocks[ends[i]:ends[i + 1]] are the
        `count` that score best, best first, the first one among equals. queries, offsets, docs: see scores.
        """
        blocks, ends = self._blocks_of(docs)
        found, dropped = self.inner.scores(queries, ends[offsets], blocks)
        sizes = np.diff(ends)
        order = np.lexsort((-found, np.repeat(np.arange(len(docs)), sizes)))  # equal ones stay in order
        kept = np.arange(len(blocks)) - np.repeat(ends[:-1], sizes) < count
        return blocks[order[kept]], np.append(0, np.cumsum(np.minimum(sizes, count))), dropped

    def passages(self, query: str, ids: Sequence[str]) -> list[Passage]:
        """The best block of each document for a query, the first one among equals. ids: of the index."""
        return self._passages(query, self.view.find_many(list(ids)).tolist())

    def _passages(self, query: str, ordinals: Sequence[int]) -> list[Passage]:
        blocks, ends = self._blocks_of(np.asarray(ordinals, np.int32))
        scores, _ = self.inner.scores([Query("1", query)], np.array([0, len(blocks)]), blocks)
        found = []
        for at, ordinal in enumerate(ordinals):
            best = int(np.argmax(scores[ends[at] : ends[at + 1]]))
            span = self.blocks.span(int(blocks[ends[at] + best]))
            found.append(Passage(self.view.ids[ordinal], best, *span, float(scores[ends[at] + best])))
        return found

    def explain(self, query: str, ordinal: int) -> dict[str, Any]:
        """What the best block's score is made of, with "block": {number, start, end, score}."""
        best = self._passages(query, [ordinal])[0]
        docs = np.array([ordinal], np.int32)
        score, _ = self.scores([Query("1", query)], np.array([0, 1]), docs)
        block = int(self.blocks.offsets[ordinal]) + best.number
        facts = self.inner.explain(query, block)
        where = {key: value for key, value in best._asdict().items() if key != "doc_id"}
        return {**facts, "representation": self.name, "score": float(score[0]), "block": where}


def _firsts(offsets: NDArray[np.int64], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask of blocks without any but the first of each document."""
    kept = np.zeros(int(offsets[-1]), np.uint8)
    kept[offsets[:-1]] = 1
    return kept * mask if len(mask) else kept


def _settings(name: str, params: Mapping[str, Param]) -> tuple[str, int, Weights | None, int]:
    """(aggregate, best, weights, candidates). Raises UserError."""
    how, path = params.get("aggregate", "max"), params.get("weights")
    if how not in HOW:
        raise UserError(f"{name} cannot take aggregate={how!r}; it is one of {', '.join(HOW)}")
    counts = []
    for key, default in (("best", 3), ("candidates", 1000)):
        value = params.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} cannot take {key}={value!r}; it is a whole number of 1 or more")
        counts.append(value)
    needs = how in ("kernel", "learned")
    if needs != (path is not None):
        raise UserError(
            f"{name}: aggregate={how} {'needs weights=FILE' if needs else 'takes no weights'}; weights are "
            "those of aggregate=kernel or learned"
        )
    return str(how), counts[0], read_weights(str(path)) if needs else None, counts[1]
