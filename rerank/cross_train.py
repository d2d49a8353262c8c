"""`retrieve train cross`: fine-tuning of a cross-encoder on queries, passages that answer, hard negatives.

The loss is groupwise, as the authors of B-PROP fine-tune: cross-entropy of the positive among itself and 11
negatives (--set loss=hinge for pairs). With --teacher and --set loss=kl the model learns to order a group as
the teacher does, which takes no positive: in a share of the groups (--set positives=) it is left out. It
starts from a B-PROP model, whose ROP head becomes the scorer, from a cross-encoder, or from a plain BERT with
a fresh head. Examples without negatives get BM25's (preparation.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import UserError
from retrieval.index.bert import pack
from retrieval.index.model_files import save_model
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.tilde_model import device_of
from retrieval.index.tilde_train import shuffled, start_files, tokenise, training_config
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.registry import register
from retrieval.rerank.cross_model import LOSSES, group_loss, load_cross, score_pairs
from retrieval.rerank.pairs import Frame, Joined, join

DEFAULTS: dict[str, Any] = {
    "negatives": 11,  # of each query in a step, drawn anew each time from those that were found
    "loss": "softmax",  # or hinge, or kl: a teacher's order
    "temperature": 0.05,  # kl: what the teacher's cosines are divided by
    "positives": 1.0,  # kl: share of the groups that hold the positive
    "length": 192,  # tokens of query and passage together
    "query_tokens": 64,
    "dropout": 0.0,  # while training (BERT's own is 0.1; small models do without)
    "dtype": "float32",  # of the saved model
}
_BATCH = 4  # groups
_HELD_OUT = 100
_FRESH = ("classifier.", "bert.pooler.", "pooler.")


class CrossTask:
    """See retrieval.index.trainer.Task. A batch is groups: a query with its positive and negatives."""

    name = "cross"
    better: Literal["higher", "lower"] = "higher"
    recipe: Mapping[str, Any] = {"lr": 1e-4, "epochs": 1, "warmup": 0.1}

    def __init__(self, options: TaskOptions) -> None:
        self.settings = settings = read_settings("cross", {**SETTINGS, **DEFAULTS}, options.settings)
        _check(settings)
        files = start_files(options)
        config = training_config(files, settings["dropout"])
        if not 16 <= settings["length"] <= config.max_position_embeddings:
            raise UserError(
                f"--set length={settings['length']}: this model reads 16 to {config.max_position_embeddings} "
                "tokens"
            )
        self.options = options
        self._cross, fresh = load_cross(files, config, fresh=_FRESH)
        self.model: torch.nn.Module = self._cross
        if fresh:
            options.say(f"{options.start!r} has no {', '.join(sorted(fresh))}; they begin fresh")
        self._config = dict(files.config)
        self.vocabulary = files.vocabulary
        self.prepared = prepared = prepare(options, settings, negatives=True)
        words, limit = self.vocabulary, settings["length"]
        self._frame = Frame.of_bert(words.cls, words.sep)
        if settings["loss"] == "kl":
            prepared.vectors()  # raises where there is no teacher
        self._queries = tokenise(options, prepared, words, "queries", settings["query_tokens"])
        self._passages = tokenise(options, prepared, words, "passages", limit)
        held_out = _HELD_OUT if options.held_out is None else options.held_out
        training, self._held_out = prepared.split(held_out, options.seed)
        self._training = training[(prepared.negatives[training] >= 0).any(1)]
        if not len(self._training):
            raise UserError("no example has a negative; give negatives, or more passages to find them among")
        self._batch = options.batch or _BATCH
        self.facts: Mapping[str, Any] = {
            "start": files.identity["weights"], "tokenizer": files.identity["tokenizer"],
            "data": list(options.data), "corpus": list(options.corpus), "batch": self._batch,
            "held_out": held_out, "settings": settings,
        }  # fmt: skip

    def batches(self, epoch: int, seed: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """(numbers of examples, a seed for the choice of their negatives)."""
        for at, examples in enumerate(shuffled(self._training, self._batch, epoch, seed)):
            yield examples, (epoch << 32) + at

    def _pairs(self, example: int, passages: NDArray[np.int64]) -> list[Joined]:
        query, limit = self._queries[example], self.settings["length"]
        return [join(query, self._passages[p], limit, self._frame) for p in passages.tolist()]

    def _drawn(self, example: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The passages of one group."""
        group = self.prepared.group(example, self.settings["negatives"], rng)
        left_out = self.settings["loss"] == "kl" and rng.random() >= self.settings["positives"]
        return group[1:] if left_out and len(group) > 2 else group

    def _taught(self, examples: NDArray[np.int64], groups: list[NDArray[np.int64]]) -> Tensor | None:
        """The teacher's logits of all groups, behind one another; None where the loss asks for none."""
        if self.settings["loss"] != "kl":
            return None
        found = [self.prepared.teacher(examples[[at]], group) for at, group in enumerate(groups)]
        rows = np.concatenate([one[0] for one in found if one is not None])  # none is: see __init__
        return torch.from_numpy(rows / np.float32(self.settings["temperature"])).to(device_of(self.model))

    def loss(self, batch: tuple[NDArray[np.int64], int]) -> tuple[Tensor, Figures]:
        """Groupwise loss, and how often the positive (with kl the teacher's first) scores highest."""
        examples, seed = batch
        rng = np.random.default_rng([self.options.seed, 3, seed])
        groups = [self._drawn(example, rng) for example in examples.tolist()]
        pairs = [
            one for example, group in zip(examples.tolist(), groups) for one in self._pairs(example, group)
        ]
        device = device_of(self.model)
        scores = self.model(pack([p.ids for p in pairs], [p.segments for p in pairs], device))
        sizes = torch.tensor([len(group) for group in groups], device=device)
        taught = self._taught(examples, groups)
        loss = group_loss(scores, sizes, self.settings["loss"], taught)
        first = torch.zeros_like(scores) if taught is None else taught  # of equals the first is the greatest
        parts = sizes.tolist()
        best = [
            own.argmax() == wanted.argmax()
            for own, wanted in zip(torch.split(scores.detach(), parts), torch.split(first, parts))
        ]
        return loss, {"accuracy": float(torch.stack(best).float().mean())}

    def evaluate(self) -> Figures:
        """mrr of the positive among all its negatives, and how often it is first."""
        ranks = []
        for example in self._held_out.tolist():
            group = self.prepared.group(example, self.settings["negatives"], None)
            if len(group) < 2:
                continue
            scores = score_pairs(self._cross, self._pairs(example, group))
            # Equal scores share their ranks, so that a model that gives the same to all is not lucky.
            ranks.append(1 + int((scores > scores[0]).sum()) + (int((scores == scores[0]).sum()) - 1) / 2)
        if not ranks:
            return {}
        found = np.array(ranks)
        return {"mrr": float((1 / found).mean()), "accuracy": float((found == 1).mean())}

    def save(self, directory: str) -> None:
        """A directory that `cross(...)` and transformers' BertForSequenceClassification load."""
        settings = {"kind": "cross", "length": self.settings["length"]}
        labels = self._cross.classifier.out_features
        config = {
            **self._config, "architectures": ["BertForSequenceClassification"], "num_labels": labels,
            "retrieval": settings,
        }  # fmt: skip
        save_model(
            directory, config, self.model.state_dict(), self.vocabulary.data, self.vocabulary.name,
            dtype=self.settings["dtype"],
        )  # fmt: skip


def _check(settings: Mapping[str, Any]) -> None:
    for name, known in (("loss", LOSSES), ("dtype", ("float32", "float16", "int8"))):
        if settings[name] not in known:
            raise UserError(f"--set {name}={settings[name]}: choose one of {', '.join(known)}")
    if settings["negatives"] < 1 or settings["query_tokens"] < 1:
        raise UserError("negatives and query_tokens are 1 or more")
    if settings["temperature"] <= 0 or not 0 <= settings["positives"] <= 1:
        raise UserError("temperature is above 0, and positives a share from 0 to 1")


@register("cross", kind="training task")
def create(options: TaskOptions) -> CrossTask:
    """A fine-tuning of a cross-encoder. Raises UserError, BadLine."""
    return CrossTask(options)
