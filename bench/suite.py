"""What a benchmark is: a suite makes Tasks out of local files, each with its corpus, queries and judgements.

A suite is a function, registered by name, that takes SuiteSettings and gives Tasks. It reads local files only
and never downloads:

    @register("beir", kind="suite")
    def beir(settings: SuiteSettings) -> Iterator[Task]: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from retrieval import registry
from retrieval.bench.measures import KINDS, parse_all
from retrieval.errors import UnknownName, UserError
from retrieval.types import Document, Query

KIND = "suite"  # what suites are registered as
T = TypeVar("T")


@dataclass(frozen=True)
class SuiteSettings:
    """What the command line says of a suite.

    data     folder or file of its data
    split    None: the suite's own
    tasks    those wanted; empty: all
    queries  at most so many a task, drawn with the seed; None: all
    options  what one suite alone knows (`--set NAME=VALUE`), as text
    """

    data: str
    split: str | None = None
    tasks: tuple[str, ...] = ()
    queries: int | None = None
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One corpus, the queries to ask of it and what is right.

    documents     the corpus, streamed, each time anew; None where no text is there: then only systems that
                  are run files can be measured
    queries       the queries to ask (as drawn); each is judged
    judgements    query id -> document id -> grade
    measures      the first is the headline
    depth         documents of a ranking that count
    candidates    re-ranking: query id -> the documents that are ranked, and nothing else
    buckets       name -> query id -> label: the measures are given for each label too
    same_id       a document with the query's id is dropped from its ranking (BEIR's rule)
    secondary     name -> further judgements, measured too
    files         hashed into the row
    corpus_files  those of them that the documents come from: tasks with the same ones share an index, and
                  what is known of the corpus is remembered as long as they stay the same
    reading       how documents were made of those files, where there is more than one way
    rel           the grade from which a document is relevant: other measures' levels are refused
    note          what a reader of the row must know
    missing       called with the pipelines of all systems: a sentence on what should stand beside them
    of            how many queries there were before any were drawn; 0: all of them are here
    """

    suite: str
    name: str
    split: str
    documents: Callable[[], Iterable[Document]] | None
    queries: Sequence[Query]
    judgements: Mapping[str, Mapping[str, int]]
    measures: tuple[str, ...]
    depth: int = 1000
    candidates: Mapping[str, Sequence[str]] | None = None
    buckets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    same_id: bool = False
    secondary: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    files: Sequence[str] = ()
    corpus_files: Sequence[str] = ()
    reading: str = ""
    rel: int = 1
    note: str = ""
    missing: Callable[[Sequence[str]], str] = lambda _: ""
    of: int = 0

    def __post_init__(self) -> None:
        where = f"{self.suite} {self.name}"
        for measure in parse_all(self.measures):  # UnknownName for a measure, before anything is built
            usual = KINDS[measure.name].defaults.get("rel")
            level = dict(measure.params).get("rel", usual)
            if usual is not None and level != self.rel:
                raise UserError(
                    f"{where} counts documents as relevant from grade {self.rel}, {measure} from {level}; "
                    f"write {measure.name}(rel={self.rel})"
                )
        if not self.queries:
            raise UserError(f"{where}: no query of the split {self.split!r} is judged")
        for query in self.queries:
            if not self.judgements.get(query.query_id):
                raise UserError(f"{where}: query {query.query_id!r} has no judgement; leave it out")


def tasks_of(suite: str, settings: SuiteSettings) -> Iterator[Task]:
    """The tasks of a suite, one after another. Raises UnknownName for a suite, and what the suite raises."""
    made: Any = registry.lookup(suite, kind=KIND)(settings)
    yield from made


def suites() -> list[str]:
    """The names of all suites, sorted."""
    return registry.names(KIND)


def chosen(wanted: Sequence[str], known: Iterable[str], what: str = "task") -> list[str]:
    """Those of the known names that are wanted, in the order of the known; all where none is named.

    Raises UnknownName, with the nearest name, for one that is not known.
    """
    names = list(known)
    for name in wanted:
        if name not in names:
            raise UnknownName(what, name, names)
    return [name for name in names if name in wanted] if wanted else names


def drawn(items: Sequence[T], most: int | None, seed: int) -> list[T]:
    """At most so many, drawn with the seed and left in their order."""
    if most is None or most >= len(items):
        return list(items)
    at = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(at.tolist())]


def option(settings: SuiteSettings, name: str, default: str, choices: Sequence[str]) -> str:
    """A suite's own option, one of some words. Raises UserError."""
    value = settings.options.get(name, default)
    if value not in choices:
        raise UserError(f"--set {name}={value}: choose {' or '.join(choices)}")
    return value


def known_options(settings: SuiteSettings, known: Sequence[str]) -> None:
    """Raises UnknownName for an option that the suite does not have."""
    for name in settings.options:
        if name not in known:
            raise UnknownName("option of this suite", name, known, "" if known else "It has none.")
