"""The verb eval: a run against judgements."""

from __future__ import annotations

from argparse import Namespace

from retrieval.cli_common import JSON_HELP, note, write_json
from retrieval.cli_parser import Parser

_DEFAULT = ("nDCG@10", "RR@10", "AP", "R@100", "R@1000")


def evaluate_run_options(parser: Parser) -> None:
    parser.positional("run", "RUN", "a run in TREC, MS MARCO or BEIR form (.gz)")
    parser.positional("qrels", "QRELS", "judgements in TREC or BEIR form, or a BEIR folder as PATH@split")
    parser.repeated(
        "-m", "--measure", metavar="M",
        help=f"nDCG@10, 'AP(rel=2)@100', ...: named as in ir-measures (default: {' '.join(_DEFAULT)})",
    )  # fmt: skip
    parser.flag("--json", JSON_HELP)
    parser.flag("--per-query", "the values of every query too")


def evaluate_run(given: Namespace) -> None:
    """Measure a run. Every judged query counts; one without hits counts 0."""
    from retrieval.bench.measures import parse_all

    wanted = parse_all(given.measure or _DEFAULT)  # before files are read
    from retrieval.bench.evaluate import evaluate
    from retrieval.data.qrels import read_qrels
    from retrieval.data.runs import read_scores

    found = evaluate(read_scores(given.run), read_qrels(given.qrels), wanted)
    if found.warning:
        note(f"note: {found.warning}")
    if given.json:
        write_json({**found.means, **({"per_query": found.per_query} if given.per_query else {})})
        return
    from retrieval.render import columns

    names = list(found.means)
    if given.per_query:
        rows = [
            [query_id, *(_figure(row[name]) for name in names)] for query_id, row in found.per_query.items()
        ]
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
