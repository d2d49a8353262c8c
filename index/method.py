"""What a method is: how a representation of the documents is built, kept, merged and searched.

Two families: sparse methods keep term weights in inverted lists (one file each; see bm25.py), the dense
method keeps one vector a document (dense.py), whatever encoder made it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from retrieval import registry
from retrieval.errors import UserError
from retrieval.manifest import DENSE
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.artefact import Transaction
    from retrieval.index.postings import Postings
    from retrieval.index.scoring import Scoring
    from retrieval.index.statistics import Statistics
    from retrieval.index.view import View
    from retrieval.part import Part
    from retrieval.stage import Param, Stage

_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")


class Builder(Protocol):
    """Writes the lists of one segment."""

    def add(self, documents: Sequence[Document]) -> None:
        """The next documents, in order."""
        ...

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        ...


class Method(Protocol):
    """A method with its settings, as the commit stores them.

    A class may have as well:
    assets: Mapping[str, bytes]  files that queries need (a tokenizer), stored in the index (assets.py)
    encodes = True               a model reads the documents: builder(scratch, budget, cache=...), encoded.py
    encoder: Mapping[str, Any]   what the model's output depends on, if that is less than the settings
    """

    kind: str
    settings: Mapping[str, Any]  # JSON; the method is made again from it, and two must be equal to be one
    has_lists: bool = True  # inverted lists, whose statistics change when a document is deleted

    def builder(self, scratch: str, budget: int) -> Builder:
        """A builder for one segment; scratch: a directory for spills; budget: bytes."""
        ...

    def stage(self, view: View, name: str, params: Mapping[str, Param], **options: Any) -> Stage:
        """The stage of the representation `name`, its parameters checked.

        options: statistics, masks, threads, algorithm, as Index.stage takes them.
        """
        ...

    def merge(self, transaction: Transaction, view: View, name: str, memory: int, reorder: bool) -> str:
        """Writes a part with what all segments hold of the live documents, in order; returns its name."""
        ...

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, term) of the terms in a document's text, to show what matched."""
        ...


class SparseMethod(Method, Protocol):
    """A method of term weights."""

    most: float  # the largest value that a posting can contribute for a weight of 1

    def query(self, text: str) -> dict[str, float]:
        """Term -> weight of a query, before collection statistics."""
        ...

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """Term -> weight with statistics; terms without one are left out."""
        ...

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> Scoring:
        """How a segment's stored values score."""
        ...

    def stage(self, view: View, name: str, params: Mapping[str, Param], **options: Any) -> Stage:
        from retrieval.index.stages import SparseStage

        return SparseStage(view, name, self, params, **options).prepared()

    def merge(self, transaction: Transaction, view: View, name: str, memory: int, reorder: bool) -> str:
        from retrieval.index.merge import merge_lists

        return merge_lists(transaction, view, name, self, memory, reorder)


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
    return Spec(checked_name(name), method, model)


def checked_name(name: str) -> str:
    """The name of a representation. Raises UserError for what cannot be one."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a representation; use 1 to 20 of a-z 0-9 _, beginning with a letter"
        )
    return name


def create_method(spec: Spec, analyzer: str, options: Mapping[str, Any]) -> Method:
    """A new sparse method with its settings. Raises UnknownName, UserError."""
    kind: Any = registry.lookup(spec.method, kind="sparse method")
    method: Method = kind.create(spec.model, analyzer, options)
    return method


def restore_method(settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> Method:
    """The method that a commit's settings describe: kind.restore(settings), with assets where it has them.

    Raises UserError if its analyzer is another one here, CorruptIndex for assets that are missing.
    """
    if settings["kind"] == DENSE:
        from retrieval.index.dense import DenseMethod

        return DenseMethod.restore(settings)
    kind: Any = registry.lookup(settings["kind"], kind="sparse method")
    with_assets = len(assets) or getattr(kind, "encodes", False)
    method: Method = kind.restore(settings, assets) if with_assets else kind.restore(settings)
    return method
