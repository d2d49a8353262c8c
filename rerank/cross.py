"""Re-ranking with a cross-encoder: `bm25 % 100 >> cross(./model)`, or `cross` for the one that is shipped.

Every candidate is read together with the query; the score is the model's, before any sigmoid. Candidates of
all queries are batched together, sorted by length. What does not fit the model is cut off and counted in the
trace (tokens dropped): the end of the document, and of a query that takes more than half of the room. With
blocks=sentences (cross_blocks.py) documents are read to their end instead, with passages=NAME
(cross_passages.py) where an index's blocks of that name match best. A model is a directory or a hub id
fetched before: any network for sequence classification with one label or two, or a B-PROP model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.hub import resolve
from retrieval.index.layout import read_json
from retrieval.index.learned import need_torch
from retrieval.index.model_files import CONFIG, shipped
from retrieval.registry import register
from retrieval.rerank.pairs import join
from retrieval.rerank.text_stage import TextStage, by_document
from retrieval.stage import Param
from retrieval.types import Document, Query, Run

if TYPE_CHECKING:
    from retrieval.rerank.pairs import Ids, PairReader

_PRECISIONS = ("float32", "bfloat16", "auto")


@register("cross")
def create(model: str = "", length: int = 0, precision: str = "float32", **settings: Param) -> Cross:
    """The stage; with `blocks` among the settings that of cross_blocks.py, with `passages` that of
    cross_passages.py, and their settings.

    Raises UserError, UnknownName, MissingExtra.
    """
    given: dict[str, Any] = settings
    if "blocks" in settings:
        from retrieval.rerank.cross_blocks import CrossBlocks

        return CrossBlocks(model, length, precision, **given)
    if "passages" in settings:
        from retrieval.rerank.cross_passages import CrossPassages

        return CrossPassages(model, length, precision, **given)
    if settings:
        raise UserError(
            f"cross cannot take {next(iter(settings))}=; it has model, length, precision, and with "
            "blocks=sentences (or windows, structure) or passages=NAME what docs/cross.md lists"
        )
    return Cross(model, length, precision)


class Cross(TextStage):
    """Candidates cut to what the model reads.

    model      a model directory or fetched hub id; "": the small one that comes with the package
    length     tokens of query and document together, special ones included; 0: as many as the model reads
    precision  float32 (default: the same ranking on every machine); bfloat16; auto: bfloat16 where this
               machine is faster with it
    """

    name = "cross"

    def __init__(self, model: str = "", length: int = 0, precision: str = "float32") -> None:
        need_torch("re-ranking with a cross-encoder")
        given: dict[str, Param] = {"model": model, "length": length, "precision": precision}
        usual: dict[str, Param] = {"model": "", "length": 0, "precision": "float32"}
        self.params: dict[str, Param] = {key: one for key, one in given.items() if one != usual[key]}
        if precision not in _PRECISIONS:
            raise UserError(f"cross cannot take precision={precision!r}; give float32, bfloat16 or auto")
        self._reader = reader = open_reader(resolve(model) if model else shipped("cross"), precision)
        most = length or reader.length
        room = reader.longest or 1 << 20
        if isinstance(most, bool) or not isinstance(most, int) or not 8 <= most <= room:
            raise UserError(f"cross cannot take length={most!r}; {reader.path!r} reads 8 to {room} tokens")
        self._length: int = most

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's name and the sha256 of its files."""
        return self._reader.identity

    @property
    def runtime(self) -> Mapping[str, Any]:
        """How pairs are read: length in tokens, special ones among them; packed or padded; precision."""
        reader = self._reader
        return {
            "length": self._length, "special": reader.frame.size, "batches": reader.batches,
            "precision": reader.precision,
        }  # fmt: skip

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        run, lookup = self._given(run)
        scores = np.empty(len(run.docs), np.float32)
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        asked = self._reader.encode([one.text for one in queries])
        dropped = 0
        for documents, pairs, local in by_document(run, lookup):
            scores[pairs], lost = self._score(asked, query[pairs], documents, local)
            dropped += lost
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids, dropped=dropped)

    def _score(
        self, asked: list[Ids], query: NDArray[np.int64], documents: list[Document], which: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], int]:
        """(scores float32[n], tokens dropped) of the pairs asked[query[i]], documents[which[i]]."""
        return self._pairs(asked, query, [one.full_text() for one in documents], which)

    def _pairs(
        self, asked: list[Ids], query: NDArray[np.int64], texts: list[str], which: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], int]:
        """As _score, of texts."""
        read, frame = self._reader.encode(texts), self._reader.frame
        pairs = [
            join(asked[q], read[d], self._length, frame)
            for q, d in zip(query.tolist(), which.tolist(), strict=True)
        ]
        found = self._reader.score(pairs)
        if not np.isfinite(found).all():
            raise UserError(
                f"{self._reader.path!r} gives scores that are not finite; its files are damaged, or its "
                "training failed"
            )
        return found, sum(pair.dropped for pair in pairs)


def open_reader(path: str, precision: str = "float32") -> PairReader:
    """The model of a directory, read as its config.json says. Raises UserError, MissingExtra."""
    from retrieval.index import families

    config = read_json(path, CONFIG) if os.path.isfile(os.path.join(path, CONFIG)) else {}
    if not families.is_packed(config):
        from retrieval.rerank.cross_other import OtherReader

        return OtherReader(path, config, precision)
    from retrieval.rerank.cross_packed import BertReader, FamilyReader

    if config.get("model_type", "bert") == "bert":
        return BertReader(path, precision)
    return FamilyReader(path, config, precision)
