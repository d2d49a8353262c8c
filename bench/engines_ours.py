"""This engine in the engine comparison: BM25 on text, given impacts, plain and compact lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval import registry
from retrieval.bench.engines_files import about
from retrieval.index.impacts import Impacts
from retrieval.types import Document, Query

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.part import Part

LISTS = (
    "docs",
    "values",
    "big_place",
    "big_tf",
    "df",
    "dir_ptr",
    "dir_chunk",
    "dir_count",
    "packed",
    "packed_ptr",
)
BOUNDS = ("dir_bound", "kth", "peak")


def part_bytes(index: Path, names: tuple[str, ...]) -> int:
    return sum(path.stat().st_size for name in names for path in index.glob(f"seg-*/{name}.npy"))


@registry.register("arrays", kind="sparse method")
class Arrays(Impacts):
    """Impacts from the arrays of a corpus folder: no engine has to parse them. Documents come in order."""

    kind = "arrays"

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Arrays:
        made = super().create("", analyzer_name, {**options, "forward": False})
        return cls({**made.settings, "kind": cls.kind}, model)

    def builder(self, scratch: str, budget: int) -> Any:
        return ArraysBuilder(self, Path(self._path), scratch, budget)


class ArraysBuilder:
    def __init__(self, method: Arrays, corpus: Path, scratch: str, budget: int) -> None:
        import numpy as np

        from retrieval.index.postings_writer import PostingsWriter

        self.offsets, self.terms, self.weights = (
            np.load(corpus / f"{name}.npy", mmap_mode="r") for name in ("offsets", "terms", "weights")
        )
        self.compact = method.settings["compact"]
        self.writer = PostingsWriter(scratch, budget, weighted=True)
        self.done = 0

    def add(self, documents: Sequence[Document]) -> None:
        offsets = self.offsets[self.done : self.done + len(documents) + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        self.writer.add(offsets - first, self.terms[first:last].astype("i4"), self.weights[first:last])
        self.done += len(documents)

    def finish(self, part: Part) -> None:
        names = [f"t{number}" for number in range(int(self.terms.max()) + 1)]
        self.writer.finish(part, names, compact=self.compact, forward=False)


class Ours:
    """Modes: `run` gives columns (ordinals, scores), `hits` the list of Hit with ids that a program reads."""

    compact = False

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        from retrieval.index.index import Index

        facts = about(corpus)
        impacts = facts["kind"] == "impacts"
        made = Index.create(
            index,
            ["arrays:" + str(corpus) if impacts else "bm25"],
            analyzer="words",
            compact=self.compact,
            store_text=option == "stored",
        )
        if impacts:
            made.add(Document(f"d{number}", "-") for number in range(facts["docs"]))
        else:
            from retrieval.data.corpus import open_corpus

            made.add(open_corpus(corpus / "docs.tsv"))
        made.commit()
        return {"list_bytes": part_bytes(index, LISTS), "bounds_bytes": part_bytes(index, BOUNDS)}

    def open(self, corpus: Path, index: Path) -> list[str]:
        from retrieval.index.index import Index

        self.index: Index = Index.open(index)
        (self.name,) = self.index.representations
        self.weighted = self.name == "arrays"
        self.stages: dict[tuple[int, int], Any] = {}
        return ["run", "hits"]

    def stage(self, k: int, threads: int = 1) -> Any:
        """The composed stage, made once as a program does."""
        if (k, threads) not in self.stages:
            stage: Any = self.index.stage(self.name, threads=threads)
            stage.depth = k
            self.stages[k, threads] = stage if self.weighted else stage % k
        return self.stages[k, threads]

    def search(self, query: Any, k: int, mode: str) -> Any:
        if self.weighted:  # ready weights: there is no text to turn into terms
            run = self.stage(k).retrieve([Query("1", "")], [query])
            return run["1"] if mode == "hits" else run
        if mode == "hits":
            return self.index.search(query, k)
        return self.stage(k)([query])

    def hits(self, result: Any) -> list[tuple[str, float]]:
        found = result if isinstance(result, list) else result[result.query_ids[0]]
        return [(hit.doc_id, hit.score) for hit in found]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        if self.weighted:
            names = [Query(str(number), "") for number in range(len(queries))]
            run = self.stage(k, threads).retrieve(names, queries)
        else:
            run = self.stage(k, threads)(queries)
        if mode == "hits":
            for query_id in run.query_ids:
                run[query_id]


class OursCompact(Ours):
    """The same with bit-packed lists."""

    compact = True
