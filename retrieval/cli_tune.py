"""The verb tune: the best pipeline of an index within a budget, from queries with judgements."""

from __future__ import annotations

import argparse
import os
import re
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from retrieval.cli_common import DIRECTORY_HELP, JSON_HELP, note, open_index, valid_text, write_json
from retrieval.cli_parser import Parser, whole
from retrieval.errors import UserError

if TYPE_CHECKING:
    from retrieval.bench.tune import Tuned
    from retrieval.index.index import Index

_TIME = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s)")


def _milliseconds(text: str) -> float:
    found = _TIME.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no time of a query; write 50ms or 0.2s")
    return float(found[1]) * (1e3 if found[2] == "s" else 1)


def tune_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.option(
        "--queries",
        metavar="FILE",
        help="development queries: TSV, JSONL (.gz), or PATH@split",
        required=True,
    )
    parser.option("--qrels", metavar="FILE", help="their judgements (default: of the same PATH@split)")
    parser.option(
        "--budget", metavar="B", help="what a query may take, such as 50ms", read=_milliseconds, required=True
    )
    parser.option("--measure", metavar="M", help="what is to be high (default: nDCG@10)", default="nDCG@10")
    parser.option("--folds", metavar="N", help="of the cross-validation (default: 5)", read=whole, default=5)
    parser.repeated(
        "--reranker", metavar="STAGE",
        help="a stage that re-ranks, such as 'cross(./model)' (default: the shipped cross-encoder, if there)",
    )  # fmt: skip
    parser.repeated("--pipeline", metavar="P", help="a pipeline to compare as it is")
    parser.option(
        "--depth", metavar="N", help="most candidates of a re-ranker (default: 100)", read=whole, default=100
    )
    parser.option(
        "--most", metavar="N", help="queries used, drawn at random (default: 1000)", read=whole, default=1000
    )
    parser.option(
        "--seed", metavar="N", help="of the folds and the drawing (default: 0)", read=int, default=0
    )
    parser.option("--out", metavar="FILE.toml", help="write the chosen pipeline there")
    parser.option("--plot", metavar="FILE.svg", help="draw quality against time there")
    parser.flag("--dry-run", "leave the index as it is: do not store the chosen pipeline in it")
    parser.flag("--json", JSON_HELP)


def tune(given: Namespace) -> None:
    """Find depths and weights within a time budget, and store the pipeline as the index's.

    Prints the pipelines that no other beats in both quality (cross-validated) and time.
    """
    from retrieval.bench.measures import parse

    measure = parse(given.measure)
    for what in ("out", "plot", "queries", "qrels"):
        valid_text(getattr(given, what) or "", what)
    if given.folds < 2:
        raise UserError(f"--folds {given.folds}: give 2 or more")
    import numpy as np

    from retrieval.data.beir import split_source

    if given.qrels is None and not os.path.isdir(split_source(given.queries)[0]):
        raise UserError("--qrels is missing; only a folder as PATH@split has judgements beside its queries")
    from retrieval.bench.tune import DEPTHS, judged_queries
    from retrieval.bench.tune import tune as search
    from retrieval.data.output import atomic
    from retrieval.data.qrels import read_qrels
    from retrieval.data.queries import read_queries
    from retrieval.progress import Progress

    with open_index(given.directory) as index, ExitStack() as shown:
        queries = read_queries(given.queries)
        qrels = read_qrels(given.qrels or given.queries)
        kept, judgements, warning = judged_queries(index, queries, qrels)
        if warning:
            note(f"warning: {warning}")
        if len(kept) > given.most:
            drawn = np.random.default_rng(given.seed).permutation(len(kept))[: given.most]
            kept = [kept[at] for at in sorted(drawn.tolist())]
            judgements = {query.query_id: judgements[query.query_id] for query in kept}
        rerankers = given.reranker or _shipped(index)
        if not rerankers:
            note("no re-ranker that reads texts: name one, --reranker 'cross(./model)'")

        def started(label: str, total: int) -> Callable[[int], None]:
            shown.close()
            return shown.enter_context(Progress(label, total)).update

        found = search(
            index, kept, judgements, measure, given.budget, rerankers=rerankers, pipelines=given.pipeline,
            depths=[*(depth for depth in DEPTHS if depth < given.depth), given.depth], folds=given.folds,
            seed=given.seed, started=started,
        )  # fmt: skip
        shown.close()
        facts = _facts(found, str(measure), given)
        if given.out:
            with atomic(given.out) as write:
                write(_toml(index, found, facts).encode())
        if given.plot:
            from retrieval.bench.tune_picture import picture

            title = f"{measure} of {found.queries:,} queries against time"
            drawn_as = picture(
                found.points,
                found.front,
                found.chosen,
                budget=given.budget,
                measure=str(measure),
                title=title,
            )
            with atomic(given.plot) as write:
                write(drawn_as.encode())
        if not given.dry_run:
            index.store_pipeline(found.chosen.text)
    if given.json:
        write_json(facts)
        return
    _show(facts, given)


def _shipped(index: Index) -> list[str]:
    """The shipped cross-encoder, where its weights, torch and the documents' texts are there."""
    try:
        index.pipeline(f"{next(iter(index.representations))} >> cross")
    except UserError:
        return []
    return ["cross"]


def _facts(found: Tuned, measure: str, given: Namespace) -> dict[str, Any]:
    from retrieval.bench.statistics import bootstrap

    def interval(values: Any) -> dict[str, float]:
        mean, low, high = bootstrap(values, seed=given.seed)
        return {"quality": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}

    chosen = {
        "pipeline": found.chosen.text,
        "ms": round(found.chosen.ms, 3),
        "measured_ms": round(found.measured, 3),
        "cross_validated": interval(found.chosen.values),
        "nested": interval(found.nested),
    }
    return {
        "measure": measure,
        "queries": found.queries,
        "folds": given.folds,
        "compared": found.compared,
        "budget_ms": given.budget,
        "front": [
            {"pipeline": point.text, "ms": round(point.ms, 3), **interval(point.values)}
            for point in found.front
        ],
        "chosen": chosen,
        "stored": not given.dry_run,
        "costs_ms": {
            **{" + ".join(names): round(ms, 3) for names, ms in found.costs.first.items()},
            **{
                f">> {stage}": {"fixed": round(fixed, 4), "candidate": round(each, 5)}
                for stage, (fixed, each) in found.costs.line.items()
            },
        },
    }


def _toml(index: Index, found: Tuned, facts: dict[str, Any]) -> str:
    from retrieval.pipeline import to_toml

    nested = facts["chosen"]["nested"]
    head = (
        f"# retrieve tune: {facts['measure']} {nested['quality']:.4f} [{nested['low']:.4f}, "
        f"{nested['high']:.4f}] (nested cross-validation, {facts['queries']} queries) in "
        f"{found.measured:.3g} ms a query\n"
    )
    return head + to_toml(index.pipeline(found.chosen.text))


def _show(facts: dict[str, Any], given: Namespace) -> None:
    from retrieval.render import columns, printable

    chosen, measure = facts["chosen"], facts["measure"]
    rows = [("ms", measure, "95 % interval", "pipeline")]
    for point in facts["front"]:
        mark = "  <- chosen" if point["pipeline"] == chosen["pipeline"] else ""
        span = f"[{point['low']:.4f}, {point['high']:.4f}]"
        rows.append((f"{point['ms']:.3g}", f"{point['quality']:.4f}", span, point["pipeline"] + mark))
    print("\n".join([*columns(rows, right=(0, 1)), ""]))
    nested = chosen["nested"]
    print(printable(f"within {given.budget:g} ms: {chosen['pipeline']}"))
    print(
        f"{measure} {nested['quality']:.4f} [{nested['low']:.4f}, {nested['high']:.4f}] on folds that it was "
        f"not chosen on, {chosen['measured_ms']:.3g} ms a query when run"
    )
    if chosen["measured_ms"] > given.budget:
        note("note: run by itself it took longer than the budget; if the machine was busy, tune again")
    kept = "left in the index as it was" if given.dry_run else "stored as the index's pipeline"
    note(f"{facts['queries']:,} queries, {facts['compared']:,} pipelines compared; {kept}")
