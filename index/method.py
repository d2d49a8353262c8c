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
from retrieval.manifest import BLOCKS, DENSE
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
    """[NAME=]METHOD[:MODEL][(param=value, ...)] of the command line, read. params: how documents are cut."""

    name: str
    method: str
    model: str
    params: Mapping[str, Param] = {}


def parse_spec(text: str) -> Spec:
    """Reads `bm25`, `tildev2:./model`, `unicoil=impacts:vectors.jsonl` or `parts=bm25(blocks=sentences)`.

    Raises UserError.
    """
    head, params = _bracketed(text)
    name, equals, rest = head.partition("=")
    if not equals:
        name, rest = "", head
    method, _, model = rest.partition(":")
    if "(" in method:
        plain = method.partition("(")[0]
        raise UserError(f"{text!r}: brackets say how documents are cut; write {plain}(blocks=sentences)")
    registry.lookup(method, kind="sparse method")
    if not name:
        name = method
    return Spec(checked_name(name), method, model, params)


def _bracketed(text: str) -> tuple[str, dict[str, Param]]:
    """What stands before (blocks=..., ...), and that. A file's name may hold brackets of its own."""
    head, bracket, rest = text.rpartition("(")
    if not bracket or not rest.endswith(")") or "blocks" not in rest:
        return text, {}
    from retrieval.longdoc.splitter import SETTINGS
    from retrieval.pipeline import parse_params

    params = parse_params(rest[:-1])
    for key in params:
        if key not in SETTINGS:
            raise UserError(f"{text!r}: {key!r} is no setting of blocks; they are {', '.join(SETTINGS)}")
    if "blocks" not in params:
        raise UserError(f"{text!r}: name how documents are cut, such as {head}(blocks=sentences)")
    return head, params


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
    if settings["kind"] == BLOCKS:
        from retrieval.longdoc.block_method import BlockMethod

        return BlockMethod.restore(settings, assets)
    kind: Any = registry.lookup(settings["kind"], kind="sparse method")
    with_assets = len(assets) or getattr(kind, "encodes", False)
    method: Method = kind.restore(settings, assets) if with_assets else kind.restore(settings)
    return method


def with_compact(method: Method, compact: bool) -> Method:
    """The same method, its lists in the other form; itself where it has none."""
    if method.kind == BLOCKS:
        made: Method = method.with_compact(compact)  # type: ignore[attr-defined]
        return made
    if not method.has_lists:
        return method
    return restore_method({**method.settings, "compact": compact}, getattr(method, "assets", {}))
