"""Base of re-rankers that read the documents' texts, through whatever finds documents by id."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CompositionError
from retrieval.stage import Lookup, Stage
from retrieval.types import Document, Run

_DOCUMENTS = 512  # in memory at a time


class TextStage(Stage):
    """A stage that a pipeline gives the way to the documents (retrieval/stage.py)."""

    needs_run = True

    def with_documents(self, lookup: Lookup) -> Self:
        """This stage with the way to the documents' texts: ids -> Documents, in order."""
        twin = copy.copy(self)
        twin.documents = lookup
        return twin

    def _given(self, run: Run | None) -> tuple[Run, Lookup]:
        """The run and the way to its documents. Raises CompositionError where there is none."""
        lookup = self._texts()
        assert run is not None  # for the type checker: needs_run
        return run, lookup

    def _texts(self) -> Lookup:
        """The way to documents. Raises CompositionError where there is none."""
        if self.documents is None:
            raise CompositionError(
                f"{self!r} reads documents' texts; use it in a pipeline of an index, index.pipeline(text)"
            )
        return self.documents


def by_document(
    run: Run, lookup: Lookup
) -> Iterator[tuple[list[Document], NDArray[np.int64], NDArray[np.int64]]]:
    """The distinct documents of a run, some at a time: (documents, pairs, which).

    pairs  places of the run's columns that hold one of these documents
    which  the place in `documents` of each of these pairs
    """
    order = np.argsort(run.docs, kind="stable")
    distinct, first = np.unique(run.docs[order], return_index=True)
    ends = np.append(first, len(order))
    for at in range(0, len(distinct), _DOCUMENTS):
        wanted = distinct[at : at + _DOCUMENTS]
        pairs = order[ends[at] : ends[at + len(wanted)]]
        documents = lookup([run.doc_ids[doc] for doc in wanted.tolist()])
        yield documents, pairs, np.searchsorted(wanted, run.docs[pairs])
