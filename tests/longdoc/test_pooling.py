"""Pooling of blocks' scores against plain Python; fitting finds what the data were made with."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.longdoc.pooling import HOW, Weights, fit, pool, read_weights, save_weights

Data = tuple[Any, Any, Any, Any]
SCORES = st.lists(st.floats(-5, 5, width=32), max_size=8)
DOCUMENTS = st.lists(SCORES, max_size=6)
KERNEL = Weights("kernel", np.array([0.5, -1.0, 2.0]), np.array([-1.0, 0.0, 3.0]), 0.7)
LEARNED = Weights("learned", np.array([1.0, 0.5, -0.25]))


def columns(documents: list[list[float]]) -> tuple[Any, Any]:
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    return np.array([score for one in documents for score in one], np.float32), offsets


def by_hand(scores: list[float], how: str, k: int) -> float:
    if not scores:
        return -math.inf
    best = sorted(scores, reverse=True)
    if how == "kernel":
        return sum(
            float(weight)
            * math.log(1 + sum(math.exp(-((score - mean) ** 2) / (2 * KERNEL.width**2)) for score in scores))
            for weight, mean in zip(KERNEL.weights, KERNEL.means)
        )
    return {
        "max": best[0],
        "first": scores[0],
        "sum": math.fsum(scores),
        "mean": math.fsum(best[:k]) / len(best[:k]),
        "learned": math.fsum(
            float(weight) * best[min(at, len(best) - 1)] for at, weight in enumerate(LEARNED.weights)
        ),
    }[how]


@pytest.mark.parametrize("how", HOW)
@given(documents=DOCUMENTS, k=st.integers(1, 5))
def test_against_plain_python(how: str, documents: list[list[float]], k: int) -> None:
    scores, offsets = columns(documents)
    found = pool(scores, offsets, how, k, {"kernel": KERNEL, "learned": LEARNED}.get(how))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [by_hand(one, how, k) for one in documents], rtol=1e-5, atol=1e-5)


@given(DOCUMENTS, st.integers(1, 4))
def test_special_weights(documents: list[list[float]], k: int) -> None:
    """One weight of 1 is max; equal weights are the mean where no document has fewer blocks."""
    scores, offsets = columns(documents)
    one = Weights("learned", np.ones(1))
    np.testing.assert_array_equal(pool(scores, offsets, "learned", 1, one), pool(scores, offsets, "max"))
    long = [each for each in documents if len(each) >= k]
    scores, offsets = columns(long)
    equal = Weights("learned", np.full(k, 1 / k))
    np.testing.assert_allclose(
        pool(scores, offsets, "learned", 1, equal), pool(scores, offsets, "mean", k), rtol=1e-5, atol=1e-6
    )


def test_a_narrow_kernel_counts() -> None:
    """Kernels that are narrow and apart count the blocks at their means, as a histogram."""
    scores, offsets = columns([[1.0, 1.0, 2.0], [2.0, 5.0]])
    weights = Weights("kernel", np.array([1.0, 0.0]), np.array([1.0, 2.0]), 0.01)
    np.testing.assert_allclose(pool(scores, offsets, "kernel", weights=weights), [np.log(3), 0], atol=1e-6)


def examples(truth: Weights, count: int = 300) -> Data:
    """Queries of eight documents each, the best one by `truth` relevant."""
    rng = np.random.default_rng(4)
    documents = [list(rng.normal(size=rng.integers(3, 9))) for _ in range(8 * count)]
    scores, offsets = columns(documents)
    table = pool(scores, offsets, truth.how, weights=truth).reshape(count, 8)
    relevant = (table == table.max(1, keepdims=True)).ravel()
    return scores, offsets, np.arange(0, 8 * count + 1, 8), relevant


def firsts(data: Data, weights: Weights) -> float:
    scores, offsets, _, relevant = data
    table = pool(scores, offsets, weights.how, weights=weights).reshape(-1, 8)
    return float((table.argmax(1) == relevant.reshape(-1, 8).argmax(1)).mean())


@pytest.mark.parametrize("truth", [Weights("learned", np.array([0.2, 1.0, 0.6])), KERNEL])
def test_fit_finds_the_order(truth: Weights) -> None:
    data = examples(truth)
    scores, offsets, queries, relevant = data
    found = fit(scores, offsets, queries, relevant, truth.how, 3)
    assert firsts(data, found) > (0.97 if truth.how == "learned" else 0.85)
    if truth.how == "learned":
        ratio = found.weights / found.weights[1]
        np.testing.assert_allclose(ratio, truth.weights, atol=0.1)  # the penalty draws them together


def test_fit_is_the_minimum() -> None:
    """No small step makes the loss less; written out as the docstring has it."""
    scores, offsets, queries, relevant = examples(LEARNED, 20)
    relevant[::7] = True  # several relevant ones, and another number of pairs a query
    penalty = 0.01
    found = fit(scores, offsets, queries, relevant, "learned", 3, penalty)
    rows = np.array(
        [pool(scores, offsets, "learned", weights=Weights("learned", row)) for row in np.eye(3)]
    ).T
    scale = rows.std(0)

    def loss(weights: Any) -> float:
        of = rows @ weights
        total = []
        for begin, end in pairwise(queries.tolist()):
            pairs = [
                math.log(1 + math.exp(of[worse] - of[better]))
                for better in range(begin, end)
                for worse in range(begin, end)
                if relevant[better] and not relevant[worse]
            ]
            if pairs:
                total.append(sum(pairs) / len(pairs))
        return sum(total) / len(total) + penalty * float(((weights * scale) ** 2).sum()) / 2

    least = loss(found.weights)
    rng = np.random.default_rng(5)
    for _ in range(30):
        assert loss(found.weights + rng.normal(0, 1e-3, 3)) > least - 1e-9


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    for weights in (KERNEL, LEARNED):
        save_weights(path, weights)
        found = read_weights(path, weights.how)
        assert (found.how, found.width) == (weights.how, weights.width)
        np.testing.assert_array_equal(found.weights, weights.weights)
        np.testing.assert_array_equal(found.means, weights.means)
    with pytest.raises(UserError, match="of how=learned, not of how=kernel"):
        read_weights(path, "kernel")
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "none")


@pytest.mark.parametrize(
    "made",
    [
        [],
        {"how": "max", "weights": [1]},
        {"how": "learned"},
        {"how": "learned", "weights": ["x"]},
        {"how": "learned", "weights": [[1.0]]},
        {"how": "learned", "weights": [float("nan")]},
        {"how": "learned", "weights": [1], "means": [1]},
        {"how": "kernel", "weights": [1, 2], "means": [1]},
        {"how": "kernel", "weights": [1], "means": [1], "width": 0},
    ],
)
def test_a_file_without_weights(tmp_path: Path, made: object) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(path)
    path.write_text("no JSON")
    with pytest.raises(UserError, match="this is none"):
        read_weights(path)


def test_wrong_settings() -> None:
    scores, offsets = columns([[1.0]])
    with pytest.raises(UserError, match="one of max, first, sum, mean"):
        pool(scores, offsets, "maxp")
    with pytest.raises(UserError, match="1 or more"):
        pool(scores, offsets, "mean", 0)
    with pytest.raises(UserError, match="none were given"):
        pool(scores, offsets, "learned")
    with pytest.raises(UserError, match="of how=learned"):
        pool(scores, offsets, "kernel", weights=LEARNED)
    with pytest.raises(UserError, match="has no weights"):
        fit(scores, offsets, np.array([0, 1]), np.array([True]), "max")
    with pytest.raises(UserError, match="nothing to fit"):
        fit(scores, offsets, np.array([0, 1]), np.array([True]))
