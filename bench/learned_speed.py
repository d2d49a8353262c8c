"""Speed of learned sparse retrieval: python -m retrieval.bench.learned_speed --help.

On one synthetic collection (engines_corpora.impacts: about 100 terms a document, weights of 1 to 255):
re-scoring 1,000 candidates a query by the forward view, against the dict-of-dicts loop of TILDEv2's published
inference (learned_rows.py), and direct retrieval. One process, one thread, everything warm. Re-scoring and
the loops take turns in rounds, each over all queries; a query's time is the median over the rounds, p50 and
p99 are taken over the queries, a ratio is the median over the queries of the ratio of both. Times are those
of the process (CPU), with wall times beside them. All results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench import engines_corpora
from retrieval.bench.engines_files import about, load_queries
from retrieval.bench.engines_report import machine, number
from retrieval.bench.engines_worker import folder_bytes
from retrieval.bench.learned import _count, present, say
from retrieval.bench.learned_report import table
from retrieval.bench.learned_rows import FORMS, RERANK, DirectIndex, direct_index
from retrieval.index.index import Index
from retrieval.types import Document, Query, Run

if TYPE_CHECKING:
    from retrieval.index.stages import SparseStage

CANDIDATES = 1000
DEPTHS = (10, 1000)
TOKENS = (3, 9)  # of a short query, stop words gone
GOAL_MS, GOAL_TIMES = 0.3, 40.0
Work = Callable[[], Any]


def build(work: Path, docs: int, queries: int) -> tuple[Path, Path, dict[str, float]]:
    """(corpus folder, index, seconds and CPU seconds of its build; those of then where it is there)."""
    corpus = engines_corpora.impacts(work, docs, queries)
    path, record = work / f"learned-{corpus.name}", work / f"learned-{corpus.name}.json"
    if record.exists():
        return corpus, path, {**json.loads(record.read_text(encoding="utf-8")), "reused": 1.0}
    say(f"indexing {docs:,} documents")
    wall, cpu = perf_counter(), process_time()
    index = Index.create(path, [f"rows:{corpus}"], overwrite=True)
    index.add(Document(f"d{i}", "-") for i in range(docs))
    index.commit()
    index.close()
    taken = {"wall": perf_counter() - wall, "cpu": process_time() - cpu}
    record.write_text(json.dumps({**taken, "bytes": folder_bytes(path)}), encoding="utf-8")
    return corpus, path, json.loads(record.read_text(encoding="utf-8"))


def short_queries(corpus: Path, queries: int) -> list[list[int]]:
    """3 to 9 terms of a document, the heavier the likelier; each counts once, as TILDEv2's tokens do."""
    offsets = np.load(corpus / "offsets.npy", mmap_mode="r")
    terms = np.load(corpus / "terms.npy", mmap_mode="r")
    weights = np.load(corpus / "weights.npy", mmap_mode="r")
    rng = np.random.default_rng(11)
    asked = []
    for document in rng.choice(len(offsets) - 1, min(queries, len(offsets) - 1), replace=False).tolist():
        span = slice(int(offsets[document]), int(offsets[document + 1]))
        chance = weights[span].astype(np.float64)
        count = min(int(rng.integers(TOKENS[0], TOKENS[1] + 1)), len(chance))
        asked.append(rng.choice(terms[span], count, replace=False, p=chance / chance.sum()).tolist())
    return asked


class Rescoring:
    """Each query with its candidates, ready for every contestant.

    Candidates are the best documents of the query's own terms: those that share most with it, which is what
    costs the loops most.
    """

    def __init__(self, stage: SparseStage, corpus: Path, tokens: Sequence[Sequence[int]]) -> None:
        self.stage = stage
        self.tokens = tokens
        texts = [" ".join(f"t{token}" for token in query) for query in tokens]
        self.queries = [Query(str(i), text) for i, text in enumerate(texts)]
        found = (stage % CANDIDATES)(self.queries)
        self.runs = [shuffled(found.aligned([query])) for query in self.queries]
        self.candidates = [[run.doc_ids[int(doc)] for doc in run.docs] for run in self.runs]
        self.direct = found
        documents = sorted({int(name[1:]) for names in self.candidates for name in names})
        self.indexes: dict[str, DirectIndex] = {}
        for form in FORMS:
            say(f"the loop's index of {len(documents):,} documents ({form})")
            self.indexes[form] = direct_index(corpus, documents, form)

    def contestants(self, i: int) -> dict[str, Work]:
        """What each does about query i: "stage" from text to Run; "scores" only the scores."""
        query, run, stage = self.queries[i], self.runs[i], self.stage
        weights = [dict.fromkeys(query.text.split(), 1.0)]
        work: dict[str, Work] = {
            "stage": lambda: stage([query], run),
            "scores": lambda: stage.searcher.rescore(weights, run.offsets, run.docs),
        }
        for form in FORMS:
            loop, index = RERANK[form], self.indexes[form]
            tokens, names = self.tokens[i], self.candidates[i]
            work[form] = lambda loop=loop, index=index, t=tokens, n=names: loop(index, t, n)  # type: ignore[misc]
        return work

    def differences(self) -> int:
        """Queries for which a contestant's ranking or scores differ from the others' or from retrieval's."""
        wrong = 0
        for i, query in enumerate(self.queries):
            work = self.contestants(i)
            found = [(hit.score, hit.doc_id) for hit in work["stage"]()[query.query_id]]
            direct = [(hit.score, hit.doc_id) for hit in self.direct[query.query_id]]
            alike = all(work[form]() == found for form in FORMS) and found == direct
            wrong += not (alike and sorted(work["scores"]().tolist()) == sorted(score for score, _ in found))
        return wrong


def shuffled(run: Run) -> Run:
    """One query's documents as an earlier stage may hand them on: in an order that says nothing."""
    scores = np.random.default_rng(len(run.docs)).permutation(len(run.docs)).astype(np.float32)
    return Run(run.queries, run.offsets, run.docs, scores, run.doc_ids)


def timed(work: Sequence[dict[str, Work]], rounds: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Contestant -> "cpu" and "wall": seconds [queries], medians over the rounds.

    In a round each contestant does all queries, then the next one: each has its own data in the caches, as it
    would by itself, and a disturbance hits all alike over the rounds.
    """
    names = list(work[0])
    taken = {name: {clock: np.empty((rounds, len(work))) for clock in ("cpu", "wall")} for name in names}
    for name in names:  # what compiles itself
        work[0][name]()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            with quiet():
                for i, each in enumerate(work):
                    run = each[name]
                    wall, cpu = perf_counter(), process_time()
                    result = run()
                    taken[name]["cpu"][turn, i] = process_time() - cpu
                    taken[name]["wall"][turn, i] = perf_counter() - wall
                    del result
    return {name: {k: np.median(v, axis=0) for k, v in clocks.items()} for name, clocks in taken.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the garbage collector, which would walk the dicts of the loops."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summary(clocks: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    return {
        f"{clock} p{q}": float(np.percentile(times, q)) * 1e3
        for clock, times in clocks.items()
        for q in (50, 99)
    }


def measure(settings: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything, as the JSON that --json writes."""
    corpus, path, built = build(work, settings.docs, settings.queries)
    index = Index.open(path)
    rows: Any = index.stage("rows")
    stage: SparseStage = rows
    heavy = load_queries(corpus)
    asked = {"short": short_queries(corpus, settings.queries)}
    asked["long"] = [[int(term[1:]) for term in query] for query in heavy]
    results: dict[str, Any] = {
        "date": date.today().isoformat(), "machine": machine(), "corpus": about(corpus), "build": built,
        "rounds": settings.rounds, "rescoring": {}, "retrieval": {},
    }  # fmt: skip
    for name, queries in asked.items():
        ready = Rescoring(stage, corpus, queries[: settings.rescored])
        say(f"re-scoring, {name} queries")
        wrong = ready.differences()
        taken = timed([ready.contestants(i) for i in range(len(ready.queries))], settings.rounds)
        ratios = {f: float(np.median(taken[f]["cpu"] / taken["stage"]["cpu"])) for f in FORMS}
        results["rescoring"][name] = {
            "queries": len(ready.queries),
            "tokens": float(np.mean([len(query) for query in ready.tokens])),
            "candidates": float(np.mean([len(run.docs) for run in ready.runs])),
            "different": wrong,
            "times": {each: summary(clocks) for each, clocks in taken.items()},
            "ratios": ratios,
        }
        del ready
        say(f"retrieval, {name} queries")
        results["retrieval"][name] = retrieval(stage, queries, heavy if name == "long" else None, settings)
    index.close()
    return results


def retrieval(
    stage: SparseStage,
    queries: Sequence[Sequence[int]],
    weights: Sequence[dict[str, float]] | None,
    settings: argparse.Namespace,
) -> dict[str, Any]:
    """Times of direct retrieval by depth; weights: of the query terms (1 each, without)."""
    ready = weights or [dict.fromkeys((f"t{token}" for token in query), 1.0) for query in queries]
    stages = {str(k): stage.within(k) for k in DEPTHS}
    work: list[dict[str, Work]] = []
    for query in ready:
        one, vector = [Query("1", "")], [query]
        work.append({k: lambda s=s, o=one, v=vector: s.retrieve(o, v) for k, s in stages.items()})  # type: ignore[misc,attr-defined]
    return {"queries": len(work), **{k: summary(c) for k, c in timed(work, settings.rounds).items()}}


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    m, corpus, built = results["machine"], results["corpus"], results["build"]
    docs = corpus["docs"]
    parts = [
        f"{results['date']}, {m['processor']}, {m['cores']} cores, load {m['load']:.1f} at the start. "
        f"{docs:,} documents, {corpus['postings'] / docs:.0f} terms each; built in {built['cpu']:.0f} s of "
        f"CPU time ({built['wall']:.0f} s), {built['bytes'] / docs:.0f} bytes a document. Milliseconds; "
        f"one thread, warm, medians over {results['rounds']} rounds."
    ]
    labels = {
        "stage": "stage: text and run to ordered run", "scores": "of it: the scores",
        "plain": "loop over dicts: ints and floats", "numpy": "loop over dicts: NumPy scalars",
    }  # fmt: skip
    clocks = ["cpu p50", "cpu p99", "wall p50", "wall p99"]
    rows = []
    for name, found in results["rescoring"].items():
        kind = f"{name}, {found['tokens']:.1f} terms, {found['candidates']:.0f} candidates"
        for each, times in found["times"].items():
            ratio = number(found["ratios"][each]) if each in found["ratios"] else ""
            rows.append([kind, labels[each], *(f"{times[clock]:.3f}" for clock in clocks), ratio])
    parts.append(table(["queries", "re-scoring", *clocks, "times the stage"], rows, 2))
    rows = []
    for name, found in results["retrieval"].items():
        rows += [[name, f"top {k}", *(f"{found[str(k)][clock]:.3f}" for clock in clocks)] for k in DEPTHS]
    parts.append(table(["queries", "direct retrieval", *clocks], rows, 2))
    for name, found in results["rescoring"].items():
        p50, times = found["times"]["stage"]["cpu p50"], found["ratios"]
        good = p50 <= GOAL_MS and times["numpy"] >= GOAL_TIMES and not found["different"]
        parts.append(
            f"- {name} queries: rankings and scores of stage, loops and retrieval differ for "
            f"{found['different']} of {found['queries']} queries; p50 {p50:.3f} ms (goal {GOAL_MS}), "
            f"{number(times['numpy'])} times as fast as the loop over NumPy scalars (goal {GOAL_TIMES:.0f}): "
            f"{'reached' if good else 'missed'}."
        )
    return "\n\n".join(parts) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.learned_speed", description=__doc__)
    add = parser.add_argument
    add("--docs", type=_count, default=1_000_000)
    add("--queries", type=_count, default=1000, help="of direct retrieval")
    add(
        "--rescored",
        type=_count,
        default=50,
        help="queries whose candidates are re-scored (12 kB of dicts each)",
    )
    add("--rounds", type=_count, default=5)
    add("--work", metavar="DIR", help="folder for corpus and index, kept (default: a temporary one, removed)")
    add("--json", metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    settings = parse(arguments)
    present(settings, lambda work: measure(settings, work), markdown)


if __name__ == "__main__":
    main()
