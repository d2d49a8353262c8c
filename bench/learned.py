"""Retrieval with models beside BM25: python -m retrieval.bench.learned --collections DIR [--dense NAME=DIR].

For each collection one index with BM25, TILDEv2, where there are models B-PROP and TILDE, and what --dense
names; then all systems on the same queries, with confidence intervals and a paired test against BM25. What
there is to choose (the weight of BM25 in a sum, idf-weighted queries) is chosen once, on a split that no
figure comes from. Markdown goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from retrieval.bench import learned_report as report
from retrieval.bench.engines_report import machine
from retrieval.bench.evaluate import Evaluation
from retrieval.bench.learned_sets import KINDS, SPLIT, Collection, Indexes, facts, read_collection
from retrieval.bench.learned_systems import BASELINE, MEASURES, System, evaluations, fused, standard
from retrieval.data.corpus import Corpus
from retrieval.data.output import atomic
from retrieval.errors import RetrievalError, UserError
from retrieval.index.model_files import shipped
from retrieval.manifest import DENSE
from retrieval.progress import Progress

SETS = "scifact,squad-dev,medquad,tldr-man,clapnq-dev,debtags,wordnet-types"
TUNE = "scifact@train"
TUNED_BY = "nDCG@10"
GRID = tuple(round(step / 20, 2) for step in range(1, 20))
NO_MODEL = "-"


class Comparison:
    """One run: the settings, and the results as they come in."""

    def __init__(self, settings: argparse.Namespace, work: Path) -> None:
        self.settings = settings
        self.folder = Path(settings.collections)
        self.indexes = Indexes(work, ["bm25", *self._models()], settings.memory << 20, settings.dense)
        self.dense = [name for name, facts in self.indexes.settings.items() if facts["kind"] == DENSE]
        self.names = list(self.indexes.settings)
        self.threads: int = settings.threads

    def _models(self) -> list[str]:
        """What `--sparse` takes for each model that is given or ships with the package."""
        found = []
        for kind in KINDS:
            given = getattr(self.settings, kind)
            if given == NO_MODEL:
                continue
            try:
                found.append(f"{kind}:{given or shipped(kind)}")
            except UserError as error:
                say(f"without {kind}: {error}")
        return found

    def run(self) -> dict[str, Any]:
        """Everything, as the JSON that --json writes."""
        begun = perf_counter()
        texts = [text for text in self.settings.sets.split(",") if text]
        sums, tuned = self.choose(texts)
        systems = [*standard(self.names, self.dense), *sums]
        results: dict[str, Any] = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "test": self.settings.test,
            "representations": self.indexes.settings,
            "systems": {system.label: system.pipeline for system in systems},
            "tuned": tuned,
            "sets": {},
            "skipped": {},
        }
        worth: dict[str, dict[str, Evaluation]] = {}
        for text in texts:
            try:
                collection = self.read(text)
            except UserError as error:
                say(f"{text} left out: {error}")
                results["skipped"][text] = str(error)
                continue
            if collection.label in worth:
                raise UserError(f"--sets names {collection.label} twice; name it once")
            worth[collection.label], results["sets"][collection.label] = self.measure(collection, systems)
        if not worth:
            raise UserError(f"none of the collections {self.settings.sets!r} is in {str(self.folder)!r}")
        say("intervals and tests")
        sets, results["mean"] = report.figures(worth, self.settings.test, self.settings.seed)
        for name, found in sets.items():
            results["sets"][name]["figures"] = found
        results["seconds"] = perf_counter() - begun
        return results

    def read(self, text: str) -> Collection:
        """A collection. Raises UserError for one that is not there."""
        return read_collection(self.folder, text, self.settings.queries, self.settings.seed)

    def measure(
        self, collection: Collection, systems: Sequence[System], measures: Sequence[str] = MEASURES
    ) -> tuple[dict[str, Evaluation], dict[str, Any]]:
        """(what each system is worth, by label; documents, queries, lists, seconds) of one collection."""
        start = perf_counter()
        with ExitStack() as stack:

            def counting(corpus: Corpus) -> Callable[[int], None]:
                return stack.enter_context(Progress(f"{collection.name}: indexing", unit="docs")).update

            index = self.indexes.open(collection, counting)
        built = perf_counter() - start
        start = perf_counter()
        with Progress(f"{collection.label}: searching", len(collection.queries), unit="queries") as bar:
            found = evaluations(
                index, collection.queries, collection.judgements, systems, measures=measures,
                threads=self.threads, progress=bar.update,
            )  # fmt: skip
        searched = perf_counter() - start
        documents = len(index)
        index.close()
        say(f"{collection.label}: {documents:,} documents in {built:.0f} s, searched in {searched:.0f} s")
        about = {
            "documents": documents,
            "queries": len(collection.queries),
            "of": collection.total,
            "lists": facts(self.indexes.path(collection)),
            "index_seconds": built,
            "search_seconds": searched,
        }
        return {s.label: one for s, one in zip(systems, found, strict=True)}, about

    def choose(self, texts: Sequence[str]) -> tuple[list[System], dict[str, Any]]:
        """(the sums with BM25, with their weights; how each was chosen)."""
        idf = {"auto": (0, 1), "0": (0,), "1": (1,)}[self.settings.idf]
        if self.settings.weight is not None:
            plain = fused(self.names, idf[:1], self.dense)
            return [replace(one[0], weight=self.settings.weight) for one in plain.values()], {}
        candidates = fused(self.names, idf, self.dense)
        if not candidates:
            return [], {}
        collection = self._to_tune_on(texts)
        tried = [
            replace(system, weight=weight, label=f"{system.label} {system.second} {weight}")
            for choices in candidates.values()
            for system in choices
            for weight in GRID
        ]
        worth, _ = self.measure(collection, [System(BASELINE, "bm25"), *tried], [TUNED_BY])
        values = {label: evaluation.means[TUNED_BY] for label, evaluation in worth.items()}
        chosen, tuned = [], {}
        for label in candidates:
            mine = [system for system in tried if system.tuned == label]
            best = max(mine, key=lambda system: values[system.label])
            chosen.append(replace(best, label=label))
            tuned[label] = {
                "on": collection.label,
                "measure": TUNED_BY,
                "queries": len(collection.queries),
                "baseline": values[BASELINE],
                "leg": best.second,
                "weight": best.weight,
                "value": values[best.label],
                "tried": [[s.second, s.weight, values[s.label]] for s in mine],
            }
            say(f"{label}: {best.pipeline} ({TUNED_BY} {values[best.label]:.4f} on {collection.label})")
        return chosen, tuned

    def _to_tune_on(self, texts: Sequence[str]) -> Collection:
        """The split to choose on. Raises UserError for one whose figures are wanted, or that is not there."""
        wanted = self.settings.tune
        name, _, split = wanted.partition("@")
        evaluated = [text if "@" in text else f"{text}@{SPLIT}" for text in texts]
        if f"{name}@{split or SPLIT}" in evaluated:
            raise UserError(f"--tune {wanted} is one of the sets to evaluate; choose on another split")
        try:
            found = self.read(wanted)
        except UserError as error:
            raise UserError(f"cannot tune on {wanted}: {error}; give --weight, or --tune another") from error
        sharing = {text.partition("@")[0] for text in evaluated} & {name}
        if sharing:
            self._refuse_shared(found, [text for text in evaluated if text.partition("@")[0] == name])
        return found

    def _refuse_shared(self, tuning: Collection, texts: Sequence[str]) -> None:
        mine = {query.query_id for query in tuning.queries}
        for text in texts:
            shared = mine & {query.query_id for query in self.read(text).queries}
            if shared:
                raise UserError(
                    f"--tune {tuning.label} and {text} share {len(shared)} queries; choose on another split"
                )


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.learned", description=__doc__)
    add = parser.add_argument
    add("--collections", required=True, metavar="DIR", help="folder of collections in BEIR layout")
    add("--sets", default=SETS, help="NAME or NAME@SPLIT (test), between commas")
    for kind in KINDS:
        add(f"--{kind}", metavar="MODEL", default="", help="directory (default: the packaged one; -: none)")
    add("--dense", metavar="[NAME=]MODEL", action="append", default=[], help="as retrieve index takes it")
    add("--queries", type=_count, metavar="N", help="at most so many a set, drawn with the seed")
    add("--weight", type=_weight, metavar="W", help="of BM25 in sums, instead of tuning it")
    add("--tune", default=TUNE, metavar="NAME@SPLIT", help="what the weight and idf are chosen on")
    add("--idf", choices=("auto", "0", "1"), default="auto", help="idf-weighted queries in sums")
    add("--test", choices=tuple(report.TESTS), default="t", help="paired test against BM25")
    add("--work", metavar="DIR", help="folder for the indexes, kept (default: a temporary one, removed)")
    add("--threads", type=_count, default=os.cpu_count() or 1)
    add("--memory", type=_count, default=512, metavar="MB", help="that building an index may hold")
    add("--seed", type=int, default=0)
    add("--json", metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 and more")
    return int(text)


def _weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def _limit_threads(threads: int) -> None:
    try:
        import torch
    except ImportError:  # then there is only BM25 to compare
        return
    torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison; exits with the error's code where it cannot."""
    settings = parse(arguments)

    def measure(work: Path) -> dict[str, Any]:
        _limit_threads(settings.threads)
        return Comparison(settings, work).run()

    present(settings, measure, report.markdown)


def present(
    settings: argparse.Namespace,
    measure: Callable[[Path], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
) -> None:
    """Measures in settings.work, or a temporary folder; prints the tables and writes settings.json."""
    try:
        with ExitStack() as stack:
            work = Path(settings.work or stack.enter_context(tempfile.TemporaryDirectory(prefix="learned-")))
            work.mkdir(parents=True, exist_ok=True)
            results = measure(work)
            sys.stdout.write(markdown(results))
            if settings.json:
                with atomic(settings.json) as write:
                    write((json.dumps(results, indent=1) + "\n").encode())
    except RetrievalError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
