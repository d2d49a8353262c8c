"""The verbs that ask an index: search, explain."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from retrieval.cli_common import (
    DIRECTORY_HELP,
    JSON_HELP,
    note,
    note_compiling,
    open_index,
    valid_text,
    write_json,
)
from retrieval.cli_parser import Parser, whole
from retrieval.errors import CompositionError, UserError

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.stage import Stage
    from retrieval.types import Document, Hit, Query, Run, StageTrace

_PIPELINE_HELP = "stages, such as 'bm25(k1=1.2) %% 1000' (default: what the index stores, else its only one)"
_NO_TERM = "no word of the query is left after analysis: stop words and punctuation are not indexed"
_DEEP = 1000  # hits a query in a run file
_GROUP = 2000  # queries searched between two looks at the clock


def search_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.positional("query", "QUERY", "what to search for", "?")
    parser.option("-k", metavar="N", read=whole, help="hits a query (default: 10; with --run 1000)")
    parser.option("--pipeline", metavar="P", help=_PIPELINE_HELP)
    parser.option(
        "--filter", metavar="F", help="only documents whose metadata fits: 'year >= 2000 and not draft = 1'"
    )
    parser.flag("--json", JSON_HELP)
    parser.option("--queries", metavar="FILE", help="many: TSV, JSONL (.gz), or a BEIR folder as PATH@split")
    parser.option("--run", metavar="OUT.trec", help="where the hits of --queries go (- for standard output)")
    parser.option("--threads", metavar="N", read=whole, help="for --queries (default: all cores)")
    parser.flag("--trust", "let faiss read what another account has built (only of people whom you trust)")


def search(given: Namespace) -> None:
    """Search an index: one QUERY, or a file of --queries into a --run file."""
    if (given.query is None) == (given.queries is None):
        raise UserError("give one QUERY, or --queries FILE --run OUT.trec")
    if (given.queries is None) != (given.run is None):
        raise UserError("--queries FILE and --run OUT.trec belong together")
    for what in ("query", "pipeline", "filter"):
        valid_text(getattr(given, what) or "", what)
    if given.json and given.run == "-":
        raise UserError("--json and --run - both write to standard output; give one of them, or --run FILE")
    _refuse_empty(given.pipeline)
    if given.query is not None:
        with open_index(given.directory, trust=given.trust) as index, _naming_the_option(given.pipeline):
            stage = index.pipeline(given.pipeline, filter=given.filter) % (given.k or 10)
            _note_unread(stage)
            _search_one(index, stage, given.query, given.json)
        return
    from retrieval.data.queries import read_queries

    queries = read_queries(given.queries)
    threads = given.threads or os.cpu_count() or 1
    with open_index(given.directory, trust=given.trust) as index, _naming_the_option(given.pipeline):
        stage = index.pipeline(given.pipeline, filter=given.filter, threads=threads) % (given.k or _DEEP)
        _note_unread(stage)
        note_compiling()
        _search_file(stage, queries, given.run, given.json)


def _note_unread(stage: Stage) -> None:
    """Tells people that a search will be exact, and slower, for want of trust."""
    if unread := getattr(stage, "unread", ""):
        note(
            f"{stage.name}: what speeds its search up {unread}, and is not read; searching exactly. "
            "`retrieve merge DIR` builds it anew; --trust reads another account's"
        )
    for part in stage.parts:
        _note_unread(part)


def _refuse_empty(pipeline: str | None) -> None:
    if pipeline is not None and not pipeline.strip():
        raise UserError("--pipeline is empty; name stages, such as 'bm25 % 100', or leave it out")


@contextmanager
def _naming_the_option(pipeline: str | None) -> Iterator[None]:
    """Adds how a pipeline is named here to the error that asks for one."""
    try:
        yield
    except CompositionError as error:
        if pipeline is not None:
            raise
        raise CompositionError(f"{error}, with --pipeline") from None


def _without_terms(index: Index, query: str) -> bool:
    """Whether no representation sees a term in the query."""
    return not any(index.spans(query, name) for name in index.representations)


def _search_one(index: Index, stage: Stage, query: str, json: bool) -> None:
    from retrieval.types import Query

    start = perf_counter()
    run = stage([Query("1", query)])
    total = perf_counter() - start
    hits = run["1"]
    documents = index.documents([hit.doc_id for hit in hits])
    if json:
        found = [
            {
                "rank": hit.rank,
                "id": hit.doc_id,
                "score": hit.score,
                "title": document.title,
                "text": document.text,
            }
            for hit, document in zip(hits, documents, strict=True)
        ]
        write_json({"query": query, "results": found, "timing_ms": timing(run.trace, total)})
        return
    show(index, query, hits, documents)
    if not hits and _without_terms(index, query):
        note(_NO_TERM)
        return
    note(f"{len(hits)} of {len(index):,} documents in {total * 1000:.1f} ms")


def show(index: Index, query: str, hits: Sequence[Hit], documents: Sequence[Document]) -> None:
    """The hits for people, the query's words marked as the index's analyzer matches them."""
    from retrieval.render import Row, marked, searched, show_hits, snippet

    wanted = {term for _, _, term in index.spans(query)}
    rows = []
    for hit, document in zip(hits, documents, strict=True):
        text = searched(document.text)
        title = marked(document.title, index.spans(document.title), wanted)
        rows.append(Row(hit.rank, hit.score, hit.doc_id, title, snippet(text, index.spans(text), wanted)))
    show_hits(rows, sys.stdout)


def timing(trace: Sequence[StageTrace], total: float) -> dict[str, float]:
    """{stage: milliseconds, "total": milliseconds}; a stage that stands in it twice has the sum."""
    spent: dict[str, float] = {}
    for step in trace:
        spent[step.stage] = spent.get(step.stage, 0.0) + step.seconds
    return {stage: round(seconds * 1000, 3) for stage, seconds in {**spent, "total": total}.items()}


def _search_file(stage: Stage, queries: list[Query], out: str, json: bool) -> None:
    from retrieval.data.runs import write_run
    from retrieval.progress import Progress

    start = perf_counter()
    runs: list[Run] = []
    with Progress("searching", len(queries), unit="queries") as progress:
        for at in range(0, len(queries), _GROUP):
            group = queries[at : at + _GROUP]
            runs.append(stage(group))
            progress.update(len(group))
    total = perf_counter() - start
    run = joined(runs)
    if out == "-":
        _print_run(run)
    else:
        write_run(run, out)
    if json:
        trace = [step for part in runs for step in part.trace]
        write_json(
            {"queries": len(run), "hits": len(run.docs), "run": out, "timing_ms": timing(trace, total)}
        )
    else:
        rate = len(run) / total if total else 0.0
        name = "standard output" if out == "-" else out
        note(
            f"{name}: {len(run.docs):,} hits of {len(run):,} queries in {total:.2f} s, {rate:,.0f} queries/s"
        )


def _print_run(run: Run) -> None:
    """The lines of a run on stdout, wherever that leads."""
    import tempfile

    from retrieval.data.runs import write_run

    with tempfile.TemporaryDirectory(prefix="retrieve-run-") as folder:
        path = os.path.join(folder, "run.trec")
        write_run(run, path)
        with open(path, encoding="utf-8") as lines:
            sys.stdout.writelines(lines)


def joined(runs: Sequence[Run]) -> Run:
    """One run of several that have different queries."""
    import numpy as np

    from retrieval.types import Query, Run

    if len(runs) == 1:
        return runs[0]
    if any(run.doc_ids is not runs[0].doc_ids for run in runs):
        return Run.from_dict({query_id: hits for run in runs for query_id, hits in run.to_dict().items()})
    sizes = np.concatenate([np.diff(run.offsets) for run in runs])
    queries = [Query(query_id, "") for run in runs for query_id in run.query_ids]
    docs, scores = (np.concatenate([getattr(run, name) for run in runs]) for name in ("docs", "scores"))
    return Run(queries, np.append(0, np.cumsum(sizes)), docs, scores, runs[0].doc_ids, ordered=True)


def explain_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.positional("query", "QUERY", "what was searched for")
    parser.option("--doc", metavar="ID", help="the document", required=True)
    parser.option("--pipeline", metavar="P", help=_PIPELINE_HELP)
    parser.flag("--json", JSON_HELP)


def explain(given: Namespace) -> None:
    """Why a document has its rank and score: each stage, and what each query term contributes."""
    for what in ("query", "doc", "pipeline"):
        valid_text(getattr(given, what) or "", what)
    _refuse_empty(given.pipeline)
    with open_index(given.directory) as index, _naming_the_option(given.pipeline):
        facts = index.explain(given.query, given.doc, pipeline=given.pipeline)
        without_terms = _without_terms(index, given.query)
    if given.json:
        write_json(facts)
        return
    from retrieval.render import printable

    rank, pipeline = facts["rank"], facts["pipeline"]
    place = (
        f"not among the documents that {pipeline} returns" if rank is None else f"rank {rank} of {pipeline}"
    )
    print(printable(f"{facts['id']}: {place}"))
    if without_terms:
        print(_NO_TERM)
    for stage in facts["stages"]:
        print("\n".join(["", *_stage_lines(stage)]))


def _stage_lines(stage: dict[str, Any]) -> list[str]:
    from retrieval.render import columns, printable

    place = f"rank {stage['rank']}" if stage["rank"] is not None else "not among those that it returns"
    head = printable(f"{stage['representation']}: score {stage['score']:.4f}, {place}")
    if not stage["terms"]:
        return [head]
    heads = ("term", "contribution", "value", "weight", "documents")
    rows = [
        (
            term["term"],
            f"{term['contribution']:.4f}",
            f"{term['value']:g}",
            f"{term['weight']:.4f}",
            f"{term['df']:,}",
        )
        for term in sorted(stage["terms"], key=lambda term: -term["contribution"])
    ]
    return [head, *(f"  {line}" for line in columns([heads, *rows], right=range(1, 5)))]
