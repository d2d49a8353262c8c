"""Tests between all pairs of systems on one task, and the Pareto front of quality against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.statistics import holm, paired_t, randomisation

LEVEL = 0.05  # a corrected p below it is marked
_WORK = 1_000_000_000  # signs drawn for the tests of one task; above it, Student's t


class Pair(NamedTuple):
    """A paired test of two systems: mean difference (first minus second), p, p after Holm's correction."""

    difference: float
    p: float
    corrected: float


def significant(pair: Pair | None) -> int:
    """1 or -1 for a difference that a corrected test marks, up or down; else 0."""
    if pair is None or pair.corrected >= LEVEL:
        return 0
    return 1 if pair.difference > 0 else -1


def all_pairs(values: Mapping[int, NDArray[np.float64]]) -> tuple[dict[tuple[int, int], Pair], str]:
    """(i, j) with i < j -> the test of i against j, and the test's name; values: place -> float64[queries].

    All pairs are corrected together, by Holm: a reader may take any system as the baseline.
    """
    chosen = list(combinations(sorted(values), 2))
    if not chosen:
        return {}, ""
    # With few samples no p could stay below LEVEL once it is multiplied by the number of pairs.
    samples = max(10_000, 400 * len(chosen))
    shuffled = samples * len(chosen) * len(values[chosen[0][0]]) <= _WORK
    found = [
        randomisation(values[i], values[j], samples=samples) if shuffled else paired_t(values[i], values[j])
        for i, j in chosen
    ]
    corrected = holm([comparison.p for comparison in found])
    pairs = {
        place: Pair(comparison.difference, comparison.p, after)
        for place, comparison, after in zip(chosen, found, corrected, strict=True)
    }
    name = f"Fisher's paired randomisation test ({samples:,} samples)" if shuffled else "the paired t-test"
    return pairs, name


def front(points: Sequence[tuple[float, float, int]]) -> list[int]:
    """Of (time, quality, place), the places that no other beats or equals in both; by time."""
    kept: list[int] = []
    best = -np.inf
    for _, quality, place in sorted(points, key=lambda point: (point[0], -point[1], point[2])):
        if quality > best:
            kept.append(place)
            best = quality
    return kept
