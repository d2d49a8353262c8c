"""The index of a task: built where it is not there, found again where it is of the same corpus and methods.

Below the folder `work` an index lies in SUITE-TASK-HASH-N, HASH being that of the documents; beside it
SUITE-TASK-HASH-N.json says what each representation was made of and how long that took. A representation
that a further system needs is added to the index that is there; N counts where two methods of one name are
not the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from retrieval.artefact import Store
from retrieval.bench.digests import CorpusFacts, corpus_facts
from retrieval.bench.learned_sets import facts
from retrieval.bench.row import slug
from retrieval.bench.suite import Task
from retrieval.bench.system import System
from retrieval.check import check
from retrieval.data.output import atomic
from retrieval.diskio import make_directories
from retrieval.errors import UserError
from retrieval.index.creation import make_methods
from retrieval.index.dense_spec import parse_dense
from retrieval.index.index import Index
from retrieval.index.method import parse_spec
from retrieval.progress import Progress
from retrieval.types import Document

Wanted = dict[str, tuple[str, bool, Any]]  # representation -> (spec, dense?, settings)
_ELSEWHERE = ("source",)  # settings that name a place, not a content


class TaskIndexes:
    """Indexes below a folder. memory: bytes that building may hold."""

    def __init__(self, work: Path, memory: int) -> None:
        make_directories(os.fspath(work))
        self._work, self._memory = work, memory
        self._known: dict[tuple[str, str, str], CorpusFacts] = {}  # of tasks seen in this run

    def corpus(self, task: Task) -> CorpusFacts:
        """What the documents of a task are; remembered as long as its files stay the same.

        Raises UserError for a task without documents.
        """
        if task.documents is None:
            raise UserError(
                f"{task.suite} {task.name} has no corpus, only queries and judgements: systems of run files "
                "can be measured on it; to search, put the corpus there (docs/bench.md)"
            )
        own = task.suite, task.name, task.split
        if own not in self._known:
            self._known[own] = self._read(task, task.documents)
        return self._known[own]

    def _read(self, task: Task, documents: Callable[[], Iterable[Document]]) -> CorpusFacts:
        memory = self._work / "corpora.json"
        known = _read_json(memory)
        key = ""
        if task.corpus_files:
            key = json.dumps([task.reading, *map(_stamp, task.corpus_files)])
        if key in known:
            return CorpusFacts(*known[key])
        with Progress(f"{task.name}: reading the corpus", unit="documents") as bar:
            found = corpus_facts(documents(), bar.update)
        if key:
            _write_json(memory, {**known, key: list(found)})
        return found

    def open(self, task: Task, systems: Sequence[System]) -> dict[str, Index]:
        """System -> the index that has its representations; systems share one where they can."""
        groups: list[tuple[Wanted, list[str]]] = []
        for system in systems:
            wanted = _wanted(system)
            for shared, names in groups:
                if all(shared.get(name, made)[2] == made[2] for name, made in wanted.items()):
                    shared.update({name: made for name, made in wanted.items() if name not in shared})
                    names.append(system.name)
                    break
            else:
                groups.append((wanted, [system.name]))
        opened: dict[str, Index] = {}
        for shared, names in groups:
            index = self._open(task, shared)
            opened |= dict.fromkeys(names, index)
        return opened

    def _open(self, task: Task, wanted: Wanted) -> Index:
        path, known = self._place(task, wanted)
        for name, (spec, dense, settings) in wanted.items():
            if name in known and known[name]["seconds"] is not None:
                continue
            known[name] = {"settings": settings, "seconds": None}
            _write_json(_about(path), known)  # before it is built: a build that is cut short goes on
            start = perf_counter()
            self._build(task, path, name, spec, dense)
            known[name]["seconds"] = perf_counter() - start
            _write_json(_about(path), known)
        return Index.open(path, memory=self._memory)

    def _place(self, task: Task, wanted: Wanted) -> tuple[Path, dict[str, Any]]:
        """(where the index lies or will, what is known of its representations)."""
        mark = self.corpus(task).sha256[:12]
        for file in sorted(self._work.glob(f"*-{mark}-*.json")):
            path, known = file.with_suffix(""), _read_json(file)
            settings = {name: known[name]["settings"] for name in wanted.keys() & known.keys()}
            if all(settings[name] == wanted[name][2] for name in settings):
                return path, known if Store.exists(path) else {}
        paths = (self._work / f"{slug(task.suite)}-{slug(task.name)}-{mark}-{n}" for n in count())
        return next(path for path in paths if not _about(path).exists()), {}

    def _build(self, task: Task, path: Path, name: str, spec: str, dense: bool) -> None:
        """One representation; the first brings the documents into the index."""
        label = f"{task.name}: {name}"
        if Store.exists(path):
            index = Index.open(path, memory=self._memory)
            if index.representations:
                with Progress(label, len(index), unit="documents") as bar:
                    if name not in index.representations:
                        index.add_representation(spec, dense=dense, progress=bar.update)
                return
            index.close()
        assert task.documents is not None  # corpus() has looked
        with (
            Index.create(
                path, [] if dense else [spec], [spec] if dense else [], memory=self._memory
            ) as index,
            Progress(label, self.corpus(task).documents, unit="documents") as bar,
        ):
            index.add(task.documents(), progress=bar.update)
            index.commit()


def about_index(index: Index) -> dict[str, Any]:
    """What rows say of an index and of its representations: {"generation", "ids_sha256", "path", ...}."""
    path = Path(index.path)
    found, known = check(path, full=False), _read_json(_about(path))
    representations = {}
    for name, one in facts(path).items():
        representations[name] = {
            "bytes": round(one["bytes"] * found["docs"]),
            "build_seconds": known.get(name, {}).get("seconds"),
            "tokens": int(one["tokens"]) if "tokens" in one else _tokens(index, name),
            "tokens_dropped": int(one.get("dropped", 0)),
        }
    return {
        "generation": found["generation"],
        "ids_sha256": found["ids_sha256"],
        "representations": representations,
        "path": os.fspath(path),
    }


def _tokens(index: Index, name: str) -> int | None:
    """Terms of all documents after analysis; None where the method counts none."""
    try:
        return index.statistics(name).tokens
    except UserError:
        return None


def _wanted(system: System) -> Wanted:
    made = make_methods(system.sparse, system.dense, analyzer="english", compact=False)
    specs = {parse_spec(spec).name: (spec, False) for spec in system.sparse}
    specs |= {parse_dense(spec).name: (spec, True) for spec in system.dense}
    return {name: (*specs[name], _settings(method.settings, specs[name][0])) for name, method in made.items()}


def _settings(settings: Mapping[str, Any], spec: str) -> Any:
    """What a representation is made of, as JSON gives it back. Weights from a file: that file too."""
    kept = {key: value for key, value in settings.items() if key not in _ELSEWHERE}
    file = spec.partition(":")[2]
    if os.path.exists(file) and "model" not in kept:
        kept["file"] = _stamp(file)
    return json.loads(json.dumps(kept))


def _about(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _stamp(file: str) -> list[Any]:
    status = os.stat(file)
    return [os.path.realpath(file), status.st_size, status.st_mtime_ns]


def _read_json(path: Path) -> dict[str, Any]:
    """What was remembered; whatever is wrong with it, nothing is known."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic(path) as write:
        write(json.dumps(value, indent=1).encode())
