"""Documents encoded a second, ours against transformers: python -m retrieval.bench.encoding --help.

Every way of batching encodes the same token ids in one process, in turns, so that a disturbance hits all
alike; figures are medians over the rounds. Tokenising is timed apart, since all share it. What the ways give
is compared too: a faster encoder that computes something else would be none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.engines_report import machine
from retrieval.data.corpus import open_corpus
from retrieval.errors import MissingExtra
from retrieval.index.model_files import ModelFiles

Ids = list[NDArray[np.int64]]
Encode = Callable[[Ids], NDArray[np.float32]]  # the first token's hidden state of each, [n, H]


def ours(files: ModelFiles, tokens: int, device: str, *, first: bool, bfloat16: bool) -> Encode:
    """Sorted by length and packed. first: the last layer for the first tokens only, as TILDE needs it."""
    import torch

    from retrieval.index.bert import Bert, BertConfig, pack, plan_batches

    bert = Bert(BertConfig.from_dict(files.config)).eval()
    files.load_into(bert)
    bert.to(device)

    def encode(ids: Ids) -> NDArray[np.float32]:
        out = np.empty((len(ids), bert.config.hidden_size), dtype=np.float32)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            for batch in plan_batches([len(sequence) for sequence in ids], tokens):
                packed = pack([ids[i] for i in batch], device=device)
                rows = bert.first(packed)[0] if first else bert(packed)[packed.offsets[:-1]]
                out[batch] = rows.float().cpu().numpy()
        return out

    return encode


def theirs(files: ModelFiles, batch: int, device: str, width: int, *, in_order: bool) -> Encode:
    """transformers, padded: to `width`, or with width 0 to the longest of a batch."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra("models", "the comparison with transformers") from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModel.from_pretrained(files.path, local_files_only=True).eval().to(device)

    def encode(ids: Ids) -> NDArray[np.float32]:
        order = np.argsort([len(sequence) for sequence in ids], kind="stable")
        parts: list[NDArray[np.float32]] = []
        order = np.arange(len(ids)) if in_order else order
        with torch.inference_mode():
            for at in range(0, len(ids), batch):
                chosen = [ids[i] for i in order[at : at + batch]]
                grid = np.full((len(chosen), width or max(map(len, chosen))), files.vocabulary.pad)
                for row, sequence in zip(grid, chosen):
                    row[: len(sequence)] = sequence
                lengths = np.array([len(sequence) for sequence in chosen])
                real = np.arange(grid.shape[1]) < lengths[:, None]
                tensors = [torch.from_numpy(a).to(device) for a in (grid, real.astype(np.int64))]
                hidden = model(input_ids=tensors[0], attention_mask=tensors[1]).last_hidden_state
                parts.append(hidden[:, 0].float().cpu().numpy())
        out = np.empty_like(np.concatenate(parts))
        out[order] = np.concatenate(parts)
        return out

    return encode


def read(files: ModelFiles, corpus: str, docs: int, longest: int) -> tuple[Ids, float]:
    """Token ids with [CLS] and [SEP], and how many documents were tokenised a second."""
    texts = [document.full_text() for document in islice(open_corpus(corpus), docs)]
    vocabulary = files.vocabulary
    start = perf_counter()
    encoded = vocabulary.encode(texts, longest - 2)
    rate = len(texts) / (perf_counter() - start)
    return [np.array([vocabulary.cls, *ids, vocabulary.sep], dtype=np.int64) for ids in encoded], rate


def compare(settings: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one run: see `report`."""
    import torch

    torch.set_num_threads(settings.threads)
    files = ModelFiles.open(settings.model)
    longest = min(settings.max_length, files.config.get("max_position_embeddings", settings.max_length))
    ids, rate = read(files, settings.corpus, settings.docs, longest)
    lengths = [len(sequence) for sequence in ids]
    device, batch, tokens = settings.device, settings.batch, settings.tokens
    ways: dict[str, Encode] = {
        "transformers, padded to max_length": theirs(files, batch, device, longest, in_order=True),
        "transformers, padded to the longest": theirs(files, batch, device, 0, in_order=True),
        "transformers, sorted and padded": theirs(files, batch, device, 0, in_order=False),
        "ours, packed": ours(files, tokens, device, first=False, bfloat16=False),
        "ours, packed, first token only": ours(files, tokens, device, first=True, bfloat16=False),
        "ours, packed, bfloat16": ours(files, tokens, device, first=False, bfloat16=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    states: dict[str, NDArray[np.float32]] = {}
    for encode in ways.values():
        encode(ids[:2])  # what is loaded at the first use
    for turn in range(settings.rounds):
        for way, encode in ways.items():
            start, work = perf_counter(), process_time()
            states[way] = encode(ids)
            seconds[way].append(perf_counter() - start)
            processor[way].append(process_time() - work)
            sys.stderr.write(f"round {turn + 1}: {way}: {len(ids) / seconds[way][-1]:.1f} documents/s\n")
    reference = states["transformers, padded to the longest"]
    return {
        "machine": machine(),
        "torch": torch.__version__,
        "settings": vars(settings),
        "model": files.identity,
        "documents": len(ids),
        "tokens": {"mean": statistics.mean(lengths), "max": max(lengths), "cut_to": longest},
        "tokenised_per_second": rate,
        "ways": {
            way: {
                "documents_per_second": len(ids) / statistics.median(times),
                "documents_per_cpu_second": len(ids) / statistics.median(processor[way]),
                "seconds": times,
                "least_cosine": least_cosine(states[way], reference),
            }
            for way, times in seconds.items()
        },
    }


def least_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of the rows of a with the same rows of b."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1)
    return float(((wide_a * wide_b).sum(axis=1) / norms).min())


def report(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    tokens, settings, ways = result["tokens"], result["settings"], result["ways"]
    base = ways["transformers, padded to the longest"]
    lines = [
        f"{result['model']['name']}: {result['documents']} documents of {tokens['mean']:.0f} tokens (at most "
        f"{tokens['max']}); batches of {settings['batch']} for transformers, of {settings['tokens']} tokens "
        f"for ours; {settings['threads']} thread(s) on {settings['device']}, {settings['rounds']} rounds; "
        f"{result['machine']['processor']}, load {result['machine']['load']:.1f}; torch {result['torch']}; "
        f"{result['tokenised_per_second']:.0f} documents/s tokenised.",
        "",
        "| way | documents/s | times the padded | documents/CPU-s | times the padded | least cosine |",
        "|---|---|---|---|---|---|",
    ]
    for way, figures in ways.items():
        cells = [way]
        for clock in ("documents_per_second", "documents_per_cpu_second"):
            cells += [f"{figures[clock]:.1f}", f"{figures[clock] / base[clock]:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {figures['least_cosine']:.6f} |")
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.encoding", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, help="a model directory")
    add("--corpus", required=True, help="a corpus file or BEIR folder")
    add("--docs", type=int, default=256, help="so many of its first documents")
    add("--max-length", type=int, default=512, help="tokens that a document is cut to")
    add("--batch", type=int, default=32, help="documents in a batch of transformers")
    add("--tokens", type=int, default=4096, help="tokens in a batch of ours")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--device", default="cpu")
    add("--json", help="write every figure there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    result = compare(settings)
    if settings.json:
        with open(settings.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    sys.stdout.write(report(result))


if __name__ == "__main__":
    main()
