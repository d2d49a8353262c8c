"""LoCoV0 and LoCoV1 as published: queries and documents of up to twelve tasks, JSON lines or parquet.

Two folders, `LoCoV1-Queries` and `LoCoV1-Documents` (or `queries` and `documents`), each with a file a task,
`documents/TASK_test.jsonl`, or with files of all tasks, told apart by the field `dataset`; .gz too. A query
is {"qid", "dataset", "query", "answer_pids"}, a document {"pid", "dataset", "passage"}. A `qmsum_test.jsonl`
beside the folder `documents` stands in for the one in it, as the publishers replaced that file.

Saad-Falcon, Fu et al.: Benchmarking and Building Long-Context Retrieval Models with LoCo and M2-BERT. ICML
2024 (arXiv 2402.07440), whose counts stand below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.data.fields import shown, text_problem
from retrieval.data.jsonl import json_objects
from retrieval.data.lines import Source, text_lines
from retrieval.diskio import disk_errors
from retrieval.errors import BadLine, MissingExtra, UnknownName, UserError
from retrieval.types import Document, Query

V0 = ("summ_screen_fd", "gov_report", "qmsum", "qasper_title", "qasper_abstract")
_COUNTS = {  # of each split: queries, documents
    "summ_screen_fd": {"train": (3673, 3673), "test": (338, 338)},
    "gov_report": {"train": (17457, 17457), "test": (972, 972)},
    "qmsum": {"train": (1257, 1257), "test": (272, 272)},
    "qasper_title": {"train": (888, 888), "test": (416, 416)},
    "qasper_abstract": {"train": (888, 888), "test": (416, 416)},
    "multifieldqa": {"train": (120, 120), "test": (30, 30)},
    "2wikimqa": {"train": (240, 240), "test": (60, 60)},
    "passage_retrieval": {"train": (240, 240), "test": (60, 60)},
    "courtlistener_Plain_Text": {"train": (10000, 10000), "test": (2000, 2000)},
    "courtlistener_HTML": {"train": (10000, 10000), "test": (2000, 2000)},
    "legal_case_reports": {"train": (3094, 3094), "test": (770, 770)},
    "stackoverflow": {"train": (1599, 18005), "test": (400, 7741)},
}
TASKS = tuple(_COUNTS)
PART = "part"  # as the split: the files of the test split, however much they hold
_SIDES = {
    "queries": ("LoCoV1-Queries", "loco-queries", "queries"),
    "documents": ("LoCoV1-Documents", "loco-documents", "documents"),
}
_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
_HOLDS_NOTHING = ("qasper_title", "qasper_abstract")  # tasks in which a pair may lack its passage


class Row(NamedTuple):
    """A record with the place that it was read from; line: its number, of a parquet file its row."""

    source: str
    line: int
    record: dict[str, Any]


class LocoTask:
    """One task, its queries read and checked; documents are read anew each time.

    queries     in the order of the file
    judgements  query id -> {document id: 1}
    counts      queries and documents of the files
    dropped     queries and documents of them that are left out: pairs of Qasper without a passage
    files       that were read
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, split: str = "test") -> None:
        """Reads the queries, and goes through the documents once.

        Raises UserError for files that are missing or of other counts than the published ones, BadLine with
        file and line for a record that is none, UnknownName for another task or split.
        """
        if name not in _COUNTS:
            raise UnknownName("LoCo task", name, TASKS)
        if split not in ("train", "test", PART):
            raise UnknownName("split of LoCo", split, ("train", "test", PART))
        self.name, self.split = name, split
        self._stem = f"{name}_{'test' if split == PART else split}"
        self._files = {side: self._find(Path(folder), side) for side in _SIDES}
        self.files = [str(file) for files in self._files.values() for file in files]
        self.queries: list[Query] = []
        self.judgements: dict[str, dict[str, int]] = {}
        held, empty = self._survey()
        queries = self._read_queries(held, empty)
        self.counts = queries, len(held) + len(empty)
        self.dropped = queries - len(self.queries), len(empty)
        self._check(folder)

    @property
    def own_documents(self) -> list[str]:
        """The files that hold this task's documents and no others; none where tasks share files."""
        files = self._files["documents"]
        return [str(file) for file in files] if all(_of_a_task(file.name) for file in files) else []

    def documents(self) -> Iterator[Document]:
        """The documents, in the order of the file."""
        for row in self._rows("documents"):
            passage = row.record.get("passage")
            if passage is not None and passage.strip():
                yield Document(_id(row, "pid"), passage)

    def _survey(self) -> tuple[set[str], set[str]]:
        """(ids of documents, ids of those without a text, which only Qasper may have)."""
        held: set[str] = set()
        empty: set[str] = set()
        for row in self._rows("documents"):
            pid, passage = _id(row, "pid"), row.record.get("passage")
            if pid in held or pid in empty:
                raise BadLine(row.source, row.line, f"the pid {shown(pid)} comes twice")
            if passage is not None and (problem := text_problem(passage, "passage")):
                raise BadLine(row.source, row.line, problem)
            lacks = passage is None or not passage.strip()
            if lacks and self.name not in _HOLDS_NOTHING:
                raise BadLine(row.source, row.line, f"the passage of {shown(pid)} is empty")
            (empty if lacks else held).add(pid)
        if not held:
            raise UserError(
                f"{self._files['documents'][0]} holds no document of {self.name}; complete the files"
            )
        return held, empty

    def _read_queries(self, held: set[str], empty: set[str]) -> int:
        """Fills queries and judgements; returns how many there were, dropped ones included."""
        count = 0
        seen: set[str] = set()
        for count, row in enumerate(self._rows("queries"), 1):  # noqa: B007
            qid, text, answers = _id(row, "qid"), row.record.get("query"), row.record.get("answer_pids")
            problem = text_problem(text, "query")
            if problem is None and not text.strip():  # type: ignore[union-attr]
                problem = "the query is empty"
            if problem is None and qid in seen:
                problem = f"the qid {shown(qid)} comes twice"
            if problem is None and not (
                isinstance(answers, list) and answers and all(isinstance(each, str) for each in answers)
            ):
                problem = f"answer_pids is {shown(answers)}; it is a list of one pid or more"
            if problem is not None:
                raise BadLine(row.source, row.line, problem)
            seen.add(qid)
            wanted = [_plain(each) for each in answers]  # type: ignore[union-attr]
            # The publishers' rule: a query goes where the passage of its own number has no text.
            if qid.replace("Query", "Passage") in empty or empty.issuperset(wanted):
                continue
            missing = [each for each in wanted if each not in held and each not in empty]
            if missing:
                raise BadLine(row.source, row.line, f"there is no document {shown(missing[0])}")
            self.queries.append(Query(qid, text))  # type: ignore[arg-type]
            self.judgements[qid] = {each: 1 for each in wanted if each in held}
        if not self.queries:
            raise UserError(f"{self._files['queries'][0]} holds no query of {self.name}; complete the files")
        return count

    def _check(self, folder: str | os.PathLike[str]) -> None:
        """Raises UserError where the counts are not the published ones, before or after Qasper's rule."""
        wanted = _COUNTS[self.name].get(self.split)
        if wanted is not None and wanted not in (self.counts, self._kept()):
            raise UserError(
                f"{os.fspath(folder)}: {self.name} has {self.counts[0]:,} queries and {self.counts[1]:,} "
                f"documents, where the published {self.split} split has {wanted[0]:,} and {wanted[1]:,}; "
                f"complete the files, or run on what there is with the split {PART!r}"
            )

    def _kept(self) -> tuple[int, int]:
        return self.counts[0] - self.dropped[0], self.counts[1] - self.dropped[1]

    @property
    def note(self) -> str:
        """What a reader of figures must know of these files; empty for whole ones."""
        parts = []
        if self.split == PART:
            queries, documents = _COUNTS[self.name]["test"]
            kept = self._kept()
            parts.append(
                f"not the published files: {kept[0]:,} queries and {kept[1]:,} documents, where those have "
                f"{queries:,} and {documents:,}"
            )
        if any(self.dropped):
            parts.append(f"{self.dropped[0]:,} queries of Qasper whose passage is empty are left out")
        return "; ".join(parts)

    def _rows(self, side: str) -> Iterator[Row]:
        """The records of this task."""
        for file in self._files[side]:
            for row in _parquet(str(file)) if file.suffix == ".parquet" else _json(str(file)):
                dataset = row.record.get("dataset")
                if not isinstance(dataset, str):
                    raise BadLine(row.source, row.line, f"dataset is {shown(dataset)}; it names the task")
                if dataset == self.name:
                    yield row

    def _find(self, folder: Path, side: str) -> list[Path]:
        """The files that hold one side: the task's own, else all that there are."""
        if not folder.is_dir():
            raise UserError(f"no folder {str(folder)!r}; give the one that holds {' and '.join(_NAMES)}")
        known = {each.name.lower(): each for each in folder.iterdir()}
        for name in _SIDES[side]:
            here = known.get(name.lower())
            if here is not None and here.is_dir():
                return self._inside(here)
            for ending in _ENDINGS:
                if f"{name.lower()}{ending}" in known:
                    return [known[f"{name.lower()}{ending}"]]
        raise UserError(
            f"{str(folder)!r} holds neither {' nor '.join(_SIDES[side])}; give the folder of "
            f"{' and '.join(_NAMES)}"
        )

    def _inside(self, folder: Path) -> list[Path]:
        replaced = [folder] if self.name == "qmsum" else []
        for place in (*replaced, folder / "documents", folder):
            for ending in _ENDINGS:
                if (place / f"{self._stem}{ending}").is_file():
                    return [place / f"{self._stem}{ending}"]
        split = "test" if self.split == PART else self.split
        with disk_errors("read", folder):
            every = sorted(each for each in folder.rglob("*") if each.name.endswith(_ENDINGS))
        found = [
            each
            for each in every
            if not _of_a_task(each.name) and _split_of(str(each.relative_to(folder))) == split
        ]
        if not found:
            raise UserError(
                f"{str(folder)!r} holds no {self._stem}.jsonl and no other file of the split {split}"
            )
        return found


_NAMES = tuple(names[0] for names in _SIDES.values())


def _split_of(name: str) -> str:
    """What a file of all tasks is of, by its name; test, where that does not say."""
    return next((split for split in ("train", "validation") if split in name), "test")


def _of_a_task(name: str) -> bool:
    return any(name.startswith(f"{task}_") for task in TASKS)


def _plain(name: str) -> str:
    """An id as documents and queries have it here: without white space."""
    return "_".join(name.split())


def _id(row: Row, field: str) -> str:
    value = row.record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadLine(row.source, row.line, f"{field} is {shown(value)}; it is an id")
    return _plain(value)


def _json(path: str) -> Iterator[Row]:
    with Source(path) as file:
        for number, record in json_objects(path, text_lines(file)):
            yield Row(path, number, record)


def _parquet(path: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtra("parquet", f"pyarrow, which reads {path} (or give the JSON lines)") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    number += 1
                    yield Row(path, number, record)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet ({error}); download it again") from None
