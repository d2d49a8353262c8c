"""What the stages of an index share, sparse or dense: its documents, and runs brought to its ordinals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.stage import Lookup, Param, Stage
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.view import View


class IndexStage(Stage):
    """Base of the stage of a representation."""

    def __init__(self, view: View, name: str, params: Mapping[str, Param]) -> None:
        self.name = name
        self.params = dict(params)
        self.corpus = view.corpus
        self.view = view

    @property
    def documents(self) -> Lookup:  # type: ignore[override]
        """The stored documents by id. Raises UserError where the index was built without text."""
        return self.view.lookup()

    def scores(
        self, queries: list[Query], offsets: NDArray[np.int64], docs: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], int]:
        """(float32[n], tokens of the queries cut off): the score of each of docs[offsets[i]:offsets[i + 1]],
        ordinals, for query i."""
        raise NotImplementedError

    def _rescore(self, queries: list[Query], run: Run) -> Run:
        docs = self.ordinals(run)
        scores, dropped = self.scores(queries, run.offsets, docs)
        return Run(queries, run.offsets, docs, scores, self.view.ids, dropped=dropped)

    def explain(self, query: str, ordinal: int) -> dict[str, Any]:
        """{"representation", "score", "terms": [...]} of one document."""
        raise NotImplementedError

    def ordinals(self, run: Run) -> NDArray[np.int32]:
        """The run's documents as ordinals of this index. Raises UserError for one that is not in it."""
        if run.doc_ids is self.view.ids:
            return run.docs
        used, place = np.unique(run.docs, return_inverse=True)
        ids = [run.doc_ids[int(doc)] for doc in used]
        found = self.view.find_many(ids)
        if len(found) and found.min() < 0:
            missing = ids[int(np.argmin(found))]
            raise UserError(
                f"the run holds document {missing!r}, which is not in the index; is it of another corpus?"
            )
        ordinals: NDArray[np.int32] = found.astype(np.int32)[place]
        return ordinals
