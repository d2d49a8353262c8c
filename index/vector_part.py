"""The vectors of one segment on disk: the truth in float32, and a structure above it that may be rebuilt.

    vectors.npy    float32[n, dim], row i is document i
    facts.json     {"documents", "dim", "norm"}: norm is the largest Euclidean norm of a row, or a little more
    encoding.json  what became of the documents' tokens (record_builder.py)
    ann.faiss      an approximate index of faiss, where there is one; ann.json: how it was built, and the
                   recall that was measured then
faiss reads ann.faiss only after its hash was verified, and only where this account has built it or the user
trusts who did: a crafted file has a right hash too. Otherwise the vectors are searched exactly.
"""

from __future__ import annotations

import contextlib
import math
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.consistency import corrupt
from retrieval.index.exact import largest_norm_of
from retrieval.manifest import BLOCKS, DENSE, STRUCTURE_FACTS
from retrieval.verified import cache_directory

if TYPE_CHECKING:
    from retrieval.index.ann import Ann
    from retrieval.part import Part
    from retrieval.snapshot import PartSource

VECTORS, FACTS, STRUCTURE = "vectors.npy", "facts.json", "ann.faiss"
_BLOCK = 1 << 14  # rows written, or looked at, together


class VectorPart:
    """The part of a segment of `documents` documents, checked against it. Raises CorruptIndex."""

    def __init__(self, source: PartSource, part: str, documents: int) -> None:
        self._source = source
        self.part = part
        facts = source.json(f"{part}/{FACTS}")
        dim = facts.get("dim") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or type(dim) is not int or facts.get("documents") != documents:
            raise corrupt(part, FACTS, f"does not describe the vectors of {documents} documents")
        self.vectors: NDArray[np.float32] = source.array(f"{part}/{VECTORS}")
        if self.vectors.dtype != np.float32 or self.vectors.shape != (documents, dim):
            raise corrupt(part, VECTORS, f"is not {documents} vectors of {dim} float32 numbers")
        self.dim: int = dim
        norm = facts.get("norm")
        if type(norm) is not float or not 0 <= norm < math.inf:
            raise corrupt(part, FACTS, f"gives norm as {norm!r}")
        self.norm: float = norm
        self._ann: Ann | None = None

    @property
    def structure(self) -> dict[str, Any]:
        """The facts of the structure above the vectors; {} where there is none."""
        name = f"{self.part}/{STRUCTURE_FACTS}"
        facts = self._source.json(name) if name in self._source else {}
        if not isinstance(facts, dict):
            raise corrupt(self.part, STRUCTURE_FACTS, "is no object")
        return facts

    def unread(self, trust: bool = False) -> str:
        """Why the structure that is there is not read; empty where it is, or where there is none."""
        if not self.structure:
            return ""
        if not trust and not is_ours(self._sha256()):
            return "was built by another account"
        return "" if find_spec("faiss") else "needs faiss, which is not installed"

    def ann(self, trust: bool = False) -> Ann | None:
        """The structure above the vectors; None where there is none, or where it is not read.

        Raises CorruptIndex for one that does not fit the vectors.
        """
        if self._ann is None and self.structure and not self.unread(trust):
            from retrieval.index.ann import Ann

            data = self._source.bytes(f"{self.part}/{STRUCTURE}")
            self._ann = Ann.load(data, self.structure, self.vectors, self.part, norm=self.norm)
        return self._ann

    def _sha256(self) -> str:
        commit: Any = getattr(self._source, "commit", {})  # of a Snapshot, which has verified it
        facts = commit.get("files", {}).get(f"{self.part}/{STRUCTURE}", {})
        return str(facts.get("sha256", ""))

    def check(self) -> None:
        """Raises CorruptIndex for a number that is not finite; takes one pass."""
        for start in range(0, len(self.vectors), _BLOCK):
            if not np.isfinite(self.vectors[start : start + _BLOCK]).all():
                raise corrupt(self.part, VECTORS, "holds a number that is not finite")


def check_vectors(path: str) -> None:
    """Raises CorruptIndex where an index holds a vector with a number that is not finite.

    Takes one pass over all vectors: hashes cannot tell what a stranger has written.
    """
    from retrieval.index.view import View
    from retrieval.snapshot import open_snapshot

    with open_snapshot(path) as snapshot:
        whole = View(snapshot)
        for name, settings in snapshot.commit["representations"].items():
            view = whole
            if settings.get("kind") == BLOCKS:
                from retrieval.longdoc.block_view import block_view

                view, settings = block_view(whole, name), settings.get("of", {})
            if settings.get("kind") == DENSE:
                for segment in view.segments:
                    segment.vectors(name).check()


def write_vectors(part: Part, vectors: NDArray[np.float32], ann: Ann | None) -> None:
    """Writes vectors float32[n, dim] (a map will do) and what was built above them."""
    from retrieval.part import npy_header

    with part.stream(VECTORS) as file:
        file.write(npy_header(np.dtype("<f4"), vectors.shape))
        for start in range(0, len(vectors), _BLOCK):
            file.write(np.ascontiguousarray(vectors[start : start + _BLOCK], "<f4"))
    norm = largest_norm_of(vectors)
    part.json(FACTS, {"documents": len(vectors), "dim": vectors.shape[1], "norm": norm})
    if ann is not None:
        part.bytes(STRUCTURE, ann.to_bytes())
        part.json(STRUCTURE_FACTS, dict(ann.facts))
        _remember(part.files[STRUCTURE]["sha256"])


def _place(sha256: str) -> str | None:
    home = cache_directory()
    return os.path.join(home, "built", sha256) if home and len(sha256) == 64 else None


def is_ours(sha256: str) -> bool:
    """Whether a structure with this hash was built by this account."""
    place = _place(sha256)
    if place is None:
        return False
    try:
        status = os.lstat(place)
    except OSError:
        return False
    return status.st_uid == os.geteuid()


def _remember(sha256: str) -> None:
    """Notes a structure as our own. A place that cannot be written to is put up with."""
    place = _place(sha256)
    if place is not None:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            with open(place, "wb"):
                pass
