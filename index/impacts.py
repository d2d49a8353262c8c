"""Impacts made elsewhere (uniCOIL, DeepImpact, SPLADE): term weights that documents bring along, 8 bits each.

Weights come as JSON, `{"id": ..., "vector": {term: weight}}`: in the corpus lines themselves, or in a file
that `impacts:FILE` names. Whole numbers of 1 to 255 are stored as they are; anything else is quantised with a
named rule: value = ceil(weight / maximum * 255), so that no positive weight is lost. Queries are terms as the
vectors spell them, separated by white space; a repeated term counts as often as it stands.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from retrieval import registry
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
        maximum = float(LARGEST)
        if model:
            maximum = _maximum(model)
        settings = {
            "kind": cls.kind,
            "compact": bool(options.get("compact")),
            "forward": bool(options.get("forward", True)),
            "quantiser": {
                "bits": 8,
                "maximum": maximum,
                "rounding": "none" if maximum == LARGEST else "ceil",
            },
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
        self._maximum = float(method.settings["quantiser"]["maximum"])
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
                raise UserError(
                    f"document {document.doc_id!r} has no vector; give one a document, "
                    'as {"id": ..., "vector": {term: weight}}'
                )
            for term, weight in vector.items():
                if not isinstance(weight, (int, float)) or not math.isfinite(weight):
                    raise UserError(
                        f"document {document.doc_id!r}: the weight of {term!r} is {weight!r}, no number"
                    )
                if weight > 0:
                    tokens.append(numbers.setdefault(term, len(numbers)))
                    weights.append(weight)
            ends.append(len(tokens))
        exact = np.array(weights, np.float64)
        if len(exact) and exact.max() > self._maximum:
            raise UserError(
                f"a weight of {exact.max()} is above the maximum of {self._maximum}; "
                "weights in the corpus are whole numbers of 1 to 255, others come from a file: impacts:FILE"
            )
        values = np.minimum(np.ceil(exact * (LARGEST / self._maximum)), LARGEST).astype(np.uint8)
        if self._maximum == LARGEST and not np.array_equal(exact, np.floor(exact)):
            raise UserError(
                "weights in the corpus are whole numbers of 1 to 255; quantise them, or use impacts:FILE"
            )
        self._writer.add(np.array(ends, np.int64), np.array(tokens, np.int32), values)

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        self._writer.finish(
            part, list(self._numbers), compact=self._settings["compact"], forward=self._settings["forward"]
        )


class _Vectors:
    """Vectors of a JSON lines file by id; only the places of the lines are held."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        for at, _, record in _lines(path):
            self._places[record["id"]] = at

    def get(self, documents: Sequence[Document]) -> list[Any]:
        """The vector of each document, or None."""
        found: list[Any] = []
        with open(self._path, "rb") as file:
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
    with open(path, "rb") as file:
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


def _maximum(path: str) -> float:
    largest, whole = 0.0, True
    for _, number, record in _lines(path):
        for term, weight in record["vector"].items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise BadLine(path, number, f"the weight of {term!r} is {weight!r}, no number")
            largest = max(largest, weight)
            whole = whole and weight == int(weight)
    if largest <= 0:
        raise UserError(f"{path!r} holds no positive weight")
    return float(LARGEST) if whole and largest <= LARGEST else largest
