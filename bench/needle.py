"""Quality by depth of the relevant passage and length of documents: python -m retrieval.bench.needle DIR.

DIR is what `python -m retrieval.bench.far_relevant` wrote; several of them, of different lengths, make the
columns. Each system is a pipeline over representations; all read the same documents. A figure comes with its
bootstrap interval, and the change from --base, the shallowest depth of its length, with that of the paired
difference: what is flat within its interval loses nothing with depth. Markdown goes to stdout, progress to
stderr.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.bench.far_relevant import SETTINGS
from retrieval.bench.heatmap import picture
from retrieval.bench.learned import present
from retrieval.bench.learned_report import table
from retrieval.bench.learned_sets import Collection, Indexes, facts, read_collection
from retrieval.bench.pipelines import (
    Outcome,
    add_arguments,
    one_thread,
    outcomes,
    read_systems,
    representations,
    uses,
)
from retrieval.bench.statistics import bootstrap
from retrieval.data.corpus import Corpus
from retrieval.data.output import atomic
from retrieval.diskio import disk_errors
from retrieval.errors import UserError
from retrieval.progress import Progress

MEASURES = ("nDCG@10", "RR@10", "R@100")
_MAKE = "make one: python -m retrieval.bench.far_relevant SOURCE DIR"


class Place(NamedTuple):
    """A far-relevant collection: depth of the passage, tokens of a document, and how those are counted."""

    depth: str
    length: int
    unit: str
    folder: Path


def find(folders: Sequence[str]) -> list[Place]:
    """The far-relevant collections in these folders, or that these are; by length and then by depth.

    Raises UserError where there is none, for two of one depth and length, and for lengths in different units.
    """
    found: dict[tuple[int, str], Place] = {}
    for folder in map(Path, folders):
        with disk_errors("read", folder):
            here = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
        files = [each / SETTINGS for each in here if (each / SETTINGS).is_file()]
        if not files:
            raise UserError(f"{str(folder)!r} holds no far-relevant collection; {_MAKE}")
        for file in files:
            place = _read(file)
            other = found.setdefault((place.length, place.depth), place)
            if other is not place:
                raise UserError(
                    f"{str(other.folder)!r} and {str(place.folder)!r} both have {place.depth} at length "
                    f"{place.length}; give one of them"
                )
    places = sorted(found.values(), key=lambda place: (place.length, _depth(place.depth)))
    units = sorted({place.unit for place in places})
    if len(units) > 1:
        raise UserError(f"lengths are in {' and in '.join(units)}; compare collections of one unit")
    return places


def _read(file: Path) -> Place:
    with disk_errors("read", file):
        text = file.read_bytes()
    try:
        found = json.loads(text)
        return Place(found["depth"], int(found["length"]), found["unit"], file.parent)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(file)!r} is damaged ({error!r}); {_MAKE}") from None


def _depth(name: str) -> tuple[int, int]:
    kind, _, beyond = name.partition("-")
    return ("first", "beyond", "middle", "last").index(kind), int(beyond or 0)


def sweep(places: Sequence[Place], work: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Every figure: {"unit", "systems", "representations", "rows": one for each system, length and depth}.

    settings: as bench/pipelines.py's arguments. Raises UserError where collections of one length have other
    queries.
    """
    indexes = Indexes(work, representations(settings), settings.memory << 20, settings.dense)
    systems = read_systems(settings.system, list(indexes.settings))
    bases = _bases(places, settings.base)
    rows: list[dict[str, Any]] = []
    all_found: dict[tuple[str, str, int], Outcome] = {}
    for place in places:
        collection = read_collection(place.folder.parent, place.folder.name)
        collection = replace(collection, name=f"{place.length}-{place.depth}")
        with ExitStack() as stack:
            index = indexes.open(collection, _counting(stack, collection))
            stack.callback(index.close)
            total = len(systems) * len(collection.queries)
            bar = stack.enter_context(Progress(f"{collection.name}: searching", total, unit="queries"))
            found = outcomes(
                index, collection.queries, collection.judgements, systems, MEASURES, progress=bar.update
            )
            documents = len(index)
        lost = {name: int(about.get("dropped", 0)) for name, about in facts(indexes.path(collection)).items()}
        for label, outcome in found.items():
            all_found[label, place.depth, place.length] = outcome
            rows.append({
                "system": label, "length": place.length, "depth": place.depth, "documents": documents,
                "queries": len(collection.queries), "ms": outcome.milliseconds,
                "tokens_dropped": outcome.dropped, "document_tokens_dropped": lost,
            })  # fmt: skip
    for row in rows:
        label, length = row["system"], row["length"]
        outcome, base = (all_found[label, depth, length] for depth in (row["depth"], bases[length]))
        row |= _figures(outcome, base, settings.seed)
    return {
        "unit": places[0].unit,
        "bases": bases,
        "systems": {system.label: system.pipeline for system in systems},
        "representations": indexes.settings,
        "rows": rows,
    }


def _bases(places: Sequence[Place], wanted: str) -> dict[int, str]:
    """Length -> the depth that changes are measured from: the wanted one, else the shallowest."""
    depths: dict[int, list[str]] = {}
    for place in places:
        depths.setdefault(place.length, []).append(place.depth)
    for length, known in depths.items():
        if wanted and wanted not in known:
            raise UserError(f"--base {wanted} is no depth of length {length}; it has {', '.join(known)}")
    return {length: wanted or known[0] for length, known in depths.items()}


def _counting(stack: ExitStack, collection: Collection) -> Callable[[Corpus], Callable[[int], None]]:
    return lambda _: stack.enter_context(Progress(f"{collection.name}: indexing", unit="docs")).update


def _figures(outcome: Outcome, base: Outcome, seed: int) -> dict[str, Any]:
    """Measure -> mean, low, high and, but for the base itself, change, change_low, change_high."""
    ours, theirs = outcome.evaluation, base.evaluation
    if ours.query_ids != theirs.query_ids:
        raise UserError(
            "collections of one length have other queries; make them in one run, or with one seed"
        )
    found: dict[str, Any] = {}
    for measure in MEASURES:
        found[measure] = ours.interval(measure, seed=seed)._asdict()
        if outcome is not base:
            change = bootstrap(ours.values[measure] - theirs.values[measure], seed=seed)
            found[measure] |= {f"change{name}": value for name, value in zip(("", "_low", "_high"), change)}
    return found


def markdown(results: Mapping[str, Any], measure: str = MEASURES[0]) -> str:
    """A table for each system, depths by lengths, and what stands behind the figures."""
    rows = results["rows"]
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    depths = sorted({row["depth"] for row in rows}, key=_depth)
    bases = " or ".join(dict.fromkeys(results["bases"].values()))
    parts = [f"{measure} with its 95 % interval; in brackets the change from {bases}, paired."]
    for label, pipeline in results["systems"].items():
        cells = {(row["depth"], row["length"]): row for row in rows if row["system"] == label}
        body = [
            [depth, *(_cell(cells.get((depth, length)), measure) for length in lengths)] for depth in depths
        ]
        parts.append(f"{label}: `{pipeline}`")
        parts.append(table(["depth", *(f"{length:,} {results['unit']}" for length in lengths)], body))
    return "\n\n".join([*parts, _costs(results)]) + "\n"


def _costs(results: Mapping[str, Any]) -> str:
    """What the systems cost at each length, at the depth that costs the most."""
    body = []
    for label, pipeline in results["systems"].items():
        used = uses(pipeline, list(results["representations"]))
        for length in dict.fromkeys(row["length"] for row in results["rows"]):
            rows = [row for row in results["rows"] if (row["system"], row["length"]) == (label, length)]
            lost = max(sum(row["document_tokens_dropped"].get(name, 0) for name in used) for row in rows)
            body.append([
                label, f"{length:,}", f"{rows[0]['documents']:,}", f"{rows[0]['queries']:,}",
                f"{max(row['ms'] for row in rows):.2f}", f"{lost:,}",
                f"{max(row['tokens_dropped'] for row in rows):,}",
            ])  # fmt: skip
    head = ["system", results["unit"], "documents", "queries", "ms a query (p50)"]
    return table([*head, "tokens dropped: documents", "searching"], body)


def _cell(row: Mapping[str, Any] | None, measure: str) -> str:
    if row is None:
        return ""
    found = row[measure]
    text = f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    if "change" in found:
        text += f" [{found['change']:+.3f}, {found['change_low']:+.3f} to {found['change_high']:+.3f}]"
    return text


def as_csv(results: Mapping[str, Any]) -> str:
    """One line for each system, length, depth and measure."""
    out = io.StringIO()
    columns = ["system", "length", "depth", "queries", "measure", "mean", "low", "high"]
    columns += ["change", "change_low", "change_high"]
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in results["rows"]:
        for measure in MEASURES:
            writer.writerow({**row, "measure": measure, **row[measure]})
    return out.getvalue()


def as_svg(results: Mapping[str, Any], measure: str = MEASURES[0]) -> str:
    """A heat map for each system."""
    cells = {
        (row["system"], row["depth"], f"{row['length']:,}"): (
            row[measure]["mean"], f"{row[measure]['low']:.3f} to {row[measure]['high']:.3f}",
        )
        for row in sorted(results["rows"], key=lambda row: _depth(row["depth"]))
    }  # fmt: skip
    return picture(cells, f"{measure} by depth of the relevant passage", "depth", results["unit"])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.needle", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="far-relevant collections")
    parser.add_argument("--measure", default=MEASURES[0], choices=MEASURES, help="of table and picture")
    parser.add_argument("--base", default="", metavar="DEPTH", help="what changes are from (the shallowest)")
    parser.add_argument("--csv", metavar="FILE", help="write the figures there")
    parser.add_argument("--svg", metavar="FILE", help="draw a heat map there")
    add_arguments(parser)
    settings = parser.parse_args(arguments)

    def measure(work: Path) -> dict[str, Any]:
        one_thread()
        results = sweep(find(settings.folders), work, settings)
        written = {settings.csv: as_csv(results), settings.svg: as_svg(results, settings.measure)}
        for path, text in written.items():
            if path:
                with atomic(path) as write:
                    write(text.encode())
        return results

    present(settings, measure, lambda results: markdown(results, settings.measure))


if __name__ == "__main__":
    main()
