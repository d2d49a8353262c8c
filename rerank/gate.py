"""A gate lets only the queries on that are worth it: `bm25 % 100 >> gate(feature=margin, most=0.3) >> cross`.

A query whose run already looks decided keeps it, and the stages behind the gate are left out for it. What a
run looks like is one number of its first k scores, whatever scale they have:

margin    how far the first stands before the second, as a share of the way from the first to the k-th
entropy   how evenly the scores above the k-th are spread: 0 for all of it on one document, 1 for k - 1 equals

`retrieve tune` learns the bounds. Entropy and the spread of scores tell hard queries from easy ones (Shtok et
al.: Predicting query performance by query-drift estimation. TOIS 2012), with modest correlation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.registry import register
from retrieval.stage import Param, Stage
from retrieval.types import Query, Run

FEATURES = ("margin", "entropy")


@register("gate")
class Gate(Stage):
    """The stage: its run is the run that comes in; `passes` says which queries go on.

    feature  margin or entropy
    least    the smallest value that passes
    most     the largest value that passes
    k        scores that are looked at, from the first, 3 or more
    """

    name = "gate"
    needs_run = True
    gates = True

    def __init__(
        self, feature: str = "margin", least: float = -math.inf, most: float = math.inf, k: int = 10
    ) -> None:
        if feature not in FEATURES:
            raise UserError(f"gate cannot take feature={feature!r}; it is one of {', '.join(FEATURES)}")
        for key, value in (("least", least), ("most", most)):
            if isinstance(value, (bool, str)) or math.isnan(value):
                raise UserError(f"gate cannot take {key}={value!r}; it is a number")
        if isinstance(k, bool) or not isinstance(k, int) or k < 3:
            raise UserError(f"gate cannot take k={k!r}; it is a whole number of 3 or more")
        self._feature, self._least, self._most, self._k = feature, least, most, k
        self.params: dict[str, Param] = {"feature": feature}
        bounds = {key: bound for key, bound in (("least", least), ("most", most)) if math.isfinite(bound)}
        self.params |= bounds
        if k != 10:
            self.params["k"] = k

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None  # needs_run
        return Run(queries, run.offsets, run.docs, run.scores, run.doc_ids, ordered=True)

    def passes(self, run: Run) -> NDArray[np.bool_]:
        """bool[queries]: which go on. A query with fewer than two documents has no order to improve."""
        values = feature(run, self._feature, self._k)
        some = np.diff(run.offsets) > 1
        return some & (values >= self._least) & (values <= self._most)


def feature(run: Run, name: str, k: int = 10) -> NDArray[np.float64]:
    """float64[queries]: margin or entropy of each query's first k scores; 0 and 1 where all are equal."""
    values = np.empty(len(run))
    for at in range(len(run)):
        scores = run.scores[run.offsets[at] : min(run.offsets[at + 1], run.offsets[at] + k)].astype(
            np.float64
        )
        above = scores - scores[-1] if len(scores) else scores
        if len(above) < 2 or not above[0] > 0:
            values[at] = name == "entropy"
        elif name == "margin":
            values[at] = (above[0] - above[1]) / above[0]
        else:
            share = above[above > 0] / above.sum()
            most = math.log(max(2, len(above) - 1))
            values[at] = -(share * np.log(share)).sum() / most
    return values
