"""The verb `train`: a KIND of training, from files or a corpus to a model directory, resumable."""

from __future__ import annotations

import argparse
import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from retrieval.cli_common import note, refuse_file, valid_text, write_json
from retrieval.cli_interrupt import Interrupts, interrupts
from retrieval.cli_parser import Parser, whole
from retrieval.errors import UserError

_TRAINING = (
    "epochs", "steps", "lr", "warmup", "schedule", "weight_decay", "clip", "accumulate", "optimizer",
    "precision", "evaluate_every", "checkpoint_every", "keep", "seed", "threads", "device",
)  # fmt: skip


def _number(text: str) -> float:
    """A number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return value


def _count(text: str) -> int:
    """A whole number, 0 too."""
    return 0 if text == "0" else whole(text)


def train_options(parser: Parser) -> None:
    """The options of `train`."""
    option, number = parser.option, partial(parser.option, metavar="X", read=_number)
    count = partial(parser.option, metavar="N", read=whole)
    parser.positional(
        "kind", "KIND", "what to train: tilde, tildev2, bprop, cross, dense, m2bert, smith, parade"
    )
    option(
        "--out", metavar="DIR", help="where the training lives; the model comes to DIR/model", required=True
    )
    option("--start", metavar="DIR", help="model directory to start from; dense: [METHOD:]DIR[(param=value)]")
    parser.repeated(
        "--data",
        metavar="EXAMPLES",
        help='JSON lines of {"query", "positive"[, "negatives": [...]]}, TSV of query, passage[, negative], '
        "a folder of MS MARCO's files, or BEIR@split",
    )
    parser.repeated("--corpus", metavar="CORPUS", help="make examples from a corpus, of any form to index")
    option("--teacher", metavar="DIR", help="encoder (sentence-transformers files) whose scores are learned")
    count("--epochs", help="passes over the examples")
    count("--steps", help="or the number of steps")
    count("--batch", help="examples a batch")
    count("--accumulate", help="batches a step (default: 1)")
    number("--lr", help="learning rate")
    number("--warmup", help="share of the steps in which the rate rises (default: 0.1)")
    option("--schedule", metavar="S", help="linear (default) or constant")
    option("--optimizer", metavar="O", help="adamw (default) or lamb")
    number("--weight-decay", help="of matrices (default: 0.01)")
    number("--clip", help="largest norm of the gradient (default: 1; 0: none)")
    option("--precision", metavar="P", help="auto (default), float32, bf16 or fp16")
    option("--held-out", metavar="N", help="examples kept for evaluation", read=_count)
    count("--evaluate-every", help="steps between evaluations (default: a tenth of all)")
    count("--checkpoint-every", help="steps between checkpoints (default: ten minutes)")
    option("--keep", metavar="W", help="save the weights of the best (default) or last evaluation")
    option("--seed", metavar="S", help="of every draw (default: 0)", read=_count)
    count("--threads", help="threads to compute with")
    option("--device", metavar="D", help="auto (default), cpu or cuda")
    parser.repeated("--set", metavar="KEY=VALUE", help="a setting of the KIND (a wrong key lists them)")


def train(given: Namespace) -> None:
    """Train a model. A killed or interrupted training goes on when the same command is run again.

    The last line of output is {"model": DIR, "steps": N, ...}. DIR/curve.svg shows how it went.
    """
    if not given.out:
        raise UserError("--out is empty; name the directory where the training is to live")
    refuse_file(given.out)
    for name in ("out", "start", "teacher"):
        if getattr(given, name) is not None:
            valid_text(getattr(given, name), f"--{name}")
    from retrieval.index.trainer import (
        TaskOptions,
        TrainOptions,
        check_options,
        create_task,
        train,
        with_recipe,
    )
    from retrieval.progress import Progress

    wanted: dict[str, Any] = {
        name: getattr(given, name) for name in _TRAINING if getattr(given, name) is not None
    }
    check_options(TrainOptions(**wanted))  # now, and not after an hour of preparation
    with interrupts() as stop:
        options = TaskOptions(
            out=given.out, start=given.start, data=tuple(given.data), corpus=tuple(given.corpus),
            teacher=given.teacher, batch=given.batch, held_out=given.held_out, seed=given.seed or 0,
            settings=_settings(given.set), say=note, stop=stop.check, counting=partial(_counting, stop),
        )  # fmt: skip
        _use_threads(given.threads)
        task = create_task(given.kind, options)
        with Progress("training", unit="steps") as bar:
            found = train(task, given.out, with_recipe(task, wanted), bar, stop=stop.check, say=note)
    write_json(found)


def _use_threads(threads: int | None) -> None:
    """Preparation computes with as many threads as the training."""
    if threads is not None:
        try:
            import torch
        except ImportError:
            return  # create_task says so
        torch.set_num_threads(threads)


def _settings(pairs: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, mark, value = valid_text(pair, "--set").partition("=")
        if not mark or not key.strip():
            raise UserError(f"--set {pair!r}: write KEY=VALUE")
        if key.strip() in found:
            raise UserError(f"--set {key.strip()} is given twice; give it once")
        found[key.strip()] = value.strip()
    return found


@contextmanager
def _counting(stop: Interrupts, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from retrieval.progress import Progress

    with Progress(label, total, unit=unit) as progress:

        def count(done: int) -> None:
            stop.check()
            progress.update(done)

        yield count
