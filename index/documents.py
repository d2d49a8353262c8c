"""The document store of a part: ids, titles, texts, metadata; in compressed blocks, with random access.

Files, besides those of the ids (retrieval.idtable) and of the metadata columns (metadata.py):
    blocks.bin           zstd frames, each about 32 KB of whole documents
    blocks_offsets.npy   int64[blocks + 1], where each frame begins
    blocks_first.npy     int32[blocks + 1], the first document of each
A frame holds uint32[3 m], the lengths in characters of title, text and metadata (JSON) of its m documents,
then these strings one after the other in UTF-8.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from retrieval.errors import CorruptIndex, UserError
from retrieval.idtable import IdTable, IdTableWriter
from retrieval.index.metadata import Column, MetadataReader, MetadataWriter
from retrieval.part import Part
from retrieval.snapshot import PartSource
from retrieval.types import Document

BLOCK = 32 << 10  # characters; a larger document is a block of its own
_LEAST = 16  # characters that an empty document counts: without texts, blocks must end too
LARGEST = 64 << 20  # characters of one document
_CACHED = 16
_PLAIN = "\x01"  # before JSON that orjson would not give back as it was


class DocumentsWriter:
    """Writes documents into a part, in bounded memory: ids, columns and one block are held, texts are not.

    level: zstd's; store_text=False keeps ids and metadata only.
    """

    def __init__(self, part: Part, level: int = 1, *, store_text: bool = True) -> None:
        self._part = part
        self._store_text = store_text
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=False)
        self._ids = IdTableWriter()
        self._columns = MetadataWriter()
        self._pending: list[str] = []
        self._pending_ids: list[str] = []
        self._blocks = part.stream("blocks.bin")
        self._offsets = [0]
        self._first = [0]

    def __len__(self) -> int:
        return self._ids.count

    @property
    def nbytes(self) -> int:
        """About how much memory is held, and grows with the documents."""
        return 2 * self._ids.nbytes + self._columns.nbytes + 64 * len(self._offsets)

    def add(self, batch: Sequence[Document]) -> None:
        """Append documents. Raises StorageError, or UserError for what cannot be stored.

        After an error the part is of no use any more.
        """
        if not batch:
            return
        base = self._ids.count
        ids = [document[0] for document in batch]
        self._ids.add(ids)
        self._pending_ids += ids
        flat = [""] * (3 * len(batch))
        if self._store_text:
            flat[0::3] = [document[2] for document in batch]
            flat[1::3] = [document[1] for document in batch]
        held = [number for number, document in enumerate(batch) if document[3]]
        metadata = [batch[number][3] for number in held]
        for number, each in zip(held, metadata, strict=True):
            flat[3 * number + 2] = _dump(each, ids[number])
        self._columns.add([base + number for number in held], metadata)
        self._pending += flat
        self._cut(BLOCK)

    def _cut(self, least: int) -> None:
        """Write blocks of at least `least` characters and keep the rest; least = 0 writes all in one."""
        pending = self._pending
        lengths = np.fromiter(map(len, pending), np.int64, len(pending))
        ends = np.cumsum(lengths.reshape(-1, 3).sum(axis=1) + _LEAST)
        start = base = 0
        while start < len(ends):
            end = int(np.searchsorted(ends, base + least)) + 1 if least else len(ends)
            if end > len(ends):
                break
            size = int(ends[end - 1]) - base - _LEAST * (end - start)
            texts = pending[3 * start : 3 * end]
            if size > LARGEST + BLOCK:
                name = self._pending_ids[end - 1]
                raise UserError(f"document {name!r} holds {size} characters; split it up")
            try:
                raw = "".join(texts).encode()
            except UnicodeEncodeError:
                raise self._bad_text(start, end) from None
            frame = self._compressor.compress(lengths[3 * start : 3 * end].astype("<u4").tobytes() + raw)
            self._offsets.append(self._offsets[-1] + self._blocks.write(frame))
            self._first.append(self._first[-1] + end - start)
            start, base = end, int(ends[end - 1])
        self._pending, self._pending_ids = pending[3 * start :], self._pending_ids[start:]

    def _bad_text(self, start: int, end: int) -> UserError:
        for number in range(start, end):
            try:
                "".join(self._pending[3 * number : 3 * number + 3]).encode()
            except UnicodeEncodeError as error:
                bad = f"{error.object[error.start : error.end]!r}"
                name = self._pending_ids[number]
                return UserError(f"document {name!r} holds the lone surrogate {bad}; give valid text")
        return UserError("a document holds a lone surrogate; give valid text")

    def finish(self) -> dict[str, Any]:
        """Write what is left; returns {"docs": n, "text": whether texts are stored}. Raises as add() does."""
        if self._pending:
            self._cut(0)
        self._blocks.close()
        self._part.array("blocks_offsets.npy", np.array(self._offsets, np.int64))
        self._part.array("blocks_first.npy", np.array(self._first, np.int32))
        self._columns.finish(self._part)
        self._ids.finish(self._part)
        return {"docs": self._ids.count, "text": self._store_text}


def _dump(metadata: Any, doc_id: str) -> str:
    """JSON that _load gives back equal. Raises UserError for what JSON cannot hold."""
    plain = metadata if isinstance(metadata, dict) else dict(metadata)
    try:
        raw = orjson.dumps(plain)
        if b"null" not in raw:  # a NaN becomes null
            return raw.decode()
    except TypeError:  # an integer beyond 64 bits, or worse
        raw = b""
    try:
        text = _PLAIN + json.dumps(plain, ensure_ascii=False)
        if raw or _load(text) == plain:
            return text
    except (TypeError, ValueError, RecursionError):
        if raw:
            return raw.decode()
    raise UserError(f"the metadata of document {doc_id!r} cannot be stored; give what JSON can hold")


def _load(text: str) -> Any:
    return json.loads(text[1:]) if text.startswith(_PLAIN) else orjson.loads(text)


class DocumentsReader:
    """Reads the documents of a part; safe to share among threads.

    ids: ordinal -> id, decoded when looked at (an IdTable: rank, lookup, lookup_many, take)
    """

    def __init__(self, snapshot: PartSource, part: str) -> None:
        self._part = part
        self.ids = IdTable(snapshot, part)
        self._blob = snapshot.bytes(f"{part}/blocks.bin")
        self._offsets: NDArray[np.int64] = snapshot.array(f"{part}/blocks_offsets.npy")
        self._first: NDArray[np.int32] = snapshot.array(f"{part}/blocks_first.npy")
        self._columns = MetadataReader(snapshot, part, len(self.ids))
        self._cache: OrderedDict[int, tuple[str, list[int]]] = OrderedDict()
        self._guard = threading.Lock()
        ends, first = self._offsets, self._first
        if not (
            ends.shape == first.shape
            and ends.ndim == 1
            and len(ends)
            and (ends[0], ends[-1]) == (0, len(self._blob))
            and (first[0], first[-1]) == (0, len(self.ids))
        ):
            raise self._unfit("blocks_offsets.npy")

    def _unfit(self, name: str) -> CorruptIndex:
        return CorruptIndex(f"{self._part}/{name} does not fit its documents; index them again")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rank(self) -> NDArray[np.int32]:
        """int32[n]: the place of each document's id in ascending code point order."""
        return self.ids.rank

    def id(self, ordinal: int) -> str:
        """The id of a document."""
        return self.ids[ordinal]

    def lookup(self, doc_id: str) -> int | None:
        """The ordinal of an id, or None."""
        return self.ids.lookup(doc_id)

    def lookup_many(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """int32[len(ids)]: the ordinal of each id, -1 where there is none."""
        return self.ids.lookup_many(ids)

    @property
    def fields(self) -> dict[str, set[str]]:
        """Metadata field -> kinds of its values: "numbers", "flags", "strings", "other"."""
        return self._columns.fields

    def column(self, field: str) -> Column | None:
        """The values of a metadata field by document, or None where none has it."""
        return self._columns.column(field)

    def get(self, ordinal: int) -> Document:
        """One document. Raises IndexError, CorruptIndex."""
        doc_id = self.ids[ordinal]
        ordinal %= len(self.ids)
        block = int(np.searchsorted(self._first, ordinal, side="right")) - 1
        with self._guard:
            held = self._cache.get(block)
            if held is not None:
                self._cache.move_to_end(block)
        if held is None:
            held = self._block(block)
            with self._guard:
                self._cache[block] = held
                if len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
        text, ends = held
        return _document(doc_id, text, ends, 3 * (ordinal - int(self._first[block])))

    def __iter__(self) -> Iterator[Document]:
        for documents in self.batches():
            yield from documents

    def iter(self) -> Iterator[Document]:
        """All documents in order of ordinals, one block in memory at a time."""
        return iter(self)

    def batches(self) -> Iterator[list[Document]]:
        """All documents in order of ordinals, a list for each block."""
        first = self._first.tolist()
        for block, (start, stop) in enumerate(pairwise(first)):
            text, ends = self._block(block)
            ids = self.ids[start:stop]
            yield [_document(doc_id, text, ends, 3 * number) for number, doc_id in enumerate(ids)]

    def _block(self, block: int) -> tuple[str, list[int]]:
        """Text of a block and the ends of its strings, beginning with 0."""
        docs = int(self._first[block + 1]) - int(self._first[block])
        frame = self._blob[int(self._offsets[block]) : int(self._offsets[block + 1])]
        try:
            size = zstandard.frame_content_size(frame)
            if not 12 * docs <= size <= 4 * (LARGEST + BLOCK) + 12 * docs or docs < 1:
                raise ValueError(size)
            raw = zstandard.ZstdDecompressor().decompress(frame)
            ends = np.zeros(3 * docs + 1, np.int64)
            np.cumsum(np.frombuffer(raw, "<u4", 3 * docs), out=ends[1:])
            text = str(memoryview(raw)[12 * docs :], "utf-8")
            if len(text) != ends[-1]:
                raise ValueError(len(text))
        except (zstandard.ZstdError, ValueError):  # a decoding error is a ValueError too
            raise self._unfit("blocks.bin") from None
        return text, ends.tolist()


def _document(doc_id: str, text: str, ends: list[int], at: int) -> Document:
    one, two, three, four = ends[at : at + 4]
    return Document(doc_id, text[two:three], text[one:two], _load(text[three:four]) if four > three else {})
