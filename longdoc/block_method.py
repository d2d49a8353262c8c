"""A representation of blocks: any method, applied to each block of a document instead of to the document.

`--sparse "passages=bm25(blocks=sentences)"`, `--dense "minilm=./minilm(blocks=sentences)"`. Documents are cut
by a splitter (splitter.py), the method inside builds its lists or vectors of the blocks, and a table beside
them says where each block lies (block_table.py). With blocks=model an encoder that reads a document as a
whole cuts it itself and gives a vector a block (SMITH).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retrieval import registry
from retrieval.errors import CorruptIndex, UserError
from retrieval.index.method import Builder, Method, restore_method
from retrieval.index.record_builder import slices, too_long
from retrieval.longdoc.block_table import BlockTableWriter, merge_tables
from retrieval.longdoc.block_view import block_view
from retrieval.longdoc.splitter import KIND, WORDS, Splitter, room, take_settings
from retrieval.manifest import BLOCKS, DENSE

if TYPE_CHECKING:
    from retrieval.artefact import Transaction
    from retrieval.index.encoded import Cache
    from retrieval.index.view import View
    from retrieval.longdoc.block_stage import BlockStage
    from retrieval.part import Part
    from retrieval.stage import Param
    from retrieval.types import Document

MODEL = "model"  # as `blocks`: the encoder cuts
_SLICE = 1 << 20  # characters of documents that are cut together


class BlockMethod(Method):
    """The method. of: the one inside; splitter: its settings."""

    kind = BLOCKS
    has_lists = False  # of documents

    def __init__(self, of: Method, splitter: Mapping[str, Any]) -> None:
        self.of = of
        self.splitter = dict(splitter)
        self.settings = {"kind": self.kind, "splitter": self.splitter, "of": dict(of.settings)}
        self.encodes: bool = getattr(of, "encodes", False)  # type: ignore[arg-type]
        self.assets: Mapping[str, bytes] = getattr(of, "assets", {})

    @classmethod
    def create(cls, name: str, of: Method, params: Mapping[str, Param]) -> BlockMethod:
        """A new one. params: those of SETTINGS that the user gave. Raises UserError, UnknownName."""
        given: str = getattr(of, "_path", "")
        if of.kind == "impacts" or given:
            raise UserError(
                f"{name} takes its weights from a file, which gives them a document and not a block"
            )
        if params["blocks"] == MODEL:
            encoder = of.query_encoder() if of.kind == DENSE else None  # type: ignore[attr-defined]
            if not hasattr(encoder, "encode_blocks"):
                raise UserError(
                    f"{name}: blocks=model is for an encoder that cuts documents itself, such as SMITH; "
                    f"give blocks={' or '.join(registry.names(KIND))}"
                )
            if len(params) > 1:
                raise UserError(
                    f"{name}: with blocks=model the model's own settings count; give nothing else"
                )
            return cls(of, {"blocks": MODEL})
        default = room(of.query_encoder()) if of.kind == DENSE else WORDS  # type: ignore[attr-defined]
        return cls(of, take_settings(name, params, default))

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> BlockMethod:
        """From a commit. Raises CorruptIndex for settings that create() cannot have written."""
        of, splitter = settings.get("of"), settings.get("splitter")
        if not isinstance(of, dict) or not isinstance(splitter, dict) or of.get("kind") == BLOCKS:
            raise CorruptIndex(
                f"COMMIT describes blocks of {of!r}, cut by {splitter!r}; index the documents again"
            )
        if not isinstance(of.get("kind"), str) or not isinstance(splitter.get("blocks"), str):
            raise CorruptIndex("COMMIT describes blocks without a kind; index the documents again")
        return cls(restore_method(of, assets), splitter)

    @property
    def encoder(self) -> dict[str, Any]:
        """See Method: a block's vector depends on its text alone."""
        from retrieval.index.encoded import encoder_of

        return {"of": encoder_of(self.of)}

    def with_compact(self, compact: bool) -> BlockMethod:
        """The same method, its lists in the other form."""
        if not self.of.has_lists:
            return self
        return BlockMethod(
            restore_method({**self.of.settings, "compact": compact}, self.assets), self.splitter
        )

    def builder(self, scratch: str, budget: int, cache: Cache | None = None) -> Builder:
        """See Method."""
        if self.splitter["blocks"] == MODEL:
            from retrieval.longdoc.model_blocks import ModelBlockBuilder

            return ModelBlockBuilder(cast(Any, self.of), scratch)
        more = {} if cache is None else {"cache": cache}
        return BlockBuilder(
            self.of.builder(scratch, budget, **more), Splitter(self.splitter, self._offsets())
        )

    def _offsets(self) -> Any:
        """The tokenizer of the encoder inside, where it has one to count with."""
        if self.of.kind != DENSE:
            return None
        return getattr(self.of.query_encoder(), "offsets", None)  # type: ignore[attr-defined]

    def stage(self, view: View, name: str, params: Mapping[str, Param], **options: Any) -> BlockStage:
        """See Method; parameters of the aggregation beside those of the method inside (block_stage.py)."""
        from retrieval.longdoc.block_stage import BlockStage

        return BlockStage(view, name, self.of, params, **options)

    def merge(self, transaction: Transaction, view: View, name: str, memory: int, reorder: bool) -> str:
        """See Method."""
        blocks = block_view(view, name)
        merged = self.of.merge(transaction, blocks, name, memory, reorder)
        part = next(part for part in transaction.new_parts if part.name == merged)
        merge_tables(
            part,
            (
                (each.table, each.of.alive == 1 if each.of.deleted else np.ones(each.of.documents, np.bool_))
                for each in blocks.segments
            ),
        )
        return merged

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """See Method."""
        return self.of.spans(text)


class BlockBuilder:
    """Writes the part of one segment: the blocks go to the builder inside as its documents."""

    def __init__(self, of: Builder, splitter: Splitter) -> None:
        self._of, self._splitter = of, splitter
        self._table = BlockTableWriter()
        self.strict = False  # see RecordBuilder

    def add(self, documents: Sequence[Document]) -> None:
        """The next documents, in order."""
        for some in slices(documents, _SLICE):
            self._add(some)

    def _add(self, documents: Sequence[Document]) -> None:
        for document, blocks in zip(documents, self._splitter.blocks(documents), strict=True):
            if self.strict:
                if dropped := sum(block.dropped for block in blocks):
                    raise too_long(document.doc_id, sum(block.tokens for block in blocks) + dropped, dropped)
                self._of.strict = True  # type: ignore[attr-defined]
            self._table.add(blocks)
            self._of.add(list(self._splitter.documents(document, blocks)))

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        self._of.finish(part)
        self._table.finish(part)
