"""What waits for a commit: new documents on their way into a segment, deletions, the lock guarding them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.index.assets import entries
from retrieval.index.deletes import write_deletes
from retrieval.index.documents import DocumentsWriter
from retrieval.index.idset import IdSet
from retrieval.index.method import Builder, Method
from retrieval.index.partfiles import PartFiles
from retrieval.index.postings import Postings
from retrieval.index.view import View, no_document
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.artefact import Transaction


class SegmentWriter:
    """One new segment: its documents and, for each representation, its lists."""

    def __init__(
        self,
        transaction: Transaction,
        methods: Mapping[str, Method],
        *,
        memory: int,
        store_text: bool,
        keep_documents: bool = True,
        strict: bool = False,
    ) -> None:
        self._transaction = transaction
        self._parts = {name: transaction.part() for name in methods}
        share = memory // max(1, len(methods))
        self._consumed = {field for method in methods.values() for field in getattr(method, "consumes", ())}
        self._builders = {name: _builder(transaction, method, share) for name, method in methods.items()}
        for builder in self._builders.values():
            builder.strict = strict  # type: ignore[attr-defined]  # what cuts nothing off passes over it
        self._part = transaction.part() if keep_documents else None
        self._documents = (
            DocumentsWriter(self._part, store_text=store_text) if self._part is not None else None
        )
        self.count = 0

    def add(self, batch: Sequence[Document]) -> None:
        """Documents in order."""
        if self._documents is not None:
            self._documents.add(_without(batch, self._consumed) if self._consumed else batch)
        for builder in self._builders.values():
            builder.add(batch)
        self.count += len(batch)

    def finish(self) -> dict[str, Any]:
        """Writes all files; returns the segment's entry for the commit."""
        for name, builder in self._builders.items():
            builder.finish(self._parts[name])
        entry: dict[str, Any] = {
            "docs": self.count,
            "deleted": 0,
            "parts": {name: part.name for name, part in self._parts.items()},
        }
        if self._documents is not None and self._part is not None:
            entry["text"] = self._documents.finish()["text"]
            entry["name"] = self._part.name
        return entry


def _builder(transaction: Transaction, method: Any, budget: int) -> Builder:
    """The method's builder; one that encodes gets the journal of what its model has made."""
    more: dict[str, Any] = {}
    if getattr(method, "encodes", False):
        from retrieval.index.encoded import open_cache

        more["cache"] = open_cache(transaction, method)
    builder: Builder = method.builder(transaction.scratch(), budget, **more)
    return builder


def _without(batch: Sequence[Document], fields: set[str]) -> list[Document]:
    """The documents without some metadata."""
    return [
        document._replace(metadata={k: v for k, v in document.metadata.items() if k not in fields})
        if not fields.isdisjoint(document.metadata)
        else document
        for document in batch
    ]


class Writer:
    """Changes of one transaction."""

    def __init__(
        self,
        transaction: Transaction,
        view: View | None,
        methods: Mapping[str, Method],
        *,
        memory: int,
        store_text: bool,
        numbered: int,
        strict: bool = False,
    ) -> None:
        self.transaction = transaction
        self.numbered = numbered  # how many texts without an id have been given a number
        self._view = view
        self._methods = methods
        self._memory = memory
        self._store_text = store_text
        self._strict = strict
        self._segment: SegmentWriter | None = None
        self._finished: list[dict[str, Any]] = []  # entries of new segments; the open one comes after them
        self._starts: list[int] = []  # number in _ids of each new segment's first document
        self._ids = IdSet()
        self._deleted: dict[int, set[int]] = {}  # segment (the view's, then the new ones) -> documents

    @property
    def encodes(self) -> bool:
        """Whether a model reads the documents, so that even a few take long."""
        return any(getattr(method, "encodes", False) for method in self._methods.values())

    @property
    def changed(self) -> bool:
        """Whether a commit would change anything."""
        return self._segment is not None or bool(self._finished) or bool(self._deleted)

    def duplicates(self, ids: Sequence[str]) -> list[int]:
        """Places in ids of those that are known already, or stand earlier in the batch."""
        known = self._find(ids)
        seen: set[str] = set()
        found = []
        for place, doc_id in enumerate(ids):
            if known[place] is not None or doc_id in seen:
                found.append(place)
            seen.add(doc_id)
        return found

    def _find(self, ids: Sequence[str]) -> list[tuple[int, int] | None]:
        """(segment, document) of each id that is live, the new segment included."""
        places: list[tuple[int, int] | None] = [None] * len(ids)
        if self._view is not None:
            for number, segment in enumerate(self._view.segments):
                local = segment.store.lookup_many(ids)
                for at in np.flatnonzero(local >= 0).tolist():
                    document = int(local[at])
                    gone = document in self._deleted.get(number, ())
                    if not gone and (not segment.deleted or segment.alive[document]):
                        places[at] = (number, document)
        waiting = self._ids.find(ids)
        for at in np.flatnonzero(waiting >= 0).tolist():
            new = bisect_right(self._starts, int(waiting[at])) - 1
            number, document = self._old + new, int(waiting[at]) - self._starts[new]
            if document not in self._deleted.get(number, ()):
                places[at] = (number, document)
        return places

    @property
    def _old(self) -> int:
        """Segments that were there before."""
        return len(self._view.segments) if self._view else 0

    def add(self, batch: Sequence[Document]) -> None:
        """New documents; the caller has dealt with duplicates."""
        if not batch:
            return
        if self._segment is None:
            self._starts.append(self._ids.count)
            self._segment = SegmentWriter(
                self.transaction, self._methods, memory=self._memory, store_text=self._store_text,
                strict=self._strict,
            )  # fmt: skip
        self._segment.add(batch)
        self._ids.add([document.doc_id for document in batch])

    def delete(self, ids: Iterable[str], *, missing_ok: bool = False) -> int:
        """Marks documents; returns how many. Raises UserError for an unknown id, and marks none then."""
        ids = list(dict.fromkeys(ids))
        places = self._find(ids)
        for doc_id, place in zip(ids, places, strict=True):
            if place is None and not missing_ok:
                raise no_document(doc_id)
        found = [place for place in places if place is not None]
        here = self._old + len(self._finished)
        if self._segment is not None and any(number == here for number, _ in found):
            self._finished.append(self._segment.finish())  # the id may come again, and once in a segment
            self._segment = None
        for number, document in found:
            self._deleted.setdefault(number, set()).add(document)
        return len(found)

    def commit(self, options: Mapping[str, Any]) -> int:
        """Makes it durable; returns the generation."""
        segments = [dict(segment.entry) for segment in self._view.segments] if self._view else []
        segments += self._finished
        if self._segment is not None:
            segments.append(self._segment.finish())
        for number, gone in sorted(self._deleted.items()):
            entry = segments[number]
            already = (
                self._view.segments[number].alive
                if self._view and number < self._old
                else np.empty(0, np.uint8)
            )
            dead = np.zeros(entry["docs"], bool) if not len(already) else already == 0
            dead[list(gone)] = True
            if dead.all():
                segments[number] = {}
                continue
            write_deletes(self.transaction, entry, dead, self._lists(number, entry))
        kept = [entry for entry in segments if entry]
        return self.transaction.commit(
            {
                "segments": kept,
                "representations": entries(self.transaction, self._methods),
                "options": dict(options),
            }
        )

    def _lists(self, number: int, entry: Mapping[str, Any]) -> dict[str, Postings]:
        """The lists of a segment, committed or about to be, of each representation that has some."""
        if self._view is not None and number < self._old:
            return dict(self._view.segments[number].lists())
        files = PartFiles(self.transaction)
        names = [name for name, method in self._methods.items() if method.has_lists]
        return {name: Postings(files, entry["parts"][name]) for name in names}
