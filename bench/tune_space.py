"""The pipelines that tuning compares: first stages, then up to two re-rankers at several depths, and gates.

    bm25 % 1000 | 0.6 * bm25 % 1000 + 0.4 * minilm % 1000     one, two or three representations
    ... % 50 >> cross(./model)                                a re-ranker by itself
    ... % 50 >> 0.4 * bm25 + 0.6 * cross(./model)             mixed with the scores of the first stage
    ... % 50 >> interpolate("cross(./model)", ...)            the same, read as far as the first 10 need
    ... % 50 >> interpolate("cross(./model)", ...)            mixed, read as far as the first 10 need
    ... % 100 >> tildev2 % 20 >> 0.4 * bm25 + 0.6 * cross(./model)
    ... % 50 >> gate(feature=margin, most=0.31) >> cross(./model)

Representations of the index re-rank as well. A gate's bound is where half, or three quarters, of the queries
pass; it needs no judgements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.measures import Measure
from retrieval.bench.tune_choice import Family
from retrieval.bench.tune_tables import DEPTH, Columns, Tables
from retrieval.rerank.gate import FEATURES, feature
from retrieval.rerank.interpolate import Interpolate
from retrieval.types import Run

_PAIRS = tuple((round(1 - w / 10, 1), w / 10) for w in range(1, 10))
_FEW_PAIRS = ((0.7, 0.3), (0.5, 0.5), (0.3, 0.7))
_TRIPLES = (
    (0.4, 0.4, 0.2),
    (0.4, 0.2, 0.4),
    (0.2, 0.4, 0.4),
    (0.6, 0.2, 0.2),
    (0.2, 0.6, 0.2),
    (0.2, 0.2, 0.6),
)
_MIXES = (1.0, 0.8, 0.6, 0.4, 0.2)  # of a re-ranker; the first stage has the rest
_SHARES = (0.5, 0.75)  # of the queries that pass a gate
_FIRST_OF_TWO = (0.5, 1.0)  # the mix of the first of two re-rankers

Weights = tuple[float, ...]


@dataclass(frozen=True)
class Costs:
    """Milliseconds a query. first: by representations; line: (fixed, a candidate) of every other stage."""

    first: Mapping[tuple[str, ...], float]
    line: Mapping[str, tuple[float, float]]

    def of(self, stage: str, candidates: float) -> float:
        fixed, each = self.line[stage]
        return fixed + each * candidates


def first_stages(names: Sequence[str], few: bool = False) -> Iterator[tuple[tuple[str, ...], Weights]]:
    """The first stages with their weights. few: only those that re-rankers stand behind."""
    for name in names:
        yield (name,), (1.0,)
    for pair in combinations(names, 2):
        yield from ((pair, weights) for weights in (_FEW_PAIRS if few else _PAIRS))
    for triple in combinations(names, 3):
        yield from ((triple, weights) for weights in (_TRIPLES[:3] if few else _TRIPLES))


def text_of(names: Sequence[str], weights: Weights, depth: int | None = None) -> str:
    """The text of a first stage, cut to `depth`; `names` without weights to re-rank by them."""
    if len(names) == 1:
        return f"{names[0]} % {depth or DEPTH}"
    whole = " + ".join(f"{w:g} * {name} % {DEPTH}" for name, w in zip(names, weights, strict=True))
    return f"({whole}) % {depth}" if depth else whole


def mixed(names: Sequence[str], weights: Weights, stage: str, mix: float) -> tuple[tuple[str, ...], Weights]:
    """Stages and weights of a re-ranker with `mix` of the weight, the first stage's with the rest."""
    if mix == 1.0:
        return (stage,), (1.0,)
    return (*names, stage), (*(round((1 - mix) * weight, 4) for weight in weights), mix)


def _sum_text(names: Sequence[str], weights: Weights) -> str:
    if len(names) == 1:
        return names[0]
    return " + ".join(f"{weight:g} * {name}" for name, weight in zip(names, weights, strict=True))


class Space:
    """All families over some tables.

    names      representations of the index; rerankers: further stages, whose scores the tables have
    depths     candidates that re-rankers read, rising
    """

    def __init__(
        self,
        tables: Tables,
        names: Sequence[str],
        rerankers: Sequence[str],
        depths: Sequence[int],
        costs: Costs,
        measure: Measure,
    ) -> None:
        self._tables, self._measure, self._costs = tables, measure, costs
        self._names, self._rerankers, self._depths = names, rerankers, depths
        self._k = dict(measure.params).get("cutoff", DEPTH)
        self._ranges = {name: _range(tables.scores[name]) for name in rerankers}
        self._found: dict[tuple[object, ...], tuple[float, list[str], list[NDArray[np.float32]]]] = {}

    def families(self) -> Iterator[list[Family]]:
        """The families of each first stage, those without re-rankers at the very first."""
        for names, weights in first_stages(self._names):
            values = self._values(self._tables.fused(names, weights)[0])
            self._add((names,), self._costs.first[names], text_of(names, weights), values)
        yield self._taken()
        for names, some in _grouped(first_stages(self._names, few=True)):
            for weights in some:
                self._behind(names, weights)
            yield self._taken()

    def _behind(self, names: tuple[str, ...], weights: Weights) -> None:
        columns, scores = self._tables.fused(names, weights)
        for depth in self._depths:
            few, given = columns[:, :depth], scores[:, :depth]
            before = self._values(few)
            text = text_of(names, weights, depth)
            for stage, mix in product(self._stages(names), _MIXES):
                parts, shares = mixed(names, weights, stage, mix)
                values = self._values(self._tables.reranked(few, parts, shares)[0])
                after = self._cost((*names, stage), depth)
                key, last = (names, depth, stage), _sum_text(parts, shares)
                first = self._costs.first[names]
                self._add(key, first + after, f"{text} >> {last}", values)
                if stage in self._ranges:
                    self._gated(key, (text, last), (first, after), (before, values), (few, given))
            for stage, mix in product(self._ranges, _MIXES[1:]):
                made = Interpolate(stage, mix, *self._ranges[stage])
                ranked, read = self._tables.interpolated(few, given, made, stage, self._k)
                ms = self._costs.first[names] + self._costs.of(stage, float(read.mean()))
                self._add(
                    (names, depth, stage, "interpolate", mix), ms, f"{text} >> {made!r}", self._values(ranked)
                )
            self._two(names, weights, depth, few, text)

    def _two(self, names: tuple[str, ...], weights: Weights, depth: int, few: Columns, text: str) -> None:
        """Two re-rankers, of which the second reads fewer."""
        inner = [depth for depth in self._depths if 3 * depth <= self._depths[-1]]
        if depth < self._depths[-1] or not inner:
            return
        for stage, mix in product(self._stages(names), _FIRST_OF_TWO):
            parts, shares = mixed(names, weights, stage, mix)
            columns = self._tables.reranked(few, parts, shares)[0]
            for second, then, last in product(self._rerankers, inner, _MIXES[:4]):
                if second == stage or self._costs.of(second, 1) <= self._costs.of(stage, 1):
                    continue
                more, by = mixed(names, weights, second, last)
                values = self._values(self._tables.reranked(columns[:, :then], more, by)[0])
                later = self._cost((*names, stage), depth) + self._cost((*names, second), then)
                ms = self._costs.first[names] + later
                middle = _sum_text(parts, shares)
                middle = f"({middle}) % {then}" if len(parts) > 1 else f"{middle} % {then}"
                whole = f"{text} >> {middle} >> {_sum_text(more, by)}"
                self._add((names, depth, stage, then, second), ms, whole, values)

    def _gated(
        self,
        key: tuple[object, ...],
        texts: tuple[str, str],
        costs: tuple[float, float],
        values: tuple[NDArray[np.float32], NDArray[np.float32]],
        run: tuple[Columns, NDArray[np.float32]],
    ) -> None:
        """The same behind a gate. Each pair: before the gate, behind it."""
        for name in FEATURES:
            seen = feature(_as_run(*run), name)
            for share in _SHARES:
                bound = float(np.float32(np.quantile(seen, share if name == "margin" else 1 - share)))
                passes = seen <= bound if name == "margin" else seen >= bound
                passes &= (run[0] >= 0).sum(axis=1) > 1
                rule = f"{'most' if name == 'margin' else 'least'}={bound:.3g}"
                text = f"{texts[0]} >> gate(feature={name}, {rule}) >> {texts[1]}"
                ms = costs[0] + float(passes.mean()) * costs[1]
                self._add((*key, name, share), ms, text, np.where(passes, values[1], values[0]))

    def _stages(self, names: tuple[str, ...]) -> list[str]:
        return [*(name for name in self._names if name not in names), *self._rerankers]

    def _cost(self, parts: Sequence[str], depth: int) -> float:
        return sum(self._costs.of(part, depth) for part in parts)

    def _values(self, columns: Columns) -> NDArray[np.float32]:
        return self._tables.values(columns, self._measure)

    def _add(self, key: tuple[object, ...], ms: float, text: str, values: NDArray[np.float32]) -> None:
        _, texts, rows = self._found.setdefault(key, (ms, [], []))
        texts.append(text)
        rows.append(values)

    def _taken(self) -> list[Family]:
        found = [Family(texts, ms, np.stack(rows)) for ms, texts, rows in self._found.values()]
        self._found.clear()
        return found


def _range(scores: NDArray[np.float32]) -> tuple[float, float]:
    """What counts as 0 and as 1 of a re-ranker's scores: the first and the last hundredth."""
    low, high = np.nanquantile(scores, (0.01, 0.99)).tolist()
    low, high = float(f"{low:.4g}"), float(f"{high:.4g}")
    return (low, high) if low < high else (low - 1.0, low + 1.0)


def _grouped(
    stages: Iterator[tuple[tuple[str, ...], Weights]],
) -> Iterator[tuple[tuple[str, ...], list[Weights]]]:
    found: dict[tuple[str, ...], list[Weights]] = {}
    for names, weights in stages:
        found.setdefault(names, []).append(weights)
    yield from found.items()


def _as_run(columns: Columns, scores: NDArray[np.float32]) -> Run:
    """What a gate sees: the columns' scores, one query a row."""
    from retrieval.types import Query

    lengths = (columns >= 0).sum(axis=1)
    keep = np.arange(columns.shape[1]) < lengths[:, None]
    queries = [Query(str(row), "") for row in range(len(columns))]
    offsets = np.append(0, np.cumsum(lengths))
    return Run(queries, offsets, columns[keep], scores[keep], range(columns.max(initial=0) + 1), ordered=True)  # type: ignore[arg-type]
