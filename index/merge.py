"""Merging: segments become one, deleted documents leave; further representations built from stored text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.consistency import corrupt
from retrieval.index.documents import DocumentsWriter
from retrieval.index.list_files import CHUNK
from retrieval.index.partfiles import PartFiles
from retrieval.index.postings import Postings
from retrieval.index.postings_writer import PostingsWriter
from retrieval.index.writer import SegmentWriter

if TYPE_CHECKING:
    from retrieval.artefact import Transaction
    from retrieval.index.method import Method, SparseMethod
    from retrieval.index.view import SegmentView, View

Progress = Callable[[int], None] | None
Array = NDArray[Any]


def add_representation(
    transaction: Transaction,
    view: View,
    name: str,
    method: Method,
    memory: int,
    progress: Progress,
    strict: bool = False,
) -> list[dict[str, Any]]:
    """The segments with a part for one more representation, built from the stored text. Raises UserError."""
    from retrieval.index.deletes import write_deletes

    segments = []
    for segment in view.segments:
        if not segment.entry.get("text", True):
            raise UserError(
                "the index was built without text, so nothing can be built from it; index the corpus again"
            )
        writer = SegmentWriter(
            transaction, {name: method}, memory=memory, store_text=False, keep_documents=False, strict=strict
        )
        for batch in segment.store.batches():
            writer.add(batch)
            if progress is not None:
                progress(len(batch))
        entry = {**segment.entry, "parts": {**segment.entry["parts"], **writer.finish()["parts"]}}
        if segment.deleted and method.has_lists:  # the lists hold deleted documents too: they must not count
            lists = dict(segment.lists())
            lists[name] = Postings(PartFiles(transaction), entry["parts"][name])
            write_deletes(transaction, entry, segment.alive == 0, lists)
        segments.append(entry)
    return segments


def merge_segments(
    transaction: Transaction,
    view: View,
    methods: Mapping[str, Method],
    memory: int,
    options: Mapping[str, Any],
    reorder: bool,
    progress: Progress,
) -> list[dict[str, Any]]:
    """One segment in place of all: entries for the commit."""
    if not view.live:
        return []
    part = transaction.part()
    stored = all(segment.entry.get("text", True) for segment in view.segments)
    documents = DocumentsWriter(part, store_text=stored)
    for batch in view.live_documents():
        documents.add(batch)
        if progress is not None:
            progress(len(batch))
    facts = documents.finish()
    parts = {name: method.merge(transaction, view, name, memory, reorder) for name, method in methods.items()}
    return [{"name": part.name, "docs": facts["docs"], "deleted": 0, "text": facts["text"], "parts": parts}]


def merge_lists(
    transaction: Transaction, view: View, name: str, method: SparseMethod, memory: int, reorder: bool
) -> str:
    """A part with one representation's lists of all segments, without deleted documents; its name."""
    part = transaction.part()
    sources = [(segment, segment.postings(name)) for segment in view.segments]
    weighted = sources[0][1].weighted
    for _, postings in sources:
        if postings.weighted != weighted:
            raise corrupt(postings.part, "facts.json", "differs from other segments in what values are")
    writer = PostingsWriter(transaction.scratch(), memory // 2, weighted=weighted)
    terms: dict[str, int] = {}
    orders: list[NDArray[np.int64]] = []
    reordered = any(len(postings.order) for _, postings in sources)
    done = 0
    for segment, postings in sources:
        numbers = np.fromiter(
            (terms.setdefault(term, len(terms)) for term in postings.lexicon), np.int64, len(postings.lexicon)
        )
        if len(np.unique(numbers)) != len(numbers):
            raise corrupt(postings.part, "terms.bin", "holds a term twice")
        orders.append(_append(writer, segment, postings, numbers) + done)
        done += segment.documents - segment.deleted
    order = np.concatenate(orders).astype(np.int32) if reordered else None
    settings = method.settings
    writer.finish(
        part,
        list(terms),
        compact=bool(settings.get("compact")),
        forward=bool(settings.get("forward")),
        order=order,
    )
    if not reorder:
        return part.name
    from retrieval.index.reorder import reorder_part

    return reorder_part(transaction, part.name, method, memory).name


def _append(
    writer: PostingsWriter, segment: SegmentView, postings: Postings, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Adds a segment's live documents to the writer.

    Returns the new ordinal (within the segment's) of each, in list order.
    """
    from retrieval.index.forward import row_lengths
    from retrieval.index.invert import cut_run

    alive = segment.alive == 1 if segment.deleted else np.ones(segment.documents, bool)
    ordinals = np.cumsum(alive) - 1
    in_lists = postings.order if len(postings.order) else np.arange(segment.documents)
    alive = alive[in_lists]
    start = writer.documents
    # document number in the lists -> in the new lists
    target = np.where(alive, start + np.cumsum(alive) - 1, -1)
    lists, places = postings.whole()
    at, entry, last = places.first.copy(), places.dir_first.copy(), places.dir_last
    sequence = np.argsort(numbers, kind="stable")
    if postings.weighted:
        lengths = row_lengths(
            lists.docs, lists.dir_chunk, lists.dir_count, places.first, places.dir_first, last,
            segment.documents,
        )  # fmt: skip
    else:
        lengths = postings.lengths[postings.codes]
    for chunk in range(-(-segment.documents // CHUNK)):
        mine = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, segment.documents))
        wanted = target[mine][alive[mine]]
        begin = int(wanted[0]) if len(wanted) else 0
        while len(wanted):  # at most two chunks of the new lists
            border = (begin // CHUNK + 1) * CHUNK
            inside = int(np.searchsorted(wanted, border))
            run = cut_run(*lists[:7], at, entry, last, sequence, numbers, chunk, target, begin, border)
            kept = lengths[mine][alive[mine]]
            skip = len(kept) - len(wanted)
            writer.add_run(run, kept[skip : skip + inside].astype(np.int32))
            wanted = wanted[inside:]
            begin = border
        _advance(lists, at, entry, last, chunk)
    listed: NDArray[np.int64] = ordinals[in_lists][alive]
    return listed


def _advance(lists: Any, at: Array, entry: Array, last: Array, chunk: int) -> None:
    """Moves every list's cursor past the chunk."""
    here = np.flatnonzero(entry < last)
    here = here[lists.dir_chunk[entry[here]] == chunk]
    at[here] += lists.dir_count[entry[here]].astype(np.int64) + 1
    entry[here] += 1
