"""IndexReader: the query side of an index: stages of its representations, pipelines, documents by id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from retrieval import pipeline, registry
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.index import filters
from retrieval.index.method import Method
from retrieval.index.view import View, no_document
from retrieval.manifest import BLOCKS, DENSE
from retrieval.stage import Param, Stage, lacks_documents, with_documents
from retrieval.types import Document, Hit, Query

if TYPE_CHECKING:
    from retrieval.index.index_stage import IndexStage
    from retrieval.index.stages import SparseStage
    from retrieval.index.statistics import Statistics
    from retrieval.longdoc.block_source import IndexBlocks
    from retrieval.longdoc.block_stage import Passage


class IndexReader:
    """One commit of an index, to search. Index adds what changes it."""

    path: str
    _view: View | None
    _methods: dict[str, Method]
    _options: dict[str, Any]
    _stages: dict[tuple[str | Stage | None, str | None], Stage]

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
    ) -> IndexStage:
        """The stage of a representation; params are its query parameters (bm25: k1, b; dense: recall, exact).

        statistics  of several indexes together, to rank as a shard (Statistics.merged)
        filter      only documents whose metadata passes, `year >= 2000 and section in ("a", "b")`
        threads     for batches of queries
        """
        view = self._need_view()
        if name not in self._methods:
            raise UnknownName("representation", name, list(self._methods))
        masks = None if filter is None else view.masks(filters.parse(filter))
        stage: Any = self._methods[name].stage(  # parameters are checked here, not at the first query
            view, name, params, statistics=statistics, masks=masks, threads=threads, algorithm=algorithm
        )
        made: IndexStage = stage
        return made

    def bm25(self, **settings: Any) -> SparseStage:
        """The stage of the BM25 representation: `index.bm25(k1=0.9, b=0.4) % 1000`."""
        names = [name for name, method in self._methods.items() if method.kind == "bm25"]
        if not names:
            raise UnknownName("representation", "bm25", list(self._methods))
        stage: Any = self.stage("bm25" if "bm25" in names else names[0], **settings)
        bm25: SparseStage = stage
        return bm25

    def statistics(self, name: str = "bm25") -> Statistics:
        """Collection statistics of a representation."""
        if name not in self._methods:
            raise UnknownName("representation", name, list(self._methods))
        method, view = self._seen(name)
        if not method.has_lists:
            raise UserError(f"{name} is dense and has no term statistics; name a sparse representation")
        from retrieval.index.stages import view_statistics

        return view_statistics(view, name)

    def _seen(self, name: str) -> tuple[Method, View]:
        """A representation's method and its view; for blocks the method inside and the view of blocks."""
        method, view = self._methods[name], self._need_view()
        if method.kind != BLOCKS:
            return method, view
        from retrieval.longdoc.block_view import block_view

        return method.of, block_view(view, name)  # type: ignore[attr-defined]

    def encoding(self, name: str) -> dict[str, int]:
        """What became of the documents' tokens in a representation that a model made: encoding_facts()."""
        from retrieval.index.record_builder import encoding_facts

        if name not in self._methods:
            raise UnknownName("representation", name, list(self._methods))
        return encoding_facts(self._need_view(), name)

    def pipeline(
        self,
        text: str | Stage | None = None,
        *,
        filter: str | None = None,
        threads: int = 1,
        like: bool = False,
        budget: str | None = None,
    ) -> Stage:
        """The stage that a pipeline text names: representations of this index and registered stages.

        like: the queries are documents, which dense encoders read as such.
        budget: `50ms` or `200pairs` a query, which later stages keep to by reading fewer candidates.
        None: the stored pipeline, else the only representation. A stage comes back as it is; where one reads
        the documents' text (a cross-encoder), it gets it from here. Raises CompositionError, UnknownName,
        UserError for such a stage where the index has no text.
        """
        if budget is not None:
            whole = self.pipeline(text, filter=filter, threads=threads, like=like)
            within: Stage = registry.lookup("budget", kind="cascade")(whole, budget)
            return within
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
                if like and not self._seen(name)[0].has_lists:
                    params = {"reads": "passage", **params}
                return self.stage(name, filter=filter, threads=threads, **params)
            if name not in registry.names():
                raise registry.unknown_stage(name, list(self._methods))
            made: Any = registry.make(name, params)
            if hasattr(made, "with_stage"):
                mixed: Stage = made.with_stage(pipeline.parse(made.inner, resolve, given=True))
                return mixed
            if hasattr(made, "with_representation"):
                wanted: str = made.representation
                if wanted not in self._methods:
                    hint = getattr(made, "missing", "")
                    raise UnknownName("representation", wanted, list(self._methods), hint)
                try:
                    searched = resolve(wanted, made.settings)
                except UserError as error:
                    if not made.settings:
                        raise
                    import inspect  # slow to import

                    own = [one for one in inspect.signature(type(made)).parameters if one != "settings"]
                    raise CompositionError(
                        f"{name} has {', '.join(own)}, and hands the rest on: {error}"
                    ) from None
                expanding: Stage = made.with_representation(searched)
                return expanding
            return self._with_documents(self._with_blocks(made))

        return pipeline.parse(text, resolve)

    def blocks(self, name: str) -> IndexBlocks:
        """The block vectors of a dense representation of blocks, for stages that read them (parade)."""
        method, _ = self._seen(name) if name in self._methods else (None, None)
        if method is None or method.kind != DENSE or self._methods[name].kind != BLOCKS:
            wanted = [each for each, made in self._methods.items() if made.kind == BLOCKS]
            raise UnknownName("dense representation of blocks", name, wanted)
        from retrieval.longdoc.block_source import IndexBlocks

        return IndexBlocks(self._need_view(), name, method)  # type: ignore[arg-type]

    def _with_blocks(self, stage: Stage) -> Stage:
        """The stage, with the block vectors that it can read where it reads some. Raises CompositionError."""
        give: Any = getattr(stage, "with_blocks", None)
        if give is None:
            return stage
        names = [
            name for name, method in self._methods.items()
            if method.kind == BLOCKS and method.of.kind == DENSE  # type: ignore[attr-defined]
        ]  # fmt: skip
        if not names:
            raise CompositionError(
                f"{stage!r} reads vectors of blocks, and the index has none; add some, such as "
                "--dense 'NAME=MODEL(blocks=sentences)'"
            )
        for name in names[:-1]:
            with contextlib.suppress(CompositionError):
                made: Stage = give(self.blocks(name))
                return made
        last: Stage = give(self.blocks(names[-1]))
        return last

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

    def passages(
        self, query: str, ids: Iterable[str], *, pipeline: str | Stage | None = None
    ) -> list[Passage | None]:
        """Where each document answers best: the best block by the pipeline's first stage that scores blocks.

        That is a representation of blocks, or a re-ranker that cuts documents; before both comes one that
        read nothing but the best blocks (`reads_best`). None for each where the pipeline has none. Raises
        UserError for an unknown id.
        """
        from retrieval.index.explain import stages

        view = self._need_view()
        wanted = list(ids)
        found = view.find_many(wanted)
        for doc_id, ordinal in zip(wanted, found.tolist(), strict=True):
            if ordinal < 0:
                raise no_document(doc_id)
        able: list[Any] = [part for part in stages(self.pipeline(pipeline)) if hasattr(part, "passages")]
        if not able:
            return [None] * len(wanted)
        able.sort(key=lambda part: not getattr(part, "reads_best", False))
        passages: list[Passage | None] = able[0].passages(query, wanted)
        return passages

    def text_of(self, doc_id: str) -> str:
        """Title and text of a document. Raises UserError for an unknown id, or where no text is stored."""
        text = self.document(doc_id).full_text()
        if not text:
            raise UserError(f"the index was built without text, so nothing can be compared with {doc_id!r}")
        return text

    def like(
        self, doc_id: str, k: int = 10, *, pipeline: str | None = None, filter: str | None = None
    ) -> list[Hit]:
        """The k documents most like a document of the index, itself left out. Raises UserError."""
        text = self.text_of(doc_id)
        stage = self.pipeline(pipeline, filter=filter, like=True)
        hits = [hit for hit in (stage % (k + 1))([Query("1", text)])["1"] if hit.doc_id != doc_id][:k]
        return [Hit(hit.doc_id, hit.score, rank) for rank, hit in enumerate(hits, 1)]

    def structures(self, name: str) -> list[dict[str, Any]]:
        """What was built above the vectors of each segment of a dense representation (ann.py); [] else."""
        if name not in self._methods:
            raise UnknownName("representation", name, list(self._methods))
        method, view = self._seen(name)
        if method.has_lists:
            return []
        found = (segment.vectors(name).structure for segment in view.segments)
        return [facts for facts in found if facts]

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

    def explain(
        self, query: str, doc_id: str, *, pipeline: str | None = None, budget: str | None = None
    ) -> dict[str, Any]:
        """Why a document has its score: each representation of a pipeline, each query term's contribution."""
        from retrieval.index.explain import explain

        return explain(self, query, doc_id, pipeline, budget)

    def spans(self, text: str, name: str | None = None) -> list[tuple[int, int, str]]:
        """(start, end, term) of the terms of a text as a representation sees them.

        By default the first one with terms; where there is none, the words that the index's analyzer finds.
        """
        if name is not None:
            return self._methods[name].spans(text)
        sparse = (m for m in self._methods.values() if getattr(m, "of", m).has_lists)
        method = next(sparse, None)
        if method is not None:
            return method.spans(text)
        from retrieval.index.analysis import analyzer

        return analyzer(self._options.get("analyzer", "english")).spans(text)
