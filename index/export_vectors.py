"""A dense representation written for other tools: FILE.npy, float32[n, dim], and FILE.ids, an id a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from retrieval.data.output import atomic
from retrieval.part import npy_header

if TYPE_CHECKING:
    from retrieval.index.view import View

_BLOCK = 1 << 13  # documents written together


def export_vectors(view: View, name: str, path: str, report: Callable[[int], None]) -> int:
    """Writes the vectors of the live documents, in order; returns how many. Raises StorageError.

    path: FILE.npy; the ids go to FILE.ids beside it, which is written first.
    """
    dim = view.segments[0].vectors(name).dim if view.segments else 0
    with atomic(f"{path.removesuffix('.npy')}.ids") as write_ids:
        for segment in view.segments:
            for start in range(0, segment.documents, _BLOCK):
                kept = np.arange(start, min(start + _BLOCK, segment.documents))
                if segment.deleted:
                    kept = kept[segment.alive[kept] == 1]
                ids = view.ids.take(kept + segment.base)  # type: ignore[attr-defined]
                write_ids("".join(f"{doc_id}\n" for doc_id in ids).encode())
    with atomic(path) as write:
        write(npy_header(np.dtype("<f4"), (view.live, dim)))
        for segment in view.segments:
            vectors = segment.vectors(name).vectors
            for start in range(0, segment.documents, _BLOCK):
                block = vectors[start : start + _BLOCK]
                if segment.deleted:
                    block = block[segment.alive[start : start + _BLOCK] == 1]
                write(np.ascontiguousarray(block, "<f4").tobytes())
                report(len(block))
    return view.live
