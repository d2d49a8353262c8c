"""`retrieve train smith`: pre-training of a SMITH by masked words and masked blocks, and pairwise matching.

    --set mode=pretrain   a corpus: masked words, masked blocks
    --set mode=joint      examples of documents that match: the same on both sides, and matching
    --set mode=finetune   matching: sigmoid cross-entropy of pairs, as published; with masked blocks unless
                          --set masked_blocks=0

--start is a SMITH, which is trained on, or a BERT, out of which a new one begins. For retrieval, `retrieve
train dense` goes on from here with all other documents of a batch as negatives, which does better than pairs.
Published: batch 32, lr 5e-5, 400,000 steps of pre-training, 10,000 of fine-tuning, 32 tokens a block, 48
blocks a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.dense_data import Drawing, distinct_batches
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.longdoc.smith_data import read_documents
from retrieval.longdoc.smith_losses import matching_loss
from retrieval.longdoc.smith_training import SHAPE, Lot, SmithForTraining, open_training

DEFAULTS: Mapping[str, Any] = {
    **SHAPE,  # block, layers, document ...: of a new model
    "mode": "pretrain",  # or joint, finetune
    "window": 48,  # blocks of a document that a step reads; in pre-training from a random one on. 0: all
    "mask": 0.15,  # share of a block's words that are asked for
    "masked_blocks": 2,  # of a document; 0: no such loss
    "block_weight": 1.0,  # of that loss against the others
    "matching_weight": 1.0,  # in joint training
    "positive_weight": 1.0,  # of pairs that match
    "negatives": 1,  # that come with an example, drawn anew each time
    "random": 1,  # documents drawn at random that do not match
    "dropout": 0.1,
}
_MODES = ("pretrain", "joint", "finetune")
_BATCH, _HELD_OUT = 8, 64
_LEAST = {"window": 0, "masked_blocks": 0, "block_weight": 0, "matching_weight": 0, "random": 0}


@registry.register("smith", kind="training task")
def create(options: TaskOptions) -> SmithTask:
    """The task: tokenises the corpus, once. Raises UserError, UnknownName, BadLine."""
    settings = read_settings("smith", {**SETTINGS, **DEFAULTS}, options.settings)
    check_settings(settings)
    if options.start is None:
        raise UserError("name a model to start from: --start DIR, a SMITH to train on, or a BERT")
    model, report = open_training(options, settings, options.batch or _BATCH)
    options.say(report)
    if settings["mode"] == "pretrain":
        return Pretraining(options, settings, model)
    return Pairs(options, settings, model)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a value out of its range."""
    if settings["mode"] not in _MODES:
        raise UserError(f"--set mode={settings['mode']}: choose one of {', '.join(_MODES)}")
    for name in ("mask", "dropout"):
        if not 0 <= settings[name] < 1:
            raise UserError(f"--set {name}={settings[name]}: give a share, from 0 to below 1")
    for name, least in _LEAST.items():
        if settings[name] < least:
            raise UserError(f"--set {name}={settings[name]}: give {least} or more")
    if settings["positive_weight"] <= 0:
        raise UserError(f"--set positive_weight={settings['positive_weight']}: give a number above 0")
    if settings["mode"] != "pretrain" and settings["negatives"] + settings["random"] < 1:
        raise UserError("pairs that all match teach nothing; give --set negatives= or random= 1 or more")


class SmithTask:
    """What both kinds of tasks share. See retrieval.index.trainer.Task."""

    name = "smith"
    better: Literal["higher", "lower"] = "lower"
    recipe: Mapping[str, Any] = {"lr": 5e-5, "epochs": 1}

    def __init__(self, options: TaskOptions, settings: Mapping[str, Any], model: SmithForTraining) -> None:
        self.options, self.settings = options, settings
        self.model: torch.nn.Module = model
        self.smith = model
        self.batch = options.batch or _BATCH
        self.wanted = _HELD_OUT if options.held_out is None else options.held_out
        self.facts: Mapping[str, Any] = {
            "corpus": list(options.corpus), "data": list(options.data), "start": model.source,
            "seed": options.seed, "settings": dict(settings), "batch": self.batch, "held_out": self.wanted,
        }  # fmt: skip

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        raise NotImplementedError

    def loss(self, batch: Any) -> tuple[Tensor, Figures]:
        raise NotImplementedError

    def evaluate(self) -> Figures:
        raise NotImplementedError

    def lot(self, documents: Sequence[NDArray[np.int32]], rng: np.random.Generator | None) -> Lot:
        """Prepared documents as the network takes them; see Lot."""
        return Lot.of(self.smith.reader, documents, self.settings["window"], rng)

    def save(self, directory: str) -> None:
        """The model directory: an encoder that opens, and the heads beside it for a further training."""
        self.smith.save(directory)


class Pretraining(SmithTask):
    """On documents alone. A batch: int64[n], numbers of documents."""

    def __init__(self, options: TaskOptions, settings: Mapping[str, Any], model: SmithForTraining) -> None:
        if not options.corpus or options.data:
            raise UserError("mode=pretrain learns from documents alone; give --corpus, and no --data")
        if not settings["mask"]:
            raise UserError("--set mask=0: pre-training asks for words; give a share above 0")
        super().__init__(options, settings, model)
        self._documents = read_documents(options, model.reader, settings["documents"])
        count = len(self._documents)
        held_out = min(self.wanted, count // 10)
        self._training = np.arange(count - held_out)
        self._held_out = np.arange(count - held_out, count)

    def batches(self, epoch: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Each document once, `batch` at a time."""
        order = np.random.default_rng([seed, 2, epoch]).permutation(self._training)
        for start in range(0, max(1, len(order) - self.batch + 1), self.batch):
            yield order[start : start + self.batch]

    def loss(self, batch: NDArray[np.int64]) -> tuple[Tensor, Figures]:
        """Masked words and masked blocks, in nats; which ones, torch's generator says."""
        rng = np.random.default_rng(int(torch.randint(1 << 31, ())))
        return self._loss(batch, rng)

    def evaluate(self) -> Figures:
        """The loss and its parts on held-out documents: always the same places and words."""
        found: dict[str, list[float]] = {}
        for start in range(0, len(self._held_out), self.batch):
            rng = np.random.default_rng([0, start])
            batch = self._held_out[start : start + self.batch]
            total, figures = self._loss(batch, rng)
            for name, value in {"loss": float(total.detach()), **figures}.items():
                found.setdefault(name, []).append(value * len(batch))
        return {name: sum(values) / len(self._held_out) for name, values in found.items()}

    def _loss(self, batch: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Figures]:
        lot = self.lot([self._documents[at] for at in batch.tolist()], rng)
        settings = self.settings
        words, blocks, _, figures = self.smith.masked(lot, settings["mask"], settings["masked_blocks"], rng)
        return words + settings["block_weight"] * blocks, figures


class Pairs(SmithTask):
    """On examples. A batch: (numbers of examples, (epoch, number of the batch))."""

    def __init__(self, options: TaskOptions, settings: Mapping[str, Any], model: SmithForTraining) -> None:
        if not options.data:
            raise UserError(f"mode={settings['mode']} learns from documents that match; give --data EXAMPLES")
        super().__init__(options, settings, model)
        self._joint = settings["mode"] == "joint"
        self._prepared = prepared = prepare(options, settings, negatives=False)
        self._drawing = Drawing(prepared, settings["negatives"], settings["random"], None, options.seed)
        self._training, self._held_out = prepared.split(self.wanted, options.seed)

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        """Examples of different documents."""
        order = np.random.default_rng([seed, 2, epoch]).permutation(self._training)
        keys = self._prepared.origin[self._prepared.positive]
        for at, examples in enumerate(distinct_batches(order, keys, self.batch)):
            yield examples, (epoch, at)

    def loss(self, batch: Any) -> tuple[Tensor, Figures]:
        """Matching; in joint training with the masked words and blocks of both sides."""
        rng = np.random.default_rng(int(torch.randint(1 << 31, ())))
        examples, draw = batch
        return self._loss(examples, draw, rng)

    def evaluate(self) -> Figures:
        """The loss and its parts on held-out pairs, always the same; accuracy at a threshold of .5."""
        found: dict[str, list[float]] = {}
        for start in range(0, len(self._held_out), self.batch):
            examples = self._held_out[start : start + self.batch]
            total, figures = self._loss(examples, (-1, start), np.random.default_rng([0, start]))
            for name, value in {"loss": float(total.detach()), **figures}.items():
                found.setdefault(name, []).append(value * len(examples))
        return {name: sum(values) / len(self._held_out) for name, values in found.items()}

    def _loss(
        self, examples: NDArray[np.int64], draw: Sequence[int], rng: np.random.Generator
    ) -> tuple[Tensor, Figures]:
        # A draw is seeded with numbers of 0 and more; -1 is the evaluation's.
        groups = self._drawing.groups(examples, [at + 1 for at in draw])
        prepared, smith = self._prepared, self.smith
        queries = [prepared.queries[at] for at in examples.tolist()]
        passages = [prepared.passages[at]["text"] for at in groups.numbers.tolist()]
        total, sides = torch.zeros((), device=smith.device), []
        figures: Figures = {}
        masks = self._joint or self.settings["masked_blocks"]
        for number, texts in enumerate((queries, passages), 1):
            lot = self.lot(smith.reader.prepare(texts).ids, None)
            if masks:
                share = self.settings["mask"] if self._joint else 0.0
                words, blocks, rows, parts = smith.masked(lot, share, self.settings["masked_blocks"], rng)
                total = total + words + self.settings["block_weight"] * blocks
                figures |= {f"{name}{number}": value for name, value in parts.items()}
            else:
                rows = smith.read(lot)
            sides.append(smith.documents(rows, lot))
        row, column = np.nonzero(groups.place >= 0)
        pairs = (
            sides[0][torch.from_numpy(row).to(smith.device)],
            sides[1][torch.from_numpy(groups.place[row, column]).to(smith.device)],
        )
        logits = smith.heads.matching((pairs[0] * pairs[1]).sum(1))
        labels = torch.from_numpy(column == 0).to(smith.device)
        matched = matching_loss(logits, labels, self.settings["positive_weight"])
        weight = self.settings["matching_weight"] if self._joint else 1.0
        figures["accuracy"] = float(((logits.detach() > 0) == labels).float().mean())
        figures["matching"] = float(matched.detach())
        return total + weight * matched, figures
