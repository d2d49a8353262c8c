"""SMITH against full attention: python -m retrieval.bench.smith_speed [--shapes ...] [--lengths ...].

Both have random weights, one width, and as many layers: SMITH's sentence and document level together against
a BERT that reads the text whole, with positions for all of it and scaled-dot-product attention. Both read
every token of one text a pass, float32, laid out for inference (index/fused.py), in turns; the median of this
process's processor seconds counts. SMITH's blocks are full of tokens, with [CLS] and [SEP] on top. Memory is
what a process of its own needs above the loaded model, for one pass. Markdown goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch

from retrieval.errors import UserError
from retrieval.index.bert import Bert, BertConfig, pack
from retrieval.index.fused import FusedBert
from retrieval.index.pooling import pool
from retrieval.index.vocabulary import Vocabulary
from retrieval.longdoc.smith import SmithEncoder
from retrieval.longdoc.smith_model import Smith, SmithConfig

# Layers of the sentence and the document level, width, heads of the sentence level, its inner width.
SHAPES = {"tiny": (2, 3, 128, 2, 512), "wsp": (4, 3, 256, 4, 512)}
MODELS = ("smith", "full")
_WORDS = 30522
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Row(NamedTuple):
    """Median processor seconds and memory of one text of `length` tokens."""

    shape: str
    block: int
    length: int
    smith: float
    full: float
    smith_mib: float
    full_mib: float

    @property
    def ratio(self) -> float:
        """How many times SMITH is as fast."""
        return self.full / self.smith


def passes(
    shape: str, block: int, length: int, models: Sequence[str] = MODELS
) -> dict[str, Callable[[], Any]]:
    """What reads a random text of so many tokens, for each of the models."""
    lower, upper, width, heads, inner = SHAPES[shape]
    torch.manual_seed(0)
    ids = np.random.default_rng(0).integers(len(_SPECIAL), _WORDS, length).astype(np.int32)
    made: dict[str, Callable[[], Any]] = {}
    if "smith" in models:
        sentence = BertConfig(
            num_hidden_layers=lower, hidden_size=width, num_attention_heads=heads, intermediate_size=inner
        )
        config = SmithConfig.from_dict({"block": block, "layers": upper, "intermediate": inner}, sentence)
        model = Smith(sentence, config).eval().requires_grad_(False)
        words = Vocabulary.from_bytes("".join(f"{piece}\n" for piece in _SPECIAL).encode(), "vocab.txt")
        reader = SmithEncoder(words, model, {"name": "random"}, device="cpu")
        size = reader.capacity
        blocks = [
            np.concatenate([[words.cls], ids[at : at + size], [words.sep]]).astype(np.int32)
            for at in range(0, length, size)
        ]
        offsets = torch.tensor([0, len(blocks)])
        made["smith"] = lambda: reader.documents(reader.block_rows(blocks), offsets)
    if "full" in models:
        whole = BertConfig(
            num_hidden_layers=lower + upper, hidden_size=width, num_attention_heads=heads,
            intermediate_size=inner, max_position_embeddings=length,
        )  # fmt: skip
        fused = FusedBert(Bert(whole).eval().requires_grad_(False))
        packed = pack([ids])
        made["full"] = lambda: pool(fused(packed), packed.offsets, ("mean",))
    return made


def measure(shape: str, block: int, length: int, rounds: int) -> Row:
    """The two of one shape and length, in turns; what each does first in its life is not counted."""
    first, turns = passes(shape, block, 64), passes(shape, block, length)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    with torch.inference_mode():
        for turn in first.values():
            turn()
        for number in range(rounds):
            for name, turn in turns.items():
                begun = process_time()
                turn()
                seconds[name].append(process_time() - begun)
                sys.stderr.write(f"{shape} {length} round {number + 1}: {name} {seconds[name][-1]:.3f} s\n")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    mib = {name: _memory_elsewhere(shape, block, length, name) for name in MODELS}
    return Row(shape, block, length, middle["smith"], middle["full"], mib["smith"], mib["full"])


def memory(shape: str, block: int, length: int, model: str) -> float:
    """MiB that one pass needs above what this process holds before it (Linux)."""
    first, turn = (passes(shape, block, size, (model,))[model] for size in (64, length))
    with torch.inference_mode():
        first()
        before = _kib("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak counts anew from here
        turn()
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


def _memory_elsewhere(shape: str, block: int, length: int, model: str) -> float:
    threads = str(torch.get_num_threads())
    command = [
        sys.executable, "-m", "retrieval.bench.smith_speed", "--memory", model, "--shapes", shape, "--blocks",
        str(block), "--lengths", str(length), "--threads", threads,
    ]  # fmt: skip
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| shape | block | tokens | SMITH s | tokens/s | MiB | full s | tokens/s | MiB | SMITH is |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lower, upper, width, *_ = SHAPES[row.shape]
        lines.append(
            f"| {row.shape}, {lower} + {upper} x {width} | {row.block} | {row.length:,} | {row.smith:.3g} | "
            f"{row.length / row.smith:,.0f} | {row.smith_mib:.0f} | {row.full:.3g} | "
            f"{row.length / row.full:,.0f} | {row.full_mib:.0f} | {row.ratio:.2f} times as fast |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="retrieval.bench.smith_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--blocks", default="128", help="tokens of a block, [CLS] and two [SEP] counted")
    parser.add_argument("--lengths", default="512,2048,8192,32768")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", choices=MODELS, help="print the MiB of one pass of one model, alone")
    parser.add_argument("--json", help="file for the figures")
    given: Any = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    cases = []
    for shape in given.shapes.split(","):
        if shape not in SHAPES:
            raise UserError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
        cases += [
            (shape, int(block), int(length))
            for block in given.blocks.split(",")
            for length in given.lengths.split(",")
        ]
    if given.memory:
        sys.stdout.write(f"{memory(*cases[0], given.memory)}\n")
        return
    rows = [measure(*case, given.rounds) for case in cases]
    sys.stdout.write(table(rows))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump([row._asdict() for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
