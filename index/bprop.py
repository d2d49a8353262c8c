"""B-PROP as a method of the index: term weights from [CLS] attention, contrasted with the collection.

`--sparse bprop[:MODEL]`. This is this engine's own derivation: neither paper nor published code uses B-PROP's
weights to search. B-PROP's contrast of a word, -P_doc log2 P_rand, is a product of what the document says and
of what the collection says, and only the first is stored:

    impact(t, d) = a / (a + .01)    a: attention of [CLS] in d to the pieces of all words of term t
    score(q, d) = sum over the query's terms of idf(t) * impact(t, d)

The collection's part is weighed in with the query, from the index's present statistics: no second pass
over the documents, and it stays right when documents are added or deleted. It is idf and not -log2 P_rand:
on scifact's train split the first was better by .03 nDCG@10; attention to all pieces of a word (not to the
first alone) and no normalisation of P_doc to sum 1 were better too. No labels, no expansion.

Terms are those of the index's analyzer, so that words match as BM25's do (stems for `english`). A window is
as long as the model can read; in a document of n windows, attention is the sum of theirs over sqrt(n):
between a mean, which holds all of its length against a document, and a sum, which holds none (tuned on
scifact's and qmsum's train splits). Searching needs neither model nor torch.

Settings of the model ("retrieval" in config.json): window and windows (how long, how many; by default all
positions, and 64), saturation (.01), pieces (sum, or first), layers (last, or all: the mean of their
attention), precision (float32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.analysis import Analyzer, analyzer
from retrieval.index.contrast import SATURATION, saturated
from retrieval.index.encoding import cut_windows
from retrieval.index.learned import LearnedMethod, positions, read_common, whole
from retrieval.index.quantise import Quantiser

if TYPE_CHECKING:
    from retrieval.index.encoded import Cache
    from retrieval.index.model_files import ModelFiles
    from retrieval.index.statistics import Statistics
    from retrieval.index.word_builder import WordBuilder

_WINDOWS = 64
_PIECES_LAYERS = [(pieces, layers) for pieces in ("sum", "first") for layers in ("last", "all")]


@registry.register("bprop", kind="sparse method")
class BPropMethod(LearnedMethod):
    """The method. Query parameter: idf (default 1); 0 takes the documents' weights alone."""

    kind = "bprop"

    def __init__(self, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        super().__init__(settings, assets)
        self._idf = True

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> BPropMethod:
        """A new one of a model directory, the packaged one by default. Raises UserError, MissingExtra."""
        made = super().create(model, analyzer_name, options)
        chosen = analyzer(analyzer_name)
        named = {**chosen.identity, "source": analyzer_name}
        return cls({**made.settings, "analyzer": named}, {})  # the analyzer reads queries: no tokenizer kept

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> BPropMethod:
        """From a commit. Raises UserError if this build's analyzer differs from the one that indexed."""
        made = cls(settings, assets)
        stored = {name: value for name, value in settings["analyzer"].items() if name != "source"}
        if made.analyzer.identity != stored:
            raise UserError(
                f"the index was built with analyzer {made.analyzer.name!r} as {stored}, which is "
                f"{made.analyzer.identity} here; use the version that built it, or index again"
            )
        return made

    @classmethod
    def described(cls, files: ModelFiles) -> dict[str, Any]:
        """Windows, saturation, pieces and quantiser."""
        settings = files.settings
        most = positions(files)
        constant, pieces = settings.get("saturation", SATURATION), settings.get("pieces", "sum")
        layers = settings.get("layers", "last")
        number = isinstance(constant, (int, float)) and not isinstance(constant, bool)
        if not number or not 0 < constant < 1 or (pieces, layers) not in _PIECES_LAYERS:
            raise UserError(
                f'{files.path!r}: config.json gives saturation of "retrieval" as {constant!r}, pieces as '
                f"{pieces!r} and layers as {layers!r}; they are a number between 0 and 1, sum or first, and "
                "last or all"
            )
        largest = float(saturated(np.ones(1), constant)[0])
        return {
            **read_common(files),
            "window": whole(files, settings, "window", most, 3, most),
            "windows": whole(files, settings, "windows", _WINDOWS, 1, 1 << 20),
            "saturation": constant,
            "pieces": pieces,
            "layers": layers,
            "quantiser": Quantiser.of(largest, rounding=settings.get("rounding", "ceil")).facts,
        }

    @cached_property
    def analyzer(self) -> Analyzer:
        """What cuts documents and queries into terms."""
        return analyzer(self.settings["analyzer"]["source"])

    def builder(self, scratch: str, budget: int, cache: Cache | None = None) -> WordBuilder:
        """Encodes documents. Raises UserError where the model is not the one that the index was made with."""
        from retrieval.index.word_builder import WordBuilder

        files = self._same_model()
        return WordBuilder(self, lambda: self.load(files), self.quantiser, scratch, budget, cache)

    def load(self, files: ModelFiles) -> BPropEncoder:  # type: ignore[override]
        """The encoder of an opened model. Raises UserError."""
        return BPropEncoder(files, self.settings, self.analyzer)

    def query(self, text: str) -> dict[str, float]:
        """Terms with the number of times they stand."""
        return dict(Counter(self.analyzer.terms(text)))

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """Count times idf, or the count alone; terms that no document holds are left out."""
        return statistics.weighed(query, idf=self._idf)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """The analyzer's terms in a text."""
        return self.analyzer.spans(text)


class WordWeights(NamedTuple):
    """One document: its terms, each once; their weights, above 0; how many tokens were read and left out."""

    terms: list[str]
    weights: NDArray[np.float64]
    tokens: int
    dropped: int


class BPropEncoder:
    """Texts to weights of the analyzer's terms."""

    def __init__(self, files: ModelFiles, settings: Mapping[str, Any], analyzer_: Analyzer) -> None:
        from retrieval.index.bprop_model import load_bprop
        from retrieval.index.tilde_model import best_device

        self._vocabulary = files.vocabulary
        self._analyzer = analyzer_
        self._size, self._windows = settings["window"] - 2, settings["windows"]
        self._constant, self._pieces = settings["saturation"], settings["pieces"]
        self._precision, self._layers = settings["precision"], settings["layers"]
        self._bert = load_bprop(files)[0].bert.eval().to(best_device())

    def encode(self, texts: Sequence[str]) -> list[WordWeights]:
        """The weights of each text's terms."""
        from retrieval.index.bprop_model import cls_attention
        from retrieval.index.tilde_model import encoder_precision

        vocabulary = self._vocabulary
        spans = [vocabulary.spans(text) for text in texts]
        ids = [np.array([number for _, _, number in each], np.int32) for each in spans]
        windows = cut_windows(ids, self._size, self._windows)
        with encoder_precision(self._bert, self._precision):
            attention = cls_attention(self._bert, windows.ids, vocabulary.cls, vocabulary.sep, self._layers)
        per_text: list[list[NDArray[np.float32]]] = [[] for _ in texts]
        for owner, values in zip(windows.owner.tolist(), attention, strict=True):
            per_text[owner].append(values)
        found = []
        for i, (text, parts) in enumerate(zip(texts, per_text, strict=True)):
            values = np.concatenate([np.empty(0), *parts]) / max(1, len(parts)) ** 0.5
            starts = np.array([start for start, _, _ in spans[i][: len(values)]], np.int64)
            terms, sums = self._by_term(text, starts, values)
            weights = saturated(sums, self._constant)
            found.append(WordWeights(terms, weights, int(windows.tokens[i]), int(windows.dropped[i])))
        return found

    def _by_term(
        self, text: str, starts: NDArray[np.int64], attention: NDArray[np.float64]
    ) -> tuple[list[str], NDArray[np.float64]]:
        """(terms, attention to each above 0): a token counts for the word that its first character is in."""
        spans = self._analyzer.spans(text)
        numbers: dict[str, int] = {}
        term = np.array([numbers.setdefault(name, len(numbers)) for _, _, name in spans], np.int64)
        begin = np.array([start for start, _, _ in spans], np.int64)
        end = np.array([end for _, end, _ in spans], np.int64)
        if not len(term):
            return [], np.empty(0)
        word = np.searchsorted(begin, starts, side="right") - 1
        inside = (word >= 0) & (starts < end[word])
        word, attention = word[inside], attention[inside]
        if self._pieces == "first":
            word, first = np.unique(word, return_index=True)
            attention = attention[first]
        sums = np.bincount(term[word], weights=attention, minlength=len(numbers)).astype(np.float64)
        kept = sums > 0
        return [name for name, good in zip(numbers, kept.tolist(), strict=True) if good], sums[kept]
