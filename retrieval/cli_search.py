"""The verbs that ask an index: search, explain."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from time import perf_counter
from typing import TYPE_CHECKING, Any

from retrieval.cli_common import (
    DIRECTORY_HELP,
    JSON_HELP,
    note,
    note_compiling,
    open_index,
    pipeline_text,
    valid_text,
    write_json,
)
from retrieval.cli_parser import Parser, whole
from retrieval.errors import CompositionError, UserError

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.longdoc.block_stage import Passage
    from retrieval.stage import Stage
    from retrieval.types import Document, Hit, Run, StageTrace

_PIPELINE_HELP = (
    "stages, such as 'bm25(k1=1.2) %% 1000', or FILE.toml (default: what the index stores, else its only one)"
)
_BUDGET_HELP = "what a query may take: '50ms', or '200pairs' read by the stages after the first"
_NO_TERM = "no word of the query is left after analysis: stop words and punctuation are not indexed"
_DEEP = 1000  # hits a query in a run file


def search_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.positional("query", "QUERY", "what to search for", "?")
    parser.option(
        "--like", metavar="ID|FILE", help="in place of QUERY: a document of the index, or a text file"
    )
    parser.option("-k", metavar="N", read=whole, help="hits a query (default: 10; with --run 1000)")
    parser.option("--pipeline", metavar="P", help=_PIPELINE_HELP)
    parser.option("--budget", metavar="B", help=_BUDGET_HELP)
    parser.option(
        "--filter", metavar="F", help="only documents whose metadata fits: 'year >= 2000 and not draft = 1'"
    )
    parser.flag("--json", JSON_HELP)
    parser.option("--queries", metavar="FILE", help="many: TSV, JSONL (.gz), or a BEIR folder as PATH@split")
    parser.option("--run", metavar="OUT.trec", help="where the hits of --queries go (- for standard output)")
    parser.option("--threads", metavar="N", read=whole, help="for --queries (default: all cores)")
    parser.flag("--strict-length", "refuse a search in which a model would not read all of a text")
    parser.flag("--trust", "let faiss read what another account has built (only of people whom you trust)")


def search(given: Namespace) -> None:
    """Search an index: one QUERY, documents --like one, or a file of --queries into a --run file."""
    if sum(each is not None for each in (given.query, given.like, given.queries)) != 1:
        raise UserError("give one QUERY, or --like ID, or --queries FILE --run OUT.trec")
    if (given.queries is None) != (given.run is None):
        raise UserError("--queries FILE and --run OUT.trec belong together")
    for what in ("query", "like", "pipeline", "filter", "budget"):
        valid_text(getattr(given, what) or "", what)
    if given.json and given.run == "-":
        raise UserError("--json and --run - both write to standard output; give one of them, or --run FILE")
    _check_budget(given.budget)
    given.pipeline = pipeline_text(given.pipeline)
    if given.queries is None:
        with open_index(given.directory, trust=given.trust) as index, _naming_the_option(given.pipeline):
            like = given.like is not None
            stage = index.pipeline(given.pipeline, filter=given.filter, like=like, budget=given.budget)
            _note_unread(stage)
            _refuse_runs(stage)
            k = given.k or 10
            if not like:
                _search_one(index, stage % k, given.query, given)
            elif given.like in index:
                _search_one(index, stage % (k + 1), index.text_of(given.like), given, left_out=given.like)
            else:
                _search_one(index, stage % k, _read_text(given.like), given)
        return
    from retrieval.cli_batch import search_file
    from retrieval.data.queries import read_queries

    queries = read_queries(given.queries)
    threads = given.threads or os.cpu_count() or 1
    with open_index(given.directory, trust=given.trust) as index, _naming_the_option(given.pipeline):
        stage = index.pipeline(given.pipeline, filter=given.filter, threads=threads, budget=given.budget) % (
            given.k or _DEEP
        )
        _note_unread(stage)
        note_compiling()
        search_file(stage, queries, given)


def _check_budget(text: str | None) -> None:
    """Raises UserError for a --budget that is none, before anything is loaded."""
    if text is not None:
        from retrieval.rerank.cascade import read_budget

        read_budget(text)


def _note_unread(stage: Stage) -> None:
    """Tells people that a search will be exact, and slower, for want of trust."""
    if unread := getattr(stage, "unread", ""):
        note(
            f"{stage.name}: what speeds its search up {unread}, and is not read; searching exactly. "
            "`retrieve merge DIR` builds it anew; --trust reads another account's"
        )
    for part in stage.parts:
        _note_unread(part)


def _refuse_runs(stage: Stage) -> None:
    """A run file knows queries by their ids; one QUERY has none and would get another query's documents."""
    if stage.name == "run":
        raise UserError(
            f"{stage!r} answers the queries of its file by their ids; ask with them: --queries FILE --run OUT"
        )
    for part in stage.parts:
        _refuse_runs(part)


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


def _read_text(path: str) -> str:
    """The text of a file. Raises UserError."""
    if not os.path.isfile(path):
        raise UserError(
            f"--like {path!r}: neither a document of the index nor a file; ids are case-sensitive"
        )
    from retrieval.data.lines import Source, text_lines

    with Source(path) as file:
        return "\n".join(line.rstrip("\r\n") for _, line in text_lines(file))


def _search_one(
    index: Index, stage: Stage, query: str, given: Namespace, *, left_out: str | None = None
) -> None:
    """Searches and shows. left_out: a document that is not shown."""
    from retrieval.types import Hit, Query

    start = perf_counter()
    run = stage([Query("1", query)])
    total = perf_counter() - start
    refuse_dropped(run, given)
    kept = [hit for hit in run["1"] if hit.doc_id != left_out][: given.k or 10]
    hits = [Hit(hit.doc_id, hit.score, rank) for rank, hit in enumerate(kept, 1)]
    documents = index.documents([hit.doc_id for hit in hits])
    passages = index.passages(query, [hit.doc_id for hit in hits], pipeline=stage)
    if given.json:
        found = [
            {
                "rank": hit.rank, "id": hit.doc_id, "score": hit.score, "title": document.title,
                "text": document.text, **_best_block(document, passage),
            }
            for hit, document, passage in zip(hits, documents, passages, strict=True)
        ]  # fmt: skip
        about: dict[str, Any] = {"query": query} if given.like is None else {"like": given.like}
        answer = {**about, "results": found, "timing_ms": timing(run.trace, total)}
        write_json({**answer, "tokens_dropped": dropped(run.trace), **budget_facts(run.trace, given.budget)})
        return
    show(index, query, hits, documents, passages)
    for name, count in dropped(run.trace).items():
        note(f"{name} did not read {count:,} tokens, which are beyond its length")
    for share in budget_facts(run.trace, given.budget).get("budget", {}).get("cuts", []):
        note(f"budget: {share['stage']} read {share['read']:,} of {share['candidates']:,} candidates")
    if not hits and _without_terms(index, query):
        note(_NO_TERM)
        return
    note(f"{len(hits)} of {len(index):,} documents in {total * 1000:.1f} ms")


def _best_block(document: Document, passage: Passage | None) -> dict[str, Any]:
    if passage is None:
        return {}
    text = document.text[passage.start : passage.end]
    return {"block": {**passage._asdict(), "text": text}}


def budget_facts(trace: Sequence[StageTrace], budget: str | None) -> dict[str, Any]:
    """{"budget": {"limit", "cuts": [{"stage", "candidates", "read"}]}}, where there was one."""
    if budget is None:
        return {}
    from retrieval.rerank.cascade import shares

    return {"budget": {"limit": budget, "cuts": [share._asdict() for share in shares(trace)]}}


def refuse_dropped(run: Run, given: Namespace) -> None:
    """Raises UserError where --strict-length was given and a model did not read a text to its end."""
    if given.strict_length and (lost := dropped(run.trace)):
        name, count = next(iter(lost.items()))
        raise UserError(
            f"{name} did not read {count:,} tokens, which are beyond its length; use representations of "
            "blocks, a longer length or shorter queries, or leave out --strict-length"
        )


def dropped(trace: Sequence[StageTrace]) -> dict[str, int]:
    """{stage: tokens that it cut off}, of the stages that cut any."""
    lost: dict[str, int] = {}
    for step in trace:
        if step.tokens_dropped:
            lost[step.stage] = lost.get(step.stage, 0) + step.tokens_dropped
    return lost


def show(
    index: Index,
    query: str,
    hits: Sequence[Hit],
    documents: Sequence[Document],
    passages: Sequence[Passage | None] = (),
) -> None:
    """The hits for people, the query's words marked as the index's analyzer matches them.

    passages: the best block of each document, which the snippet is taken from.
    """
    from retrieval.render import Row, marked, searched, show_hits, snippet

    wanted = {term for _, _, term in index.spans(query)}
    rows = []
    for hit, document, passage in zip_longest(hits, documents, passages):
        text = document.text[passage.start : passage.end] if passage else document.text
        text = searched(text)
        title = marked(document.title, index.spans(document.title), wanted)
        shown = snippet(text, index.spans(text), wanted)
        place = f"{passage.start:,}-{passage.end:,}" if passage and len(text) < len(document.text) else ""
        rows.append(Row(hit.rank, hit.score, hit.doc_id, title, shown, place))
    show_hits(rows, sys.stdout)


def timing(trace: Sequence[StageTrace], total: float) -> dict[str, float]:
    """{stage: milliseconds, "total": milliseconds}; a stage that stands in it twice has the sum."""
    spent: dict[str, float] = {}
    for step in trace:
        spent[step.stage] = spent.get(step.stage, 0.0) + step.seconds
    return {stage: round(seconds * 1000, 3) for stage, seconds in {**spent, "total": total}.items()}


def explain_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.positional("query", "QUERY", "what was searched for")
    parser.option("--doc", metavar="ID", help="the document", required=True)
    parser.option("--pipeline", metavar="P", help=_PIPELINE_HELP)
    parser.option("--budget", metavar="B", help=_BUDGET_HELP)
    parser.flag("--json", JSON_HELP)


def explain(given: Namespace) -> None:
    """Why a document has its rank and score: each stage, and what each query term contributes."""
    for what in ("query", "doc", "pipeline", "budget"):
        valid_text(getattr(given, what) or "", what)
    _check_budget(given.budget)
    given.pipeline = pipeline_text(given.pipeline)
    with open_index(given.directory) as index, _naming_the_option(given.pipeline):
        facts = index.explain(given.query, given.doc, pipeline=given.pipeline, budget=given.budget)
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
    if facts["lost"]:
        print(printable(f"lost: {facts['lost']['reason']}"))
    if len(facts["path"]) > 1:
        print("\n".join(_path_lines(facts["path"])))
    for stage in facts["stages"]:
        print("\n".join(["", *_stage_lines(stage)]))


def _path_lines(steps: list[dict[str, Any]]) -> list[str]:
    """The document after every stage."""
    from retrieval.render import columns

    rows = [
        (
            "  " * step["depth"] + step["stage"],
            "-" if step["rank"] is None else f"{step['rank']:,}",
            f"{step['documents']:,}",
            f"{step['score']:.4f}" if "score" in step else "-",
        )
        for step in steps
    ]
    return ["", *columns([("after", "rank", "of", "score"), *rows], right=range(1, 4))]


def _stage_lines(stage: dict[str, Any]) -> list[str]:
    from retrieval.render import columns, printable

    place = f"rank {stage['rank']}" if stage["rank"] is not None else "not among those that it returns"
    head = printable(f"{stage['representation']}: score {stage['score']:.4f}, {place}")
    if block := stage.get("block"):
        place = f"number {block['number']}, characters {block['start']:,} to {block['end']:,}"
        head += f"\n  best block: {place}, score {block['score']:.4f}"
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
