"""Contrastive word weights (B-PROP): a document's [CLS] attention against that of the whole collection.

Ma et al., "B-PROP: Bootstrapped Pre-training with Representative Words Prediction for Ad-hoc Retrieval"
(SIGIR 2021). The attention of [CLS] to a document's words, summed over a word's occurrences and saturated as
a / (a + .01), is normalised to P_doc. The mean of the saturated weights over the documents, normalised, is
P_rand: what a random document would say. How far a word diverges from that randomness is its contrast:

    entropy     -P_doc log2 P_rand, capped at 100      (the paper's, temperature 1)
    kl          P_doc log2(P_doc / P_rand)             (the same with the document's own entropy taken off)
    subtract    max(P_doc - P_rand, 0)                 (the published code's other one, temperature .1)

Words are drawn from softmax(contrast / temperature), without replacement within a set. `perplexity` of that
distribution is the number of words it effectively chooses from: at temperature 1 nearly all of them, so that
it is the label (which set scores higher) that carries the contrast; lower temperatures let the draw carry it.

What differs from the published code: P_rand is streamed and gives words it has not seen half the mass of a
word seen once; all arrays are by word number, without scans of lists; ties are no pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnknownName, UserError
from retrieval.index.wordsets import Floats, Pair, Word, make_pair, poisson_sizes

SATURATION = 0.01
CAP = 100.0

_SATURATE: dict[str, Callable[[Floats, float], Floats]] = {
    "ratio": lambda a, b: a / (a + b),
    "sqrt": lambda a, b: np.sqrt(a),
    "logistic": lambda a, b: 2.0 / (1.0 + np.exp(-a / b)) - 1.0,
    "none": lambda a, b: a,
}
TEMPERATURE = {"entropy": 1.0, "kl": 1.0, "subtract": 0.1}


def summed(words: NDArray[Any], attention: NDArray[Any]) -> tuple[NDArray[np.int64], Floats]:
    """(distinct words ascending, attention summed over each one's occurrences) of one document's tokens."""
    distinct, place = np.unique(words, return_inverse=True)
    sums = np.bincount(place, weights=attention, minlength=len(distinct))
    return distinct.astype(np.int64), sums.astype(np.float64)


def saturated(attention: NDArray[Any], constant: float = SATURATION, rule: str = "ratio") -> Floats:
    """Word weights from summed attention, 0 and more. Raises UnknownName for a rule, UserError for constants.

    ratio: a / (a + b); sqrt: the root of a; logistic: 2 / (1 + exp(-a / b)) - 1; none: a itself.
    """
    if rule not in _SATURATE:
        raise UnknownName("saturation", rule, list(_SATURATE))
    if not constant > 0:
        raise UserError(
            f"the saturation constant is {constant!r}; give a number above 0, such as {SATURATION}"
        )
    return _SATURATE[rule](np.asarray(attention, np.float64), constant)


def normalised(weights: NDArray[Any]) -> Floats:
    """Weights divided by their sum; all 0 where that is 0."""
    exact = np.asarray(weights, np.float64)
    total = exact.sum()
    return exact / total if total > 0 else np.zeros_like(exact)


class RandomProcess:
    """P_rand of a collection, streamed: `add` once a document, in any order; `merge` joins shards.

    Words are numbers from 0; memory is 12 bytes for the largest number.
    """

    def __init__(self) -> None:
        self.documents = 0
        self._mass = np.zeros(1024)
        self._df = np.zeros(1024, np.int32)

    def add(self, words: NDArray[Any], weights: NDArray[Any]) -> None:
        """One document: its distinct words int[n] and their saturated weights float[n]."""
        self.documents += 1
        if len(words):
            self._grow(int(words.max()) + 1)
            self._mass[words] += weights
            self._df[words] += 1

    def merge(self, other: RandomProcess) -> None:
        """Adds what another one has seen of the same numbering."""
        self._grow(len(other._mass))
        self.documents += other.documents
        self._mass[: len(other._mass)] += other._mass
        self._df[: len(other._df)] += other._df

    def _grow(self, size: int) -> None:
        if size > len(self._mass):
            more = max(size, 2 * len(self._mass)) - len(self._mass)
            self._mass = np.concatenate([self._mass, np.zeros(more)])
            self._df = np.concatenate([self._df, np.zeros(more, np.int32)])

    def distribution(self, size: int) -> Floats:
        """P_rand of the words 0 to size - 1, float64[size]; 0 for those not seen; sums to 1 over all seen.

        (The mean over documents, normalised: the number of documents cancels out.) Raises UserError where no
        document has been seen.
        """
        total = self._mass.sum()
        if not total:
            raise UserError("no document tells what the collection is like; give more text")
        found = np.zeros(size)
        known = min(size, len(self._mass))
        found[:known] = self._mass[:known] / total
        return found

    @property
    def unseen(self) -> float:
        """P_rand of a word that no document had: half of what one posting has on average."""
        total, postings = self._mass.sum(), self._df.sum()
        return float(0.5 * (total / postings) / total) if postings else 1.0


def contrast(document: Floats, collection: Floats, method: str = "entropy", *, unseen: float = 0.0) -> Floats:
    """The contrast of each word, float64[n], from its P_doc and P_rand.

    unseen: P_rand for words where `collection` is 0 (RandomProcess.unseen); 0 caps their contrast. Raises
    UnknownName for a method.
    """
    if method not in TEMPERATURE:
        raise UnknownName("contrast", method, list(TEMPERATURE))
    rand = np.where(collection > 0, collection, unseen)
    if method == "subtract":
        excess = document - rand
        return np.where(excess > 1e-5 * document, excess, 0.0)  # less is float32 rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2(document / rand) if method == "kl" else -np.log2(rand)
        scores = document * ratio
    return np.where(document > 0, np.minimum(scores, CAP), 0.0)


def sampling(scores: Floats, temperature: float = 1.0) -> Floats:
    """softmax(scores / temperature), float64[n]. Raises UserError for a temperature that is not above 0."""
    if not temperature > 0:
        raise UserError(f"the temperature is {temperature!r}; give a number above 0")
    if not len(scores):
        return np.zeros(0)
    powers = np.exp((scores - scores.max()) / temperature)
    chosen: Floats = powers / powers.sum()
    return chosen


def perplexity(distribution: Floats) -> float:
    """2 to the entropy: how many words a distribution effectively chooses from, 1 to n."""
    p = distribution[distribution > 0]
    return float(2.0 ** -(p * np.log2(p)).sum())


def temperature_for(scores: Floats, share: float) -> float:
    """The temperature at which the perplexity of sampling(scores) is this share (0 to 1) of the words.

    Words that share the highest score set a floor: below it, a very small temperature comes back.
    """
    target, low, high = share * len(scores), 1e-6, 1e6
    for _ in range(80):
        middle = (low * high) ** 0.5
        if perplexity(sampling(scores, middle)) < target:
            low = middle
        else:
            high = middle
    return high


def contrastive_pairs(
    words: Sequence[Word],
    scores: Floats,
    distribution: Floats,
    count: int,
    rng: np.random.Generator,
    mean: float = 3.0,
) -> list[Pair[Word]]:
    """Up to `count` pairs of equal-size sets, no word twice within a set; label by the sum of scores.

    Sizes are zero-truncated Poisson draws, at most the number of words that can be drawn. Ties are left out.
    """
    possible = int(np.count_nonzero(distribution))
    if not possible:
        return []
    found = []
    with np.errstate(divide="ignore"):
        logs = np.log(distribution)
    for size in np.minimum(poisson_sizes(count, rng, mean), possible).tolist():
        first, second = (without_replacement(logs, size, rng) for _ in range(2))
        found.append(make_pair(words, scores, first, second))
    return [pair for pair in found if pair is not None]


def without_replacement(logs: Floats, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`size` different places, drawn one after another by the probabilities whose logarithms are given.

    The largest of log p + Gumbel noise (Yellott 1977): the same law as drawing, removing, renormalising.
    """
    keys = logs + rng.gumbel(size=len(logs))
    return np.argpartition(keys, len(keys) - size)[len(keys) - size :].astype(np.int64)
