"""Index: one directory, one document store, any number of representations that share document ordinals."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrieval import pipeline, registry
from retrieval.artefact import Store, Transaction
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.index import assets, filters
from retrieval.index.incoming import batches, without_known
from retrieval.index.method import SparseMethod, create_method, parse_spec, restore_method
from retrieval.index.stages import SparseStage, view_statistics
from retrieval.index.view import View, no_document
from retrieval.index.writer import Writer
from retrieval.stage import Param, Stage, lacks_documents, with_documents
from retrieval.types import Document, Hit, Query

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus
    from retrieval.index.statistics import Statistics

MEMORY = 1 << 30  # bytes that building may hold before it spills to disk
# segments, methods, options
_Rewritten = tuple[list[dict[str, Any]], dict[str, SparseMethod], dict[str, Any]]


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
        self._stages: dict[tuple[str | Stage | None, str | None], Stage] = {}

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
        compact     bit-packed lists: about two thirds of the size, slower to search
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
        methods = assets.restored(view.snapshot)
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
                store_text=self._options.get("store_text", True), numbered=self._options.get("numbered", 0),
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
            for batch in batches(documents, writer):
                fresh = without_known(batch, writer, documents, update)
                writer.add(fresh)
                added += len(fresh)
                if progress is not None:
                    progress(len(fresh))
        except BaseException:
            self.close()
            raise
        finally:
            if collecting:
                gc.enable()
        return added

    def delete(self, ids: str | Iterable[str]) -> int:
        """Deletes documents by id, from the next commit on. Raises UserError for an unknown id."""
        wanted = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Iterable) else [ids]
        if not all(isinstance(one, str) for one in wanted):
            raise UserError("delete takes an id or an iterable of ids, which are strings")
        opened = self._writer is None
        try:
            return self._changes().delete(wanted)
        except BaseException:
            if opened:  # the lock was taken for nothing
                self.close()
            raise

    def commit(self) -> int:
        """Makes the changes durable and visible here; returns the generation. Raises StorageError."""
        if self._writer is None and self._view is not None:
            return self.generation
        writer = self._changes()
        try:
            if writer.changed or self._view is None:
                numbered = {"numbered": writer.numbered} if writer.numbered else {}
                writer.commit({**self._options, **numbered})
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

        def work(transaction: Transaction, view: View) -> _Rewritten:
            if parsed.name in self._methods:
                raise UserError(
                    f"the index has a representation {parsed.name!r} already; give the new one another NAME="
                )
            analyzer = self._options.get("analyzer", "english")
            method = create_method(parsed, analyzer, {"compact": self._options.get("compact", False)})
            segments = add_representation(transaction, view, parsed.name, method, self._memory, progress)
            return segments, {**self._methods, parsed.name: method}, self._options

        return self._rewrite(work)

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

        def work(transaction: Transaction, view: View) -> _Rewritten:
            methods, options = self._methods, self._options
            if compact is not None:
                methods = {
                    name: restore_method(
                        {**method.settings, "compact": compact}, getattr(method, "assets", {})
                    )
                    for name, method in methods.items()
                }
                options = {**options, "compact": compact}
            merged = merge_segments(transaction, view, methods, self._memory, options, reorder, progress)
            return merged, methods, options

        return self._rewrite(work, tidy=True)

    def _rewrite(self, work: Callable[[Transaction, View], _Rewritten], *, tidy: bool = False) -> int:
        """Commits what `work` makes of the newest commit, under the lock; tidy: journals go, used or not."""
        if self._writer is not None and self._writer.changed:
            raise UserError("changes wait for a commit; call commit() first")
        transaction = self._changes().transaction
        try:
            segments, methods, options = work(transaction, self._need_view())
            described = assets.entries(transaction, methods)
            transaction.commit({"segments": segments, "representations": described, "options": options})
            if tidy:
                transaction.drop_journals()
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

    def pipeline(
        self, text: str | Stage | None = None, *, filter: str | None = None, threads: int = 1
    ) -> Stage:
        """The stage that a pipeline text names: representations of this index and registered stages.

        None: the stored pipeline, else the only representation. A stage comes back as it is; where one reads
        the documents' text (a cross-encoder), it gets it from here. Raises CompositionError, UnknownName,
        UserError for such a stage where the index has no text.
        """
        if isinstance(text, Stage):
            return self._with_documents(text)
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
            return self._with_documents(made)

        return pipeline.parse(text, resolve)

    def _with_documents(self, stage: Stage) -> Stage:
        return with_documents(stage, self._need_view().lookup()) if lacks_documents(stage) else stage

    def search(
        self, query: str, k: int = 10, *, pipeline: str | Stage | None = None, filter: str | None = None
    ) -> list[Hit]:
        """The best k documents of one query; none of an index that has no commit yet."""
        if self._view is None or not self._methods:
            return []
        stages, key = self._stages, (pipeline, filter)  # a commit of another thread brings its own dict
        stage = stages.get(key)
        if stage is None:
            if len(stages) > 16:
                stages.clear()
            stage = stages[key] = self.pipeline(pipeline, filter=filter)
        return (stage % k)([Query("1", query)])["1"]

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
