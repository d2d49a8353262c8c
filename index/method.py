"""What a sparse method is: a kind of term weights that the index stores. One file each; see bm25.py."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from retrieval import registry
from retrieval.errors import UserError
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.index.postings import Postings
    from retrieval.index.scoring import Scoring
    from retrieval.index.statistics import Statistics
    from retrieval.part import Part

_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")


class Builder(Protocol):
    """Writes the lists of one segment."""

    def add(self, documents: Sequence[Document]) -> None:
        """The next documents, in order."""

    def finish(self, part: Part) -> None:
        """Writes the part's files."""


class SparseMethod(Protocol):
    """A method with its settings, as the commit stores them."""

    kind: str
    settings: Mapping[str, Any]  # JSON; the method is made again from it, and two must be equal to be one
    most: float  # the largest value that a posting can contribute for a weight of 1
    # A class may have as well:
    # assets: Mapping[str, bytes]  files that queries need (a tokenizer), stored in the index (assets.py)
    # encodes = True               a model makes the weights: builder(scratch, budget, cache=...), encoded.py
    # encoder: Mapping[str, Any]   what the model's output depends on, if that is less than the settings

    def builder(self, scratch: str, budget: int) -> Builder:
        """A builder for one segment; scratch: a directory for spills; budget: bytes."""

    def query(self, text: str) -> dict[str, float]:
        """Term -> weight of a query, before collection statistics."""

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """Term -> weight with statistics; terms without one are left out."""

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> Scoring:
        """How a segment's stored values score."""

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, term) of the terms in a document's text, to show what matched."""


class Spec(NamedTuple):
    """[NAME=]METHOD[:MODEL] of the command line, read."""

    name: str
    method: str
    model: str


def parse_spec(text: str) -> Spec:
    """Reads `bm25`, `tildev2:./model` or `unicoil=impacts:vectors.jsonl`. Raises UserError."""
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    method, _, model = rest.partition(":")
    registry.lookup(method, kind="sparse method")
    if not name:
        name = method
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a representation; use 1 to 20 of a-z 0-9 _, beginning with a letter"
        )
    return Spec(name, method, model)


def create_method(spec: Spec, analyzer: str, options: Mapping[str, Any]) -> SparseMethod:
    """A new method with its settings. Raises UnknownName, UserError."""
    kind: Any = registry.lookup(spec.method, kind="sparse method")
    method: SparseMethod = kind.create(spec.model, analyzer, options)
    return method


def restore_method(settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> SparseMethod:
    """The method that a commit's settings describe: kind.restore(settings), with assets where it has them.

    Raises UserError if its analyzer is another one here, CorruptIndex for assets that are missing.
    """
    kind: Any = registry.lookup(settings["kind"], kind="sparse method")
    with_assets = len(assets) or getattr(kind, "encodes", False)
    method: SparseMethod = kind.restore(settings, assets) if with_assets else kind.restore(settings)
    return method
