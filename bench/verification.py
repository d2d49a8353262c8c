"""What a verification finds, and what is compared without asking: figures, data, models, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from retrieval import __version__
from retrieval.bench.digests import corpus_facts, judgements_sha256, queries_sha256
from retrieval.bench.leaderboard_section import mapping
from retrieval.bench.measures import parse
from retrieval.bench.row import Row
from retrieval.bench.statistics import bootstrap
from retrieval.bench.suite import Task
from retrieval.errors import UserError
from retrieval.index.file_hashes import sha256_of
from retrieval.progress import Progress

CLOSE = 1e-6  # values that differ by less are equal: what another processor may round otherwise


@dataclass(frozen=True)
class Difference:
    """One place where the row and the present differ. what: such as `nDCG@10 of query 'q7'`."""

    what: str
    row: Any
    now: Any


@dataclass
class Verification:
    """What was compared. agreed: in words; notes: what differs but makes no row wrong, and times."""

    system: str
    task: str
    queries: int
    of: int
    agreed: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, what: str, row: Any, now: Any) -> None:
        """Keeps whether both are equal."""
        if row == now:
            self.agreed.append(what)
        else:
            self.differences.append(Difference(what, row, now))


def compare_figures(row: Row, found: Verification) -> None:
    """Means and intervals against those of the row's own values."""
    seed = whole(row, row.get("seed"), "seed", 0)
    wrong = len(found.differences)
    for where, group in (("", row["measures"]), *row.get("secondary", {}).items()):
        for name, figure in group.items():
            values = np.array(figure["values"], np.float64)
            now = {"mean": parse(name).summary(values)}
            if "low" in figure and "high" in figure:
                now["low"], now["high"] = bootstrap(values, seed=seed)[1:]
            for part, value in now.items():
                held = float(mapping(figure)[part])
                if abs(held - value) > CLOSE:
                    of = f"{name} {where}".strip()
                    found.differences.append(Difference(f"{part} of the row's values of {of}", held, value))
    if len(found.differences) == wrong:
        found.agreed.append("means and intervals of the row's values")


def compare_data(row: Row, task: Task, found: Verification) -> None:
    """Queries, judgements and documents by content; a file of other bytes alone is only noted."""
    data = mapping(row.get("data"))
    ids = [query.query_id for query in task.queries]
    if ids != row["query_ids"]:
        there = sum(query_id in set(ids) for query_id in row["query_ids"])
        found.differences.append(Difference("ids of the queries", len(row["query_ids"]), f"{there} of them"))
    found.compare("sha256 of the queries", data.get("queries_sha256"), queries_sha256(task.queries))
    judged = judgements_sha256(task.judgements, ids)
    found.compare("sha256 of the judgements", data.get("qrels_sha256"), judged)
    if data.get("corpus_sha256") is not None:
        now = "not there"
        if task.documents is not None:
            with Progress(f"{task.name}: reading the corpus", unit="documents") as bar:
                now = corpus_facts(task.documents(), bar.update).sha256
        found.compare("sha256 of the documents", data["corpus_sha256"], now)
    files = mapping(data.get("files"))
    for file in task.files:
        name = os.path.basename(file)
        if name in files and sha256_of(file) != files[name]:
            found.notes.append(f"the file {name} has other bytes than the row's had")


def compare_models(row: Row, now: Mapping[str, Mapping[str, Any]], found: Verification) -> None:
    """The files of every model and run by their hashes."""
    held = mapping(row.get("models"))
    for name in sorted({*held, *now}):
        old, new = mapping(held.get(name)), mapping(now.get(name))
        for part in sorted({*old, *new}):
            found.compare(f"model {name}: {part}", old.get(part), new.get(part))


def tell_versions(row: Row, found: Verification) -> None:
    """Notes what was made with other versions: they explain a difference, and are none."""
    for name, told in mapping(row.get("versions")).items():
        if (now := _version(name)) != told:
            found.notes.append(f"version of {name}: {told} in the row, {now or 'absent'} here")


def whole(row: Row, value: Any, what: str, default: int) -> int:
    """A number that the row tells, or the default. Raises UserError for anything else."""
    found = default if value is None else value
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 1 << 31:
        raise UserError(f"the row of {row['system']['name']!r} has the {what} {found!r}; make it again")
    return found


def _version(name: str) -> str:
    if name in ("retrieval", "python"):
        return __version__ if name == "retrieval" else platform.python_version()
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):  # ValueError: an empty name
        return ""
