"""The suites of BEIR folders: `beir`, and `types`, where a query is a type and all its members are wanted.

--data is one folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv, plain or .gz) or a folder of such folders,
each a task; one of another split than test is called NAME@SPLIT, and may be asked for so. BEIR drops a
document that has the query's id, and so does `beir`. `types` ranks exhaustively: to twice the largest number
of relevant documents, with recall at that number (which is R-precision), at half and at twice of it, and by
how many there are. It is for any collection of types; it is no NERetrieve.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from retrieval.bench.evaluate import DEFAULT_MEASURES
from retrieval.bench.suite import SuiteSettings, Task, chosen, drawn, known_options
from retrieval.data import beir as folders
from retrieval.data.corpus import open_corpus
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import UnknownName, UserError
from retrieval.registry import register
from retrieval.types import Document

TYPE_MEASURES = ("Rprec", "Rmult@0.5", "Rmult@2", "AP", "nDCG@10", "R@1000")
SIZES = ((10, "1-9"), (100, "10-99"), (1000, "100-999"))  # |REL| below, label
_LARGEST = "1000 and more"
_DEEPER = 2  # times the largest |REL|, as the largest multiple asks
_MARCO = "msmarco"  # whose test split is TREC DL 2019: BEIR's figures are those of dev


@register("beir", kind="suite")
def beir(settings: SuiteSettings) -> Iterator[Task]:
    """Folders in BEIR's layout, by its measures and its rule about equal ids."""
    known_options(settings, ())
    for folder, split in _folders(settings):
        yield _task("beir", folder, split, settings, DEFAULT_MEASURES, same_id=True)


@register("types", kind="suite")
def types(settings: SuiteSettings) -> Iterator[Task]:
    """Folders in BEIR's layout, of which everything that is relevant is to be found."""
    known_options(settings, ())
    for folder, split in _folders(settings):
        yield _task("types", folder, split, settings, TYPE_MEASURES, same_id=False)


def _task(
    suite: str, folder: Path, split: str, settings: SuiteSettings, measures: tuple[str, ...], same_id: bool
) -> Task:
    source = f"{folder}@{split}"
    judgements = read_qrels(source)
    everything = [query for query in read_queries(source) if judgements.get(query.query_id)]
    queries = drawn(everything, settings.queries, settings.seed)
    files = [str(folders.queries_file(folder)), str(folders.qrels_file(folder, split))]
    corpus: list[str] = []
    documents: Callable[[], Iterable[Document]] | None = None
    if _has_documents(folder):
        corpus, documents = [str(folders.corpus_file(folder))], lambda: open_corpus(folder)
    exhaustive = suite == "types"
    sizes = {query.query_id: _relevant(judgements[query.query_id]) for query in queries}
    name = folder.resolve().name
    return Task(
        suite=suite,
        name=name if split == folders.SPLIT else f"{name}@{split}",
        split=split,
        documents=documents,
        queries=queries,
        judgements=judgements,
        measures=measures,
        depth=max(1000, _DEEPER * max(sizes.values(), default=0)) if exhaustive else 1000,
        buckets={"|REL|": dict(sorted(_labels(sizes).items(), key=lambda one: sizes[one[0]]))}
        if exhaustive
        else {},
        same_id=same_id,
        files=[*corpus, *files],
        corpus_files=corpus,
        of=len(everything),
    )


def _folders(settings: SuiteSettings) -> list[tuple[Path, str]]:
    """(folder, split) of the tasks that are wanted. Raises UserError, UnknownName."""
    data = Path(settings.data)
    if not data.is_dir():
        raise UserError(
            f"there is no folder {settings.data!r}; --data names a BEIR folder (corpus.jsonl, queries.jsonl, "
            "qrels/test.tsv, each plain or .gz) or a folder of such folders"
        )
    if _is_task(data):
        known = {data.resolve().name: data}
    else:
        known = {each.name: each for each in sorted(data.iterdir()) if _is_task(each)}
    if not known:
        raise UserError(
            f"{settings.data!r} holds no BEIR folder: looked for corpus.jsonl, queries.jsonl and "
            "qrels/test.tsv (each plain or .gz) in it and in the folders below it"
        )
    named = [text.partition("@") for text in settings.tasks]
    wanted: list[tuple[str, str | None]] = [(name, split or settings.split) for name, _, split in named]
    if not wanted:
        wanted = [(name, settings.split) for name in known]
        there = [one for one in wanted if one[1] in folders.splits(known[one[0]])]
        wanted = there or wanted  # of all, those that have the split
    chosen([name for name, _ in wanted], known)
    found = [(known[name], split or _usual_split(known[name])) for name, split in wanted]
    for folder, split in found:
        folders.qrels_file(folder, split)  # UnknownName, with the splits that there are
    return list(dict.fromkeys(found))


def _is_task(folder: Path) -> bool:
    """Whether there are queries and judgements; the corpus may be absent, where runs are measured."""
    try:
        folders.queries_file(folder)
    except UserError:
        return False
    return bool(folders.splits(folder))


def _has_documents(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in ("corpus.jsonl", "corpus.jsonl.gz"))


def _usual_split(folder: Path) -> str:
    """`test`, of BEIR's msmarco `dev`; where there is one split only, that one."""
    known = folders.splits(folder)
    if folder.resolve().name == _MARCO and "dev" in known:
        return "dev"
    if folders.SPLIT in known:
        return folders.SPLIT
    if len(known) == 1:
        return known[0]
    raise UnknownName(f"split of {folder}", folders.SPLIT, known, "Name one: --split SPLIT")


def _relevant(judged: Mapping[str, int]) -> int:
    return sum(grade > 0 for grade in judged.values())


def _labels(sizes: Mapping[str, int]) -> dict[str, str]:
    """Query id -> the class of its number of relevant documents."""
    return {
        query_id: next((label for most, label in SIZES if size < most), _LARGEST)
        for query_id, size in sizes.items()
    }
