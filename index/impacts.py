"""Impacts made elsewhere (uniCOIL, DeepImpact, SPLADE): term weights that documents bring along, 8 bits each.

Weights come as JSON, `{"id": ..., "vector": {term: weight}}`: in the corpus lines themselves, or in a file
that `impacts:FILE` names. Whole numbers of 1 to 255 are stored as they are (rounding "none"); a file with
anything else is quantised by a named rule ("ceil"): value = ceil(weight / maximum * 255), at least 1, so
that no positive weight is lost. The commit keeps the rule but not the file: documents that come later bring
their vectors themselves. Queries are terms as the vectors spell them, separated by white space; a repeated
term counts as often as it stands.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval import registry
from retrieval.data.fields import shown
from retrieval.diskio import disk_errors
from retrieval.errors import BadLine, UserError
from retrieval.index.scoring import ImpactScoring
from retrieval.index.statistics import Statistics
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.index.postings import Postings
    from retrieval.part import Part

LARGEST = 255
_FIELD = "vector"


@registry.register("impacts", kind="sparse method")
class Impacts:
    """The method. Its model is the file of vectors; without one, documents bring a field `vector`."""

    kind = "impacts"
    most = float(LARGEST)

    def __init__(self, settings: Mapping[str, Any], path: str = "") -> None:
        self.settings = settings
        self._path = path

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Impacts:
        """A new one. Reads the file of vectors once for its largest weight. Raises UserError, BadLine."""
        maximum, rounding = _range(model) if model else (float(LARGEST), "none")
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

    def builder(self, scratch: str, budget: int) -> ImpactsBuilder:
        """Quantises and stores vectors."""
        return ImpactsBuilder(self, _Vectors(self._path) if self._path else None, scratch, budget)

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

    def __init__(self, method: Impacts, vectors: _Vectors | None, scratch: str, budget: int) -> None:
        from retrieval.index.postings_writer import PostingsWriter

        self._vectors = vectors
        self._settings = method.settings
        self._quantiser = method.settings["quantiser"]
        self._writer = PostingsWriter(scratch, budget, weighted=True)
        self._numbers: dict[str, int] = {}

    def add(self, documents: Sequence[Document]) -> None:
        """The vector of each document. Raises UserError for one that has none, or no numbers in it."""
        tokens: list[int] = []
        weights: list[float] = []
        ends = [0]
        numbers = self._numbers
        if self._vectors:
            vectors = self._vectors.get(documents)
        else:
            vectors = [document.metadata.get(_FIELD) for document in documents]
        for document, vector in zip(documents, vectors, strict=True):
            if not isinstance(vector, Mapping):
                raise UserError(f"document {document.doc_id!r} has no vector{self._remedy()}")
            for term, weight in vector.items():
                if problem := _weight_problem(term, weight):
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
        if self._vectors:
            return f" in {self._vectors.path!r}; add a line for it, or leave the document out"
        weights = "whole numbers of 1 to 255"
        if self._quantiser["rounding"] != "none":
            weights = f"weights up to {self._quantiser['maximum']}, quantised as the index was"
        return (
            f'; documents must bring the field "vector": {{term: weight}}, with {weights}; '
            "or index again with impacts:FILE"
        )

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        self._writer.finish(
            part, list(self._numbers), compact=self._settings["compact"], forward=self._settings["forward"]
        )


class _Vectors:
    """Vectors of a JSON lines file by id; only the places of the lines are held."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        for at, _, record in _lines(path):
            self._places[record["id"]] = at

    def get(self, documents: Sequence[Document]) -> list[Any]:
        """The vector of each document, or None."""
        found: list[Any] = []
        with disk_errors("read", self.path), open(self.path, "rb") as file:
            for document in documents:
                at = self._places.get(document.doc_id)
                if at is not None:
                    file.seek(at)
                found.append(None if at is None else orjson.loads(file.readline())["vector"])
        return found


def _lines(path: str) -> Any:
    """(byte, line number, record) of each line. Raises UserError, BadLine."""
    if not os.path.isfile(path):
        raise UserError(f"no file of vectors at {path!r}; give impacts:FILE, JSON lines with id and vector")
    at = 0
    with disk_errors("read", path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise BadLine(path, number, f"not JSON: {error.msg}") from None
                good = isinstance(record, dict) and isinstance(record.get("vector"), dict)
                record = {**record, "id": record.get("id", record.get("_id"))} if good else {}
                if not isinstance(record.get("id"), str):
                    raise BadLine(path, number, 'not {"id": ..., "vector": {term: weight}}')
                yield at, number, record
            at += len(line)


def _weight_problem(term: str, weight: object) -> str | None:
    """What is wrong with a weight, or None: it is a finite number."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight != weight:
        return f"the weight of {term!r} is {shown(weight)}, no number"
    if abs(weight) > sys.float_info.max:  # compared exactly, however long an int is
        return f"the weight of {term!r} is larger than any float"
    return None


def _range(path: str) -> tuple[float, str]:
    """(maximum, rounding) for the weights of a file. Raises UserError, BadLine."""
    largest, whole = 0.0, True
    for _, number, record in _lines(path):
        for term, weight in record["vector"].items():
            if problem := _weight_problem(term, weight):
                raise BadLine(path, number, problem)
            largest = max(largest, weight)
            whole = whole and weight == int(weight)
    if largest <= 0:
        raise UserError(f"{path!r} holds no positive weight")
    return (float(LARGEST), "none") if whole and largest <= LARGEST else (float(largest), "ceil")
