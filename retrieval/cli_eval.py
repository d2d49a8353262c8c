"""The verb eval: a run against judgements."""

from __future__ import annotations

from typing import Annotated

import typer

from retrieval.cli_common import JsonFlag, note, write_json


def evaluate_run(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run in TREC, MS MARCO or BEIR form (.gz).", show_default=False)
    ],
    qrels: Annotated[
        str,
        typer.Argument(
            metavar="QRELS", help="Judgements in TREC or BEIR form, or a BEIR folder as PATH@split.", show_default=False
        ),
    ],
    measures: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--measure",
            metavar="MEASURE",
            help="nDCG@10, 'AP(rel=2)@100', ...: names and tie rules as ir-measures; may be repeated.",
            show_default="nDCG@10, RR@10, AP, R@100, R@1000",
        ),
    ] = None,
    json: JsonFlag = False,
    per_query: Annotated[bool, typer.Option("--per-query", help="The values of every query too.")] = False,
) -> None:
    """Measure a run. Every judged query counts; one without hits counts 0."""
    from retrieval.bench.measures import parse_all

    wanted = parse_all(measures or ["nDCG@10", "RR@10", "AP", "R@100", "R@1000"])  # before files are read
    from retrieval.bench.evaluate import evaluate
    from retrieval.data.qrels import read_qrels
    from retrieval.data.runs import read_scores

    found = evaluate(read_scores(run), read_qrels(qrels), wanted)
    if found.warning:
        note(f"note: {found.warning}")
    if json:
        write_json({**found.means, **({"per_query": found.per_query} if per_query else {})})
        return
    from retrieval.render import columns

    names = list(found.means)
    if per_query:
        rows = [[query_id, *(_figure(row[name]) for name in names)] for query_id, row in found.per_query.items()]
        print("\n".join([*columns([["query", *names], *rows], right=range(1, len(names) + 1)), ""]))
    rows = []
    for name in names:
        low, high = found.interval(name)[1:]
        counted = name.startswith("Num")
        rows.append([name, _figure(found.means[name]), "" if counted else f"[{low:.4f}, {high:.4f}]"])
    print("\n".join(columns([["measure", "value", "95 % interval"], *rows], right=(1,))))
    print(f"{len(found.query_ids):,} queries")


def _figure(value: float) -> str:
    return f"{value:.4f}"
