"""A cross-encoder, ours against sentence-transformers: python -m retrieval.bench.cross_speed --help.

The same weights, the same queries, for each the same first documents of BM25 with their texts in memory. What
is timed is one query at a time, texts to scores, tokenising included: ours as the stage `cross` without
padding, theirs as CrossEncoder.predict does it by default, padded in batches of 32 sorted by length. The ways
take turns at every query and begin in turn, so that a disturbance hits all alike; a query's time is its
median over the rounds, a ratio is the median over the queries of the ratio of both, by CPU time. Scores are
compared, logits with logits. sentence-transformers is no dependency of this package.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.arguments import positive
from retrieval.bench.dense_quality import PEER
from retrieval.bench.engines_report import machine
from retrieval.data.corpus import open_corpus
from retrieval.data.queries import read_queries
from retrieval.errors import UserError
from retrieval.index.index import Index
from retrieval.index.model_files import WEIGHTS, ModelFiles, save_model
from retrieval.rerank.cross import Cross, open_reader
from retrieval.types import Document, Query, Run

Scores = NDArray[np.float32]
BASE = f"{PEER}, float32"
OURS = ("float32", "bfloat16")


class Work(NamedTuple):
    """One query and what BM25 found for it, in order."""

    query: Query
    run: Run
    documents: list[Document]


Score = Callable[[Work], Scores]


def first_stage(collection: Path, folder: Path, queries: int, depth: int) -> list[Work]:
    """The first documents of BM25 for queries that have `depth`, by an index in `folder`, built if absent."""
    path = folder / f"{collection.name}.index"
    if not path.exists():
        index = Index.create(path, ["bm25"])
        index.add(open_corpus(str(collection)))
        index.commit()
        index.close()
    found = []
    with Index.open(path) as index:
        for query in read_queries(f"{collection}@test"):
            run = (index.bm25() % depth)([query])
            if len(run.docs) == depth:
                found.append(Work(query, run, index.documents([hit.doc_id for hit in run[query.query_id]])))
            if len(found) == queries:
                break
    if not found:
        raise UserError(f"no query of {str(collection)!r} has {depth} documents; give a smaller --depth")
    return found


def ours(model: str, precision: str, length: int) -> tuple[Score, int]:
    """(the stage on one query, the tokens of a pair that it reads). Raises UserError."""
    stage = Cross(model, length, precision)

    def score(work: Work) -> Scores:
        known = {document.doc_id: document for document in work.documents}
        bound = stage.with_documents(lambda ids: [known[doc_id] for doc_id in ids])
        found = bound([work.query], work.run).to_dict()[work.query.query_id]
        return np.array([found[document.doc_id] for document in work.documents], np.float32)

    return score, stage._length


def peer(model: str, length: int) -> Score:
    """CrossEncoder.predict without the activation that it puts upon the logit. Raises UserError."""
    try:
        from sentence_transformers import CrossEncoder
        from transformers.utils import logging
    except ImportError:
        raise UserError(f"{PEER} is not installed; install it with: pip install {PEER}") from None
    import torch

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        readable = _in_float32(model, folder)
        encoder = CrossEncoder(readable, device="cpu", local_files_only=True, max_length=length)
    plain = torch.nn.Identity()

    def score(work: Work) -> Scores:
        pairs = [(work.query.text, document.full_text()) for document in work.documents]
        found = np.asarray(encoder.predict(pairs, activation_fn=plain, show_progress_bar=False), np.float32)
        return found if found.ndim == 1 else found[:, 1] - found[:, 0]

    return score


def _in_float32(model: str, folder: str) -> str:
    """A directory with the same weights as others read them: our int8 rows with a scale are our own form."""
    from safetensors import safe_open

    path = os.path.join(model, WEIGHTS)
    if not os.path.isfile(path):
        return model
    with safe_open(path, framework="pt") as opened:
        if not any(name.endswith(".scale") for name in opened.keys()):  # noqa: SIM118 (no mapping)
            return model
    files = ModelFiles.open(model)
    words = files.vocabulary
    save_model(folder, files.config, files.tensors(), words.data, words.name, dtype="float32")
    return folder


def lengths(model: str, work: Sequence[Work], length: int) -> dict[str, float]:
    """Tokens of the pairs before they are cut: mean and quartiles, and the share that is cut."""
    reader = open_reader(model)
    counts = []
    for each in work:
        texts = [each.query.text, *(document.full_text() for document in each.documents)]
        query, *read = (len(ids) for ids in reader.encode(texts))
        counts += [reader.frame.size + query + tokens for tokens in read]
    sizes = np.array(counts)
    quartiles = np.quantile(sizes, [0.25, 0.5, 0.75]).tolist()
    return {"mean": float(sizes.mean()), "cut": float((sizes > length).mean()),
            **dict(zip(("q1", "median", "q3"), quartiles, strict=True))}  # fmt: skip


def compare(settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every figure of one run: see `report`. Raises UserError."""
    import torch

    torch.set_num_threads(settings.threads)
    if settings.threads == 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # both use that library, which takes every core
    ways: dict[str, Score] = {}
    for precision in OURS:
        ways[f"ours, {precision}"], length = ours(settings.model, precision, settings.length)
    ways = {BASE: peer(settings.model, length), **ways}
    work = first_stage(Path(settings.collection), folder, settings.queries, settings.depth)
    names = list(ways)
    times: dict[str, list[list[tuple[float, float]]]] = {way: [[] for _ in work] for way in ways}
    scores = {way: [score(each) for each in work] for way, score in ways.items()}  # warms up, too
    for turn in range(settings.rounds):
        for at, each in enumerate(work):
            for way in names[(turn + at) % len(names) :] + names[: (turn + at) % len(names)]:
                start, begun = perf_counter(), process_time()
                ways[way](each)
                times[way][at].append((perf_counter() - start, process_time() - begun))
        sys.stderr.write(f"round {turn + 1} of {settings.rounds}\n")
    figures = {}
    # [queries, wall and CPU seconds]
    per_query = {way: np.median(np.array(taken), axis=1) for way, taken in times.items()}
    for way, taken in per_query.items():
        ratios = per_query[BASE][:, 1] / taken[:, 1]
        apart = [np.abs(a - b).max() for a, b in zip(scores[way], scores[BASE], strict=True)]
        figures[way] = {
            "wall_ms": float(np.median(taken[:, 0])) * 1e3, "cpu_ms": float(np.median(taken[:, 1])) * 1e3,
            "times": float(np.median(ratios)), "times_q1": float(np.quantile(ratios, 0.25)),
            "times_q3": float(np.quantile(ratios, 0.75)), "largest_difference": float(max(apart)),
            "same_top_10": statistics.mean(_overlap(a, b) for a, b in zip(scores[way], scores[BASE])),
            "queries": taken.tolist(),
        }  # fmt: skip
    return {
        "machine": machine(), "torch": torch.__version__, "settings": vars(settings), "queries": len(work),
        "length": length, "tokens": lengths(settings.model, work, length), "ways": figures,
        "spread": statistics.mean(float(each.std()) for each in scores[BASE]),
    }  # fmt: skip


def _overlap(a: Scores, b: Scores) -> float:
    """The share of the best 10 that both have."""
    best = min(10, len(a))
    return len({*np.argsort(-a)[:best].tolist()} & {*np.argsort(-b)[:best].tolist()}) / best


def report(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    settings, tokens, on = result["settings"], result["tokens"], result["machine"]
    model, collection = (Path(settings[name]).name for name in ("model", "collection"))
    lines = [
        f"{model}, {result['queries']} queries of {collection}, BM25's first {settings['depth']} of each, "
        f"{settings['rounds']} rounds, {settings['threads']} thread(s); {on['processor']}, load "
        f"{on['load']:.1f}; torch {result['torch']}.",
        f"Pairs have {tokens['mean']:.0f} tokens (quartiles {tokens['q1']:.0f}, {tokens['median']:.0f}, "
        f"{tokens['q3']:.0f}); {tokens['cut']:.1%} are cut to {result['length']}. Scores of a query spread "
        f"by {result['spread']:.2f} (standard deviation).",
        "",
        "| way | CPU ms a query | wall ms | times as fast (quartiles) | largest difference | same top 10 |",
        "|---|---|---|---|---|---|",
    ]
    for way, found in result["ways"].items():
        lines.append(
            f"| {way} | {found['cpu_ms']:.0f} | {found['wall_ms']:.0f} | {found['times']:.2f} "
            f"({found['times_q1']:.2f}-{found['times_q3']:.2f}) | {found['largest_difference']:.1e} | "
            f"{found['same_top_10']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.cross_speed", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, help="the directory of a cross-encoder")
    add("--collection", required=True, help="a BEIR folder")
    add("--work", help="folder for its BM25 index, kept; a temporary one by default")
    add("--queries", type=positive, default=20, help="so many of its test queries")
    add("--depth", type=positive, default=100, help="documents of each")
    add("--length", type=int, default=0, help="tokens of a pair; by default what the model reads")
    add("--rounds", type=positive, default=3)
    add("--threads", type=positive, default=1)
    add("--json", help="write every figure there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            result = compare(settings, Path(settings.work or temporary))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    if settings.json:
        Path(settings.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    sys.stdout.write(report(result))


if __name__ == "__main__":
    main()
