"""Documents on their way into an index: checked, in batches, known ids sorted out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from retrieval.data.fields import make_document
from retrieval.errors import UserError
from retrieval.index.writer import Writer
from retrieval.types import Document

_BATCH = 4096  # documents, or ...
_BATCH_TEXT = 8 << 20  # ... characters, that are analyzed together
_FEW = 128  # documents where a model reads them: progress is shown and Ctrl-C heeded between two batches

Batch = tuple[list[int], list[Document]]  # line numbers, where there are any, and documents


def batches(documents: Any, writer: Writer) -> Iterator[Batch]:
    """Documents of a Corpus or of any iterable, so many at a time that analysis is fast and memory bounded.

    Texts without an id are numbered on from writer.numbered. Raises UserError, and what the Corpus raises.
    """
    most = _FEW if writer.encodes else _BATCH
    if hasattr(documents, "batches"):  # a Corpus: checked already, with line numbers, bounded in bytes
        for group in documents.batches(most):
            yield [line for line, _ in group], [document for _, document in group]
        return
    if isinstance(documents, (str, bytes, Mapping, Document)) or not isinstance(documents, Iterable):
        raise UserError(
            f"documents come as a list or another iterable of them; got {type(documents).__name__}"
        )
    batch: list[Document] = []
    size = 0
    for place, item in enumerate(documents, 1):
        batch.append(_document(item, place, writer))
        size += len(batch[-1].text)
        if len(batch) >= most or size >= _BATCH_TEXT:
            yield [], batch
            batch, size = [], 0
    if batch:
        yield [], batch


def _document(item: Any, place: int, writer: Writer) -> Document:
    """A Document from a Document, a mapping with the corpus fields, or a text, which gets a number."""
    made: Document | str
    if isinstance(item, str):
        writer.numbered += 1
        made = make_document(str(writer.numbered), item, "")
    elif isinstance(item, Document):
        made = _made(item.doc_id, item.text, item.title, item.metadata, {})
    elif isinstance(item, Mapping):
        fields = dict(item)
        doc_id = fields.pop("_id", fields.pop("id", None))
        text = fields.pop("text", fields.pop("contents", ""))
        title = fields.pop("title", "")
        made = _made(doc_id, text, title, fields.pop("metadata", None) or {}, fields)
    else:
        made = f"{type(item).__name__} is no document"
    if isinstance(made, str):
        raise UserError(f"document {place}: {made}; give a Document, a mapping with id and text, or a string")
    return made


def _made(doc_id: Any, text: Any, title: Any, metadata: Any, more: Mapping[str, Any]) -> Document | str:
    if not isinstance(metadata, Mapping):
        return f"the metadata is {type(metadata).__name__}, not a mapping"
    return make_document(doc_id, text, title, {**metadata, **more})


def without_known(batch: Batch, writer: Writer, documents: Any, update: bool) -> list[Document]:
    """The documents to add: of a known or repeated id the last version with update, else an error.

    Raises UserError; a Corpus counts a bad line instead, where it skips those.
    """
    lines, found = batch
    repeated = writer.duplicates([document.doc_id for document in found])
    if not repeated:
        return found
    if update:
        last = {document.doc_id: place for place, document in enumerate(found)}
        writer.delete([found[place].doc_id for place in repeated], missing_ok=True)
        return [document for place, document in enumerate(found) if last[document.doc_id] == place]
    for place in repeated:
        problem = f"the id {found[place].doc_id!r} is known already"
        if not hasattr(documents, "reject"):
            raise UserError(f"{problem}; give every document its own id, or add with update=True")
        documents.reject(lines[place], f"{problem} (use --update to replace documents)")
    dropped = set(repeated)
    return [document for place, document in enumerate(found) if place not in dropped]
