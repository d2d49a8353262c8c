"""One engine in a process of its own: reads requests as JSON lines, measures, answers as JSON lines.

It runs in the interpreter of the engine, where the rest of this package may be absent: it imports only the
standard library and its sisters. Times are seconds; every figure comes twice, as wall time and as CPU time of
this thread (searches) or process (builds, batches): on a busy machine the second can still be compared.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

# engine -> (module, class). Only ours need this package.
ENGINES = {
    "ours": ("engines_ours", "Ours"),
    "ours-compact": ("engines_ours", "OursCompact"),
    "tantivy": ("engines_peers", "Tantivy"),
    "bm25s": ("engines_peers", "BM25S"),
    "rank-bm25": ("engines_peers", "RankBM25"),
    "pisa": ("engines_pisa", "Pisa"),
    "seismic": ("engines_seismic", "Seismic"),
    "lucene": ("engines_lucene", "Lucene"),
}


class Engine(Protocol):
    """What every engine offers; `mode` is one of the names that `open` returns."""

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        """Index the corpus; {"list_bytes": inverted lists only} and whatever else is known."""
        ...

    def open(self, corpus: Path, index: Path) -> list[str]:
        """Get ready to search; the names of the modes."""
        ...

    def search(self, query: Any, k: int, mode: str) -> Any:
        """One query, from what a user types to the engine's own result."""
        ...

    def hits(self, result: Any) -> list[tuple[str, float]]:
        """(document id, score) of a result of `search`; not timed."""
        ...

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        """All queries at once on that many threads."""
        ...


def make(name: str) -> Engine:
    module, kind = ENGINES[name]
    engine: Engine = getattr(importlib.import_module(f"retrieval.bench.{module}"), kind)()
    return engine


def peak_bytes() -> int:
    """The most memory that this process held so far."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Worker:
    """Answers requests about one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.queries: list[Any] = []

    def build(self, corpus: str, index: str, option: str = "") -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        extra = self.engine.build(Path(corpus), Path(index), option)
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return {**taken, "peak_bytes": peak_bytes(), "total_bytes": folder_bytes(Path(index)), **extra}

    def open(self, corpus: str, index: str, limit: int = 0) -> dict[str, Any]:
        lines = (Path(corpus) / "queries.jsonl").read_text(encoding="utf-8").splitlines()
        self.queries = [json.loads(line) for line in lines][: limit or None]
        wall = time.perf_counter()
        modes = self.engine.open(Path(corpus), Path(index))
        return {"modes": modes, "wall": time.perf_counter() - wall}

    def search(self, k: int, mode: str, limit: int = 0) -> dict[str, Any]:
        """Each query once, one after the other: wall and CPU time of each."""
        walls, cpus = [], []
        run, wall_clock, cpu_clock = self.engine.search, time.perf_counter, time.thread_time
        gc.collect()
        gc.disable()
        for query in self.queries[: limit or None]:
            wall, cpu = wall_clock(), cpu_clock()
            result = run(query, k, mode)
            cpus.append(cpu_clock() - cpu)
            walls.append(wall_clock() - wall)
            del result
        gc.enable()
        return {"wall": walls, "cpu": cpus, "peak_bytes": peak_bytes()}

    def hits(self, k: int, mode: str, limit: int) -> dict[str, Any]:
        engine = self.engine
        return {"hits": [engine.hits(engine.search(query, k, mode)) for query in self.queries[:limit]]}

    def batch(self, k: int, threads: int, mode: str, limit: int = 0) -> dict[str, Any]:
        queries = self.queries[: limit or None]
        wall, cpu = time.perf_counter(), time.process_time()
        self.engine.batch(queries, k, threads, mode)
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        return {**taken, "queries": len(queries)}

    def cold(self, corpus: str, index: str, query: Any, mode: str = "") -> dict[str, Any]:
        """Open, one top-10 answer: the parent's clock runs since before this process started."""
        modes = self.engine.open(Path(corpus), Path(index))
        found = len(self.engine.hits(self.engine.search(query, 10, mode or modes[0])))
        return {"found": found, "cpu": time.process_time(), "peak_bytes": peak_bytes()}


def main(name: str) -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what an engine prints must not end up among the answers
    worker = Worker(make(name))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as problem:  # noqa: BLE001 - a peer that fails is a row of the table
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
