"""Index: one directory, one document store, any number of representations that share document ordinals."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrieval import pipeline, registry
from retrieval.artefact import Store, Transaction
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.index import filters
from retrieval.index.method import SparseMethod, create_method, parse_spec, restore_method
from retrieval.index.stages import SparseStage, view_statistics
from retrieval.index.view import View, no_document
from retrieval.index.writer import Writer, as_documents
from retrieval.stage import Param, Stage
from retrieval.types import Document, Hit, Query

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus
    from retrieval.index.statistics import Statistics

MEMORY = 1 << 30  # bytes that building may hold before it spills to disk
_BATCH = 4096  # documents, or ...
_BATCH_TEXT = 8 << 20  # ... characters, that are analyzed together


class Index:
    """An index to search and change. Changes wait for commit(); readers see the commit that they opened."""

    def __init__(
        self,
        path: str,
        view: View | None,
        methods: dict[str, SparseMethod],
        options: dict[str, Any],
        *,
        memory: int = MEMORY,
        begin: Callable[[], Transaction] | None = None,
    ) -> None:
        self.path = path
        self._view = view
        self._methods = methods
        self._options = options
        self._memory = memory
        self._begin = begin
        self._writer: Writer | None = None
        self._stages: dict[str, SparseStage] = {}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        sparse: Sequence[str] = ("bm25",),
        *,
        analyzer: str = "english",
        overwrite: bool = False,
        compact: bool = False,
        store_text: bool = True,
        memory: int = MEMORY,
    ) -> Index:
        """A new index at a path that is free, or with overwrite in place of the index there.

        sparse      representations, `[NAME=]METHOD[:MODEL]` each
        compact     bit-packed lists: less than half the size, slower to search
        store_text  keep the documents' text (without it: no snippets, no later representation)
        memory      bytes that building may hold before it spills

        Raises UserError, UnknownName, Locked, StorageError. What was there stays until the first commit.
        """
        methods: dict[str, SparseMethod] = {}
        for text in sparse:
            spec = parse_spec(text)
            if spec.name in methods:
                raise UserError(f"two representations are called {spec.name!r}; give one another NAME=")
            methods[spec.name] = create_method(spec, analyzer, {"compact": compact})
        if not methods:
            raise UserError("an index needs a representation; give sparse=['bm25']")
        options = {"store_text": store_text, "analyzer": analyzer, "compact": compact}
        store = Store.create(path, overwrite=overwrite)
        return cls(store.path, None, methods, options, memory=memory, begin=store.begin)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, memory: int = MEMORY) -> Index:
        """The newest commit at a path, verified. Raises UserError, CorruptIndex, UnsupportedFormat."""
        view = View(Store.open(path))
        commit = view.snapshot.commit
        methods = {name: restore_method(facts) for name, facts in commit["representations"].items()}
        return cls(os.fspath(path), view, methods, dict(commit["options"]), memory=memory)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what waits for a commit and gives the lock back."""
        if self._writer is not None:
            self._writer.transaction.close()
            self._writer = None

    def __repr__(self) -> str:
        return f"Index.open({self.path!r})"

    def __len__(self) -> int:
        return self._view.live if self._view else 0

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and self._view is not None and self._view.find(doc_id) is not None

    @property
    def generation(self) -> int:
        """The commit that is open; 0 before the first."""
        return self._view.snapshot.generation if self._view else 0

    @property
    def representations(self) -> dict[str, dict[str, Any]]:
        """Name -> settings."""
        return {name: dict(method.settings) for name, method in self._methods.items()}

    # --- changing -------------------------------------------------------------------------------------------

    def _changes(self) -> Writer:
        if not self._methods:
            raise UserError(f"the index at {self.path!r} was never committed; create it again")
        if self._writer is None:
            transaction = self._begin() if self._begin else Store.writer(self.path)
            if self._view is not None and transaction.generation != self.generation:
                self._open_newest()
            self._writer = Writer(
                transaction, self._view, self._methods, memory=self._memory,
                store_text=self._options.get("store_text", True),
            )  # fmt: skip
        return self._writer

    def add(
        self,
        documents: Iterable[Document | Mapping[str, Any] | str] | Corpus,
        *,
        update: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Adds documents (Documents, mappings with the corpus fields, texts); they are found after commit().

        update    a known id is replaced, the last one wins; otherwise it is refused (in a Corpus: a bad line)
        progress  called with the number of documents of each batch

        Returns how many. Raises UserError (Corpus: BadLine), Locked, StorageError; what waits is lost then.
        """
        writer = self._changes()
        added = 0
        collecting = gc.isenabled() and hasattr(documents, "batches")
        if collecting:  # our readers make no cycles, and walking every batch again costs a sixth of the time
            gc.disable()
        try:
            for lines, batch in self._batches(documents, writer):
                repeated = writer.duplicates([document.doc_id for document in batch])
                if repeated:
                    batch = self._without_repeats(batch, lines, repeated, writer, documents, update)
                writer.add(batch)
                added += len(batch)
                if progress is not None:
                    progress(len(batch))
        except BaseException:
            self.close()
            raise
        finally:
            if collecting:
                gc.enable()
        return added

    def _batches(self, documents: Any, writer: Writer) -> Iterable[tuple[list[int], list[Document]]]:
        """(line numbers or [], documents), so many at a time that analysis is fast and memory bounded."""
        if hasattr(documents, "batches"):  # a Corpus: checked already, with line numbers, bounded in bytes
            for group in documents.batches(_BATCH):
                yield [line for line, _ in group], [document for _, document in group]
            return
        batch: list[Document] = []
        size = 0
        for document in as_documents(documents, len(self) + 1):
            batch.append(document)
            size += len(document.text)
            if len(batch) >= _BATCH or size >= _BATCH_TEXT:
                yield [], batch
                batch, size = [], 0
        if batch:
            yield [], batch

    def _without_repeats(
        self,
        batch: list[Document],
        lines: list[int],
        repeated: list[int],
        writer: Writer,
        documents: Any,
        update: bool,
    ) -> list[Document]:
        if update:
            last = {document.doc_id: place for place, document in enumerate(batch)}
            writer.replace([batch[place].doc_id for place in repeated])
            return [document for place, document in enumerate(batch) if last[document.doc_id] == place]
        for place in repeated:
            problem = f"the id {batch[place].doc_id!r} is known already"
            if not hasattr(documents, "reject"):
                raise UserError(f"{problem}; give every document its own id, or add with update=True")
            documents.reject(lines[place], f"{problem} (use --update to replace documents)")
        dropped = set(repeated)
        return [document for place, document in enumerate(batch) if place not in dropped]

    def delete(self, ids: str | Iterable[str]) -> int:
        """Deletes documents by id, from the next commit on. Raises UserError for an unknown id."""
        return self._changes().delete([ids] if isinstance(ids, str) else ids)

    def commit(self) -> int:
        """Makes the changes durable and visible here; returns the generation. Raises StorageError."""
        if self._writer is None and self._view is not None:
            return self.generation
        writer = self._changes()
        try:
            if writer.changed or self._view is None:
                writer.commit(self.representations, self._options)
        finally:
            self.close()
        self._begin = None
        self._open_newest()
        return self.generation

    def _open_newest(self) -> None:
        newest = Index.open(self.path, memory=self._memory)
        self._view, self._methods, self._options = newest._view, newest._methods, newest._options
        self._stages = {}

    def add_representation(self, spec: str, *, progress: Callable[[int], None] | None = None) -> int:
        """Builds a further representation from the stored text and commits it; returns the generation."""
        from retrieval.index.merge import add_representation

        parsed = parse_spec(spec)
        if parsed.name in self._methods:
            raise UserError(
                f"the index has a representation {parsed.name!r} already; give the new one another NAME="
            )
        analyzer = self._options.get("analyzer", "english")
        method = create_method(parsed, analyzer, {"compact": self._options.get("compact", False)})
        return self._rewrite(lambda writer, view: add_representation(
            writer.transaction, view, parsed.name, method, self._memory, progress
        ), {**self.representations, parsed.name: dict(method.settings)})  # fmt: skip

    def merge(
        self,
        *,
        reorder: bool = False,
        compact: bool | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Makes one segment of all, without deleted documents, and commits it; returns the generation.

        reorder  number similar documents together (graph bisection): smaller, faster lists, the same results
        compact  change the form of the lists (None: as they are)
        """
        from retrieval.index.merge import merge_segments

        options = {**self._options, **({} if compact is None else {"compact": compact})}
        settings = self.representations
        if compact is not None:
            settings = {name: {**facts, "compact": compact} for name, facts in settings.items()}
        methods = {name: restore_method(facts) for name, facts in settings.items()}
        self._options = options
        return self._rewrite(
            lambda writer, view: merge_segments(
                writer.transaction, view, methods, self._memory, options, reorder, progress
            ),
            settings,
        )

    def _rewrite(
        self, work: Callable[[Writer, View], list[dict[str, Any]]], settings: Mapping[str, Any]
    ) -> int:
        if self._writer is not None and self._writer.changed:
            raise UserError("changes wait for a commit; call commit() first")
        writer = self._changes()
        try:
            segments = work(writer, self._need_view())
            writer.transaction.commit(
                {"segments": segments, "representations": dict(settings), "options": self._options}
            )
        finally:
            self.close()
        self._open_newest()
        return self.generation

    # --- searching ------------------------------------------------------------------------------------------

    def _need_view(self) -> View:
        if self._view is None:
            raise UserError("the index has no commit yet; add documents and commit()")
        return self._view

    def stage(
        self,
        name: str,
        *,
        statistics: Statistics | None = None,
        filter: str | None = None,
        threads: int = 1,
        algorithm: str = "auto",
        **params: Param,
    ) -> SparseStage:
        """The stage of a representation; params are its query parameters (bm25: k1, b).

        statistics  of several indexes together, to rank as a shard (Statistics.merged)
        filter      only documents whose metadata passes, `year >= 2000 and section in ("a", "b")`
        threads     for batches of queries
        """
        view = self._need_view()
        if name not in self._methods:
            raise UnknownName("representation", name, list(self._methods))
        masks = None if filter is None else view.masks(filters.parse(filter))
        stage = SparseStage(
            view, name, self._methods[name], params, statistics=statistics, masks=masks, threads=threads,
            algorithm=algorithm,
        )  # fmt: skip
        return stage.prepared()  # parameters are checked here, not at the first query

    def bm25(self, **settings: Any) -> SparseStage:
        """The stage of the BM25 representation: `index.bm25(k1=0.9, b=0.4) % 1000`."""
        names = [name for name, method in self._methods.items() if method.kind == "bm25"]
        if not names:
            raise UnknownName("representation", "bm25", list(self._methods))
        return self.stage("bm25" if "bm25" in names else names[0], **settings)

    def statistics(self, name: str = "bm25") -> Statistics:
        """Collection statistics of a representation."""
        if name not in self._methods:
            raise UnknownName("representation", name, list(self._methods))
        return view_statistics(self._need_view(), name)

    def pipeline(self, text: str | None = None, *, filter: str | None = None, threads: int = 1) -> Stage:
        """The stage that a pipeline text names: representations of this index and registered stages.

        None: the stored pipeline, else the only representation. Raises CompositionError, UnknownName.
        """
        text = text or self._options.get("pipeline")
        if text is None:
            if not self._methods:
                raise UserError(f"the index at {self.path!r} was never committed; create it again")
            text, *others = self._methods
            if others:
                names = ", ".join(self._methods)
                raise CompositionError(
                    f"the index has the representations {names}; name a pipeline, e.g. {text!r}"
                )

        def resolve(name: str, params: Mapping[str, Any]) -> Stage:
            if name in self._methods:
                return self.stage(name, filter=filter, threads=threads, **params)
            try:
                made: Stage = registry.make(name, params)
            except UnknownName:
                raise UnknownName("stage", name, [*self._methods, *registry.names()]) from None
            return made

        return pipeline.parse(text, resolve)

    def search(
        self, query: str, k: int = 10, *, pipeline: str | None = None, filter: str | None = None
    ) -> list[Hit]:
        """The best k documents of one query; none of an index that has no commit yet."""
        if self._view is None or not self._methods:
            return []
        key = f"{pipeline}\0{filter}"
        if key not in self._stages:
            if len(self._stages) > 16:
                self._stages.clear()
            self._stages[key] = self.pipeline(pipeline, filter=filter)  # type: ignore[assignment]
        return (self._stages[key] % k)([Query("1", query)])["1"]

    def document(self, doc_id: str) -> Document:
        """The stored document. Raises UserError for an unknown id."""
        view = self._need_view()
        ordinal = view.find(doc_id)
        if ordinal is None:
            raise no_document(doc_id)
        return view.document(ordinal)

    def documents(self, ids: Iterable[str]) -> list[Document]:
        """Stored documents by id."""
        return [self.document(doc_id) for doc_id in ids]

    def explain(self, query: str, doc_id: str, *, pipeline: str | None = None) -> dict[str, Any]:
        """Why a document has its score: each representation of a pipeline, each query term's contribution."""
        from retrieval.index.explain import explain

        return explain(self, query, doc_id, pipeline)

    def spans(self, text: str, name: str | None = None) -> list[tuple[int, int, str]]:
        """(start, end, term) of the terms of a text as a representation (default: the first) sees them."""
        return self._methods[name or next(iter(self._methods))].spans(text)
