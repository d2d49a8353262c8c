"""Representative word sets (PROP): a smoothed language model of a document and pairs of sets drawn from it.

Ma et al., "PROP: Pre-training with Representative Words Prediction for Ad-hoc Retrieval" (WSDM 2021). For a
document, pairs of word sets of one size are drawn from

    P(w|d) = (tf(w, d) + mu * P(w|C)) / (|d| + mu)        (Dirichlet smoothing; mu: the mean document length)

and the set whose words are likelier (sum of log P(w|d)) is taken for the more representative one. Sizes are
Poisson draws without zeros. P(w|C) comes from document frequencies, as in the published code, or from term
frequencies.

What differs from the published code: frequent words are thinned out by probability instead of through a
table that lacks words (its sampler failed on those with 10 to 99 occurrences); sets that score alike are no
pair; every draw comes from a generator that the caller seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError

Floats = NDArray[np.float64]
Word = TypeVar("Word", bound=Hashable)  # a string, or the number of one


class Pair(NamedTuple, Generic[Word]):
    """Two word sets of one document; `better` scores higher."""

    better: tuple[Word, ...]
    worse: tuple[Word, ...]
    margin: float  # difference of their scores, above 0


class Collection(Generic[Word]):
    """Counts of a collection, streamed: `add` once a document, in any order; `merge` joins shards.

    Words are strings or numbers.
    """

    def __init__(self) -> None:
        self.documents = 0
        self.tokens = 0
        self.df: Counter[Word] = Counter()
        self.tf: Counter[Word] = Counter()

    def add(self, words: Sequence[Word]) -> None:
        """One document's words, repeats kept."""
        counts = Counter(words)
        self.documents += 1
        self.tokens += len(words)
        self.tf.update(counts)
        self.df.update(counts.keys())

    def merge(self, other: Collection[Word]) -> None:
        """Adds the counts of another part of the collection."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.df.update(other.df)
        self.tf.update(other.tf)

    @property
    def mean_length(self) -> float:
        """Words a document."""
        return self.tokens / self.documents if self.documents else 0.0

    def background(self, source: Literal["df", "tf"] = "df", least: int = 10) -> dict[Word, float]:
        """P(w|C) over the words with at least `least` occurrences, from df or tf; sums to 1.

        Raises UserError where no word occurs that often.
        """
        counts = self.df if source == "df" else self.tf
        kept = {word: counts[word] for word, tf in self.tf.items() if tf >= least}
        total = sum(kept.values())
        if not total:
            raise UserError(
                f"no word occurs {least} times in the {self.documents} documents; "
                "give more text, or a smaller number of occurrences"
            )
        return {word: count / total for word, count in kept.items()}


class LanguageModel(Generic[Word]):
    """Dirichlet-smoothed P(w|d) for documents of one collection.

    background  P(w|C), sums to 1
    mu          pseudo-count of the background, in words; Collection.mean_length
    most        drawn from are the document's words and others, drawn from the background, up to `most` words;
                room for 100 others is always there
    subsample   t of word2vec's rule: a drawn word of relative frequency f is kept with probability
                sqrt(t / f) + t / f, else drawn again; 0: always kept
    frequency   relative frequency of words for that rule (default: the background)
    """

    def __init__(
        self,
        background: Mapping[Word, float],
        mu: float,
        *,
        most: int = 500,
        subsample: float = 0.0,
        frequency: Mapping[Word, float] | None = None,
    ) -> None:
        self.background = background
        self.mu = mu
        self.most = most
        self.subsample = subsample
        self.frequency = background if frequency is None else frequency
        self._known = list(background)

    def probability(self, counts: Mapping[Word, int], words: Iterable[Word]) -> Floats:
        """P(w|d) of each word, float64[n], for a document with these counts."""
        length = sum(counts.values())
        background = self.background
        raw = [counts.get(word, 0) + self.mu * background.get(word, 0.0) for word in words]
        return np.array(raw, np.float64) / (length + self.mu)

    def vocabulary(self, counts: Mapping[Word, int], rng: np.random.Generator) -> list[Word]:
        """The words that sets of this document are drawn from, each once; all are in the background."""
        mine = [word for word in counts if word in self.background]
        room = max(self.most - len(mine), 100)
        drawn = np.searchsorted(self._sums, rng.random(room) * self._sums[-1], side="right")
        return list(dict.fromkeys([*mine, *(self._known[i] for i in drawn.tolist())]))

    @cached_property
    def _sums(self) -> Floats:
        """Running sums of the background, to draw by."""
        return np.cumsum([self.background[word] for word in self._known])

    def pairs(
        self, words: Sequence[Word], count: int, rng: np.random.Generator, mean: float = 3.0
    ) -> list[Pair[Word]]:
        """Up to `count` pairs of sets drawn with replacement from a document's smoothed model.

        Fewer where two sets score alike; none where the document has no word that the background knows.
        """
        counts = Counter(words)
        if not any(word in self.background for word in counts):
            return []
        vocabulary = self.vocabulary(counts, rng)
        likely = self.probability(counts, vocabulary)
        frequency = [self.frequency.get(word, 0.0) for word in vocabulary]
        draw = likely * keep_probability(frequency, self.subsample)
        draw /= draw.sum()
        scores = np.log(likely)
        found = []
        for size in poisson_sizes(count, rng, mean).tolist():
            first, second = (rng.choice(len(vocabulary), size=size, p=draw) for _ in range(2))
            found.append(make_pair(vocabulary, scores, first, second))
        return [pair for pair in found if pair is not None]


def make_pair(
    words: Sequence[Word], scores: Floats, first: NDArray[Any], second: NDArray[Any]
) -> Pair[Word] | None:
    """The pair of two sets (places in `words`), by the sums of their scores; None at a tie."""
    difference = float(np.sort(scores[first]).sum() - np.sort(scores[second]).sum())
    if difference == 0.0:
        return None
    better, worse = (first, second) if difference > 0 else (second, first)
    return Pair(tuple(words[i] for i in better), tuple(words[i] for i in worse), abs(difference))


def poisson_sizes(count: int, rng: np.random.Generator, mean: float = 3.0) -> NDArray[np.int64]:
    """int64[count]: Poisson draws, those of 0 drawn again; their mean is mean / (1 - exp(-mean))."""
    sizes = rng.poisson(mean, count)
    while (zero := sizes == 0).any():
        sizes[zero] = rng.poisson(mean, int(zero.sum()))
    return sizes


def keep_probability(frequency: Sequence[float] | Floats, threshold: float) -> Floats:
    """word2vec's: min(1, sqrt(t / f) + t / f) of words with relative frequency f; all 1 where t is 0."""
    f = np.asarray(frequency, np.float64)
    if threshold <= 0:
        return np.ones_like(f)
    with np.errstate(divide="ignore"):
        ratio = threshold / f
    keep: Floats = np.minimum(1.0, np.sqrt(ratio) + ratio)
    return keep
