"""verify: a row against what its system answers now, and against the data, index and models that it names.

A sample of the row's queries is asked again (all of them where the system only reads run files). Means and
intervals are computed anew from all values that the row holds, so that a figure changed by hand is found
wherever it stands. Times are told, never compared.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from retrieval.bench.evaluate import evaluate
from retrieval.bench.leaderboard_section import mapping
from retrieval.bench.measures import parse, parse_all
from retrieval.bench.pipelines import one_thread
from retrieval.bench.rankings import Answers, ask
from retrieval.bench.row import Row
from retrieval.bench.suite import SuiteSettings, Task, tasks_of
from retrieval.bench.system import System, parse_system
from retrieval.bench.system_models import models
from retrieval.bench.task_index import TaskIndexes
from retrieval.bench.verification import (
    CLOSE,
    Difference,
    Verification,
    compare_data,
    compare_figures,
    compare_models,
    tell_versions,
    whole,
)
from retrieval.check import check
from retrieval.errors import UserError
from retrieval.index.index import Index
from retrieval.progress import Progress


@dataclass(frozen=True)
class VerifySettings:
    """data, index: in place of the row's paths. work: where an index that is gone is built again."""

    data: str | None = None
    index: str | None = None
    work: str | None = None
    sample: int = 20
    seed: int = 0
    memory: int = 1 << 30


def verify(row: Row, settings: VerifySettings) -> Verification:
    """Recomputes what the settings say.

    Raises UserError for a quoted row, and where data, index, run or model are not there.
    """
    if "quoted" in row:
        raise UserError(f"this row is quoted from {row['quoted']!r}; there is nothing to run")
    task = _task(row, settings)
    system = parse_system(str(row["system"].get("file", "")), "the row's system file")
    chosen = _sample(row["query_ids"], None if system.only_runs else settings.sample, settings.seed)
    title = " ".join(dict.fromkeys((row["suite"], row["task"], row["split"])))
    found = Verification(system.name, title, 0, len(row["query_ids"]))
    found.compare("name of the system", row["system"]["name"], system.name)
    found.compare("pipeline", row["system"].get("pipeline"), system.pipeline)
    compare_figures(row, found)
    compare_data(row, task, found)
    threads = max(1, whole(row, mapping(row.get("hardware")).get("threads"), "threads", 1))
    one_thread(threads)
    index = _index(row, task, system, settings, found) if system.needs_index else None
    try:
        stage = system.stage(index, threads=threads)
        compare_models(row, models(stage, index, system), found)
        wanted = set(chosen)
        part = [query for query in task.queries if query.query_id in wanted]
        if part:
            task = replace(task, queries=part)
            with Progress(f"{task.name}: {system.name}", len(part), unit="queries") as bar:
                answers = ask(stage, task, timed=not system.only_runs, progress=bar.update)
            _compare_answers(row, task, answers, found)
    finally:
        if index is not None:
            index.close()
    tell_versions(row, found)
    return found


def _task(row: Row, settings: VerifySettings) -> Task:
    """The task of the row, with its measures, and as many queries drawn as it had."""
    data = mapping(row.get("data"))
    source = settings.data or str(data.get("source") or "")
    if not source:
        raise UserError("the row does not say where its data are; name them: --data DIR")
    count = len(row["query_ids"])
    drawn = count if data.get("of", count) != count else None
    seed = whole(row, row.get("seed"), "seed", 0)
    options = _options(str(row.get("command", "")))
    asked = SuiteSettings(source, row["split"], (row["task"],), drawn, seed, options)
    for task in tasks_of(row["suite"], asked):
        if task.name == row["task"]:
            depth = whole(row, row.get("depth"), "depth", task.depth)
            return replace(task, measures=tuple(row["measures"]), depth=depth)
    raise UserError(f"{row['suite']} has no task {row['task']!r} in {source!r}; name its data: --data DIR")


def _options(command: str) -> dict[str, str]:
    """What --set gave the suite, out of the row's command line."""
    try:
        words = shlex.split(command)
    except ValueError:
        return {}
    pairs = [value.partition("=") for word, value in pairwise(words) if word == "--set"]
    return {name: value for name, _, value in pairs}


def _sample(query_ids: Sequence[str], most: int | None, seed: int) -> list[str]:
    if most is None or most >= len(query_ids):
        return list(query_ids)
    at = np.random.default_rng(seed).choice(len(query_ids), most, replace=False)
    return [query_ids[place] for place in sorted(at.tolist())]


def _index(row: Row, task: Task, system: System, settings: VerifySettings, found: Verification) -> Index:
    """The index that is named, or the row's, or one built from the documents."""
    held = mapping(row.get("index"))
    path = settings.index or str(held.get("path") or "")
    if path and os.path.isdir(path):
        index = Index.open(path, memory=settings.memory)
    elif settings.index or settings.work is None:
        gone = " (bench removes it at the end where it has no --work)" if not settings.index else ""
        raise UserError(
            f"there is no index {path!r}{gone}; name it with --index DIR, or have it built: --work DIR"
        )
    else:
        Path(settings.work).mkdir(parents=True, exist_ok=True)
        index = TaskIndexes(Path(settings.work), settings.memory).open(task, [system])[system.name]
        path = os.fspath(index.path)
        found.notes.append(f"the row's index is gone; asked was {path}")
    found.compare(
        "sha256 of the index's document ids", held.get("ids_sha256"), check(path, full=False)["ids_sha256"]
    )
    return index


def _compare_answers(row: Row, task: Task, answers: Answers, found: Verification) -> None:
    """Every value of every measure of the queries that were asked again."""
    found.queries = len(task.queries)
    place = {query_id: at for at, query_id in enumerate(row["query_ids"])}
    groups = [("", task.judgements, row["measures"])]
    further = row.get("secondary", {})
    groups += [(name, judged, further[name]) for name, judged in task.secondary.items() if name in further]
    for where, judgements, held in groups:
        judged = {query.query_id: judgements.get(query.query_id) or {"": 0} for query in task.queries}
        now = evaluate(answers.run, judged, parse_all(held), same_collection=True)
        for name, figure in held.items():
            if name not in now.values:
                raise UserError(f"the row has {name!r}, which is written {parse(name)}; make it again")
            before = [figure["values"][place[query_id]] for query_id in now.query_ids]
            differing = [
                Difference(f"{name} of query {query_id!r} {where}".rstrip(), old, new)
                for query_id, old, new in zip(now.query_ids, before, now.values[name].tolist(), strict=True)
                if abs(old - new) > CLOSE
            ]
            found.differences += differing
            if not differing:
                found.agreed.append(f"{name} of {len(now.query_ids):,} queries {where}".rstrip())
    if answers.milliseconds is not None:
        told = mapping(row.get("times_ms")).get("p50")
        held_p50 = f", {told:.1f} ms in the row" if isinstance(told, int | float) else ""
        median = float(np.median(answers.milliseconds))
        found.notes.append(f"p50 of {found.queries:,} queries: {median:.1f} ms here{held_p50}")
