"""Texts encoded a second, ours against sentence-transformers: python -m retrieval.bench.dense_speed --help.

Every way takes the same texts to vectors, tokenising included, in one process and in turns, so that a
disturbance hits all alike; figures are medians over the rounds, cosines to sentence-transformers in float32.
Ways that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.dense_quality import PEER, sentence_transformers
from retrieval.bench.engines_report import machine
from retrieval.data.corpus import open_corpus
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder

Rows = NDArray[np.float32]
Encode = Callable[[list[str]], Rows]
OURS: dict[str, dict[str, Any]] = {
    "torch float32": {"precision": "float32"},
    "torch bfloat16": {"precision": "bfloat16"},
    "openvino float32": {"backend": "openvino", "precision": "float32"},
    "openvino bfloat16": {"backend": "openvino", "precision": "bfloat16"},
    "onnx float32": {"backend": "onnx", "precision": "float32"},
    "onnx int8": {"backend": "onnx", "precision": "int8"},
}
BASE = f"{PEER}, torch float32"


def ways(model: str, chosen: Sequence[str], threads: int) -> tuple[dict[str, Encode], dict[str, str]]:
    """(what encodes, by name; why others are left out)."""
    plain = sentence_transformers(model)
    found: dict[str, Encode] = {BASE: lambda texts: plain(texts, "passage")}
    absent: dict[str, str] = {}
    for name in chosen:
        try:
            encoder = open_encoder(model, params={**OURS[name], "threads": threads})
            encoder.encode(["the first use loads what is loaded late"])
        except UserError as error:
            absent[name] = str(error)
            continue
        found[f"ours, {name}"] = lambda texts, encoder=encoder: encoder.encode(texts).rows  # type: ignore[misc]
    return found, absent


def compare(settings: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one run: see `report`."""
    import torch

    torch.set_num_threads(settings.threads)
    corpus = str(Path(settings.collections) / settings.collection)
    texts = [document.full_text() for document in islice(open_corpus(corpus), settings.docs)]
    found, absent = ways(settings.model, settings.ways, settings.threads)
    wall: dict[str, list[float]] = {way: [] for way in found}
    cpu: dict[str, list[float]] = {way: [] for way in found}
    rows: dict[str, Rows] = {}
    for turn in range(settings.rounds):
        for way, encode in found.items():
            start, work = perf_counter(), process_time()
            rows[way] = encode(texts)
            wall[way].append(perf_counter() - start)
            cpu[way].append(process_time() - work)
            rate = len(texts) / cpu[way][-1]
            sys.stderr.write(f"round {turn + 1}: {way}: {rate:.1f} texts a CPU second\n")
    counted = open_encoder(settings.model, params={"precision": "float32"}).encode(texts[:1])
    base = rows[BASE].astype(np.float64)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    figures = {}
    for way in found:
        wide = rows[way].astype(np.float64)
        cosines = (wide * base).sum(1) / np.linalg.norm(wide, axis=1)
        figures[way] = {
            "texts_per_second": len(texts) / statistics.median(wall[way]),
            "texts_per_cpu_second": len(texts) / statistics.median(cpu[way]),
            "times": statistics.median(a / b for a, b in zip(cpu[BASE], cpu[way], strict=True)),
            "cosine_min": float(cosines.min()), "cosine_mean": float(cosines.mean()),
            "wall": wall[way], "cpu": cpu[way],
        }  # fmt: skip
    return {
        "machine": machine(), "torch": torch.__version__, "settings": vars(settings), "texts": len(texts),
        "dim": counted.rows.shape[1], "absent": absent, "ways": figures,
    }  # fmt: skip


def report(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    settings = result["settings"]
    lines = [
        f"{Path(settings['model']).name}, {result['texts']} texts of {settings['collection']}, "
        f"{settings['threads']} thread(s), {settings['rounds']} rounds; {result['machine']['processor']}, "
        f"load {result['machine']['load']:.1f}; torch {result['torch']}. The ratio is the median of the "
        "rounds' CPU times.",
        "",
        "| way | texts/s | texts/CPU-s | ratio | cosine mean | cosine min |",
        "|---|---|---|---|---|---|",
    ]
    for way, found in result["ways"].items():
        lines.append(
            f"| {way} | {found['texts_per_second']:.1f} | {found['texts_per_cpu_second']:.1f} | "
            f"{found['times']:.2f} | {found['cosine_mean']:.6f} | {found['cosine_min']:.6f} |"
        )
    lines += [f"\nLeft out: {way}: {why}" for way, why in result["absent"].items()]
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.dense_speed", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, help="a model directory")
    add("--collections", required=True, help="folder of BEIR folders")
    add("--collection", default="medquad")
    add("--docs", type=int, default=256, help="so many of its first documents")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--ways", nargs="*", choices=OURS, default=list(OURS), metavar="WAY", help=f"of: {', '.join(OURS)}")
    add("--json", help="write every figure there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    result = compare(settings)
    if settings.json:
        Path(settings.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    sys.stdout.write(report(result))


if __name__ == "__main__":
    main()
