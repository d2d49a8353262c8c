"""What builders share whose documents a model reads: slices, the journal that survives a kill, token counts.

Whatever a model makes of a text becomes a record, bytes, which begins with how many tokens it read and how
many it left out. Records that the journal holds are not made again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from retrieval.errors import UserError
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.index.encoded import Cache
    from retrieval.index.view import View

FACTS = "encoding.json"
COUNTED = "documents", "reused", "tokens", "dropped", "cut", "clamped"
_SLICE = 1024  # documents, or ...
_SLICE_TEXT = 1 << 18  # ... characters, that are encoded together: what a kill may cost
_COUNTS = struct.Struct("<2I")  # what a record begins with: tokens, dropped


def slices(
    documents: Sequence[Document], characters: int, most: int = 1 << 30
) -> Iterator[Sequence[Document]]:
    """The documents, in order, some at a time: at most so many, no more once they have these characters."""
    start = size = 0
    for at, document in enumerate(documents, 1):
        size += len(document.title) + len(document.text)
        if at - start == most or size >= characters or at == len(documents):
            yield documents[start:at]
            start, size = at, 0


class RecordBuilder:
    """Base of a builder of one segment; a subclass makes records, checks them and writes them."""

    def __init__(self, identity: str, cache: Cache | None) -> None:
        self._identity = identity
        self._cache = cache
        self._facts = dict.fromkeys(COUNTED, 0)
        self._seconds = 0.0
        self.strict = False  # whether a document that loses tokens is refused

    def _records(self, texts: list[str]) -> list[bytes]:
        """The record of each text."""
        raise NotImplementedError

    def _sound(self, record: bytes) -> bool:
        """Whether a record of a journal, which may be a stranger's, can be what _records made."""
        raise NotImplementedError

    def _write(self, records: list[bytes]) -> None:
        """Keeps the records of the next documents."""
        raise NotImplementedError

    def add(self, documents: Sequence[Document]) -> None:
        """The next documents. Raises UserError for a model that does not fit or gives no numbers."""
        for some in slices(documents, _SLICE_TEXT, _SLICE):
            self._add(some)

    def _add(self, documents: Sequence[Document]) -> None:
        texts = [document.full_text() for document in documents]
        from retrieval.index.encoded import text_key

        keys = [text_key(self._identity, text) for text in texts]
        known: list[bytes | None] = [None] * len(texts)
        if self._cache is not None:
            known = [
                record if record is not None and len(record) >= _COUNTS.size and self._sound(record) else None
                for record in self._cache.get(keys)
            ]
        missing = {keys[i]: i for i, record in enumerate(known) if record is None}  # equal texts once
        made: dict[bytes, bytes] = {}
        if missing:
            start = perf_counter()
            records = self._records([texts[i] for i in missing.values()])
            self._seconds += perf_counter() - start
            made = dict(zip(missing, records, strict=True))
            if self._cache is not None:
                self._cache.put(list(missing), records)
        found = [made[key] if record is None else record for key, record in zip(keys, known, strict=True)]
        for record, document in zip(found, documents, strict=True):
            tokens, dropped = _COUNTS.unpack_from(record)
            if self.strict and dropped:
                raise too_long(document.doc_id, tokens, dropped)
            self._facts["tokens"] += tokens
            self._facts["dropped"] += dropped
            self._facts["cut"] += dropped > 0
        self._facts["documents"] += len(texts)
        self._facts["reused"] += len(texts) - len(missing)
        self._write(found)

    @property
    def facts(self) -> dict[str, Any]:
        """What became of the tokens, and the seconds that the model took: for the file FACTS of the part."""
        return {**self._facts, "seconds": round(self._seconds, 3)}


def too_long(doc_id: str, tokens: int, dropped: int) -> UserError:
    """The error for a document that would lose tokens where none may be lost."""
    return UserError(
        f"document {doc_id!r} has {tokens:,} tokens, of which the model would not read {dropped:,}; cut "
        "documents into blocks, NAME=MODEL(blocks=sentences), or leave out --strict-length"
    )


def encoding_facts(view: View, representation: str) -> dict[str, int]:
    """What became of the documents' tokens, summed over segments; {} where nothing was encoded, or merged.

    documents, reused (of them, from the journal of a run that was cut off, or equal to another), tokens,
    dropped (tokens that the model did not read), cut (documents that lost any), clamped (weights above the
    quantiser's maximum)
    """
    total: dict[str, int] = {}
    for segment in view.segments:
        path = f"{segment.entry['parts'][representation]}/{FACTS}"
        if path in view.snapshot:
            found = view.snapshot.json(path)
            counts = [found.get(name) if isinstance(found, dict) else None for name in COUNTED]
            for name, count in zip(COUNTED, counts, strict=True):
                total[name] = total.get(name, 0) + (count if isinstance(count, int) else 0)
    return total


def left_out(name: str, facts: Mapping[str, int]) -> str:
    """A sentence on tokens that the model did not read; empty where there are none."""
    if not facts.get("dropped"):
        return ""
    share = 100 * facts["dropped"] / facts["tokens"]
    return (
        f"{name}: {facts['cut']:,} of {facts['documents']:,} documents are longer than what the model reads; "
        f"{facts['dropped']:,} of {facts['tokens']:,} tokens ({share:.1f} %) are not in the index"
    )
