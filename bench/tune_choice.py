"""Which candidate to take: cross-validation over queries, the Pareto front, and what the choice is worth.

A family of candidates differs in its weights only. Its cross-validated quality is that of the weights which
were best on the other folds, on each fold. The choice within a budget is the family of the highest
cross-validated quality, with the weights that are best on all queries; of equals the faster. (One standard
error is not given away for speed: the budget says what time is worth.) Choosing among many flatters the
winner, so what is quoted for it is nested: the whole choice is made anew without a fold, and judged on it.
Where that is no better than a pipeline in which nothing was tuned, the plain one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Family:
    """Pipelines that differ in their weights. texts: one each; ms: what a query takes; values[i, query]."""

    texts: Sequence[str]
    ms: float
    values: Values


@dataclass(frozen=True)
class Point:
    """A family in the table. text: with the weights that are best on all queries; values: cross-validated."""

    text: str
    ms: float
    values: Values

    @property
    def quality(self) -> float:
        return float(self.values.mean())


def split(queries: int, folds: int, seed: int) -> NDArray[np.int64]:
    """int64[queries]: the fold of each query, as equal in size as can be, drawn by the seed."""
    fold = np.arange(queries) % folds
    return np.random.default_rng(seed).permutation(fold)


class Chooser:
    """Families over the same queries and folds."""

    def __init__(self, families: Sequence[Family], fold: NDArray[np.int64]) -> None:
        self.families = families
        self._fold = fold
        self._folds = int(fold.max()) + 1
        inside = np.eye(self._folds)[fold]  # [queries, folds]
        self._sums = [family.values.astype(np.float64) @ inside for family in families]

    def point(self, family: int) -> Point:
        """The family's cross-validated values, and the text that is best on all queries."""
        values, sums = self.families[family].values, self._sums[family]
        out = np.empty(values.shape[1], np.float32)
        for fold in range(self._folds):
            best = int((sums.sum(axis=1) - sums[:, fold]).argmax())
            out[self._fold == fold] = values[best, self._fold == fold]
        best = int(sums.sum(axis=1).argmax())
        return Point(self.families[family].texts[best], self.families[family].ms, out)

    def choose(self, budget: float, left_out: int | None = None) -> tuple[int, int] | None:
        """(family, weights) of the best within `budget` ms, without the queries of a fold; None: none is."""
        use = [fold for fold in range(self._folds) if fold != left_out]
        best: tuple[float, float] | None = None
        found = None
        for at, family in enumerate(self.families):
            if family.ms > budget:
                continue
            sums = self._sums[at][:, use]
            whole = sums.sum(axis=1)
            rest = whole[:, None] - sums  # [weights, folds in use]
            total = float(sums[rest.argmax(axis=0), np.arange(len(use))].sum())
            worth = (total, -family.ms)
            if best is None or worth > best:
                best, found = worth, (at, int(whole.argmax()))
        return found

    def nested(self, budget: float) -> Values:
        """float32[queries]: each fold by what would have been chosen without it."""
        out = np.empty(len(self._fold), np.float32)
        for fold in range(self._folds):
            found = self.choose(budget, fold)
            assert found is not None  # whoever calls has seen that something fits
            out[self._fold == fold] = self.families[found[0]].values[found[1], self._fold == fold]
        return out


def plainer(nested: Values, plain: Sequence[Point]) -> Point | None:
    """The best of the plain points, of equals the faster, where nested values are no better than it."""
    best = max(plain, key=lambda point: (point.quality, -point.ms), default=None)
    return best if best is not None and float(nested.mean()) <= best.quality else None


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other one beats in quality without taking longer, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.ms, -point.quality)):
        if not kept or point.quality > kept[-1].quality:
            kept.append(point)
    return kept
