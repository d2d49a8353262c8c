"""The block vectors of an index for stages that read them, such as parade (rerank/parade.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.view import no_document
from retrieval.longdoc.block_view import block_view

if TYPE_CHECKING:
    from retrieval.encoder import Vectors
    from retrieval.index.dense import DenseMethod
    from retrieval.index.view import View


class IndexBlocks:
    """A BlockSource (rerank/parade.py) of the dense representation of blocks `name`."""

    def __init__(self, view: View, name: str, method: DenseMethod) -> None:
        self._view, self._name, self._method = view, name, method

    @property
    def identity(self) -> Mapping[str, Any]:
        """Of the encoder."""
        identity: Mapping[str, Any] = self._method.settings["identity"]
        return identity

    def blocks_of(self, doc_ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See BlockSource. Raises UserError for an unknown id."""
        blocks = block_view(self._view, self._name)
        rows = [np.empty((0, self._method.settings["identity"]["dim"]), np.float32)]
        for doc_id, ordinal in zip(doc_ids, self._view.find_many(doc_ids).tolist(), strict=True):
            if ordinal < 0:
                raise no_document(doc_id)
            first, last = blocks.offsets[ordinal : ordinal + 2].tolist()
            segment = blocks.segment_of(first)
            rows.append(segment.vectors(self._name).vectors[first - segment.base : last - segment.base])
        return np.concatenate(rows), np.cumsum([0, *map(len, rows[1:])])

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """The vectors of queries."""
        return self._method.query_encoder().encode(texts, "query")
