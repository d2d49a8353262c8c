"""M2-BERT against a BERT of its size: python -m retrieval.bench.m2bert_speed [--shapes ...] [--lengths ...].

Both have random weights, the same layers and width, and positions for the longest length; BERT is our packed
one with scaled-dot-product attention. One text a pass, float32, inference mode. The two take turns, and the
median of this process's processor seconds counts. M2-BERT is timed with its kernels kept, as it runs in an
index, and once more with all kernels made anew, which is what keeping them saves. Markdown goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch

from retrieval.errors import UserError
from retrieval.index.bert import Bert, BertConfig, pack
from retrieval.index.m2bert import M2Bert, M2Config

SHAPES = {"80M": (12, 768, 12, 128), "small": (4, 128, 2, 64)}  # layers, width, heads, filter order
_WORDS = 30522


class Row(NamedTuple):
    """Median processor seconds of one text of `length` tokens."""

    shape: str
    length: int
    m2: float  # kernels kept
    fresh: float  # kernels made anew
    bert: float

    @property
    def ratio(self) -> float:
        """How many times M2-BERT's tokens a second are BERT's."""
        return self.bert / self.m2

    @property
    def kernels(self) -> float:
        """Share of a pass that makes its kernels anew."""
        return max(0.0, 1 - self.m2 / self.fresh)


def models(shape: str, longest: int) -> tuple[M2Bert, Bert]:
    """The two networks of a shape, random and frozen."""
    layers, width, heads, order = SHAPES[shape]
    torch.manual_seed(0)
    ours = M2Bert(
        M2Config(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width,
            hyena_filter_order=order, max_position_embeddings=longest,
        )
    )  # fmt: skip
    theirs = Bert(
        BertConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width,
            num_attention_heads=heads, max_position_embeddings=longest,
        )
    )  # fmt: skip
    return ours.eval().requires_grad_(False), theirs.eval().requires_grad_(False)


def measure(shape: str, length: int, rounds: int) -> Row:
    """The two of one shape and length, in turns; what each does first in its life is not counted."""
    ours, theirs = models(shape, length)
    ids = np.random.default_rng(0).integers(1000, _WORDS, length)
    packed, grid = pack([ids]), torch.from_numpy(ids)[None]
    real = torch.tensor([length])

    def fresh() -> None:
        ours.kernels.clear()
        ours(grid, real)

    turns: dict[str, Callable[[], object]] = {
        "fresh": fresh, "m2": lambda: ours(grid, real), "bert": lambda: theirs(packed),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    with torch.inference_mode():
        ours(grid[:, :128])
        theirs(pack([ids[:128]]))
        for number in range(rounds):
            for name, turn in turns.items():
                begun = process_time()
                turn()
                seconds[name].append(process_time() - begun)
                sys.stderr.write(f"{shape} {length} round {number + 1}: {name} {seconds[name][-1]:.3f} s\n")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return Row(shape, length, middle["m2"], middle["fresh"], middle["bert"])


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| shape | tokens | M2-BERT s | tokens/s | BERT s | tokens/s | M2-BERT is | kernels made anew |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        layers, width, *_ = SHAPES[row.shape]
        lines.append(
            f"| {row.shape}, {layers} x {width} | {row.length:,} | {row.m2:.3g} | "
            f"{row.length / row.m2:,.0f} | "
            f"{row.bert:.3g} | {row.length / row.bert:,.0f} | {row.ratio:.2f} times as fast | "
            f"{row.fresh:.3g} s, {row.kernels:.0%} of it kernels |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="retrieval.bench.m2bert_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--lengths", default="2048,8192")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="file for the figures")
    given: Any = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rows = []
    for shape in given.shapes.split(","):
        if shape not in SHAPES:
            raise UserError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
        for length in given.lengths.split(","):
            rows.append(measure(shape, int(length), given.rounds))
    sys.stdout.write(table(rows))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump([row._asdict() for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
