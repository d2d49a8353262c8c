"""Scores of blocks to scores of documents: max, first, sum, mean, kernels, learned weights.

Dai, Callan: Deeper Text Understanding for IR with Contextual Neural Language Modeling. SIGIR 2019 (max,
first, sum). Xiong et al.: End-to-End Neural Ad-hoc Ranking with Kernel Pooling. SIGIR 2017 (K-NRM: kernels,
here over the scores of blocks, not over the similarities of words). Weights are fitted by pairwise logistic
regression (RankNet's loss on a linear function) and kept as JSON:

    {"how": "learned", "weights": [...]}                               of the best, the second best ... block
    {"how": "kernel", "weights": [...], "means": [...], "width": w}    one weight a kernel
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.data.output import atomic, json_line
from retrieval.diskio import disk_errors
from retrieval.errors import UserError

HOW = ("max", "first", "sum", "mean", "kernel", "learned")
FITTED = ("kernel", "learned")
_KERNELS = 11
_STEPS = 50  # of Newton's method, which needs about ten

Floats = NDArray[np.float64]


class Weights(NamedTuple):
    """What fit() made: how (kernel or learned), weights float64[k]; means float64[k] and width of kernels."""

    how: str
    weights: Floats
    means: Floats = np.empty(0)
    width: float = 1.0


def pool(
    scores: NDArray[np.float32],
    offsets: NDArray[np.int64],
    how: str = "max",
    k: int = 3,
    weights: Weights | None = None,
) -> NDArray[np.float32]:
    """The score of each document, float32[documents], from the scores of its blocks.

    scores, offsets  float32[blocks] and int64[documents + 1], from 0 to blocks: the blocks of document i are
                     offsets[i]:offsets[i + 1]
    how     max: the best block; first: the first one; sum: all; mean: of the best k, or of all if fewer;
            kernel: sum of weight * log(1 + sum over blocks of exp(-(score - mean)^2 / (2 width^2)));
            learned: sum of weight * score over the best blocks, best first. A document with fewer blocks
            than there are weights counts its last one for those that are missing
    weights of kernel and learned

    A document without blocks scores -inf. Sums are in float64. Raises UserError for a `how` or a `k` that
    there is not, and for weights that are missing or of another `how`.
    """
    _check(how, k, weights)
    found = np.full(len(offsets) - 1, -np.inf)
    some = np.flatnonzero(np.diff(offsets))
    if not len(some):
        return found.astype(np.float32)
    starts = offsets[some]
    if how == "max":
        found[some] = np.maximum.reduceat(scores, starts)
    elif how == "first":
        found[some] = scores[starts]
    elif how == "sum":
        found[some] = np.add.reduceat(scores.astype(np.float64), starts)
    elif how == "mean":
        counts = np.minimum(np.diff(offsets)[some], k)
        best = _best(scores, offsets, int(counts.max()))[some]
        found[some] = np.where(np.arange(best.shape[1]) < counts[:, None], best, 0).sum(1) / counts
    else:
        assert weights is not None  # for the type checker
        found[some] = _features(scores, offsets, weights)[some] @ weights.weights
    return found.astype(np.float32)


def fit(
    scores: NDArray[np.float32],
    offsets: NDArray[np.int64],
    queries: NDArray[np.int64],
    relevant: NDArray[np.bool_],
    how: str = "learned",
    k: int = 5,
    penalty: float = 1e-3,
) -> Weights:
    """Weights by which relevant documents come before the others of their query.

    scores, offsets  as in pool(), the documents of all queries behind one another
    queries          int64[queries + 1]: those of query i are documents queries[i]:queries[i + 1]
    relevant         bool[documents]
    how, k           learned: of the best k blocks; kernel: 11 kernels over the range of the scores
    penalty          of the squares of the weights, each in units of its feature's standard deviation

    The loss is the mean over queries of log(1 + exp(f(worse) - f(better))), itself the mean over the pairs of
    a relevant and another document. It is convex: the result depends on nothing else. Raises UserError where
    no query has such a pair, or for a `how` that is not fitted.
    """
    if how not in FITTED:
        raise UserError(f"how={how!r} has no weights; fit {' or '.join(FITTED)}")
    _check("mean", k, None)
    weights = Weights(how, np.zeros(k))
    if how == "kernel" and len(scores):
        # From the bulk of the blocks to the best one: an outlier below would stretch the kernels.
        means = np.linspace(float(np.quantile(scores, 0.01)), float(scores.max()), _KERNELS)
        weights = Weights(how, np.zeros(_KERNELS), means, float(means[1] - means[0]) / 2 or 1.0)
    features = np.nan_to_num(_features(scores, offsets, weights), neginf=0.0)
    scale = np.maximum(features.std(0), 1e-12)
    pairs, shares = [], []
    for begin, end in zip(queries[:-1].tolist(), queries[1:].tolist()):
        good = relevant[begin:end]
        better, worse = features[begin:end][good], features[begin:end][~good]
        if len(better) and len(worse):
            pairs.append(((better[:, None] - worse[None]) / scale).reshape(-1, features.shape[1]))
            shares.append(np.full(len(pairs[-1]), 1 / len(pairs[-1])))
    if not pairs:
        raise UserError("no query has both a relevant and another document; there is nothing to fit")
    found = _newton(np.concatenate(pairs), np.concatenate(shares) / len(pairs), penalty)
    return weights._replace(weights=found / scale)


def _newton(rows: Floats, shares: Floats, penalty: float) -> Floats:
    """The w that makes the sum of shares * log(1 + exp(-rows @ w)) + penalty * |w|^2 / 2 least."""

    def loss(w: Floats) -> float:
        return float(shares @ np.logaddexp(0, -rows @ w) + penalty * w @ w / 2)

    w = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        wrong = 0.5 - 0.5 * np.tanh(rows @ w / 2)  # 1 / (1 + exp(rows @ w)), which does not overflow
        slope = penalty * w - rows.T @ (shares * wrong)
        curve = (rows.T * (shares * wrong * (1 - wrong))) @ rows + penalty * np.eye(len(w))
        step, size, now = np.linalg.solve(curve, slope), 1.0, loss(w)
        while loss(w - size * step) > now and size > 1e-6:
            size /= 2
        w -= size * step
        if np.abs(slope).max() < 1e-9:
            break
    return w


def _features(scores: NDArray[np.float32], offsets: NDArray[np.int64], weights: Weights) -> Floats:
    """What the weights weigh, float64[documents, k]."""
    if weights.how == "learned":
        return _best(scores, offsets, len(weights.weights))
    some = np.flatnonzero(np.diff(offsets))
    found = np.zeros((len(offsets) - 1, len(weights.means)))
    exact = scores.astype(np.float64)
    for at, mean in enumerate(weights.means.tolist()):
        near = np.exp(-(((exact - mean) / weights.width) ** 2) / 2)
        if len(some):
            found[some, at] = np.log1p(np.add.reduceat(near, offsets[some]))
    return found


def _best(scores: NDArray[np.float32], offsets: NDArray[np.int64], k: int) -> Floats:
    """Each document's best k scores, the last one again where there are fewer; float64[documents, k]."""
    sizes = np.diff(offsets)
    document = np.repeat(np.arange(len(sizes)), sizes)
    ranked = scores[np.lexsort((-scores, document))].astype(np.float64)
    nth = np.minimum(np.arange(k), sizes[:, None] - 1)
    found = np.full((len(sizes), k), -np.inf)
    some = sizes > 0
    found[some] = ranked[offsets[:-1][some, None] + nth[some]]
    return found


def _check(how: str, k: int, weights: Weights | None) -> None:
    if how not in HOW:
        raise UserError(f"how={how!r} does not pool scores of blocks; it is one of {', '.join(HOW)}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UserError(f"k={k!r} blocks; give a whole number, 1 or more")
    if how in FITTED and (weights is None or weights.how != how):
        given = "none were given" if weights is None else f"these are of how={weights.how}"
        raise UserError(f"how={how} needs weights that were fitted for it; {given}")


def save_weights(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write weights as JSON. Raises UserError for a place that cannot be written."""
    made: dict[str, Any] = {"how": weights.how, "weights": weights.weights.tolist()}
    if weights.how == "kernel":
        made |= {"means": weights.means.tolist(), "width": weights.width}
    with atomic(path) as write:
        write(json_line(made))


def read_weights(path: str | os.PathLike[str], how: str | None = None) -> Weights:
    """The weights of a file, of this `how` where one is given. Raises UserError for a file without them."""
    with disk_errors("read", path):
        try:
            with open(path, encoding="utf-8") as file:
                made = json.load(file)
        except FileNotFoundError:
            raise UserError(f"no such file: {os.fspath(path)!r}; fit() and save_weights() make one") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{os.fspath(path)}: weights are JSON, and this is none ({error})") from None
    weights = _weights(made)
    if weights is None:
        raise UserError(
            f'{os.fspath(path)} holds no weights of blocks: {{"how", "weights", "means", "width"}}'
        )
    if how not in (None, weights.how):
        raise UserError(f"{os.fspath(path)} holds weights of how={weights.how}, not of how={how}")
    return weights


def _weights(made: Any) -> Weights | None:
    if not isinstance(made, Mapping) or made.get("how") not in FITTED:
        return None
    try:
        found, means = (np.asarray(made.get(name, []), np.float64) for name in ("weights", "means"))
        width = float(made.get("width", 1.0))
    except (TypeError, ValueError):
        return None
    kernel = made["how"] == "kernel"
    fits = (
        found.ndim == means.ndim == 1
        and len(found)
        and (len(means) == len(found) if kernel else not len(means))
    )
    if not fits or not np.isfinite([*found, *means, width]).all() or width <= 0:
        return None
    return Weights(made["how"], found, means, width)
