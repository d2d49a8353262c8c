"""Vector search, ours against faiss called directly: python -m retrieval.bench.vector_search --help.

Synthetic vectors of norm 1: clusters in 64 dimensions, turned into --dim, with isotropic noise; queries are
further vectors of the same kind. Exact search against IndexFlatIP, one query and a batch, and the wrapper of
each structure against the faiss index inside it at the same effort, in turns, one thread. Times are CPU times
of the process, medians over the rounds; a ratio is the median over the rounds of ours divided by faiss's.
faiss-cpu brings an old OpenBLAS that may not know the processor: OPENBLAS_CORETYPE=SkylakeX helps it, and is
fair.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from retrieval.bench.engines_report import machine
from retrieval.bench.learned import _count, present, say
from retrieval.bench.learned_report import table
from retrieval.index import exact
from retrieval.index.ann import Ann
from retrieval.index.ann_kinds import KINDS, import_faiss
from retrieval.index.ann_recall import recall
from retrieval.index.exact import Vectors

INTRINSIC = 64
DEPTHS = (10, 1000)
WANTED = (0.95, 0.99)
FIGURES = ("recall10", "p50", "faiss", "ratio", "batch_ratio")
GOALS = {"exact": 1.1, "ann": 1.05}


def collection(documents: int, queries: int, dim: int, clusters: int, seed: int) -> tuple[Vectors, Vectors]:
    """(vectors float32[documents, dim], queries float32[queries, dim]), of norm 1, the same for a seed."""
    rng = np.random.default_rng(seed)
    turned = rng.standard_normal((INTRINSIC, dim), dtype=np.float32) / np.float32(np.sqrt(INTRINSIC))
    centres = rng.standard_normal((clusters, INTRINSIC), dtype=np.float32)
    out = np.empty((documents + queries, dim), np.float32)
    for start in range(0, len(out), 50_000):
        block = out[start : start + 50_000]
        inner = centres[rng.integers(0, clusters, len(block))]
        inner += np.float32(0.5) * rng.standard_normal(inner.shape, dtype=np.float32)
        block[:] = inner @ turned + np.float32(0.25) * rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return out[:documents], out[documents:]


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each way, and "ratio": of the first to the second."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()  # what compiles itself
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            start = process_time()
            ways[name]()
            taken[name].append(process_time() - start)
    first, second = taken.values()
    ratio = statistics.median(a / b for a, b in zip(first, second))
    return {**{name: statistics.median(times) for name, times in taken.items()}, "ratio": ratio}


def exact_rows(faiss: Any, vectors: Vectors, queries: Vectors, rounds: int) -> list[dict[str, Any]]:
    """Single queries (5 a round) and one batch, for each depth."""
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    norm = exact.largest_norm_of(vectors)
    singles = [queries[i : i + 1] for i in range(min(5, len(queries)))]
    rows = []
    for k in (min(k, len(vectors)) for k in DEPTHS):
        for name, asked in (("one query", singles), (f"batch of {len(queries)}", [queries])):
            say(f"exact, {name}, top {k}")
            times = in_turns(
                {
                    "ours": lambda asked=asked, k=k: [exact.search(vectors, q, k, norm=norm) for q in asked],  # type: ignore[misc]
                    "faiss": lambda asked=asked, k=k: [flat.search(q, k) for q in asked],  # type: ignore[misc]
                },
                rounds,
            )
            count = sum(map(len, asked))
            per = {way: times[way] / count * 1e3 for way in ("ours", "faiss")}
            rows.append({"what": name, "k": k, **per, "ratio": times["ratio"]})
    return rows


def direct(ann: Ann, faiss: Any, k: int, effort: dict[str, int]) -> Callable[[Vectors], Any]:
    """The faiss index inside, called as its users do: k documents, or k times refine and their float32."""
    index, params = ann._index, None
    if "nprobe" in effort:
        params = faiss.SearchParametersIVF(nprobe=effort["nprobe"])
    elif "ef" in effort:
        params = faiss.SearchParametersHNSW(efSearch=effort["ef"])
    if "refine" not in effort:
        return lambda query: index.search(query, k, params=params)
    return lambda query: index.search(query, k * effort["refine"], params=params)


def refined(
    ann: Ann, faiss: Any, vectors: Vectors, k: int, effort: dict[str, int]
) -> Callable[[Vectors], Any]:
    """As `direct`, with faiss's own refinement where there are codes."""
    if "refine" not in effort:
        return direct(ann, faiss, k, effort)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    both = faiss.IndexRefine(ann._index, flat)
    params = None
    if "nprobe" in effort:
        params = faiss.SearchParametersIVF(nprobe=effort["nprobe"])
    wide = faiss.IndexRefineSearchParameters(k_factor=effort["refine"], base_index_params=params)
    keep = (flat, params)
    return lambda query: (both.search(query, k, params=wide), keep)[0]


def ann_row(
    faiss: Any, kind: str, vectors: Vectors, queries: Vectors, rounds: int, seed: int
) -> dict[str, Any]:
    """One structure: build, bytes, recall on the queries, times."""
    say(f"building {kind} of {len(vectors):,}")
    wall, cpu = perf_counter(), process_time()
    ann = Ann.build(vectors, kind, seed=seed)
    if ann is None:
        raise ValueError(f"{kind} builds no structure")
    row: dict[str, Any] = {
        "kind": kind, "documents": len(vectors), "options": ann.facts["options"], "bytes": ann.facts["bytes"],
        "wall": perf_counter() - wall, "cpu": process_time() - cpu, "ladder": ann.facts["ladder"],
        "points": [],
    }  # fmt: skip
    k = min(10, len(vectors))
    truth = exact.search(vectors, queries, k)
    singles = [queries[i : i + 1] for i in range(len(queries))]
    for wanted in WANTED:
        effort = next((s["effort"] for s in ann.facts["ladder"] if s["recall10"] >= wanted), None)
        point: dict[str, Any] = {"wanted": wanted, "reached": effort is not None}
        effort = effort or ann.facts["ladder"][-1]["effort"]
        say(f"{kind} at {effort}")
        theirs = refined(ann, faiss, vectors, k, effort)
        times = in_turns(
            {
                "ours": lambda e=effort: [ann.search(vectors, q, k, effort=e) for q in singles],  # type: ignore[misc]
                "faiss": lambda f=theirs: [f(q) for q in singles],  # type: ignore[misc]
            },
            rounds,
        )
        together = in_turns(
            {
                "ours": lambda e=effort: ann.search(vectors, queries, k, effort=e),  # type: ignore[misc]
                "faiss": lambda f=theirs: f(queries),  # type: ignore[misc]
            },
            rounds,
        )
        each = []
        for query in singles:
            start = process_time()
            ann.search(vectors, query, k, effort=effort)
            each.append(process_time() - start)
        found = ann.search(vectors, queries, k, effort=effort)
        point |= {"effort": effort, "recall10": recall(truth, found, 10), "ratio": times["ratio"]}
        point["batch_ratio"] = together["ratio"]
        point |= {"p50": statistics.median(each) * 1e3, "faiss": times["faiss"] / len(singles) * 1e3}
        row["points"].append(point)
    return row


def measure(settings: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the JSON that --json writes."""
    faiss = import_faiss()
    faiss.omp_set_num_threads(1)
    clusters = max(1, settings.documents // 50)
    vectors, queries = collection(settings.documents, settings.queries, settings.dim, clusters, settings.seed)
    results: dict[str, Any] = {
        "date": date.today().isoformat(), "machine": machine(), "faiss": faiss.__version__,
        "documents": settings.documents, "dim": settings.dim, "queries": settings.queries,
        "clusters": clusters, "rounds": settings.rounds, "exact": [], "ann": [],
    }  # fmt: skip
    kinds = settings.kinds.split(",")
    if "exact" in kinds:
        results["exact"] = exact_rows(faiss, vectors, queries, settings.rounds)
    for kind in kinds:
        if kind != "exact":
            size = min(settings.documents, settings.hnsw) if kind == "hnsw" else settings.documents
            results["ann"].append(
                ann_row(faiss, kind, vectors[:size], queries[:200], settings.rounds, settings.seed)
            )
    return results


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    m = results["machine"]
    parts = [
        f"{results['date']}, {m['processor']}, {m['cores']} cores, load {m['load']:.1f} at the start; faiss "
        f"{results['faiss']}. {results['documents']:,} x {results['dim']}, {results['clusters']:,} clusters, "
        f"{results['queries']} queries. CPU milliseconds a query, one thread, medians over "
        f"{results['rounds']} rounds."
    ]
    rows = [
        [row["what"], str(row["k"]), f"{row['ours']:.2f}", f"{row['faiss']:.2f}", f"{row['ratio']:.2f}"]
        for row in results["exact"]
    ]
    if rows:
        parts.append(table(["exact search", "k", "ours", "faiss", f"ratio (goal {GOALS['exact']})"], rows, 1))
    rows = []
    for row in results["ann"]:
        for point in row["points"]:
            effort = " ".join(f"{name} {value}" for name, value in point["effort"].items())
            goal = f"{point['wanted']}" if point["reached"] else f"{point['wanted']} not reached"
            rows.append([
                f"{row['kind']}, {row['documents']:,}", f"{row['cpu']:.0f}", f"{row['bytes'] / 1e6:.1f}",
                goal, effort, *(f"{point[name]:.3f}" for name in FIGURES),
            ])  # fmt: skip
    if rows:
        head = [
            "structure",
            "build CPU-s",
            "MB",
            "recall wanted",
            "effort",
            "recall@10",
            "p50 ms",
            "faiss ms",
        ]
        parts.append(table([*head, f"ratio (goal {GOALS['ann']})", "in a batch"], rows, 1))
    return "\n\n".join(parts) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.vector_search", description=__doc__)
    add = parser.add_argument
    add("--documents", type=_count, default=1_000_000)
    add("--dim", type=_count, default=384)
    add("--queries", type=_count, default=500)
    add("--rounds", type=_count, default=5)
    add("--seed", type=int, default=0)
    add("--hnsw", type=_count, default=200_000, help="documents of the graph, which takes long to build")
    add("--kinds", default="exact,ivf,sq8,pq,hnsw", help=f"of {', '.join(KINDS)}")
    add("--work", metavar="DIR", help="not needed: nothing is written")
    add("--json", metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    settings = parse(arguments)

    def run(_: Path) -> dict[str, Any]:
        return measure(settings)

    present(settings, run, markdown)


if __name__ == "__main__":
    main()
