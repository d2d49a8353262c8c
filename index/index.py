"""Index: one directory, one document store, any number of representations that share document ordinals."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.artefact import Store, Transaction
from retrieval.errors import UserError
from retrieval.index import assets
from retrieval.index.creation import checked_pipeline, make_method, make_methods
from retrieval.index.dense_spec import parse_dense
from retrieval.index.incoming import batches, without_known
from retrieval.index.method import Method, parse_spec, with_compact
from retrieval.index.reader import IndexReader
from retrieval.index.view import View
from retrieval.index.writer import Writer
from retrieval.stage import Stage
from retrieval.types import Document

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus

MEMORY = 1 << 30  # bytes that building may hold before it spills to disk
# segments, methods, options
_Rewritten = tuple[list[dict[str, Any]], dict[str, Method], dict[str, Any]]


class Index(IndexReader):
    """An index to search and change. Changes wait for commit(); readers see the commit that they opened."""

    def __init__(
        self,
        path: str,
        view: View | None,
        methods: dict[str, Method],
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
        sparse: Sequence[str] | None = None,
        dense: Sequence[str] = (),
        *,
        analyzer: str = "english",
        overwrite: bool = False,
        compact: bool = False,
        store_text: bool = True,
        pipeline: str | None = None,
        strict_length: bool = False,
        memory: int = MEMORY,
    ) -> Index:
        """A new index at a path that is free, or with overwrite in place of the index there.

        sparse      representations, `[NAME=]METHOD[:MODEL]` each; without any, and without dense ones: bm25
        dense       representations, `[NAME=][METHOD:]MODEL[(param=value, ...)]` each
        compact     bit-packed lists: about two thirds of the size, slower to search
        store_text  keep the documents' text (without it: no snippets, no later representation)
        pipeline    what a search does that names no pipeline
        strict_length  refuse documents, now and later, of which a model would not read all tokens
        memory      bytes that building may hold before it spills

        Raises UserError, UnknownName, Locked, StorageError. What was there stays until the first commit.
        """
        methods = make_methods(sparse, dense, analyzer=analyzer, compact=compact)
        options: dict[str, Any] = {"store_text": store_text, "analyzer": analyzer, "compact": compact}
        if strict_length:
            options["strict_length"] = True
        if pipeline is not None:
            options["pipeline"] = checked_pipeline(pipeline, list(methods))
        store = Store.create(path, overwrite=overwrite)
        return cls(store.path, None, methods, options, memory=memory, begin=store.begin)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, memory: int = MEMORY, trust: bool = False) -> Index:
        """The newest commit at a path, verified. Raises UserError, CorruptIndex, UnsupportedFormat.

        trust: faiss may read what another account has built above vectors; a crafted file could harm.
        """
        view = View(Store.open(path), trust=trust)
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
                strict=self._options.get("strict_length") is True,
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
        newest = Index.open(self.path, memory=self._memory, trust=self._view is not None and self._view.trust)
        opened = {name: method for name, method in self._methods.items() if not method.has_lists}
        self._view, self._options = newest._view, newest._options
        self._methods = {
            name: opened[name]  # whose encoder need not be read again
            if name in opened and opened[name].settings == method.settings
            else method
            for name, method in newest._methods.items()
        }
        self._stages = {}

    def add_representation(
        self,
        spec: str,
        *,
        dense: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Builds a further representation from the stored text and commits it; returns the generation.

        spec: as in create(): one of `sparse`, or with dense=True one of `dense`.
        """
        from retrieval.index.merge import add_representation

        parsed = parse_dense(spec) if dense else parse_spec(spec)
        name = parsed.name

        def work(transaction: Transaction, view: View) -> _Rewritten:
            if name in self._methods:
                raise UserError(
                    f"the index has a representation {name!r} already; give the new one another NAME="
                )
            method = make_method(parsed, self._options)
            strict = self._options.get("strict_length") is True
            segments = add_representation(transaction, view, name, method, self._memory, progress, strict)
            return segments, {**self._methods, name: method}, self._options

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
                methods = {name: with_compact(method, compact) for name, method in methods.items()}
                options = {**options, "compact": compact}
            merged = merge_segments(transaction, view, methods, self._memory, options, reorder, progress)
            return merged, methods, options

        return self._rewrite(work, tidy=True)

    def store_pipeline(self, text: str) -> int:
        """Makes a pipeline what a search does that names none, and commits that; returns the generation.

        Raises CompositionError, UnknownName, and what the stages raise for their parameters.
        """

        def work(transaction: Transaction, view: View) -> _Rewritten:
            checked = checked_pipeline(text, list(self._methods))
            segments = view.snapshot.commit["segments"]
            return segments, self._methods, {**self._options, "pipeline": checked}

        return self._rewrite(work)

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
