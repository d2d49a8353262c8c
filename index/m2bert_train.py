"""`retrieve train m2bert`: pre-training of an M2-BERT by masked words, on a corpus without labels.

--start is a directory with an M2-BERT, which is trained on (at a greater length if --set length asks for it),
or with any BERT: then a new M2-BERT gets its tokenizer and, where widths are equal, its embeddings of words.

Published (Saad-Falcon et al., ICML 2024, section 4.1; Fu et al., NeurIPS 2023, appendix): batch 4,096 of 128
tokens, lr 5e-4 to 8e-4, betas .9 and .98, weight decay 1e-5, warm-up 6 %, linear decay, 30 % of the words
masked; filters lr 1e-3, z lr 1e-5. What differs: filters and z keep their ratio to whatever rate is given;
the decay goes to 0, not to 2 %; --set begin=residual is a start of our own (below).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.m2bert import M2ForPretraining
from retrieval.index.m2bert_data import Masked, frame, mask, mixture, read_stream
from retrieval.index.m2bert_encoder import groups, padded_length
from retrieval.index.m2bert_start import SHAPE, begin, inherited
from retrieval.index.model_files import ModelFiles, save_model
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.index.vocabulary import Vocabulary

DEFAULTS: Mapping[str, Any] = {
    **SHAPE,  # layers, hidden, intermediate, order, blocks of a new model; 0: see m2bert_start.py
    "length": 0,  # tokens of a full sequence; 0: as the start, or 2048
    "embeddings": "start",  # new: words from the start where widths are equal (start), or random
    "begin": "residual",  # new: residual, or published
    "reach": 1024,  # new and residual: tokens over which a filter decays as published ones do over the length
    # How the encoder that is saved works. A start that is an M2-BERT hands on its own, unless they are given.
    "pad": "masked",  # or faithful, where padding takes part
    "pooling": "mean",  # or cls
    "pooler": False,  # whether pooled rows go through Linear and tanh, as the published ones do
    "variable": 0.3,  # share of sequences that are natural texts, the others are joined to the full length
    "mask": 0.3,  # share of masked words while training
    "mask_held_out": 0.15,  # and in evaluation
    "documents": 0,  # at most so many of the corpus; 0: all
    "dropout": 0.0,
}
_CHOICES = {
    "embeddings": ("start", "random"), "begin": ("residual", "published"), "pad": ("masked", "faithful"),
    "pooling": ("mean", "cls"),
}  # fmt: skip
_BATCH = 8
_HELD_OUT = 64


@registry.register("m2bert", kind="training task")
def create(options: TaskOptions) -> M2BertTask:
    """The task: tokenises the corpus, once. Raises UserError, UnknownName, BadLine."""
    settings = read_settings("m2bert", DEFAULTS, options.settings)
    check_settings(settings)
    if not options.corpus:
        raise UserError("m2bert learns from documents alone; give --corpus FILE (JSON lines, TSV, a folder)")
    if options.start is None:
        raise UserError(
            "name a model to start from: --start DIR, an M2-BERT to train on, or a BERT for its words"
        )
    files = ModelFiles.open(options.start)
    settings |= inherited(files, options.settings)
    check_settings(settings)
    model, report = begin(files, settings)
    options.say(report)
    read = {
        "corpus": list(options.corpus), "tokenizer": files.vocabulary.sha256,
        "documents": settings["documents"],
    }  # fmt: skip
    stream = read_stream(options, files.vocabulary, settings["documents"], read)
    return M2BertTask(options, files, model, stream.flat, stream.ends, settings)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a value out of its range."""
    for name, known in _CHOICES.items():
        if settings[name] not in known:
            raise UserError(f"--set {name}={settings[name]}: choose one of {', '.join(known)}")
    for name in ("variable", "mask", "mask_held_out", "dropout"):
        if not 0 <= settings[name] <= 1:
            raise UserError(f"--set {name}={settings[name]}: give a share, from 0 to 1")
    for name in (*SHAPE, "length", "documents", "reach"):
        if settings[name] < 0:
            raise UserError(f"--set {name}={settings[name]}: give a number of 0 or more")


class M2BertTask:
    """See retrieval.index.trainer.Task. A batch: int64[n, 2], places of the stream."""

    name = "m2bert"
    better: Literal["higher", "lower"] = "lower"
    recipe: Mapping[str, Any] = {
        "lr": 5e-4, "epochs": 1, "warmup": 0.06, "schedule": "linear", "weight_decay": 1e-5,
    }  # fmt: skip

    def __init__(
        self,
        options: TaskOptions,
        files: ModelFiles,
        model: M2ForPretraining,
        flat: NDArray[np.int32],
        ends: NDArray[np.int64],
        settings: Mapping[str, Any],
    ) -> None:
        self._pretraining = model
        self.model: torch.nn.Module = model
        self.settings = settings
        self._words: Vocabulary = files.vocabulary
        self._length = model.bert.config.max_position_embeddings
        self._batch = options.batch or _BATCH
        wanted = _HELD_OUT if options.held_out is None else options.held_out
        count = min(wanted, (len(ends) - 1) // 10)
        self._flat = flat
        self._ends = ends[: len(ends) - count]  # the last documents are held out
        self._held_out = ends[len(ends) - 1 - count :]
        self.facts: Mapping[str, Any] = {
            "corpus": list(options.corpus), "start": files.identity, "seed": options.seed,
            "settings": dict(settings), "batch": self._batch, "held_out": wanted,
        }  # fmt: skip

    def batches(self, epoch: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """The mixture of an epoch, `batch` sequences at a time."""
        rng = np.random.default_rng([seed, 2, epoch])
        places = mixture(self._ends, self._length - 1, self.settings["variable"], rng)
        for start in range(0, max(1, len(places) - self._batch + 1), self._batch):
            yield places[start : start + self._batch]

    def loss(self, batch: NDArray[np.int64]) -> tuple[Tensor, Figures]:
        """Cross-entropy of the hidden words, in nats; which ones, torch's generator says."""
        rng = np.random.default_rng(int(torch.randint(1 << 31, ())))
        masked = [mask(ids, self._words, self.settings["mask"], rng) for ids in self._sequences(batch)]
        total, hits, count = self._sums(masked)
        return total / count, {"accuracy": hits / count}

    def evaluate(self) -> Figures:
        """loss and accuracy on held-out documents, each cut to the length: always the same words."""
        places = np.stack([self._held_out[:-1], self._held_out[1:]], axis=1)
        places[:, 1] = np.minimum(places[:, 1], places[:, 0] + self._length - 1)
        loss = hits = 0.0
        count = 0
        for start in range(0, len(places), self._batch):
            rng = np.random.default_rng([0, start])
            sequences = self._sequences(places[start : start + self._batch])
            found = self._sums(
                [mask(ids, self._words, self.settings["mask_held_out"], rng) for ids in sequences]
            )
            loss, hits, count = loss + float(found[0].detach()), hits + found[1], count + found[2]
        return {"loss": loss / count, "accuracy": hits / count} if count else {}

    def _sequences(self, places: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        return [frame(self._flat[start:end], self._words) for start, end in places.tolist()]

    def _sums(self, masked: list[Masked]) -> tuple[Tensor, float, int]:
        """The summed cross-entropy, how many words are right, and how many were asked for."""
        device = next(self.model.parameters()).device
        total, hits = torch.zeros((), device=device), 0.0
        lengths = np.array([len(one.ids) for one in masked], np.int64)
        faithful = self.settings["pad"] == "faithful"
        for group in [np.arange(len(masked))] if faithful else groups(lengths, equal=False):
            members = [masked[at] for at in group.tolist()]
            longest = self._length if faithful else int(lengths[group].max())
            width = longest if faithful else min(padded_length(longest), self._length)
            grid = np.full((len(members), width), self._words.pad, np.int64)
            for row, one in zip(grid, members, strict=True):
                row[: len(one.ids)] = one.ids
            rows = np.concatenate([at * width + one.places for at, one in enumerate(members)])
            labels = torch.from_numpy(np.concatenate([one.labels for one in members])).to(device)
            real = None if faithful else torch.from_numpy(lengths[group]).to(device)
            logits = self._pretraining(
                torch.from_numpy(grid).to(device), real, torch.from_numpy(rows).to(device)
            )
            total = total + functional.cross_entropy(logits.float(), labels, reduction="sum")
            hits += float((logits.detach().argmax(1) == labels).sum())
        return total, hits, max(1, sum(len(one.labels) for one in masked))

    def save(self, directory: str) -> None:
        """The model directory: an encoder that opens, and the head beside it for a further training."""
        settings = self.settings
        config = {
            **self._pretraining.bert.config.to_dict(), "model_type": "m2bert",
            "hidden_dropout_prob": settings["dropout"],
            "retrieval": {
                "kind": "m2bert", "pad": settings["pad"], "pooling": settings["pooling"],
                "pooler": settings["pooler"], "normalise": True,
            },
        }  # fmt: skip
        tensors = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        save_model(directory, config, tensors, self._words.data, self._words.name)
