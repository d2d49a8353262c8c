"""Systems as pipelines of one index, named on the command line: what they are worth, and what they cost."""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from retrieval.bench.arguments import positive
from retrieval.bench.evaluate import Evaluation, Judgements, evaluate
from retrieval.errors import UserError
from retrieval.index.creation import checked_pipeline
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index import Index

DEFAULT = "BM25=bm25 % 100"
KEPT = 100  # documents that the measures look at


class System(NamedTuple):
    """What tables call it, and the text that `retrieve search --pipeline` takes."""

    label: str
    pipeline: str


@dataclass(frozen=True)
class Outcome:
    """What a system is worth on a collection's queries, asked one at a time.

    milliseconds  wall time of the median query
    dropped       tokens that were cut off while all of them were answered
    """

    evaluation: Evaluation
    milliseconds: float
    dropped: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--sparse, --dense, --system and what else benches of pipelines take."""
    add = parser.add_argument
    usual = DEFAULT.replace("%", "%%")  # argparse fills in what stands behind a %
    add(
        "--sparse", action="append", metavar="SPEC", help="as retrieve index takes it (default: bm25); repeat"
    )
    add("--dense", action="append", default=[], metavar="SPEC", help="as retrieve index takes it; repeat")
    add(
        "--system", action="append", metavar="LABEL=PIPELINE",
        help=f"a pipeline of these representations (default: '{usual}'); repeat; the first is the base",
    )  # fmt: skip
    add("--work", metavar="DIR", help="folder for the indexes, kept (default: a temporary one, removed)")
    add("--memory", type=positive, default=512, metavar="MB", help="that building an index may hold")
    add("--seed", type=int, default=0)
    add("--json", metavar="FILE", help="write every figure there")


def representations(settings: argparse.Namespace) -> list[str]:
    """The sparse representations: those given, else bm25."""
    return settings.sparse or ["bm25"]


def read_systems(texts: Sequence[str] | None, names: Sequence[str]) -> list[System]:
    """The systems of `--system`. names: the representations that there are.

    Raises UserError for one without a label and for a label that comes twice, CompositionError and
    UnknownName for a pipeline that cannot be.
    """
    found: dict[str, System] = {}
    for text in texts or [DEFAULT]:
        label, mark, pipeline = (part.strip() for part in text.partition("="))
        if not mark or not label or not pipeline or set("(%>|") & set(label):
            raise UserError(f"--system {text!r} has no label; write LABEL=PIPELINE, such as {DEFAULT!r}")
        if label in found:
            raise UserError(f"two systems are called {label!r}; give one another label")
        found[label] = System(label, checked_pipeline(pipeline, names))
    return list(found.values())


def one_thread(threads: int = 1) -> None:
    """Models compute with one thread, as times a query are given for; or with so many."""
    try:
        import torch
    except ImportError:  # then there is no model
        return
    torch.set_num_threads(threads)


def outcomes(
    index: Index,
    queries: Sequence[Query],
    judgements: Judgements,
    systems: Sequence[System],
    measures: Sequence[str],
    *,
    candidates: Callable[[Query], Run] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Outcome]:
    """What each system is worth, by label. progress: called with 1 after each query of each system.

    candidates: a query's documents, which are then re-ranked instead of searched for.
    """
    judged = {query.query_id: judgements[query.query_id] for query in queries}
    found = {}
    for system in systems:
        stage = index.pipeline(system.pipeline)
        scores: dict[str, Mapping[str, float]] = {}
        times: list[float] = []
        dropped = 0
        for at, query in enumerate(queries):
            given = None if candidates is None else candidates(query)
            if not at:
                stage([query], given)  # what is loaded once is no query's time
            start = perf_counter()
            run = stage([query], given)
            times.append(1e3 * (perf_counter() - start))
            dropped += sum(step.tokens_dropped for step in run.trace)
            scores |= (run if candidates is not None else run.cut(KEPT)).to_dict()
            if progress is not None:
                progress(1)
        found[system.label] = Outcome(evaluate(scores, judged, measures), statistics.median(times), dropped)
    return found


def uses(pipeline: str, names: Sequence[str]) -> list[str]:
    """The representations that a pipeline's text names, in their order."""
    words = set(re.findall(r"\w[\w.-]*", re.sub(r"\([^()]*\)|\"[^\"]*\"", " ", pipeline)))
    return [name for name in names if name in words]
