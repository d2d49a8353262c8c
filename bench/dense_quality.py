"""Vectors of ours against sentence-transformers': python -m retrieval.bench.dense_quality --help.

Both encode the same collection in one run; ranking is exact, by numpy. nDCG@10 and R@100 of both, how far the
vectors lie apart, and CPU seconds. Markdown goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.evaluate import evaluate
from retrieval.bench.learned_sets import read_collection
from retrieval.data.corpus import open_corpus
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder, parse_dense

MEASURES = ("nDCG@10", "R@100")
PEER = "sentence-transformers"
_DEPTH = 100
_SLICE = 512  # queries ranked together

Rows = NDArray[np.float32]
Encode = Callable[[list[str], Any], Rows]


def sentence_transformers(path: str) -> Encode:
    """Its encode() with everything as it comes. Raises UserError where the package is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError:
        raise UserError(f"{PEER} is not installed; install it with: pip install {PEER}") from None
    logging.disable_progress_bar()
    model = SentenceTransformer(path, device="cpu", local_files_only=True)

    def encode(texts: list[str], kind: Any) -> Rows:
        method = model.encode_query if kind == "query" else model.encode_document
        return np.asarray(method(texts, normalize_embeddings=model.similarity_fn_name != "dot"), np.float32)

    return encode


def rank(queries: Rows, documents: Rows, query_ids: Sequence[str], doc_ids: Sequence[str]) -> dict[str, Any]:
    """{query id: {document id: inner product}} of the best 100."""
    found = {}
    for start in range(0, len(queries), _SLICE):
        scores = queries[start : start + _SLICE] @ documents.T
        depth = min(_DEPTH, scores.shape[1])
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        for row, (query_id, docs) in enumerate(zip(query_ids[start:], best, strict=False)):
            found[query_id] = {doc_ids[d]: float(scores[row, d]) for d in docs.tolist()}
    return found


def compare(spec: str, folder: Path, *, peer: bool, most: int | None = None) -> dict[str, Any]:
    """Every figure of one model and collection: see report(). most: documents, all judged ones among them."""
    collection = read_collection(folder.parent, folder.name)
    documents = [(d.doc_id, f"{d.title} {d.text}".strip()) for d in open_corpus(str(folder))]
    if most is not None:
        judged = {doc for grades in collection.judgements.values() for doc in grades}
        others = [entry for entry in documents if entry[0] not in judged]
        step = max(len(others) // max(most - len(judged), 1), 1)
        documents = [entry for entry in documents if entry[0] in judged] + others[::step]
    doc_ids, query_ids = [d for d, _ in documents], [q.query_id for q in collection.queries]
    texts, asked = [text for _, text in documents], [q.text for q in collection.queries]
    parsed = parse_dense(spec)
    encoder = open_encoder(parsed.model, parsed.method, parsed.params)
    ways: dict[str, Encode] = {"ours": lambda found, kind: encoder.encode(found, kind).rows}
    if peer:
        ways[PEER] = sentence_transformers(parsed.model)
    result: dict[str, Any] = {
        "model": parsed.name, "collection": folder.name, "documents": len(texts), "queries": len(asked),
        "identity": dict(encoder.identity), "runtime": dict(encoder.runtime), "ways": {},
    }  # fmt: skip
    rows: dict[str, Rows] = {}
    for way, encode in ways.items():
        start = process_time()
        rows[way], heads = encode(texts, "passage"), encode(asked, "query")
        seconds = process_time() - start
        scores = rank(heads, rows[way], query_ids, doc_ids)
        means = evaluate(scores, collection.judgements, MEASURES).means
        result["ways"][way] = {**means, "cpu_seconds": seconds}
        sys.stderr.write(f"{folder.name}: {way}: {means} in {seconds:.0f} CPU seconds\n")
    if peer:
        apart = [float(x) for x in (rows["ours"] * rows[PEER]).sum(1) / np.linalg.norm(rows[PEER], axis=1)]
        lengths = np.linalg.norm(rows["ours"], axis=1)
        cosines = np.array(apart) / lengths
        result["cosine"] = {"min": float(cosines.min()), "mean": float(cosines.mean())}
    return result


def report(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        f"{result['model']} on {result['collection']}: {result['documents']:,} documents, "
        f"{result['queries']:,} queries; ours: {result['runtime']['backend']}, "
        f"{result['runtime']['precision']}.",
        "",
        f"| way | {' | '.join(MEASURES)} | CPU s |",
        "|---|---|---|---|",
    ]
    for way, figures in result["ways"].items():
        values = " | ".join(f"{figures[measure]:.4f}" for measure in MEASURES)
        lines.append(f"| {way} | {values} | {figures['cpu_seconds']:.0f} |")
    if "cosine" in result:
        lines += [
            "",
            f"Cosine of the two: {result['cosine']['mean']:.6f}, at least {result['cosine']['min']:.6f}.",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.dense_quality", description=__doc__)
    parser.add_argument("--model", required=True, help="what --dense takes: DIR, or NAME=DIR(precision=...)")
    parser.add_argument("--collections", required=True, help="folder of BEIR folders")
    parser.add_argument("--collection", default="scifact")
    parser.add_argument("--most", type=int, help="about so many documents, those that are judged among them")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--json", help="write every figure there")
    settings = parser.parse_args(arguments)
    folder = Path(settings.collections) / settings.collection
    result = compare(settings.model, folder, peer=not settings.no_peer, most=settings.most)
    if settings.json:
        Path(settings.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    sys.stdout.write(report(result))


if __name__ == "__main__":
    main()
