"""Statistics of per-query values: bootstrap, paired t-test, paired randomisation test, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval.errors import UserError

_CELLS = 4_000_000  # numbers drawn at once: 32 MB


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """The mean difference of two systems and the two-sided p-value of its being chance."""

    difference: float
    p: float


def bootstrap(values: ArrayLike, *, level: float = 0.95, samples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean over queries: `samples` means of as many, drawn with replacement."""
    column = _column(values)
    if not 0 < level < 1:
        raise UserError(f"level is {level}; a confidence level lies between 0 and 1, such as 0.95")
    random = np.random.default_rng(seed)
    size = max(1, _CELLS // len(column))
    means = [
        column[random.integers(0, len(column), (min(size, samples - start), len(column)))].mean(axis=1)
        for start in range(0, samples, size)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(column.mean()), float(low), float(high))


def paired_t(a: ArrayLike, b: ArrayLike) -> Comparison:
    """Student's t-test of the per-query differences a - b, two-sided. p is 1 without any difference."""
    gap = _gaps(a, b)
    mean, spread = float(gap.mean()), float(gap.std(ddof=1)) if len(gap) > 1 else 0.0
    if spread == 0.0:
        return Comparison(mean, 1.0 if mean == 0.0 or len(gap) < 2 else 0.0)
    t = mean / (spread / math.sqrt(len(gap)))
    freedom = len(gap) - 1
    return Comparison(mean, _beta(freedom / 2, 0.5, freedom / (freedom + t * t)))


def randomisation(a: ArrayLike, b: ArrayLike, *, samples: int = 10_000, seed: int = 0) -> Comparison:
    """Fisher's paired test: how often random signs make the mean of a - b as large as it is, two-sided.

    All sign patterns are tried when there are no more than `samples`; else `samples` random ones, and the
    pattern observed counts as one of them, so that p is never 0.
    """
    gap = _gaps(a, b)
    seen = abs(float(gap.sum()))
    exact = len(gap) < 30 and 2 ** len(gap) <= samples
    random = np.random.default_rng(seed)
    patterns = 2 ** len(gap) if exact else samples
    size, as_large = max(1, _CELLS // len(gap)), 0
    for start in range(0, patterns, size):
        count = min(size, patterns - start)
        if exact:
            flips = (np.arange(start, start + count)[:, None] >> np.arange(len(gap))) & 1
        else:
            flips = random.integers(0, 2, (count, len(gap)), dtype=np.int8)
        sums = np.abs((1.0 - 2.0 * flips) @ gap)
        as_large += int(np.count_nonzero(sums >= seen * (1 - 1e-12) - 1e-15))
    return Comparison(float(gap.mean()), as_large / patterns if exact else (1 + as_large) / (1 + patterns))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values, in the order given."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(min(1.0, (len(p_values) - step) * p_values[place]), floor)
        adjusted[place] = floor
    return adjusted


def _column(values: ArrayLike) -> NDArray[np.float64]:
    column = np.asarray(values, np.float64)
    if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
        raise UserError(f"values of shape {column.shape} cannot be tested; give one finite number a query")
    return column


def _gaps(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    first, second = _column(a), _column(b)
    if len(first) != len(second):
        raise UserError(
            f"{len(first)} and {len(second)} values cannot be paired; give both for the same queries"
        )
    return first - second


def _beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Lentz)."""
    if x <= 0.0 or x >= 1.0:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(b, a, 1.0 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + term * d)
            c = 1.0 + term / c
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * value / a
