"""The verbs that ask an index: search, explain."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli_common import Directory, JsonFlag, note, valid_text, write_json
from retrieval.errors import UserError

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.stage import Stage
    from retrieval.types import Document, Hit, Query, Run, StageTrace

Pipeline = Annotated[
    str | None,
    typer.Option(
        metavar="P", help="Stages, such as 'bm25(k1=1.2) % 1000'; default: what the index stores.", show_default=False
    ),
]
_GROUP = 2000  # queries searched between two looks at the clock


def search(
    directory: Directory,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", show_default=False)] = None,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="Hits a query [default: 10; with --run 1000].", show_default=False),
    ] = None,
    pipeline: Pipeline = None,
    filter: Annotated[
        str | None,
        typer.Option(metavar="F", help="Only documents whose metadata fits: 'year >= 2000 and not draft = \"yes\"'."),
    ] = None,
    json: JsonFlag = False,
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Many queries: TSV, JSONL (.gz), or a BEIR folder as PATH@split."),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="OUT.trec", help="Where the hits of --queries go.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="For --queries [default: all cores].")] = None,
) -> None:
    """Search an index: one QUERY, or a file of --queries into a --run file."""
    if (query is None) == (queries is None):
        raise UserError("give one QUERY, or --queries FILE --run OUT.trec")
    if (queries is None) != (run is None):
        raise UserError("--queries FILE and --run OUT.trec belong together")
    for text, what in ((query, "query"), (pipeline, "pipeline"), (filter, "filter")):
        valid_text(text or "", what)
    from retrieval.index.index import Index

    if queries is not None and run is not None:
        from retrieval.data.queries import read_queries

        asked = read_queries(queries)
        threads = threads or os.cpu_count() or 1
        with Index.open(directory) as index:
            stage = index.pipeline(pipeline, filter=filter, threads=threads) % (k or 1000)
            _search_file(stage, asked, run, json)
    elif query is not None:
        with Index.open(directory) as index:
            _search_one(index, index.pipeline(pipeline, filter=filter) % (k or 10), query, json)


def _search_one(index: Index, stage: Stage, query: str, json: bool) -> None:
    from retrieval.types import Query

    start = perf_counter()
    run = stage([Query("1", query)])
    total = perf_counter() - start
    hits = run["1"]
    documents = index.documents([hit.doc_id for hit in hits])
    if json:
        found = [
            {"rank": hit.rank, "id": hit.doc_id, "score": hit.score, "title": document.title, "text": document.text}
            for hit, document in zip(hits, documents, strict=True)
        ]
        write_json({"query": query, "results": found, "timing_ms": timing(run.trace, total)})
        return
    show(index, query, hits, documents)
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
    write_run(run, out)
    if json:
        trace = [step for part in runs for step in part.trace]
        write_json({"queries": len(run), "hits": len(run.docs), "run": out, "timing_ms": timing(trace, total)})
    else:
        rate = len(run) / total if total else 0.0
        note(f"{out}: {len(run.docs):,} hits of {len(run):,} queries in {total:.2f} s, {rate:,.0f} queries/s")


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


def explain(
    directory: Directory,
    query: Annotated[str, typer.Argument(metavar="QUERY", show_default=False)],
    doc: Annotated[str, typer.Option("--doc", metavar="ID", help="The document.", show_default=False)],
    pipeline: Pipeline = None,
    json: JsonFlag = False,
) -> None:
    """Why a document has its rank and score: each stage, and what each query term contributes."""
    from retrieval.index.index import Index

    with Index.open(directory) as index:
        facts = index.explain(
            valid_text(query, "query"), valid_text(doc, "id"), pipeline=pipeline and valid_text(pipeline, "pipeline")
        )
    if json:
        write_json(facts)
        return
    from retrieval.render import printable

    rank = facts["rank"]
    place = f"rank {rank}" if rank is not None else "not among the documents returned"
    print(printable(f"{facts['id']}: {place} of {facts['pipeline']}"))
    for stage in facts["stages"]:
        print("\n".join(["", *_stage_lines(stage)]))


def _stage_lines(stage: dict[str, Any]) -> list[str]:
    from retrieval.render import columns, printable

    place = f"rank {stage['rank']}" if stage["rank"] is not None else "not among the documents returned"
    head = printable(f"{stage['representation']}: score {stage['score']:.4f}, {place}")
    heads = ("term", "contribution", "value", "weight", "documents")
    rows = [
        (term["term"], f"{term['contribution']:.4f}", f"{term['value']:g}", f"{term['weight']:.4f}", f"{term['df']:,}")
        for term in sorted(stage["terms"], key=lambda term: -term["contribution"])
    ]
    return [head, *(f"  {line}" for line in columns([heads, *rows], right=range(1, 5)))]
