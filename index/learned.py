"""What methods share whose term weights a model makes and whose queries are only tokenised (tilde, tildev2).

Terms are WordPieces. A query counts its tokens without those of the index stop list (TILDE's, generated from
the vocabulary) and special ones, so searching needs the tokenizer, which is kept in the index, and neither
the model nor torch. Indexing does: further documents need the very model that made the index.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from retrieval.errors import CorruptIndex, UserError
from retrieval.index.method import SparseMethod
from retrieval.index.model_files import ModelFiles, find_model
from retrieval.index.quantise import Quantiser
from retrieval.index.scoring import ImpactScoring
from retrieval.index.statistics import Statistics
from retrieval.index.vocabulary import Vocabulary

if TYPE_CHECKING:
    from retrieval.index.encoded import Cache
    from retrieval.index.encoding import EncodingBuilder, TermEncoder
    from retrieval.index.postings import Postings

_TOKENIZER = "tokenizer.json", "vocab.txt"
_PRECISIONS = "float32", "bfloat16"
_FORM = ("compact", "forward", "source")  # settings that no weight depends on


class LearnedMethod(SparseMethod):
    """Base of a method. Query parameter: idf (default 0); 1 weighs each query term by its idf in the index.

    A subclass has a kind, `described`, which reads a model's settings, and `load`, which makes the encoder.
    """

    kind: str = ""
    most = 255.0
    encodes = True

    def __init__(self, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        self.settings = settings
        self.assets = assets
        self._idf = False

    @classmethod
    def described(cls, files: ModelFiles) -> dict[str, Any]:
        """What the weights depend on beside the model's own files; JSON. Raises UserError."""
        raise NotImplementedError

    def load(self, files: ModelFiles) -> TermEncoder:
        """The encoder of an opened model. Raises UserError."""
        raise NotImplementedError

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Self:
        """A new one of a model directory, the packaged one by default. Raises UserError, MissingExtra."""
        files = open_model(cls.kind, find_model(cls.kind, model))
        vocabulary = files.vocabulary
        settings = {
            "kind": cls.kind,
            "compact": bool(options.get("compact")),
            "forward": bool(options.get("forward", True)),
            "source": os.path.abspath(model) if model else "",
            "model": files.identity,
            **cls.described(files),
        }
        return cls(settings, {vocabulary.name: vocabulary.data})

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> Self:
        """From a commit; the tokenizer is read when it is needed."""
        return cls(settings, assets)

    @property
    def encoder(self) -> dict[str, Any]:
        """What the weights of a text depend on: equal for indexes that can share them."""
        return {name: value for name, value in self.settings.items() if name not in _FORM}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer that the documents were encoded with. Raises CorruptIndex."""
        name = next((name for name in _TOKENIZER if name in self.assets), _TOKENIZER[0])
        try:
            vocabulary = Vocabulary.from_bytes(self.assets[name], name)
        except UserError as error:
            raise CorruptIndex(
                f"the index's tokenizer cannot be read: {error}; restore it from a copy"
            ) from error
        if vocabulary.sha256 != self.settings["model"]["tokenizer"]:
            raise CorruptIndex(
                f"the index's tokenizer {name!r} is not that of its model; restore the index from a copy"
            )
        return vocabulary

    @cached_property
    def quantiser(self) -> Quantiser:
        """How weights became bytes."""
        return Quantiser.from_facts(self.settings["quantiser"])

    def builder(self, scratch: str, budget: int, cache: Cache | None = None) -> EncodingBuilder:
        """Encodes documents. Raises UserError where the model is not the one that the index was made with."""
        from retrieval.index.encoding import EncodingBuilder

        files = self._same_model()
        return EncodingBuilder(
            self, lambda: self.load(files), self.quantiser, self.vocabulary.pieces, scratch, budget, cache
        )

    def _same_model(self) -> ModelFiles:
        files = open_model(self.kind, find_model(self.kind, self.settings["source"]))
        wanted, found = self.settings["model"], files.identity
        for what in ("tokenizer", "weights", "config"):
            if wanted[what] != found[what]:
                raise UserError(
                    f"the index was made with a model {wanted['name']!r} whose {what} differ"
                    f"{'s' if what != 'weights' else ''} from those of {files.path!r}; put that model there "
                    "again, or index anew"
                )
        described = self.described(files)
        for what, value in described.items():
            if self.settings.get(what) != value:
                raise UserError(
                    f"the index was made with {what} {self.settings.get(what)!r}, and {files.path!r} gives "
                    f"{value!r}; put that model there again, or index anew"
                )
        return files

    def configured(self, params: Mapping[str, Any]) -> Self:
        """This method with query parameters. Raises UserError for one that it does not have."""
        for name, value in params.items():
            if name != "idf" or value not in (0, 1):
                raise UserError(
                    f"{self.kind} cannot take {name}={value!r}; it has idf, 0 (default) or 1: query "
                    "terms weighed by their idf in the index"
                )
        twin = copy.copy(self)
        twin._idf = bool(params.get("idf", self._idf))
        return twin

    def query(self, text: str) -> dict[str, float]:
        """WordPieces with the number of times they stand, without stop words and special ones."""
        vocabulary = self.vocabulary
        (ids,) = vocabulary.encode([text])
        return dict(Counter(vocabulary.pieces[i] for i in ids.tolist() if i not in self._stop))

    @cached_property
    def _stop(self) -> frozenset[int]:
        return self.vocabulary.index_stop | self.vocabulary.special

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """The counts as they are, or times idf; a term that no document holds is left out then."""
        if not self._idf:
            return dict(query)
        weights = {term: count * statistics.idf(term) for term, count in query.items()}
        return {term: weight for term, weight in weights.items() if weight > 0}

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> ImpactScoring:
        """Stored weights times query weights. Raises UserError for parameters that it does not have."""
        self.configured(params)
        return ImpactScoring(postings)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, WordPiece) of what may match in a text. Expansion terms are nowhere in it."""
        vocabulary = self.vocabulary
        return [
            (start, end, vocabulary.pieces[i])
            for start, end, i in vocabulary.spans(text)
            if i not in self._stop
        ]


def open_model(kind: str, path: str) -> ModelFiles:
    """A model directory of a kind, or one that does not say of which. Raises UserError, MissingExtra."""
    need_torch(f"encoding with a {kind} model")
    files = ModelFiles.open(path)
    found = files.settings.get("kind", kind)
    if found != kind:
        raise UserError(f"{path!r} holds a model of kind {found!r}, and {kind} needs one of its own kind")
    return files


def need_torch(need: str) -> None:
    """Raises MissingExtra where torch or safetensors is not installed; imports neither."""
    from importlib.util import find_spec

    from retrieval.errors import MissingExtra

    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise MissingExtra("models", need)


def whole(
    files: ModelFiles, settings: Mapping[str, Any], name: str, default: int, low: int, high: int
) -> int:
    """A whole number of a model's settings, from low to high. Raises UserError."""
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(
            f'{files.path!r}: config.json gives {name} of "retrieval" as {value!r}; it is a whole number of '
            f"{low} to {high}"
        )
    return value


def positions(files: ModelFiles) -> int:
    """How many tokens a model reads at most. Raises UserError for a config.json that gives no such number."""
    value = files.config.get("max_position_embeddings", 512)
    if isinstance(value, bool) or not isinstance(value, int) or not 3 <= value <= 1 << 20:
        raise UserError(
            f"{files.path!r}: config.json gives max_position_embeddings as {value!r}; it is a whole number "
            "of 3 or more"
        )
    return value


def read_common(files: ModelFiles) -> dict[str, Any]:
    """Settings of every model: window, windows, precision. Raises UserError.

    window     tokens of one, special ones included (128)
    windows    how many of a document are read (8)
    precision  float32, or bfloat16 for twice the speed where the processor has it
    """
    settings = files.settings
    most = positions(files)
    precision = settings.get("precision", _PRECISIONS[0])
    if precision not in _PRECISIONS:
        raise UserError(
            f'{files.path!r}: config.json gives precision of "retrieval" as {precision!r}; it is float32 or '
            "bfloat16"
        )
    return {
        "window": whole(files, settings, "window", min(128, most), 3, most),
        "windows": whole(files, settings, "windows", 8, 1, 1 << 20),
        "precision": precision,
    }
