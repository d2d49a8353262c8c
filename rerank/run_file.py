"""A run file as a stage: `run(bm25.trec.gz) + run(ance.trec.gz)`, `run(first.trec) % 100 >> cross(DIR)`.

TREC's form, MS MARCO's and BEIR's, plain or .gz (data/runs.py). Ties are broken by the tie rule, whatever the
order of the lines. A query that the file does not hold has no documents.
"""

from __future__ import annotations

import os

from retrieval.data.runs import read_run
from retrieval.errors import CompositionError, UserError
from retrieval.registry import register
from retrieval.stage import Stage
from retrieval.types import Query, Run


@register("run")
class RunFile(Stage):
    """The stage; the file is read with the first query.

    model  the file

    Raises UserError for a file that is not there.
    """

    name = "run"

    def __init__(self, model: str) -> None:
        if not os.path.isfile(str(model)):
            raise UserError(f"there is no run file {model!r}; check the path")
        self.params = {"model": str(model)}
        self._read: list[Run] = []  # one, shared by what within() copies

    @property
    def run(self) -> Run:
        """The whole run. Raises BadLine for a score that is not finite, and whatever read_run does."""
        if not self._read:
            self._read.append(read_run(str(self.params["model"])))
        return self._read[0]

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if run is not None:
            raise CompositionError(
                f"{self!r} is a run that was made elsewhere and cannot re-score; put it at the head of the "
                "pipeline"
            )
        return self.run.aligned(queries).cut(self.depth)
