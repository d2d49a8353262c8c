"""The verb tune: the best pipeline of an index within a budget, from queries with judgements."""

from __future__ import annotations

import os
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


def tune_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.option(
        "--queries",
        metavar="FILE",
        help="development queries: TSV, JSONL (.gz), or PATH@split",
        required=True,
    )
    parser.option("--qrels", metavar="FILE", help="their judgements (default: of the same PATH@split)")
    parser.option("--budget", metavar="B", help="what a query may take, such as 50ms", required=True)
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
    for what in ("out", "plot", "queries", "qrels", "budget"):
        valid_text(getattr(given, what) or "", what)
    budget = _milliseconds(given.budget)
    if given.folds < 2:
        raise UserError(f"--folds {given.folds}: give 2 or more")
    if 2 * given.folds > given.most:
        raise UserError(f"--folds {given.folds}: needs two queries a fold, and --most is {given.most}")
    for what in ("out", "plot"):
        _refuse_place(f"--{what}", getattr(given, what))
    _refuse_queries(given.queries, given.qrels is not None)
    import numpy as np

    from retrieval.bench.tune import DEPTHS, judged_queries, need_folds
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
        need_folds(len(kept), given.folds)
        rerankers = given.reranker or _shipped(index)
        if not rerankers:
            note("no re-ranker that reads texts: name one, --reranker 'cross(./model)'")

        def started(label: str, total: int) -> Callable[[int], None]:
            shown.close()
            return shown.enter_context(Progress(label, total)).update

        found = search(
            index, kept, judgements, measure, budget, rerankers=rerankers, pipelines=given.pipeline,
            depths=[*(depth for depth in DEPTHS if depth < given.depth), given.depth], folds=given.folds,
            seed=given.seed, started=started,
        )  # fmt: skip
        shown.close()
        facts = _facts(found, str(measure), budget, given)
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
                budget=budget,
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


def _milliseconds(text: str) -> float:
    from retrieval.rerank.cascade import read_budget

    budget = read_budget(text)
    if budget.pairs:
        raise UserError(
            f"--budget {text!r}: pairs are for `retrieve search`; tune takes a time, such as 50ms"
        )
    return 1e3 * budget.amount


def _refuse_place(option: str, path: str | None) -> None:
    """Raises UserError where a file cannot be put, before anything is computed for it."""
    if path is None or (os.path.lexists(path) and not os.path.isdir(path) and not os.path.isfile(path)):
        return  # a pipe or a device is written to as it is
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise UserError(f"{option} {path!r} is a folder; name a file")
    if not os.path.isdir(folder):
        raise UserError(f"{option} {path!r}: no folder {folder!r}; make it first, or name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path!r}: nothing can be written in {folder!r}; name another place")


def _refuse_queries(source: str, judged: bool) -> None:
    """Raises UserError for a source that is not there, or one without judgements where none are named."""
    from retrieval.data.beir import split_source
    from retrieval.data.irds import looks_like_id

    path = split_source(source)[0]
    if os.path.isdir(path) or (not os.path.lexists(path) and looks_like_id(path)):
        return
    folder, mark, split = path.rpartition("@")
    if not os.path.lexists(path) and path != "-":
        if mark and split and "/" not in split:
            raise UserError(f"--queries {source!r}: no folder {folder!r}; check the path")
        raise UserError(f"--queries: no file {source!r}; check the path")
    if not judged:
        raise UserError("--qrels is missing; only a folder as PATH@split has judgements beside its queries")


def _shipped(index: Index) -> list[str]:
    """The shipped cross-encoder, where its weights, torch and the documents' texts are there."""
    try:
        index.pipeline(f"{next(iter(index.representations))} >> cross")
    except UserError:
        return []
    return ["cross"]


def _facts(found: Tuned, measure: str, budget: float, given: Namespace) -> dict[str, Any]:
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
    rejected = None
    if found.rejected is not None:
        point, nested = found.rejected
        rejected = {"pipeline": point.text, "ms": round(point.ms, 3), "nested": interval(nested)}
    return {
        "measure": measure,
        "queries": found.queries,
        "folds": given.folds,
        "compared": found.compared,
        "budget_ms": budget,
        "front": [
            {"pipeline": point.text, "ms": round(point.ms, 3), **interval(point.values)}
            for point in found.front
        ],
        "chosen": chosen,
        "rejected": rejected,
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
    how = "nothing tuned" if facts["rejected"] else "nested cross-validation"
    head = (
        f"# retrieve tune: {facts['measure']} {nested['quality']:.4f} [{nested['low']:.4f}, "
        f"{nested['high']:.4f}] ({how}, {facts['queries']} queries) in "
        f"{found.measured:.3g} ms a query\n"
    )
    return head + to_toml(index.pipeline(found.chosen.text))


def _show(facts: dict[str, Any], given: Namespace) -> None:
    from retrieval.render import columns, printable

    chosen, measure = facts["chosen"], facts["measure"]
    rows = [("ms", measure, "95 % interval", "pipeline")]
    listed = facts["front"]
    if chosen["pipeline"] not in [point["pipeline"] for point in listed]:
        listed = sorted([*listed, {**chosen, **chosen["cross_validated"]}], key=lambda point: point["ms"])
    for point in listed:
        mark = "  <- chosen" if point["pipeline"] == chosen["pipeline"] else ""
        span = f"[{point['low']:.4f}, {point['high']:.4f}]"
        rows.append((f"{point['ms']:.3g}", f"{point['quality']:.4f}", span, point["pipeline"] + mark))
    print("\n".join([*columns(rows, right=(0, 1)), ""]))
    nested, rejected = chosen["nested"], facts["rejected"]
    budget = facts["budget_ms"]
    print(printable(f"within {budget:g} ms: {chosen['pipeline']}"))
    where = "with nothing tuned" if rejected else "on folds that it was not chosen on"
    print(
        f"{measure} {nested['quality']:.4f} [{nested['low']:.4f}, {nested['high']:.4f}] {where}, "
        f"{chosen['measured_ms']:.3g} ms a query when run"
    )
    if rejected:
        print(printable(f"not taken: {rejected['pipeline']}"))
        print(
            f"{rejected['nested']['quality']:.4f} on folds that it was not chosen on, no better than the "
            "best single representation"
        )
    if chosen["measured_ms"] > budget:
        note("note: run by itself it took longer than the budget; if the machine was busy, tune again")
    kept = "left in the index as it was" if given.dry_run else "stored as the index's pipeline"
    note(f"{facts['queries']:,} queries, {facts['compared']:,} pipelines compared; {kept}")
