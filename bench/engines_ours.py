"""This engine in the engine comparison: BM25 on text, given impacts, plain and compact lists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.index.stages import SparseStage

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


class Ours:
    """Modes: `run` gives columns (ordinals, scores), `hits` makes the list of Hit with ids that a program reads."""

    compact = False

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        from retrieval.data.corpus import open_corpus
        from retrieval.index.index import Index

        made = Index.create(
            index, ["bm25"], analyzer="words", compact=self.compact, store_text=option == "stored"
        )
        made.add(open_corpus(corpus / "docs.tsv"))
        made.commit()
        return {"list_bytes": part_bytes(index, LISTS), "bounds_bytes": part_bytes(index, BOUNDS)}

    def open(self, corpus: Path, index: Path) -> list[str]:
        from retrieval.index.index import Index

        self.index: Index = Index.open(index)
        (self.name,) = self.index.representations
        self.stages: dict[tuple[int, int], Any] = {}
        return ["run", "hits"]

    def stage(self, k: int, threads: int = 1) -> Any:
        """The composed stage, made once as a program does."""
        if (k, threads) not in self.stages:
            stage: SparseStage = self.index.stage(self.name, threads=threads)
            self.stages[k, threads] = stage % k
        return self.stages[k, threads]

    def search(self, query: Any, k: int, mode: str) -> Any:
        if mode == "hits":
            return self.index.search(query, k)
        return self.stage(k)([query])

    def hits(self, result: Any) -> list[tuple[str, float]]:
        found = result if isinstance(result, list) else result[result.query_ids[0]]
        return [(hit.doc_id, hit.score) for hit in found]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        run = self.stage(k, threads)(queries)
        if mode == "hits":
            for query_id in run.query_ids:
                run[query_id]


class OursCompact(Ours):
    """The same with bit-packed lists."""

    compact = True
