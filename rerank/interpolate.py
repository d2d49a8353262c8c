"""A re-ranker's scores mixed with the run's, read only as far as the order can still change.

    bm25 % 100 >> interpolate("cross(./model)", weight=0.6, low=-8, high=9) % 10

score = (1 - weight) * r + weight * c, with r the run's score and c the re-ranker's, both from 0 to 1: r by
the lowest and highest score of the run that comes in, which are known before anything is read; c as
(score - low) / (high - low), cut off at 0 and 1. Because c has fixed bounds, a candidate that nobody has read
yet cannot score more than (1 - weight) * r + weight: candidates are read from the first, and reading ends
when no further one can come among those asked for (`% 10`). The result is that of reading them all.

`0.4 * bm25 + 0.6 * cross(...)` has no such bound. There the cross-encoder's lowest and highest score of the
pool set the scale, which every candidate that is read may move, so that all have to be read.

Leonhardt, Rudra, Khosla, Anand, Anand: Efficient neural ranking using forward indexes. WWW 2022; theirs takes
the largest score seen so far for the bound, ours one that holds.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CompositionError, UserError
from retrieval.registry import register
from retrieval.rerank.fusion import normalised, one_table
from retrieval.stage import Lookup, Stage, with_documents
from retrieval.types import Query, Run, StageTrace

STEP = 16  # candidates read together, after the first ones


@register("interpolate")
class Interpolate(Stage):
    """The stage.

    model      text of the stage whose scores are mixed in: one of the index or a registered one, in quotes
    weight     of its scores, 0 to 1; the run's have the rest
    low, high  what counts as 0 and as 1 of its scores; `retrieve tune` takes them from its queries

    Raises UserError.
    """

    name = "interpolate"
    needs_run = True

    def __init__(self, model: str, weight: float = 0.5, low: float = 0.0, high: float = 1.0) -> None:
        for key, value in (("weight", weight), ("low", low), ("high", high)):
            if isinstance(value, (bool, str)) or not math.isfinite(value):
                raise UserError(f"interpolate cannot take {key}={value!r}; it is a finite number")
        if not 0 <= weight <= 1:
            raise UserError(f"interpolate cannot take weight={weight!r}; it is a number from 0 to 1")
        if not low < high:
            raise UserError(f"interpolate cannot take low={low!r} and high={high!r}; low is below high")
        self.inner = str(model)
        self.params = {"model": self.inner, "weight": weight, "low": low, "high": high}
        self.weight, self._low, self._high = float(weight), float(low), float(high)

    def with_stage(self, stage: Stage) -> Self:
        """This stage with the re-ranker that `model` names. Raises CompositionError for one that expands."""
        if stage.expands:
            raise CompositionError(f"{self!r} mixes scores of the same documents, and {stage!r} finds others")
        twin = copy.copy(self)
        twin.parts, twin.corpus = (stage,), stage.corpus
        return twin

    def with_documents(self, lookup: Lookup) -> Self:
        """This stage with the way to the documents' texts."""
        return self.with_stage(with_documents(self.parts[0], lookup)) if self.parts else self

    def share(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """The re-ranker's scores from 0 to 1; NaN, of a document that it does not return, is 0."""
        found = np.clip((scores.astype(np.float64) - self._low) / (self._high - self._low), 0.0, 1.0)
        return np.where(np.isnan(found), 0.0, found)

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None  # needs_run
        if not self.parts:
            raise CompositionError(f"{self!r} reads documents; use it in a pipeline of an index")
        reading = _Reading(run, self.weight, self.depth)
        trace: list[StageTrace] = list(run.trace)
        while (asked := reading.next(queries)) is not None:
            some, places = asked
            found = self.parts[0](some.queries, some)
            trace += found.trace[len(some.trace) :]
            reading.take(places, self.share(_scores_of(some, found)))
        return reading.run(queries).with_trace(trace).cut(self.depth)


class _Reading:
    """Which candidates of a run have been read, and whether more have to be."""

    def __init__(self, run: Run, weight: float, k: int) -> None:
        self._given, self._weight, self._k = run, weight, k
        self._prior = (1.0 - weight) * normalised(run)
        self._totals: NDArray[np.float32] = np.full(len(run.docs), -1.0, np.float32)  # -1: not read
        self._read = run.offsets[:-1].copy()  # the first place of each query that has not been read
        self._first = True

    def next(self, queries: list[Query]) -> tuple[Run, NDArray[np.int64]] | None:
        """(the candidates to read now, their places in the run); None when the first k are certain."""
        size = max(self._k, STEP) if self._first else STEP
        self._first = False
        ends = np.minimum(self._read + size, self._given.offsets[1:])
        wanted = [at for at in range(len(queries)) if self._read[at] < ends[at] and self._open(at)]
        if not wanted:
            return None
        places = np.concatenate([np.arange(self._read[at], ends[at]) for at in wanted])
        offsets = np.append(0, np.cumsum([ends[at] - self._read[at] for at in wanted]))
        self._read[wanted] = ends[wanted]
        given, some = self._given, [queries[at] for at in wanted]
        docs, scores = given.docs[places], given.scores[places]
        return Run(some, offsets, docs, scores, given.doc_ids, ordered=True), places

    def _open(self, at: int) -> bool:
        """Whether a candidate that has not been read can come among the first k of query `at`."""
        start, place = int(self._given.offsets[at]), int(self._read[at])
        if place - start < self._k:
            return True
        kth = np.partition(self._totals[start:place], place - start - self._k)[place - start - self._k]
        return bool(np.float32(self._prior[place] + self._weight) >= kth)  # equal: the id may decide

    def take(self, places: NDArray[np.int64], share: NDArray[np.float64]) -> None:
        self._totals[places] = self._prior[places] + self._weight * share

    def run(self, queries: list[Query]) -> Run:
        """The candidates that were read, by their new scores."""
        read = np.flatnonzero(self._totals >= 0)
        offsets = np.searchsorted(read, self._given.offsets)
        return Run(queries, offsets, self._given.docs[read], self._totals[read], self._given.doc_ids)


def _scores_of(asked: Run, found: Run) -> NDArray[np.float64]:
    """float64[n]: the score in `found` of each document of `asked`; NaN for one that it lacks."""
    doc_ids, (wanted, docs) = one_table([asked, found])
    size = max(1, len(doc_ids))
    keys = np.repeat(np.arange(len(found)), np.diff(found.offsets)) * size + docs
    order = np.argsort(keys)
    sought = np.repeat(np.arange(len(asked)), np.diff(asked.offsets)) * size + wanted
    at = np.minimum(np.searchsorted(keys[order], sought), max(0, len(keys) - 1))
    if not len(keys):
        return np.full(len(sought), np.nan)
    there = keys[order][at] == sought
    return np.where(there, found.scores[order][at].astype(np.float64), np.nan)
