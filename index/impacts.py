"""Impacts made elsewhere (uniCOIL, DeepImpact, SPLADE): term weights that documents bring along, 8 bits each.

Weights come as JSON, `{"id": ..., "vector": {term: weight}}`: in the corpus lines themselves, or in what
`impacts:FILE` names: a file of such lines (.gz too), a folder of them, as uniCOIL's and SPLADE's vectors are
published for Anserini, or a CIFF file, whose term frequencies are the weights. Whole numbers of 1 to 255 are
stored as they are (rounding "none"); a file with anything else is quantised by a named rule ("ceil"): value =
ceil(weight / maximum * 255), at least 1, so that no positive weight is lost. The commit keeps the rule but
not the file: documents that come later bring their vectors themselves. Queries are terms as the vectors spell
them, separated by white space; a repeated term counts as often as it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.method import SparseMethod
from retrieval.index.scoring import ImpactScoring
from retrieval.index.statistics import Statistics
from retrieval.index.vectors import Vectors, read_range, weight_problem
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.index.postings import Postings
    from retrieval.part import Part

LARGEST = 255
_FIELD = "vector"


@registry.register("impacts", kind="sparse method")
class Impacts(SparseMethod):
    """The method. Its model is the file of vectors; without one, documents bring a field `vector`."""

    kind = "impacts"
    most = float(LARGEST)

    def __init__(self, settings: Mapping[str, Any], path: str = "") -> None:
        self.settings = settings
        self._path = path

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Impacts:
        """A new one. Reads the file of vectors once for its largest weight. Raises UserError, BadLine."""
        maximum, rounding = float(LARGEST), "none"
        if model:
            largest, whole = read_range(model)
            if not whole or largest > LARGEST:
                maximum, rounding = largest, "ceil"
        settings = {
            "kind": cls.kind,
            "compact": bool(options.get("compact")),
            "forward": bool(options.get("forward", True)),
            "quantiser": {"bits": 8, "maximum": maximum, "rounding": rounding},
        }
        return cls(settings, model)

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> Impacts:
        """From a commit."""
        return cls(settings)

    @property
    def consumes(self) -> tuple[str, ...]:
        """Fields of documents that need not be stored: a vector that is read from the file anyway."""
        return (_FIELD,) if self._path else ()

    def builder(self, scratch: str, budget: int) -> ImpactsBuilder:
        """Quantises and stores vectors."""
        return ImpactsBuilder(self, self._path, scratch, budget)

    def query(self, text: str) -> dict[str, float]:
        """White-space separated terms with the number of times they stand."""
        return dict(Counter(text.split()))

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """The weights as they are."""
        return dict(query)

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> ImpactScoring:
        """Impacts take no parameters. Raises UserError for any."""
        if params:
            raise UserError(f"impacts have no query parameters, but {', '.join(params)} was given")
        return ImpactScoring(postings)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """The terms of a vector are no words of the text: nothing."""
        return []


class ImpactsBuilder:
    """One segment of vectors."""

    def __init__(self, method: Impacts, path: str, scratch: str, budget: int) -> None:
        from retrieval.index.postings_writer import PostingsWriter

        self._settings = method.settings
        self._quantiser = method.settings["quantiser"]
        self._path = path
        self._scratch, self._budget = scratch, budget // 2 if path else budget
        self._writer = PostingsWriter(scratch, self._budget, weighted=True)
        self._numbers: dict[str, int] = {}
        self._vectors: Vectors | None = None

    def add(self, documents: Sequence[Document]) -> None:
        """The vector of each document. Raises UserError for one that has none, or no numbers in it."""
        if self._path:
            if self._vectors is None:
                self._vectors = Vectors(self._path, self._quantised, self._scratch, self._budget)
            self._writer.add(*self._vectors.take([document.doc_id for document in documents]))
            return
        tokens: list[int] = []
        weights: list[float] = []
        ends = [0]
        numbers = self._numbers
        for document in documents:
            vector = document.metadata.get(_FIELD)
            if not isinstance(vector, Mapping):
                raise UserError(f"document {document.doc_id!r} has no vector{self._remedy()}")
            for term, weight in vector.items():
                if problem := weight_problem(term, weight):
                    raise UserError(f"document {document.doc_id!r}: {problem}; give finite numbers")
                if weight > 0:
                    tokens.append(numbers.setdefault(term, len(numbers)))
                    weights.append(weight)
            ends.append(len(tokens))
        values = self._quantised(np.array(weights, np.float64))
        self._writer.add(np.array(ends, np.int64), np.array(tokens, np.int32), values)

    def _quantised(self, weights: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Positive weights as 1 to 255. Raises UserError for those that the quantiser does not take."""
        maximum, whole = float(self._quantiser["maximum"]), self._quantiser["rounding"] == "none"
        refused = weights[(weights > maximum) | (whole & (weights != np.floor(weights)))]
        if len(refused) and whole:
            raise UserError(
                f"a weight is {refused[0]}, but here weights are whole numbers of 1 to 255; "
                "quantise them, or index again with impacts:FILE"
            )
        if len(refused):
            raise UserError(
                f"a weight of {refused[0]} is above {maximum}, the largest when the index was made; "
                "index again with impacts:FILE"
            )
        if whole:
            return weights.astype(np.uint8)
        return np.clip(np.ceil(weights / maximum * LARGEST), 1, LARGEST).astype(np.uint8)

    def _remedy(self) -> str:
        """What to do about a document without a vector."""
        weights = "whole numbers of 1 to 255"
        if self._quantiser["rounding"] != "none":
            weights = f"weights up to {self._quantiser['maximum']}, quantised as the index was"
        return (
            f'; documents must bring the field "vector": {{term: weight}}, with {weights}; '
            "or index again with impacts:FILE"
        )

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        terms = list(self._numbers)
        if self._vectors is not None:
            self._vectors.close()
            terms = self._vectors.names
        self._writer.finish(part, terms, compact=self._settings["compact"], forward=self._settings["forward"])
