"""A snapshot as the query side sees it: segments with their documents, what is alive, ordinals and ids."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CorruptIndex, UserError
from retrieval.index.consistency import check_lists, corrupt
from retrieval.index.documents import DocumentsReader
from retrieval.index.filters import schema
from retrieval.index.postings import Postings
from retrieval.index.vector_part import VectorPart
from retrieval.manifest import BLOCKS, DENSE
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.index.filters import Filter
    from retrieval.snapshot import Snapshot
    from retrieval.stage import Lookup

_MOST = 2**31 - 1  # documents of an index: ordinals are int32
_NONE: NDArray[np.uint8] = np.empty(0, np.uint8)


class SegmentView:
    """One segment: `base` is the ordinal of its first document in the snapshot."""

    def __init__(self, snapshot: Snapshot, entry: dict[str, Any], base: int) -> None:
        self._snapshot = snapshot
        self.entry = entry
        self.base = base
        self.documents: int = entry["docs"]
        self.deleted: int = entry.get("deleted", 0)
        self._postings: dict[str, Postings] = {}
        self._vectors: dict[str, VectorPart] = {}

    @cached_property
    def store(self) -> DocumentsReader:
        """Ids, texts and metadata."""
        store = DocumentsReader(self._snapshot, self.entry["name"])
        if len(store) != self.documents:
            raise corrupt(self.entry["name"], "ids_offsets.npy", f"does not hold {self.documents} documents")
        return store

    def postings(self, representation: str) -> Postings:
        """The inverted lists of a representation."""
        if representation not in self._postings:
            part = self._part(self.entry.get("parts"), representation)
            postings = Postings(self._snapshot, part)
            check_lists(postings, self.documents)
            self._postings[representation] = postings
        return self._postings[representation]

    def lists(self) -> Iterator[tuple[str, Postings]]:
        """Each representation that has inverted lists of documents, with them."""
        described = self._snapshot.commit["representations"]
        for name in self.entry["parts"]:
            if described[name].get("kind") not in (DENSE, BLOCKS):
                yield name, self.postings(name)

    def vectors(self, representation: str) -> VectorPart:
        """The vectors of a representation."""
        if representation not in self._vectors:
            part = self._part(self.entry.get("parts"), representation)
            self._vectors[representation] = VectorPart(self._snapshot, part, self.documents)
        return self._vectors[representation]

    def _part(self, held: Any, key: str) -> str:
        """held[key], the name of a part or of a file in one. Raises CorruptIndex."""
        name = held.get(key) if isinstance(held, dict) else None
        if not isinstance(name, str):
            raise CorruptIndex(
                f"COMMIT lacks {key!r} of segment {self.entry['name']}; restore the index from a copy or "
                "index the documents again"
            )
        return name

    @cached_property
    def alive(self) -> NDArray[np.uint8]:
        """1 for live documents, uint8[documents]; empty where none is deleted."""
        if not self.deleted:
            return _NONE
        name = self._part(self.entry.get("deletes"), "file")
        packed = self._snapshot.array(name)
        part, _, file = name.partition("/")
        if packed.dtype != np.uint8 or packed.shape != (-(-self.documents // 8),):
            raise corrupt(part, file, f"does not fit {self.documents} documents")
        bits = np.unpackbits(packed, count=self.documents, bitorder="little")
        if int(np.count_nonzero(bits)) != self.deleted:
            raise corrupt(part, file, f"does not mark {self.deleted} documents")
        return 1 - bits

    def deleted_terms(self, representation: str) -> tuple[int, dict[int, int]]:
        """(tokens, {term number: documents}) of the deleted documents, to take from the lists' counts."""
        if not self.deleted:
            return 0, {}
        return self._deleted_terms(representation)

    def _deleted_terms(self, representation: str) -> tuple[int, dict[int, int]]:
        part = self._part(self.entry.get("deletes"), "file").rpartition("/")[0]
        terms = self._snapshot.array(f"{part}/{representation}.terms.npy")
        counts = self._snapshot.array(f"{part}/{representation}.counts.npy")
        tokens = self._snapshot.json(f"{part}/tokens.json")
        postings = self.postings(representation)
        lost = tokens.get(representation) if isinstance(tokens, dict) else None
        if type(lost) is not int or not 0 <= lost <= postings.tokens:
            raise corrupt(part, "tokens.json", f"says that {lost!r} tokens of {representation!r} are deleted")
        if (
            terms.dtype != np.uint32
            or terms.ndim != 1
            or int(terms.max(initial=0)) >= max(1, len(postings.df))
        ):
            raise corrupt(part, f"{representation}.terms.npy", f"does not fit {postings.part}")
        if counts.dtype != np.uint32 or counts.shape != terms.shape or (counts > postings.df[terms]).any():
            raise corrupt(part, f"{representation}.counts.npy", f"does not fit {postings.part}")
        return lost, dict(zip(terms.tolist(), counts.tolist(), strict=True))


class View:
    """All segments of a snapshot. trust: read structures above vectors that another account has built."""

    def __init__(self, snapshot: Snapshot, *, trust: bool = False) -> None:
        self.snapshot = snapshot
        self.trust = trust
        self.segments: list[SegmentView] = []
        base = 0
        for entry in snapshot.commit["segments"]:
            self.segments.append(SegmentView(snapshot, entry, base))
            base += entry["docs"]
        self.documents = base
        self.live: int = snapshot.commit["docs"]
        kept = sum(segment.documents - segment.deleted for segment in self.segments)
        if kept != self.live or base > _MOST:
            raise CorruptIndex(
                f"COMMIT of {snapshot.path!r} counts {self.live} documents, its segments {kept} of {base}; "
                "restore the index from a copy or index the documents again"
            )
        self.corpus = f"index {snapshot.uuid}"

    @cached_property
    def ids(self) -> Sequence[str]:
        """Ordinal -> id."""
        if len(self.segments) == 1:
            return self.segments[0].store.ids
        return JoinedIds([segment.store.ids for segment in self.segments])

    def find(self, doc_id: str) -> int | None:
        """The ordinal of a live document, or None."""
        for segment in self.segments:
            local = segment.store.lookup(doc_id)
            if local is not None and (not segment.deleted or segment.alive[local]):
                return segment.base + local
        return None

    def find_many(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Ordinals of live documents, -1 for the others, int64[len(ids)]."""
        found = np.full(len(ids), -1, np.int64)
        for segment in self.segments:
            local = segment.store.lookup_many(ids).astype(np.int64)
            hit = np.flatnonzero(local >= 0)
            if segment.deleted:
                hit = hit[segment.alive[local[hit]] == 1]
            found[hit] = local[hit] + segment.base
        return found

    def segment_of(self, ordinal: int) -> SegmentView:
        """The segment that holds an ordinal."""
        return self.segments[bisect_right([segment.base for segment in self.segments], ordinal) - 1]

    def document(self, ordinal: int) -> Document:
        """The stored document."""
        segment = self.segment_of(ordinal)
        return segment.store.get(ordinal - segment.base)

    def lookup(self) -> Lookup:
        """What finds live documents by id. Raises UserError where there is no text to read."""
        if not all(segment.entry.get("text", True) for segment in self.segments):
            raise UserError(
                "the index was built without text, and a stage of the pipeline reads the documents' text; "
                "index the corpus again without --no-text (store_text=False)"
            )
        return self.lookup_documents

    def lookup_documents(self, ids: Sequence[str]) -> list[Document]:
        """Stored live documents in the order of the ids. Raises UserError for an id that is not there."""
        ordinals = self.find_many(ids)
        found: list[Any] = [None] * len(ids)
        for at in np.argsort(ordinals, kind="stable").tolist():  # each block is decompressed once
            if ordinals[at] < 0:
                raise no_document(ids[at])
            found[at] = self.document(int(ordinals[at]))
        return found

    def live_documents(self) -> Iterator[list[Document]]:
        """Stored live documents in order, in batches."""
        for segment in self.segments:
            at = 0
            for batch in segment.store.batches():
                if segment.deleted:
                    alive = segment.alive[at : at + len(batch)]
                    yield [document for document, keep in zip(batch, alive, strict=True) if keep]
                else:
                    yield batch
                at += len(batch)

    def masks(self, wanted: Filter | None) -> list[NDArray[np.uint8]]:
        """Each segment's documents that may be returned; an empty array where all may."""
        masks = []
        fields = schema(segment.store for segment in self.segments)
        for segment in self.segments:
            mask = segment.alive
            if wanted is not None:
                passed = wanted.mask(segment.store, fields).astype(np.uint8)
                mask = passed * mask if len(mask) else passed
            masks.append(mask)
        return masks


class JoinedIds(Sequence[str]):
    """The ids of several segments as one sequence."""

    def __init__(self, tables: Sequence[Sequence[str]]) -> None:
        self._tables = tables
        self._bases = [0]
        for table in tables:
            self._bases.append(self._bases[-1] + len(table))

    def __len__(self) -> int:
        return self._bases[-1]

    def take(self, ordinals: NDArray[Any]) -> list[str]:
        """The ids of many ordinals."""
        return _take(self._tables, self._bases, ordinals)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        if item < 0:
            item += len(self)
        if not 0 <= item < len(self):
            raise IndexError(f"ordinal {item} of {len(self)} documents")
        at = bisect_right(self._bases, item) - 1
        return self._tables[at][item - self._bases[at]]


def _take(tables: Sequence[Sequence[str]], bases: Sequence[int], ordinals: NDArray[Any]) -> list[str]:
    ids: list[str] = [""] * len(ordinals)
    owner = np.searchsorted(bases, ordinals, side="right") - 1
    for number, table in enumerate(tables):
        mine = np.flatnonzero(owner == number)
        if len(mine):
            local = ordinals[mine] - bases[number]
            for at, doc_id in zip(mine.tolist(), table.take(local), strict=True):  # type: ignore[attr-defined]
                ids[at] = doc_id
    return ids


def no_document(doc_id: str) -> UserError:
    """The error for an id that is not in the index."""
    return UserError(f"no document {doc_id!r} in the index; ids are case-sensitive")
