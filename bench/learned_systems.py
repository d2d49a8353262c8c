"""What is compared: each system as legs of one index, and what it is worth on a collection's queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retrieval import registry
from retrieval.bench.evaluate import Evaluation, evaluate
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.stage import Stage

DEPTH = 1000  # documents of a leg, and of what is re-scored
MEASURES = ("nDCG@10", "R@100")
BASELINE = "BM25"
_KEPT = 100  # documents that the measures look at
_BATCH = 512  # queries whose legs are in memory: 1000 documents of a leg are 8 kB


@dataclass(frozen=True)
class System:
    """A retriever `first`; with `second` what re-scores its candidates, or is fused with it by `weight`.

    label   what tables call it
    weight  of the first in `weight * first + (1 - weight) * second`; None: the second re-scores
    tuned   its name among what was tuned; empty where there was nothing to tune
    """

    label: str
    first: str
    second: str = ""
    weight: float | None = None
    tuned: str = ""

    @property
    def pipeline(self) -> str:
        """The text that `retrieve search --pipeline` takes."""
        if not self.second:
            return f"{self.first} % {DEPTH}"
        if self.weight is None:
            return f"{self.first} % {DEPTH} >> {self.second}"
        rest = round(1 - self.weight, 6)
        return f"{self.weight} * {self.first} % {DEPTH} + {rest} * {self.second} % {DEPTH}"

    @property
    def needs(self) -> set[str]:
        """The representations that it searches."""
        return {leg.partition("(")[0] for leg in (self.first, self.second) if leg}

    def run(self, legs: Legs) -> Run:
        """Its best documents for the queries that the legs are at."""
        first = legs.retrieve(self.first)
        if not self.second:
            return first
        if self.weight is None:
            return legs.rescore(self.second, first)
        weights = [self.weight, round(1 - self.weight, 6)]
        fused: Run = registry.lookup("minmax", kind="fusion")([first, legs.retrieve(self.second)], weights)
        return fused


class Legs:
    """The stages of an index; what one finds for the present queries is kept for all systems that use it."""

    def __init__(self, index: Index, threads: int) -> None:
        self._index, self._threads = index, threads
        self._stages: dict[str, Stage] = {}
        self._found: dict[str, Run] = {}
        self._queries: Sequence[Query] = ()

    def at(self, queries: Sequence[Query]) -> None:
        """Forgets what was found, and goes to other queries."""
        self._queries, self._found = queries, {}

    def _stage(self, text: str) -> Stage:
        if text not in self._stages:
            self._stages[text] = self._index.pipeline(text, threads=self._threads)
        return self._stages[text]

    def retrieve(self, text: str) -> Run:
        """The best DEPTH documents by a representation."""
        if text not in self._found:
            self._found[text] = (self._stage(text) % DEPTH)(self._queries)
        return self._found[text]

    def rescore(self, text: str, run: Run) -> Run:
        """A run's documents with the scores of a representation."""
        return self._stage(text)(self._queries, run)


def standard(names: Sequence[str], dense: Sequence[str] = ()) -> list[System]:
    """The systems that need no tuning, of the representations that there are."""
    every = [
        System(BASELINE, "bm25"),
        System("BM25 >> TILDEv2", "bm25", "tildev2"),
        System("BM25 >> TILDEv2, idf", "bm25", "tildev2(idf=1)"),
        System("TILDEv2", "tildev2"),
        System("TILDEv2, idf", "tildev2(idf=1)"),
        System("B-PROP", "bprop"),
        System("TILDE", "tilde"),
        *(System(name, name) for name in dense),
        *(System(f"BM25 >> {name}", "bm25", name) for name in dense),
    ]
    return [system for system in every if system.needs <= set(names)]


def fused(names: Sequence[str], idf: Sequence[int], dense: Sequence[str] = ()) -> dict[str, list[System]]:
    """Label -> the sums with BM25 to choose from, without their weights."""
    every = {
        "BM25 + TILDEv2": ["tildev2(idf=1)" if on else "tildev2" for on in idf],
        "BM25 + B-PROP": ["bprop"],
        **{f"BM25 + {name}": [name] for name in dense},
    }
    return {
        label: [System(label, "bm25", leg, tuned=label) for leg in legs]
        for label, legs in every.items()
        if legs[0].partition("(")[0] in names
    }


def evaluations(
    index: Index,
    queries: Sequence[Query],
    judgements: Mapping[str, Mapping[str, int]],
    systems: Sequence[System],
    *,
    measures: Sequence[str] = MEASURES,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Evaluation]:
    """What each system is worth on these queries. progress: called with the queries of each batch."""
    legs = Legs(index, threads)
    runs: list[list[Run]] = [[] for _ in systems]
    for batch in batches(queries):
        legs.at(batch)
        for system, found in zip(systems, runs, strict=True):
            found.append(system.run(legs).cut(_KEPT))
        if progress is not None:
            progress(len(batch))
    judged = {query.query_id: judgements[query.query_id] for query in queries}
    return [evaluate(joined(found), judged, measures) for found in runs]


def batches(queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
    """The queries in order, about evenly, none more than can be held."""
    count = -(-len(queries) // _BATCH)
    for i in range(count):
        yield queries[i * len(queries) // count : (i + 1) * len(queries) // count]


def joined(runs: Sequence[Run]) -> Run:
    """One run of all queries; the runs share a table of ids, and no query."""
    offsets = [np.zeros(1, np.int64)]
    for run in runs:
        offsets.append(run.offsets[1:] + offsets[-1][-1])
    queries = [query for run in runs for query in run.queries]
    docs = np.concatenate([run.docs for run in runs])
    scores = np.concatenate([run.scores for run in runs])
    return Run(queries, np.concatenate(offsets), docs, scores, runs[0].doc_ids, ordered=True)
