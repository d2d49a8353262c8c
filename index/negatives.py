"""Hard negatives: the passages that BM25 finds for a query and that are not its positive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.index import Index
from retrieval.types import Document, Query

_QUERIES = 1000  # searched together


class HardNegatives:
    """A BM25 index of passages in a scratch directory, searched for what looks relevant and is not.

    `with HardNegatives(scratch, texts) as found:`; the directory is removed at the end.
    """

    def __init__(
        self, scratch: str, texts: Iterable[str], progress: Callable[[int], None] | None = None
    ) -> None:
        """texts: passage 0, 1, 2 ..., streamed; white space alone is left out of the index."""
        self._path = os.path.join(scratch, "bm25")
        shutil.rmtree(self._path, ignore_errors=True)  # of a run that was killed
        self._index = Index.create(self._path, ["bm25"], store_text=False)
        try:
            documents = (Document(str(i), text) for i, text in enumerate(texts) if text.strip())
            self._index.add(documents, progress=progress)
            self._index.commit()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HardNegatives:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the index."""
        self._index.close()
        shutil.rmtree(self._path, ignore_errors=True)

    def search(self, queries: Sequence[str], depth: int, threads: int = 1) -> list[NDArray[np.int64]]:
        """The best `depth` passages of each query, best first, as their numbers."""
        stage: Any = self._index.stage("bm25", threads=threads) % depth
        found: list[NDArray[np.int64]] = []
        for start in range(0, len(queries), _QUERIES):
            batch = [Query(str(i), text) for i, text in enumerate(queries[start : start + _QUERIES])]
            run = stage(batch)
            take = getattr(run.doc_ids, "take", None)
            ids = take(run.docs) if take else [run.doc_ids[doc] for doc in run.docs.tolist()]
            numbers = np.array([int(one) for one in ids], np.int64)
            found += np.split(numbers, run.offsets[1:-1])
        return found


def choose(
    found: Sequence[NDArray[np.int64]],
    excluded: Sequence[Iterable[int]],
    group: NDArray[np.integer[Any]],
    wanted: int,
    seed: int,
    first: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """Up to `wanted` passages of what was found for each query, drawn without replacement, best first.

    excluded  passages that are relevant; group[p] is what passage p was cut from: no passage of the same
              origin as an excluded one is taken
    first     number of the first query: the draws of a query come from (seed, its number)
    """
    for at, (numbers, relevant) in enumerate(zip(found, excluded, strict=True)):
        origins = group[np.fromiter(relevant, np.int64)]
        left = numbers[~np.isin(group[numbers], origins)]
        if len(left) > wanted:
            draw = np.random.default_rng([seed, first + at])
            left = left[np.sort(draw.choice(len(left), wanted, replace=False))]
        yield left
