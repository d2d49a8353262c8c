"""The suites `msmarco-passage` and `msmarco-document`: dev, and TREC Deep Learning 2019 and 2020.

--data is a folder with MS MARCO's own files under their own names, as they are downloaded or as ir_datasets
keeps them (FILES below; each may end in .gz, and may lie in a folder passage/ or doc/); or `msmarco-passage`,
which is ir_datasets' own folder of that name, where it is there. Nothing is downloaded. Without the corpus
only systems that are run files can be measured.

Every judged query counts, one without hits 0 (trec_eval's -c). Passages of Deep Learning are relevant from
grade 2 on, except for nDCG, whose gain is the grade; documents are from grade 1 on. `dev` reads RR@10 (RR@100
for documents) in MS MARCO's order, ties by ascending id. The tasks dev-rerank, dl19-rerank and dl20-rerank
rank the candidates that were handed out (the top 1000 passages, the top 100 documents) and run only if named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from retrieval.bench.suite import SuiteSettings, Task, chosen, drawn, known_options, option
from retrieval.data.corpus import open_corpus
from retrieval.data.lines import Source, text_lines
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import BadLine, UnknownName, UserError
from retrieval.registry import register
from retrieval.types import Document

RERANK = "-rerank"


class Split(NamedTuple):
    """Names of its files, the measures, the grade from which a document is relevant, the published count."""

    queries: tuple[str, ...]
    qrels: tuple[str, ...]
    candidates: tuple[str, ...]
    measures: tuple[str, ...]
    rel: int
    published: int


class Files(NamedTuple):
    """Where a collection may lie, and what its files are called."""

    folders: tuple[str, ...]
    corpus: tuple[str, ...]
    splits: dict[str, Split]


_DEV = ("RR@10", "AP", "R@100", "R@1000", "nDCG@10")
_DEEP = ("nDCG@10", "AP(rel=2)", "RR(rel=2)", "R(rel=2)@100", "R(rel=2)@1000")
_DOC_DEV = ("RR@100", "AP", "R@100", "R@1000", "nDCG@10")
_DOC_DEEP = ("nDCG@10", "AP@100", "RR@100", "R@100", "R@1000")


def _deep(year: int, kind: str, measures: tuple[str, ...], rel: int, top: str, published: int) -> Split:
    short = f"dl{year - 2000}"
    return Split(
        (f"{short}.queries.tsv", f"msmarco-test{year}-queries.tsv", f"trec-dl-{year}/queries.tsv"),
        (f"{short}.qrels.trec", f"{year}qrels-{kind}.txt", f"trec-dl-{year}/qrels"),
        (top, f"trec-dl-{year}/ms.run"), measures, rel, published,
    )  # fmt: skip


FILES = {
    "msmarco-passage": Files(
        ("", "passage"),
        ("collection.tsv",),
        {
            "dev": Split(
                ("queries.dev.small.tsv", "dev-small.queries.tsv", "dev/small/queries.tsv"),
                ("qrels.dev.small.tsv", "dev-small.qrels.trec", "dev/small/qrels"),
                ("top1000.dev", "top1000.dev.tsv", "dev/ms.run"), _DEV, 1, 6980,
            ),
            "dl19": _deep(2019, "pass", _DEEP, 2, "msmarco-passagetest2019-top1000.tsv", 43),
            "dl20": _deep(2020, "pass", _DEEP, 2, "msmarco-passagetest2020-top1000.tsv", 54),
        },
    ),
    "msmarco-document": Files(
        ("", "doc", "document"),
        ("msmarco-docs.tsv", "msmarco-docs.trec"),
        {
            "dev": Split(
                ("msmarco-docdev-queries.tsv", "dev.queries.tsv", "dev/queries.tsv"),
                ("msmarco-docdev-qrels.tsv", "dev.qrels.trec", "dev/qrels"),
                ("msmarco-docdev-top100", "dev/ms.run"), _DOC_DEV, 1, 5193,
            ),
            "dl19": _deep(2019, "docs", _DOC_DEEP, 1, "msmarco-doctest2019-top100", 43),
            "dl20": _deep(2020, "docs", _DOC_DEEP, 1, "msmarco-doctest2020-top100", 45),
        },
    ),
}  # fmt: skip


@register("msmarco-passage", kind="suite")
def msmarco_passage(settings: SuiteSettings) -> Iterator[Task]:
    """8,841,823 passages. Option encoding=repair: undo the double encoding of the official collection.tsv."""
    yield from _tasks("msmarco-passage", settings)


@register("msmarco-document", kind="suite")
def msmarco_document(settings: SuiteSettings) -> Iterator[Task]:
    """3,213,835 documents."""
    yield from _tasks("msmarco-document", settings)


def _tasks(suite: str, settings: SuiteSettings) -> Iterator[Task]:
    known_options(settings, ("encoding",) if suite == "msmarco-passage" else ())
    files = FILES[suite]
    place = _Place(suite, settings.data)
    names = [name for split in files.splits for name in (split, split + RERANK)]
    wanted = chosen(settings.tasks, names) if settings.tasks else list(files.splits)
    if settings.split is not None:
        if settings.split not in files.splits:
            raise UnknownName(f"split of {suite}", settings.split, files.splits)
        wanted = [name for name in wanted if name.removesuffix(RERANK) == settings.split]
        if not wanted:
            raise UserError(f"no task of {', '.join(settings.tasks)} is of the split {settings.split}")
    explicit = bool(settings.tasks or settings.split)
    found = [name for name in wanted if explicit or place.has(files.splits[name])]
    if not found:
        raise UserError(place.absent("queries and judgements", [
            name for split in files.splits.values() for name in (*split.queries, *split.qrels)
        ]))  # fmt: skip
    for name in found:
        yield _task(suite, name, place, settings)


def _task(suite: str, name: str, place: _Place, settings: SuiteSettings) -> Task:
    split_name = name.removesuffix(RERANK)
    split = FILES[suite].splits[split_name]
    query_file, qrels_file = place.need("queries", split.queries), place.need("judgements", split.qrels)
    judgements = read_qrels(qrels_file)
    everything = [query for query in read_queries(query_file) if judgements.get(query.query_id)]
    if not everything:
        raise UserError(f"{query_file} and {qrels_file} share no query; they are of different topics")
    queries = drawn(everything, settings.queries, settings.seed)
    files, candidates = [str(query_file), str(qrels_file)], None
    if name != split_name:
        file = place.need("candidates", split.candidates)
        files.append(str(file))
        candidates = read_candidates(str(file), {query.query_id for query in queries})
    corpus, documents = place.documents(settings)
    notes = []
    if len(everything) != split.published:
        notes.append(f"{len(everything):,} judged queries, where the published set has {split.published:,}")
    reading = option(settings, "encoding", "as it is", ("as it is", "repair"))
    if reading == "repair":
        notes.append("double encoding of the collection repaired")
    return Task(
        suite=suite,
        name=name,
        split=split_name,
        documents=documents,
        queries=queries,
        judgements=judgements,
        measures=split.measures,
        candidates=candidates,
        files=[*corpus, *files],
        corpus_files=corpus,
        reading=reading,
        rel=split.rel,
        note="; ".join(notes),
        of=len(everything),
    )


class _Place:
    """The folder of --data, and the names that are looked for in it."""

    def __init__(self, suite: str, data: str) -> None:
        self.suite = suite
        self.known = not os.path.exists(data) and data == suite  # ir_datasets' own copy
        if self.known:
            home = os.environ.get("IR_DATASETS_HOME") or os.path.expanduser("~/.ir_datasets")
            data = os.path.join(home, suite)
        if not os.path.isdir(data):
            raise UserError(
                f"there is no folder {data!r}; --data names one with MS MARCO's files, such as "
                f"{FILES[suite].corpus[0]} and {FILES[suite].splits['dl19'].qrels[1]} (docs/bench.md)"
            )
        self.folder = Path(data)

    def find(self, names: Iterable[str]) -> Path | None:
        """The first of these files that is there."""
        for name in names:
            for folder in FILES[self.suite].folders:
                for path in (self.folder / folder / name, self.folder / folder / f"{name}.gz"):
                    if path.is_file():
                        return path
        return None

    def has(self, split: Split) -> bool:
        """Whether queries and judgements of a split are there."""
        return self.find(split.queries) is not None and self.find(split.qrels) is not None

    def need(self, what: str, names: Iterable[str]) -> Path:
        """As find; UserError where there is none."""
        names = list(names)
        path = self.find(names)
        if path is None:
            raise UserError(self.absent(what, names))
        return path

    def absent(self, what: str, names: Iterable[str]) -> str:
        """The sentence about files that are not there."""
        below = " and ".join(f"{each}/" for each in FILES[self.suite].folders if each)
        return (
            f"{str(self.folder)!r} holds no {what} of {self.suite}; looked there and in {below} for "
            f"{', '.join(names)} (each may end in .gz)"
        )

    def documents(self, settings: SuiteSettings) -> tuple[list[str], Callable[[], Iterable[Document]] | None]:
        """(the corpus's file, how it is read), or ([], None) without one."""
        repair = settings.options.get("encoding") == "repair"
        path = self.find(FILES[self.suite].corpus)
        if path is not None:
            return [str(path)], lambda: open_corpus(path, repair_encoding=repair)
        kept = self.folder / "collection.tsv.gz"  # what ir_datasets calls msmarco-docs.trec.gz
        if self.known and kept.is_file():
            return [str(kept)], lambda: open_corpus(self.suite)
        return [], None


def read_candidates(path: str, query_ids: Collection[str]) -> dict[str, list[str]]:
    """Query id -> document ids in the order of the file, of these queries.

    A line is: query, document (ir_datasets); query, document, rank; query, document, two texts (top1000.dev,
    between tabs); or a line of a TREC run. Raises BadLine.
    """
    found: dict[str, list[str]] = {query_id: [] for query_id in query_ids}
    with Source(path) as file:
        for at, line in text_lines(file):
            cells = line.split("\t") if "\t" in line else line.split()
            if len(cells) not in (2, 3, 4, 6):
                problem = f"{len(cells)} columns; candidates are query, document, and 0, 1, 2 or 4 more"
                raise BadLine(path, at, problem)
            if cells[0] in found:
                found[cells[0]].append(cells[2 if len(cells) == 6 else 1])
    if not any(found.values()):
        raise UserError(f"{path} holds candidates of none of the queries; it is of other topics")
    return found
