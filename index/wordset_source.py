"""Where a training step's word sets come from: PROP's language model or B-PROP's contrast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.bprop_data import PreparedDocuments
from retrieval.index.contrast import (
    TEMPERATURE,
    contrast,
    contrastive_pairs,
    normalised,
    perplexity,
    sampling,
    temperature_for,
)
from retrieval.index.stopwords import NLTK_ENGLISH
from retrieval.index.wholewords import WordTable
from retrieval.index.wordsets import Collection, Floats, LanguageModel, Pair

Sets = tuple[NDArray[np.int32], NDArray[np.int32]]
_LOOKED_AT = 500  # documents that the report on the effective vocabulary is taken from


class WordSets(Protocol):
    """Draws pairs of word sets of prepared documents."""

    def usable(self, document: int) -> bool:
        """Whether a document has words enough for two sets that differ."""

    def pairs(self, document: int, count: int, rng: np.random.Generator) -> list[Pair[int]]:
        """Up to `count` pairs of one document; words are numbers of the table."""

    def facts(self) -> dict[str, float]:
        """What is worth reporting."""


def word_sets(prepared: PreparedDocuments, settings: Mapping[str, Any]) -> WordSets:
    """The source that settings["source"] names. Raises UserError for another name."""
    if settings["source"] not in ("prop", "bprop"):
        raise UserError(f"--set source={settings['source']}: word sets come from prop or bprop")
    return (PropSets if settings["source"] == "prop" else BPropSets)(prepared, settings)


class PropSets:
    """PROP: words of letters but for stop words, in pairs drawn from the smoothed language model."""

    def __init__(self, prepared: PreparedDocuments, settings: Mapping[str, Any]) -> None:
        self._words = prepared.words
        self._mean = settings["mean"]
        self._good = prepared.table.alphabetic() & ~_stop_words(prepared.table)
        collection: Collection[int] = Collection()
        for document in range(len(prepared.words)):
            collection.add(self._kept(document))
        background = collection.background(settings["background"], settings["least"])
        frequency = {word: collection.tf[word] / collection.tokens for word in background}
        self._model = LanguageModel(
            background, collection.mean_length, subsample=settings["subsample"], frequency=frequency
        )
        self._facts = {"background_words": float(len(background)), "mu": round(collection.mean_length, 2)}

    def _kept(self, document: int) -> list[int]:
        words = self._words[document]
        kept: list[int] = words[self._good[words]].tolist()
        return kept

    def usable(self, document: int) -> bool:
        """Whether it has a word that the background knows: the other words come from there."""
        return any(word in self._model.background for word in self._kept(document))

    def pairs(self, document: int, count: int, rng: np.random.Generator) -> list[Pair[int]]:
        """Up to `count` pairs of one document."""
        return self._model.pairs(self._kept(document), count, rng, self._mean)

    def facts(self) -> dict[str, float]:
        """Size of the background model, and mu."""
        return self._facts


def _stop_words(table: WordTable) -> NDArray[np.bool_]:
    return np.array([table.text(number) in NLTK_ENGLISH for number in range(len(table))], np.bool_)


class BPropSets:
    """B-PROP: words of letters, drawn by their contrast with the collection."""

    def __init__(self, prepared: PreparedDocuments, settings: Mapping[str, Any]) -> None:
        self._prepared = prepared
        self._good = prepared.table.alphabetic()
        process = prepared.random_process()
        self._rand = process.distribution(len(prepared.table))
        self._unseen = process.unseen
        self._method = settings["contrast"]
        self._mean = settings["mean"]
        self._shortest = max(2, settings["shortest"])
        self._share = settings["effective"]
        self._temperature = settings["temperature"] or TEMPERATURE.get(self._method, 1.0)

    def usable(self, document: int) -> bool:
        """Whether it has enough different words of letters."""
        return bool(self._good[self._prepared.distinct[document]].sum() >= self._shortest)

    def scores(self, document: int) -> tuple[NDArray[np.int64], Floats]:
        """(word numbers, contrast of each) of a document's words of letters."""
        words = self._prepared.distinct[document]
        weights = normalised(self._prepared.weights[document])
        found = contrast(weights, self._rand[words], self._method, unseen=self._unseen)
        good = self._good[words]
        return words[good].astype(np.int64), found[good]

    def chances(self, scores: Floats) -> Floats:
        """The sampling distribution of words with these scores."""
        temperature = temperature_for(scores, self._share) if self._share > 0 else self._temperature
        return sampling(scores, temperature)

    def pairs(self, document: int, count: int, rng: np.random.Generator) -> list[Pair[int]]:
        """Up to `count` pairs of one document."""
        words, scores = self.scores(document)
        return contrastive_pairs(words.tolist(), scores, self.chances(scores), count, rng, self._mean)

    def facts(self) -> dict[str, float]:
        """Words a document has to choose from, and from how many it effectively chooses: means."""
        looked = np.linspace(0, len(self._prepared.words) - 1, _LOOKED_AT).astype(int)
        sizes, effective = [], []
        for document in np.unique(looked).tolist():
            scores = self.scores(document)[1]
            if len(scores):
                sizes.append(len(scores))
                effective.append(perplexity(self.chances(scores)))
        mean, chosen = float(np.mean(sizes or [0])), float(np.mean(effective or [0]))
        return {
            "words": round(mean, 1),
            "effective_words": round(chosen, 1),
            "share": round(chosen / mean, 4) if mean else 0.0,
        }
