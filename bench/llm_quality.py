"""What decoders are worth as dense encoders: python -m retrieval.bench.llm_quality SPEC... --collections DIR.

Each SPEC is what `--dense` takes (`tuned=llm:./smol(length=128)`). All of them encode the same collections;
nDCG@10 comes with bootstrap intervals, and every encoder is set against the first by paired tests over the
same queries. Ranking is exact. Markdown goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.evaluate import Evaluation, evaluate
from retrieval.bench.learned_sets import Collection, read_collection
from retrieval.bench.statistics import bootstrap, randomisation
from retrieval.data.corpus import open_corpus
from retrieval.data.output import atomic
from retrieval.encoder import DenseEncoder
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder, parse_dense
from retrieval.progress import Progress

Found = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Label -> collection -> query id -> measure -> value."""

MEASURE = "nDCG@10"
MEASURES = (MEASURE, "R@100")
_CHUNK = 256


def encode(
    encoder: DenseEncoder, texts: Sequence[str], kind: Any, label: str
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """(vectors, tokens read and CPU seconds), texts sorted by length so that batches hold equal ones."""
    rows = np.empty((len(texts), encoder.dim), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    read, begun = 0, process_time()
    with Progress(label, len(texts), unit="texts") as bar:
        for start in range(0, len(texts), _CHUNK):
            chosen = order[start : start + _CHUNK]
            found = encoder.encode([texts[i] for i in chosen], kind)
            rows[chosen] = found.rows
            read += int((found.tokens - found.dropped).sum())
            bar.update(len(chosen))
    return rows, {"tokens": read, "cpu_seconds": process_time() - begun}


def documents(collection: Collection, most: int | None) -> tuple[list[str], list[str]]:
    """(ids, texts) of a collection; of `most`, all judged ones and others at even distances in its file."""
    found = [(d.doc_id, f"{d.title} {d.text}".strip()) for d in open_corpus(collection.folder)]
    if most is not None and most < len(found):
        judged = {doc for query in collection.queries for doc in collection.judgements[query.query_id]}
        others = [at for at, (name, _) in enumerate(found) if name not in judged]
        wanted = max(0, most - (len(found) - len(others)))
        kept = {others[at * len(others) // wanted] for at in range(wanted)}
        found = [one for at, one in enumerate(found) if at in kept or one[0] in judged]
    return [name for name, _ in found], [text for _, text in found]


def measure(
    encoder: DenseEncoder, collection: Collection, label: str, most: int | None = None
) -> tuple[Evaluation, dict[str, Any]]:
    """What an encoder is worth on a collection, by exact search over its documents (see documents())."""
    ids, texts = documents(collection, most)
    passages, cost = encode(encoder, texts, "passage", f"{label}: passages")
    queries, more = encode(encoder, [q.text for q in collection.queries], "query", f"{label}: queries")
    scores: dict[str, dict[str, float]] = {}
    for query, row in zip(collection.queries, queries, strict=True):
        found = passages @ row
        best = np.argpartition(found, -min(100, len(found)))[-min(100, len(found)) :]
        scores[query.query_id] = {ids[i]: float(found[i]) for i in best.tolist()}
    chosen = {query.query_id: collection.judgements[query.query_id] for query in collection.queries}
    rate = (cost["tokens"] + more["tokens"]) / (cost["cpu_seconds"] + more["cpu_seconds"])
    about = {"documents": len(ids), "queries": len(queries), "tokens_per_cpu_second": rate, **cost}
    return evaluate(scores, chosen, MEASURES), about


def compare(found: Found, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Label -> collection -> means, interval, and the margin over the first label with its interval and p."""
    first = next(iter(found))
    figures: dict[str, dict[str, Any]] = {}
    for label, sets in found.items():
        figures[label] = {}
        for name, queries in sets.items():
            values = np.array([one[MEASURE] for one in queries.values()])
            means = {
                measure: float(np.mean([one[measure] for one in queries.values()])) for measure in MEASURES
            }
            cell: dict[str, Any] = {"n": len(values), "means": means}
            cell["interval"] = list(bootstrap(values, seed=seed)[1:])
            base = found[first].get(name)
            if label != first and base is not None:
                if list(base) != list(queries):
                    raise UserError(f"{first} and {label} have other queries of {name}; run them alike")
                other = np.array([one[MEASURE] for one in base.values()])
                cell["margin"] = list(bootstrap(values - other, seed=seed))
                cell["p"] = randomisation(values, other, seed=seed).p
            figures[label][name] = cell
    return figures


def markdown(figures: dict[str, dict[str, Any]]) -> str:
    """The table that documents carry."""
    lines = ["| encoder | set | n | nDCG@10 (95 %) | R@100 | margin (95 %), p |", "|---|---|---|---|---|---|"]
    for label, sets in figures.items():
        for name, cell in sets.items():
            low, high = cell["interval"]
            margin = ""
            if "margin" in cell:
                mean, under, over = cell["margin"]
                margin = f"{mean:+.3f} ({under:+.3f} to {over:+.3f}), p {cell['p']:.4f}"
            lines.append(
                f"| {label} | {name} | {cell['n']} | {cell['means'][MEASURE]:.3f} ({low:.3f} to {high:.3f}) "
                f"| {cell['means']['R@100']:.3f} | {margin} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="retrieval.bench.llm_quality", description=__doc__.split("\n")[0])
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="what --dense takes; the first is the base")
    parser.add_argument("--collections", required=True, help="folder of BEIR folders")
    parser.add_argument("--sets", default="scifact,clapnq-dev", help="collections, NAME or NAME@SPLIT")
    parser.add_argument("--queries", type=int, help="at most so many queries a set, drawn by the seed")
    parser.add_argument(
        "--documents", type=int, help="documents of a set: judged ones, and others up to so many"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--baseline", help="what --json wrote earlier, over the same sets: those come first")
    parser.add_argument("--json", help="file for all figures, per query too")
    settings = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(settings.threads)
    names = settings.sets.split(",")
    sets = [read_collection(Path(settings.collections), s, settings.queries, settings.seed) for s in names]
    found: Found = {}
    about: dict[str, Any] = {}
    if settings.baseline:
        earlier = json.loads(Path(settings.baseline).read_text())
        found, about = earlier["per_query"], earlier["about"]
    for text in settings.specs:
        spec = parse_dense(text)
        if spec.name in found:
            raise UserError(f"two encoders are called {spec.name!r}; name them apart, NAME=MODEL")
        encoder = open_encoder(spec.model, spec.method, spec.params)
        found[spec.name], about[spec.name] = {}, {"identity": dict(encoder.identity)}
        for each in sets:
            worth, cost = measure(encoder, each, f"{spec.name} {each.label}", settings.documents)
            found[spec.name][each.label] = worth.per_query
            about[spec.name][each.label] = cost
        del encoder
    figures = compare(found, settings.seed)
    sys.stdout.write(markdown(figures))
    if settings.json:
        whole = {"figures": figures, "about": about, "per_query": found}
        with atomic(settings.json) as write:
            write((json.dumps(whole) + "\n").encode())


if __name__ == "__main__":
    main()
