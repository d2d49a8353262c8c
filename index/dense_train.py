"""`retrieve train dense`: fine-tuning of any dense encoder on queries, passages that answer, negatives.

A batch is queries, each with its positive and negatives; all other passages of the batch are negatives too,
but for those that may answer the query. No two positives of a batch are parts of one document. With the loss
`opl` alone a batch is pairs, since its terms need nothing of one another: `--batch 1 --accumulate 32` streams
them pair by pair. With `chunk` a gradient cache (grad_cache.py) makes the batch as large as one likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.encoder import Kind
from retrieval.errors import UserError
from retrieval.index.dense_data import Drawing, Groups, cut, distinct_batches, joined, teacher_scores
from retrieval.index.dense_losses import (
    divergence_loss,
    infonce_loss,
    margin_loss,
    mnrl_loss,
    opl_loss,
    pair_scores,
    prototype_loss,
    score_matrix,
    width_map,
)
from retrieval.index.dense_start import make_trainable, open_start, read_terms
from retrieval.index.grad_cache import embed_cached, embed_plainly
from retrieval.index.packed import plan_batches
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.torch_encoder import Sequences
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.registry import register

DEFAULTS: dict[str, Any] = {
    "loss": "infonce",  # or mnrl, opl, prototype, margin, kl; or a sum of them: infonce+0.5*kl
    "temperature": 0.05,  # what cosines are divided by in InfoNCE and KL
    "symmetric": False,  # InfoNCE from passages to queries too
    "similarity": "cosine",  # or dot
    "negatives": 7,  # hard ones of each query in a step, drawn anew each time from those that were found
    "random": 0,  # further negatives, drawn from all passages
    "tolerance": 0.05,  # a passage within so much of the positive's score, by a teacher, is no negative
    "teacher_temperature": 0.05,  # what a teacher's scores are divided by for KL; 1 for a cross-encoder's
    "teacher_scale": 1.0,  # what a teacher's scores are multiplied with for Margin-MSE
    "query_tokens": 0,  # of a query, at most; 0: as many as the encoder reads
    "length": 0,  # tokens of a passage, likewise
    "chunk": 0,  # texts that are embedded together, by the gradient cache; 0: no cache
    "budget": 0,  # tokens that are embedded together; 0: the encoder's own number
    "dropout": 0.0,  # while training; -1: as the model has it
    "lora": 0,  # rank of LoRA matrices, for encoders that have them; 0: all weights are trained
    "alpha": 0.0,  # of LoRA; 0: twice the rank
    "targets": "",  # layers with LoRA, comma-separated; empty: the encoder's own choice
    "checkpointing": False,  # activations are computed again instead of kept, where the encoder can
}  # fmt: skip
_BATCH, _HELD_OUT = 32, 100
_DRAWN = 1024  # examples whose pairs are drawn together


class DenseTask:
    """See retrieval.index.trainer.Task. A batch: (examples, draw), or int64[n, 3] pairs, see _pairs()."""

    name = "dense"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self, options: TaskOptions) -> None:
        self.settings = settings = read_settings("dense", {**SETTINGS, **DEFAULTS}, options.settings)
        self.terms = read_terms(settings, options)
        self.streamed = "opl" in self.terms
        self.encoder = open_start(options)
        make_trainable(self.encoder, settings)
        self.model = self.encoder.module
        self.options = options
        self.recipe: Mapping[str, Any] = {"lr": 1e-4 if settings["lora"] else 2e-5, "epochs": 1}
        self.prepared = prepared = prepare(options, settings, negatives=True)
        if {"margin", "kl"} & set(self.terms) and not prepared.has_teacher:
            raise UserError("the losses margin and kl need a teacher; give --teacher DIR, or scored examples")
        self.drawing = Drawing(
            prepared, settings["negatives"], settings["random"],
            settings["tolerance"] if prepared.has_teacher else None, options.seed,
        )  # fmt: skip
        held_out = _HELD_OUT if options.held_out is None else options.held_out
        self.training, self.held_out = prepared.split(held_out, options.seed)
        self.batch = options.batch or _BATCH
        self.cosine = settings["similarity"] == "cosine"
        self._map = self._width_map() if "prototype" in self.terms else None
        self.facts: Mapping[str, Any] = {
            "start": dict(self.encoder.identity), "data": list(options.data), "corpus": list(options.corpus),
            "teacher": options.teacher, "batch": self.batch, "held_out": held_out, "settings": settings,
        }  # fmt: skip

    def _width_map(self) -> Tensor:
        """See dense_losses.width_map; made once, so that no later machine makes another."""
        path = os.path.join(self.prepared.directory, f"width-{self.encoder.dim}.f32")
        _, passages = self.prepared.vectors()
        if not os.path.exists(path):
            some = np.linspace(0, len(passages) - 1, min(len(passages), 20_000)).astype(np.int64)
            found = width_map(torch.from_numpy(passages[some].astype(np.float32)), self.encoder.dim)
            found.numpy().tofile(f"{path}.tmp")
            os.replace(f"{path}.tmp", path)
        stored = np.fromfile(path, np.float32).reshape(passages.shape[1], self.encoder.dim)
        return torch.from_numpy(stored)

    # --- batches --------------------------------------------------------------------------------------------

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        """(numbers of examples, (epoch, number of the batch)), or pairs for OPL."""
        rng = np.random.default_rng([seed, 2, epoch])
        if self.streamed:
            pairs = rng.permutation(self._pairs(epoch))
            for start in range(0, max(1, len(pairs) - self.batch + 1), self.batch):
                yield pairs[start : start + self.batch]
            return
        keys = self.prepared.origin[self.prepared.positive]
        order = rng.permutation(self.training)
        for at, examples in enumerate(distinct_batches(order, keys, self.batch)):
            yield examples, (epoch, at)

    def _pairs(self, epoch: int) -> NDArray[np.int64]:
        """int64[n, 3]: example, passage, whether it answers; the negatives are those of an epoch."""
        found = [np.empty((0, 3), np.int64)]
        for start in range(0, len(self.training), _DRAWN):
            examples = self.training[start : start + _DRAWN]
            groups = self.drawing.groups(examples, (epoch, start))
            row, column = np.nonzero(groups.place >= 0)
            passages = groups.numbers[groups.place[row, column]]
            found.append(np.stack([examples[row], passages, (column == 0).astype(np.int64)], axis=1))
        return np.concatenate(found)

    # --- vectors --------------------------------------------------------------------------------------------

    def _read(self, texts: Sequence[str], kind: Kind) -> Sequences:
        """What the encoder reads of texts, cut to the settings' length."""
        limit = self.settings["query_tokens" if kind == "query" else "length"]
        return cut(self.encoder.prepare(texts, kind), limit)

    def _passages(self, numbers: NDArray[np.int64]) -> Sequences:
        return self._read([self.prepared.passages[at]["text"] for at in numbers.tolist()], "passage")

    def _queries(self, examples: NDArray[np.int64]) -> Sequences:
        return self._read([self.prepared.queries[at] for at in examples.tolist()], "query")

    def _embed(self, *parts: Sequences) -> list[Tensor]:
        """The vectors of several lots of texts, which are embedded side by side."""
        whole = joined(parts)
        lengths = [len(ids) for ids in whole.ids]
        chunks = plan_batches(lengths, self.settings["budget"] or self.encoder.budget)
        device = next(self.model.parameters()).device
        if hasattr(self.encoder, "device"):  # where it was opened; --device may have moved it since
            self.encoder.device = device

        def embed(rows: NDArray[np.int64]) -> Tensor:
            return self.encoder.embed(whole.take(rows))

        if (size := self.settings["chunk"]) and torch.is_grad_enabled():
            chunks = [chunk[at : at + size] for chunk in chunks for at in range(0, len(chunk), size)]
            vectors = embed_cached(embed, chunks, device, torch.initial_seed())
        else:
            vectors = embed_plainly(embed, chunks)
        return list(torch.split(vectors, [len(part.ids) for part in parts]))

    # --- losses ---------------------------------------------------------------------------------------------

    def loss(self, batch: Any) -> tuple[Tensor, Figures]:
        """The weighted sum of the losses, and each of them."""
        return self._pair_loss(batch) if self.streamed else self._group_loss(*batch)

    def _pair_loss(self, pairs: NDArray[np.int64]) -> tuple[Tensor, Figures]:
        """OPL of some pairs; a text that stands in several of them is embedded once."""
        examples, query = np.unique(pairs[:, 0], return_inverse=True)
        numbers, passage = np.unique(pairs[:, 1], return_inverse=True)
        queries, passages = self._embed(self._queries(examples), self._passages(numbers))
        device = queries.device
        cosines = pair_scores(
            queries[torch.from_numpy(query.reshape(-1)).to(device)],
            passages[torch.from_numpy(passage.reshape(-1)).to(device)],
        )
        return opl_loss(cosines, torch.from_numpy(pairs[:, 2]).to(device)), {}

    def _group_loss(self, examples: NDArray[np.int64], draw: Sequence[int]) -> tuple[Tensor, Figures]:
        groups = self.drawing.groups(examples, draw)
        queries, passages = self._embed(self._queries(examples), self._passages(groups.numbers))
        device = queries.device
        scores = score_matrix(queries, passages, cosine=self.cosine)
        first = torch.from_numpy(groups.place[:, 0]).to(device)
        ignored = torch.from_numpy(self.drawing.ignored(examples, groups.numbers, groups.place)).to(device)
        settings, figures = self.settings, {}
        total = torch.zeros((), device=device)
        for name, weight in self.terms.items():
            if name == "infonce":
                found = infonce_loss(
                    scores, first, settings["temperature"], ignored=ignored, symmetric=settings["symmetric"]
                )
            elif name == "mnrl":
                found = mnrl_loss(scores, first, ignored=ignored)
            elif name == "prototype":
                found = self._prototypes(queries, passages, examples, groups.numbers)
            else:
                found = self._taught(name, scores, examples, groups)
            total = total + weight * found
            if len(self.terms) > 1:
                figures[name] = float(found.detach())
        best = scores.detach().masked_fill(ignored, -torch.inf).argmax(1)
        figures["accuracy"] = float((best == first).float().mean())
        return total, figures

    def _prototypes(
        self, queries: Tensor, passages: Tensor, examples: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> Tensor:
        assert self._map is not None  # for the type checker
        wanted = [
            (torch.from_numpy(rows) @ self._map).to(queries.device)
            for rows in self.prepared.teacher_vectors(examples, numbers)
        ]
        return prototype_loss(queries, passages, wanted[0], wanted[1])

    def _taught(self, name: str, scores: Tensor, examples: NDArray[np.int64], groups: Groups) -> Tensor:
        """Margin-MSE or KL of each example's own passages."""
        given = teacher_scores(self.prepared, examples, groups)
        assert given is not None  # for the type checker: there is a teacher
        teacher = torch.from_numpy(given).to(scores.device)
        known = torch.isfinite(teacher)
        teacher = teacher.masked_fill(~known, 0.0)
        student = scores.gather(1, torch.from_numpy(np.maximum(groups.place, 0)).to(scores.device))
        settings = self.settings
        if name == "margin":
            return margin_loss(student, teacher * settings["teacher_scale"], known)
        return divergence_loss(
            student / settings["temperature"], teacher / settings["teacher_temperature"], known
        )

    # --- evaluation -----------------------------------------------------------------------------------------

    def evaluate(self) -> Figures:
        """mrr, ndcg@10 and accuracy of each held-out positive among all of them and their hard negatives."""
        if not len(self.held_out):
            return {}
        prepared, examples = self.prepared, self.held_out
        positive = prepared.positive[examples].astype(np.int64)
        hard = prepared.negatives[examples].astype(np.int64).ravel()
        numbers = np.unique(np.concatenate([positive, hard[hard >= 0]]))
        place = np.searchsorted(numbers, positive)
        queries, passages = self._embed(self._queries(examples), self._passages(numbers))
        scores = score_matrix(queries, passages, cosine=self.cosine).cpu().numpy()
        scores[self.drawing.ignored(examples, numbers, place[:, None])] = -np.inf
        own = scores[np.arange(len(examples)), place][:, None]
        # Equal scores share their ranks, so that a model that gives the same to all is not lucky.
        ranks = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
        gains = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
        return {
            "mrr": float((1 / ranks).mean()), "ndcg@10": float(gains.mean()),
            "accuracy": float((ranks == 1).mean()),
        }  # fmt: skip

    def save(self, directory: str) -> None:
        """A directory that opens as this encoder."""
        self.encoder.save(directory)


@register("dense", kind="training task")
def create(options: TaskOptions) -> DenseTask:
    """A fine-tuning of a dense encoder. Raises UserError, BadLine, and what opening the encoder raises."""
    return DenseTask(options)
