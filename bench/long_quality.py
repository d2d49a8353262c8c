"""Retrieval of long documents, system by system: python -m retrieval.bench.long_quality --collections DIR ...

For each collection one index with all representations, kept in --work so that a later run finds it ready;
then every system, a pipeline over them, asks the same queries one at a time, on one thread. A table for each
measure has the sets and their mean; a second one what each system costs: milliseconds of the median query,
tokens that truncation cut off, bytes of the representations that it searches. Intervals are a bootstrap over
queries, of the mean over sets with each set's queries drawn by themselves; p is of a paired test against the
first system, Holm-corrected over the sets. Markdown goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from retrieval.bench import learned_report as report
from retrieval.bench.arguments import positive
from retrieval.bench.engines_report import machine
from retrieval.bench.learned import present, say
from retrieval.bench.learned_sets import Collection, Indexes, facts, read_collection
from retrieval.bench.learned_systems import MEASURES
from retrieval.bench.pipelines import (
    Outcome,
    System,
    add_arguments,
    one_thread,
    outcomes,
    read_systems,
    representations,
    uses,
)
from retrieval.errors import UserError
from retrieval.progress import Progress

SETS = "qmsum,qmsum-loco,cuad-clauses,tldr-man"


def read_sets(settings: argparse.Namespace) -> dict[str, Collection]:
    """The collections of --sets, by what tables call them: NAME or NAME@SPLIT below --collections.

    What holds a slash is a folder itself, called by its name and that of the folder it is in: far/first.
    Raises UserError for what is not there or comes twice, and where none is named.
    """
    found: dict[str, Collection] = {}
    for text in filter(None, settings.sets.split(",")):
        name, _, split = text.partition("@")
        folder = Path(name) if "/" in name else Path(settings.collections) / name
        source = f"{folder.name}@{split}" if split else folder.name
        one = read_collection(folder.parent, source, settings.queries, settings.seed)
        label = f"{folder.resolve().parent.name}/{one.label}" if "/" in name else one.label
        if label in found:
            raise UserError(f"--sets names {label} twice; name it once")
        found[label] = one
    if not found:
        raise UserError("--sets names no collection; give some, such as qmsum,tldr-man")
    return found


def measure(settings: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every figure, as the JSON that --json writes."""
    one_thread()
    indexes = Indexes(work, representations(settings), settings.memory << 20, settings.dense)
    systems = read_systems(settings.system, list(indexes.settings))
    sets = read_sets(settings)
    found: dict[str, dict[str, Outcome]] = {}
    about: dict[str, Any] = {}
    for label, one in sets.items():
        found[label], about[label] = _measure(one, label, indexes, systems)
    worth = {
        name: {label: outcome.evaluation for label, outcome in each.items()} for name, each in found.items()
    }
    figures, mean = report.figures(worth, settings.test, settings.seed, systems[0].label)
    for name, each in found.items():
        about[name]["figures"] = figures[name]
        about[name]["costs"] = {
            label: {"ms": outcome.milliseconds, "tokens_dropped": outcome.dropped}
            for label, outcome in each.items()
        }
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "test": settings.test,
        "representations": indexes.settings,
        "systems": {system.label: system.pipeline for system in systems},
        "sets": about,
        "mean": mean,
    }


def _measure(
    one: Collection, label: str, indexes: Indexes, systems: Sequence[System]
) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """(what each system is worth, by label; documents, queries, representations) of one collection."""
    with ExitStack() as stack:
        begun = perf_counter()
        indexing = Progress(f"{label}: indexing", unit="docs")
        index = indexes.open(one, lambda _: stack.enter_context(indexing).update)
        stack.callback(index.close)
        built = perf_counter() - begun
        bar = stack.enter_context(
            Progress(f"{label}: searching", len(systems) * len(one.queries), unit="queries")
        )
        found = outcomes(index, one.queries, one.judgements, systems, MEASURES, progress=bar.update)
        documents = len(index)
    say(f"{label}: {documents:,} documents, ready in {built:.0f} s")
    lists = facts(indexes.path(one))
    return found, {
        "documents": documents, "queries": len(one.queries), "of": one.total, "index_seconds": built,
        "representations": {
            name: {**each, "bytes": round(each["bytes"] * documents)}
            for name, each in lists.items()
        },
    }  # fmt: skip


def markdown(results: Mapping[str, Any]) -> str:
    """All of it."""
    m = results["machine"]
    first = next(iter(results["systems"]))
    test = "paired t-test" if results["test"] == "t" else "paired randomisation test"
    parts = [
        f"{results['date']}, {m['processor']}, {m['cores']} cores, load {m['load']:.1f}. `*` above and `†` "
        f"below {first}: p < .05, {test}, two-sided, Holm-corrected over the sets."
    ]
    parts += [_summary(results, measure, first) for measure in MEASURES]
    parts += [_costs(results), _encoded(results)]
    notes = [f"- {label}: `{pipeline}`" for label, pipeline in results["systems"].items()]
    notes += [
        f"- {name}: {each['queries']:,} of {each['of']:,} queries, drawn with a seed."
        for name, each in results["sets"].items()
        if each["queries"] < each["of"]
    ]
    return "\n\n".join([*parts, "\n".join(notes)]) + "\n"


def _summary(results: Mapping[str, Any], measure: str, first: str) -> str:
    rows = []
    for label in results["systems"]:
        cells = [_cell(each["figures"][label][measure]) for each in results["sets"].values()]
        mean = results["mean"][label][measure]
        gap = ""
        if "difference" in mean:
            low, high = mean["difference_low"], mean["difference_high"]
            gap = f"{mean['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append([label, *cells, _cell(mean), gap])
    return report.table([measure, *results["sets"], "mean", f"- {first} (95 %)"], rows)


def _cell(figure: Mapping[str, float]) -> str:
    mark = ""
    if figure.get("p_holm", 1.0) < 0.05:
        mark = "*" if figure["difference"] > 0 else "†"
    return f"{figure['mean']:.3f}{mark} ({figure['low']:.3f} to {figure['high']:.3f})"


def _costs(results: Mapping[str, Any]) -> str:
    head = ["set", "system", "ms a query (p50)", "tokens dropped: documents", "searching", "index bytes"]
    rows = []
    for name, each in results["sets"].items():
        for label, pipeline in results["systems"].items():
            lists = each["representations"]
            used = [lists[one] for one in uses(pipeline, list(lists))]
            cost = each["costs"][label]
            rows.append([
                name, label, f"{cost['ms']:.2f}", f"{sum(int(one.get('dropped', 0)) for one in used):,}",
                f"{cost['tokens_dropped']:,}", f"{sum(one['bytes'] for one in used):,}",
            ])  # fmt: skip
    return report.table(head, rows, 2)


def _encoded(results: Mapping[str, Any]) -> str:
    """What models read of the documents: blocks count as documents of their own."""
    rows = [
        [
            name, f"{each['documents']:,}", kind, f"{one['bytes']:,}",
            f"{int(one['tokens']):,}",
            f"{int(one['dropped']):,} ({one['dropped'] / max(one['tokens'], 1):.1%})",
        ]
        for name, each in results["sets"].items()
        for kind, one in each["representations"].items()
        if "tokens" in one
    ]  # fmt: skip
    if not rows:
        return "No representation comes from a model."
    return report.table(["set", "documents", "representation", "bytes", "tokens", "dropped"], rows, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.long_quality", description=__doc__)
    add = parser.add_argument
    add("--collections", required=True, metavar="DIR", help="folder of collections in BEIR layout")
    add(
        "--sets", default=SETS,
        help="NAME or NAME@SPLIT (test), or a folder with a slash in its path, between commas",
    )  # fmt: skip
    add("--queries", type=positive, metavar="N", help="at most so many a set, drawn with the seed")
    add("--test", choices=tuple(report.TESTS), default="t", help="paired test against the first system")
    add_arguments(parser)
    settings = parser.parse_args(arguments)
    present(settings, lambda work: measure(settings, work), markdown)


if __name__ == "__main__":
    main()
