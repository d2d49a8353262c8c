"""Systems on the tasks of a suite: an index each task, every query by itself, and one row for each pair.

Times are wall milliseconds of single queries on one thread, in a process that has answered one before: none
is timed with a cold cache. Intervals are a percentile bootstrap over queries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bench.digests import judgements_sha256, queries_sha256
from retrieval.bench.evaluate import Evaluation, evaluate
from retrieval.bench.machine import Energy, hardware, versions
from retrieval.bench.measures import Measure, parse, parse_all
from retrieval.bench.pipelines import one_thread
from retrieval.bench.rankings import Answers, ask
from retrieval.bench.row import FORMAT, TIES, Figure, Row
from retrieval.bench.suite import Task
from retrieval.bench.system import System
from retrieval.bench.system_models import models
from retrieval.bench.task_index import TaskIndexes, about_index
from retrieval.errors import UserError
from retrieval.index.file_hashes import sha256_of
from retrieval.index.index import Index
from retrieval.progress import Progress


@dataclass(frozen=True)
class RunSettings:
    """How a suite is run.

    work      folder for the indexes, kept
    memory    bytes that building an index may hold
    measures  in place of each task's own
    source    where the data are, as given; command: the whole command line
    warn      called with each sentence that whoever reads the rows should know
    """

    work: Path
    memory: int = 1 << 30
    seed: int = 0
    threads: int = 1
    measures: tuple[str, ...] = ()
    source: str = ""
    command: str = ""
    warn: Callable[[str], None] = lambda _: None


def run_suite(tasks: Iterable[Task], systems: Sequence[System], settings: RunSettings) -> Iterator[Row]:
    """A row for each task and system, as soon as it is there.

    Raises UserError where judgements and corpus, or judgements and run, do not belong together, and for a
    system that needs a corpus where there is none.
    """
    one_thread(settings.threads)
    indexes = TaskIndexes(settings.work, settings.memory)
    for task in tasks:
        if settings.measures:
            task = replace(task, measures=settings.measures)
        if missing := task.missing([system.pipeline for system in systems]):
            settings.warn(f"{task.name}: {missing}")
        searching = [system for system in systems if system.needs_index]
        opened = indexes.open(task, searching) if searching else {}
        about = _about_data(task, settings, indexes if searching else None)
        described: dict[str, Any] = {}
        for index in {each.path: each for each in opened.values()}.values():
            described[index.path] = about_index(index)
            about |= _check_judged(task, index, settings.warn)
        for system in systems:
            own = opened.get(system.name)
            yield _row(task, system, own, {} if own is None else described[own.path], about, settings)


def _row(
    task: Task, system: System, index: Index | None, indexed: Mapping[str, Any], about: Mapping[str, Any],
    settings: RunSettings,
) -> Row:  # fmt: skip
    stage = system.stage(index, threads=settings.threads)
    timed = index is not None or not system.only_runs
    same = None if index is None else {query.query_id for query in task.queries if query.query_id in index}
    meter = Energy()
    with Progress(f"{task.name}: {system.name}", len(task.queries), unit="queries") as bar:
        answers = ask(stage, task, timed=timed, same=same, progress=bar.update)
    joules = meter.joules() if timed else None
    where = f"{task.name}, {system.name}"
    _check_answers(task, system, answers, where, settings.warn)
    measures = parse_all(task.measures)
    try:
        found = evaluate(
            answers.run, _judged(task, task.judgements), measures, same_collection=index is not None
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if task.same_id and (text := _beir_mean(found, answers, str(measures[0]))):
        settings.warn(f"{where}: {text}")
    parts = {name: indexed["representations"][name] for name in system.representations}
    row: Row = {
        "format": FORMAT,
        "system": {
            "name": system.name,
            "pipeline": system.pipeline,
            "representations": system.representations,
            "trained_on": system.trained_on,
            "budget": system.budget,
            "file": system.file,
        },
        "suite": task.suite,
        "task": task.name,
        "split": task.split,
        "measures": {str(measure): _figure(found, str(measure), settings.seed) for measure in measures},
        "data": dict(about),
        "index": {**indexed, "representations": parts} if indexed else None,
        "models": models(stage, index, system),
        "ties": TIES,
        "depth": task.depth,
        "seed": settings.seed,
        "date": date.today().isoformat(),
        "command": settings.command,
        "versions": versions(),
        "hardware": hardware(settings.threads),
        "query_ids": found.query_ids,
        "secondary": {
            name: _secondary(answers, task, judgements, measures, settings.seed)
            for name, judgements in task.secondary.items()
        },
        "buckets": {name: _buckets(found, labels) for name, labels in task.buckets.items()},
        "times_ms": _times(answers),
        "stages": answers.stages,
        "tokens_dropped": {
            "documents": sum(each["tokens_dropped"] for each in parts.values()),
            "searching": answers.tokens_dropped,
        },
        "energy_joules": joules,
        "energy_note": meter.note if timed else "a run that was made elsewhere",
        "note": task.note,
    }
    return row


def _judged(task: Task, judgements: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """The judgements of the queries that are asked, in their order."""
    return {query.query_id: judgements.get(query.query_id, {}) for query in task.queries}


def _figure(found: Evaluation, measure: str, seed: int) -> Figure:
    mean, low, high = found.interval(measure, seed=seed)
    return {"mean": mean, "low": low, "high": high, "values": found.values[measure].tolist()}


def _secondary(
    answers: Answers, task: Task, judgements: Mapping[str, Mapping[str, int]], measures: Sequence[Measure],
    seed: int,
) -> dict[str, Figure]:  # fmt: skip
    """By further judgements. A query that has none there counts 0."""
    known = {query: grades or {"": 0} for query, grades in _judged(task, judgements).items()}
    found = evaluate(answers.run, known, measures, same_collection=True)
    return {str(measure): _figure(found, str(measure), seed) for measure in measures}


def _buckets(found: Evaluation, labels: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Label -> number of queries and the mean of every measure over them."""
    groups: dict[str, list[int]] = {}
    for at, query_id in enumerate(found.query_ids):
        if query_id in labels:
            groups.setdefault(labels[query_id], []).append(at)
    order = {label: at for at, label in enumerate(dict.fromkeys(labels.values()))}
    return {
        label: {
            "queries": len(groups[label]),
            **{str(measure): measure.summary(found.values[str(measure)][groups[label]])
               for measure in found.measures},
        }
        for label in sorted(groups, key=order.__getitem__)
    }  # fmt: skip


def _times(answers: Answers) -> dict[str, Any] | None:
    if answers.milliseconds is None:
        return None
    p50, p99 = np.percentile(answers.milliseconds, [50, 99])
    mean = float(answers.milliseconds.mean())
    return {"p50": float(p50), "p99": float(p99), "mean": mean, "values": answers.milliseconds.tolist()}


def _about_data(task: Task, settings: RunSettings, indexes: TaskIndexes | None) -> dict[str, Any]:
    """What the row says of the data."""
    ids = [query.query_id for query in task.queries]
    corpus = None if indexes is None else indexes.corpus(task)
    return {
        "documents": None if corpus is None else corpus.documents,
        "queries": len(ids),
        "of": task.of or len(ids),
        "corpus_sha256": None if corpus is None else corpus.sha256,
        "queries_sha256": queries_sha256(task.queries),
        "qrels_sha256": judgements_sha256(task.judgements, ids),
        "source": settings.source,
        "files": {os.path.basename(file): sha256_of(file) for file in task.files},
    }


def _check_judged(task: Task, index: Index, warn: Callable[[str], None]) -> dict[str, int]:
    """{"judged", "judged_absent"}: documents. Raises UserError where not one of them is in the corpus."""
    judged = {doc_id for query in task.queries for doc_id in task.judgements[query.query_id]}
    absent = [doc_id for doc_id in judged if doc_id not in index]
    if len(absent) == len(judged):
        raise UserError(
            f"{task.suite} {task.name}: none of the {len(judged):,} judged documents is in the corpus, such "
            f"as {min(judged)!r}; the judgements are of another collection"
        )
    if absent:
        warn(
            f"{task.name}: {len(absent):,} of {len(judged):,} judged documents are not in the corpus, such "
            f"as {min(absent)!r}; no system can find them"
        )
    return {"judged": len(judged), "judged_absent": len(absent)}


def _beir_mean(found: Evaluation, answers: Answers, measure: str) -> str:
    """What BEIR's evaluator, which leaves queries without results out of its mean, would have said."""
    answered = np.diff(answers.run.offsets) > 0
    if answered.all() or not answered.any() or answers.run.query_ids != found.query_ids:
        return ""
    return f"BEIR's mean, without queries that have no results: {found.values[measure][answered].mean():.5f}"


def _check_answers(
    task: Task, system: System, answers: Answers, where: str, warn: Callable[[str], None]
) -> None:
    lengths = np.diff(answers.run.offsets)
    if system.only_runs and not lengths.any():
        raise UserError(
            f"{where}: the run holds none of the {len(lengths):,} judged queries, such as "
            f"{task.queries[0].query_id!r}; it is a run of other topics"
        )
    if not lengths.all():
        warn(f"{where}: {int((lengths == 0).sum()):,} of {len(lengths):,} queries have no hits and count 0")
    if any(parse(each).name in ("Rprec", "Rmult") for each in task.measures):
        wanted = [sum(grade > 0 for grade in task.judgements[one].values()) for one in answers.run.query_ids]
        short = int((lengths < np.array(wanted)).sum())
        if short:
            warn(
                f"{where}: {short:,} of {len(lengths):,} rankings are shorter than the number of relevant "
                "documents; where it is the pipeline that cuts, let it keep more"
            )
    if answers.tokens_dropped:
        warn(f"{where}: {answers.tokens_dropped:,} tokens were beyond what a model reads")
