"""Training TILDEv2: weights of a passage's terms by which its query finds it among others.

Passages are expanded first, by the same TILDE model and in the same way as when documents are indexed. The
loss is a weighted sum: `ce` contrasts the positive with hard negatives and with all other passages of the
batch, `margin` (MarginMSE) and `kl` follow a teacher. Passages that are of the positive's document, or that
the teacher finds about as good as the positive, are no negatives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.examples import Tokens
from retrieval.index.expansion import expanded_sequence, id_mask
from retrieval.index.learned import open_model
from retrieval.index.model_files import ModelFiles, find_model, save_model
from retrieval.index.packed import pack
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.tilde_model import device_of, expansions, load_tilde
from retrieval.index.tilde_train import (
    HELD_OUT,
    check_model_settings,
    fit_lengths,
    shuffled,
    start_files,
    tokenise,
    training_config,
)
from retrieval.index.tildev2_model import TildeV2, kl_loss, margin_mse_loss, match_scores, token_weights
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.registry import register

_OWN: dict[str, Any] = {
    "tilde": "",  # model that expands; empty: the packaged one
    "top": 128,  # terms that it gives a passage, before filtering; 0: no expansion
    "window": 128,  # tokens of a passage before expansion, special ones included
    "length": 192,  # and after
    "query_tokens": 64,
    "dropout": 0.0,  # while training (BERT's own is 0.1; small models do without)
    "group": 4,  # passages of a query in a batch: its positive and hard negatives
    "ce": 1.0, "margin": 0.0, "kl": 0.0,  # weights of the losses
    "scale": 20.0,  # what a teacher's cosine is multiplied with for MarginMSE, ...
    "temperature": 0.05,  # ... and divided by for KL
    "tolerance": 0.05,  # a passage within so much of the positive's cosine is no negative
    "decay": 0.0,  # weight of the mean of all token weights, which keeps them small
    "maximum": 4096,  # passages that the quantiser's maximum is taken from
    "dtype": "float32",  # of the saved model
    "precision": "float32",  # that the saved model is indexed with: float32 or bfloat16
}  # fmt: skip
_CHUNK = 1024
_LOOKED_AT, _ASLEEP = 64, 0.95  # passages; the share of zeros at which the trainer warns


class TildeV2Task:
    """Task: see trainer.Task. A batch is queries, each with its positive and some of its hard negatives."""

    name = "tildev2"
    better: Literal["higher", "lower"] = "higher"
    recipe: Mapping[str, Any] = {"lr": 2e-4, "epochs": 3}

    def __init__(self, options: TaskOptions) -> None:
        self.settings = settings = read_settings("tildev2", {**SETTINGS, **_OWN}, options.settings)
        _check(settings, options)
        files = start_files(options)
        fit_lengths(settings, options, files, "window", "length")
        self.options = options
        self.batch = options.batch or 16
        self.config = dict(files.config)
        self.vocabulary = files.vocabulary
        self.model = TildeV2(training_config(files, settings["dropout"]))
        fresh = files.load_into(self.model, fresh=("tok_proj.",))
        self.expander = self._open_expander(files)
        self.prepared = prepared = prepare(options, settings, negatives=True)
        if (settings["margin"] or settings["kl"]) and not prepared.has_teacher:
            raise UserError(
                "the losses margin and kl need a teacher; give --teacher DIR, or examples with scores"
            )
        self.passages = self._expanded()
        if "tok_proj.weight" in fresh:
            self._wake()
        self.kept = ~id_mask(
            self.model.bert.config.vocab_size, self.vocabulary.index_stop | self.vocabulary.special
        )
        self.queries = tokenise(options, prepared, self.vocabulary, "queries", settings["query_tokens"] - 2)
        held_out = HELD_OUT if options.held_out is None else options.held_out
        training, self.held_out = prepared.split(held_out, options.seed)
        # A query of stop words alone matches nothing.
        asking = np.diff(np.append(0, np.cumsum(self.kept[self.queries.flat]))[self.queries.ends]) > 0
        self.training, self.held_out = training[asking[training]], self.held_out[asking[self.held_out]]
        self.facts = {
            "start": files.identity["weights"], "tokenizer": files.identity["tokenizer"],
            "expander": None if self.expander is None else self.expander.identity["weights"],
            "data": list(options.data), "corpus": list(options.corpus), "teacher": options.teacher,
            "batch": self.batch, "held_out": held_out, "settings": settings,
        }  # fmt: skip

    def _open_expander(self, files: ModelFiles) -> ModelFiles | None:
        if not self.settings["top"]:
            return None
        expander = open_model("tilde", find_model("tilde", self.settings["tilde"]))
        fit_lengths(self.settings, self.options, expander, "window")
        if expander.vocabulary.pieces != files.vocabulary.pieces:
            raise UserError(
                f"{expander.path!r}, which expands passages, has another vocabulary than {files.path!r}; use "
                "models of one vocabulary"
            )
        return expander

    def _wake(self) -> None:
        """Turns a random head round that gives next to no token a weight: no gradient passes its ReLU.

        The tokens of a BERT lie to one side: of eight seeds, five began (and ended) like that with BERT-tiny.
        """
        some = [self.passages[at] for at in range(min(_LOOKED_AT, len(self.passages)))]
        weights = token_weights(self.model.eval(), some)
        if len(weights) and float((weights == 0).mean()) > _ASLEEP:
            with torch.no_grad():
                self.model.tok_proj.weight.neg_()

    def _expanded(self) -> Tokens:
        """What the model reads of each passage, made once and kept on disk."""
        settings, words, options = self.settings, self.vocabulary, self.options
        plain = tokenise(options, self.prepared, words, "passages", settings["window"] - 2)
        which = "plain" if self.expander is None else self.expander.identity["weights"][:8]
        stem = os.path.join(
            self.prepared.directory,
            f"read-{words.sha256[:8]}-{which}-{settings['top']}-{settings['window']}-{settings['length']}",
        )
        found = Tokens.open(stem)
        if found is not None:
            return found
        model = None if self.expander is None else load_tilde(self.expander)
        rows = words.size if model is None else model.bert.config.vocab_size
        excluded = id_mask(rows, words.expansion_stop)
        excluded[words.size :] = True

        def batches() -> Iterator[list[NDArray[np.int32]]]:
            with options.counting("expanding passages", len(plain), "passages") as count:
                for start in range(0, len(plain), _CHUNK):
                    options.stop()
                    some = [plain[at] for at in range(start, min(start + _CHUNK, len(plain)))]
                    gained = [np.empty(0, np.int32)] * len(some)
                    if model is not None:
                        gained = expansions(model, words, some, settings["top"], excluded)
                    yield [
                        expanded_sequence(one, new, words.cls, words.sep, settings["length"])
                        for one, new in zip(some, gained, strict=True)
                    ]
                    count(len(some))

        return Tokens.write(stem, batches())

    def batches(self, epoch: int, seed: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """(numbers of examples, a seed for the choice of their negatives)."""
        for at, examples in enumerate(shuffled(self.training, self.batch, epoch, seed)):
            yield examples, (epoch << 32) + at

    def loss(self, batch: tuple[NDArray[np.int64], int]) -> tuple[Tensor, Figures]:
        settings = self.settings
        examples, seed = batch
        candidates = self._draw(examples, seed)
        numbers, place = _unique(candidates)
        scores, weights = self._scores(examples, numbers)
        teacher = self.prepared.teacher(examples, numbers)
        ignored = self._ignored(examples, numbers, place[:, 0], teacher)
        figures: Figures = {"zeros": float((weights.detach() == 0).float().mean())}
        rows = torch.arange(len(examples), device=scores.device)
        first = torch.from_numpy(place[:, 0]).to(scores.device)
        contrast = functional.cross_entropy(scores.masked_fill(ignored, -torch.inf), first)
        figures["ce"] = float(contrast.detach())
        figures["accuracy"] = float(
            (scores.detach().masked_fill(ignored, -torch.inf).argmax(1) == first).float().mean()
        )
        total = settings["ce"] * contrast
        if settings["margin"] or settings["kl"]:
            whole = candidates[:, 0] >= 0  # an example without negatives teaches no margin
            own = scores[rows[:, None], torch.from_numpy(np.maximum(place, 0)).to(scores.device)]
            wanted, known = self._wanted(examples, candidates, place, teacher)
            target = torch.from_numpy(wanted).to(scores.device)
            usable = torch.from_numpy(known.all(1) & whole).to(scores.device)
            if settings["margin"] and bool(usable.any()):
                margin = margin_mse_loss(own[usable], target[usable] * settings["scale"])
                figures["margin"] = float(margin.detach())
                total = total + settings["margin"] * margin
            if settings["kl"]:
                if teacher is not None:  # the teacher knows every passage of the batch
                    own, target = scores, torch.from_numpy(teacher).to(scores.device)
                    usable = torch.ones(len(own), dtype=torch.bool, device=own.device)
                if bool(usable.any()):
                    divergence = kl_loss(own[usable], target[usable], settings["temperature"])
                    figures["kl"] = float(divergence.detach())
                    total = total + settings["kl"] * divergence
        if settings["decay"]:
            total = total + settings["decay"] * weights.mean()
        return total, figures

    def _draw(self, examples: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """[e, group]: the positive and some hard negatives of each example; -1 where there are fewer."""
        hard = self.prepared.negatives[examples].astype(np.int64)
        positive = self.prepared.positive[examples].astype(np.int64)[:, None]
        keys = np.random.default_rng([self.options.seed, 3, seed]).random(hard.shape)
        keys[hard < 0] = 2.0  # what is not there comes last
        order = np.argsort(keys, axis=1, kind="stable")[:, : self.settings["group"] - 1]
        self._drawn = order
        return np.concatenate([positive, np.take_along_axis(hard, order, 1)], axis=1)

    def _scores(self, examples: NDArray[np.int64], numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(scores [e, p] of these passages, the weights of their tokens)."""
        packed = pack([self.passages[i] for i in numbers.tolist()], device=device_of(self.model))
        weights = self.model(packed).float()
        return match_scores([self.query(i) for i in examples.tolist()], packed, weights), weights

    def query(self, example: int) -> NDArray[np.int32]:
        """The ids of an example's query that can match."""
        ids = self.queries[example]
        found: NDArray[np.int32] = ids[self.kept[ids]]
        return found

    def _ignored(
        self,
        examples: NDArray[np.int64],
        numbers: NDArray[np.int64],
        first: NDArray[np.int64],
        teacher: NDArray[np.float32] | None,
    ) -> Tensor:
        """bool[e, p]: passages that are no negatives of an example, its positive not among them."""
        origin = self.prepared.origin
        same = origin[numbers][None, :] == origin[self.prepared.positive[examples]][:, None]
        for row, relevant in enumerate(self.prepared.relevant(examples)):
            if len(relevant) > 1:
                same[row] |= np.isin(numbers, relevant)
        if teacher is not None:
            best = np.take_along_axis(teacher, first[:, None], 1)
            same |= teacher >= best - self.settings["tolerance"]
        elif self.prepared.scores is not None:
            given, hard = self.prepared.scores[examples], self.prepared.negatives[examples]
            near = given[:, 1:] >= given[:, :1] - self.settings["tolerance"]
            for row in np.flatnonzero(near.any(1)).tolist():
                same[row] |= np.isin(numbers, hard[row, near[row]])
        same[np.arange(len(examples)), first] = False
        return torch.from_numpy(same).to(device_of(self.model))

    def _wanted(
        self,
        examples: NDArray[np.int64],
        candidates: NDArray[np.int64],
        place: NDArray[np.int64],
        teacher: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The teacher's scores [e, group] of each example's own passages, and which are known."""
        if teacher is not None:
            found = np.take_along_axis(teacher, np.maximum(place, 0), 1)
            return found, candidates >= 0
        given = self.prepared.scores
        assert given is not None  # for the type checker: there is a teacher
        rows = given[examples]
        found = np.concatenate([rows[:, :1], np.take_along_axis(rows[:, 1:], self._drawn, 1)], axis=1)
        known = np.isfinite(found)
        return np.where(known, found, 0).astype(np.float32), known

    def evaluate(self) -> Figures:
        """mrr, accuracy of the positive among its hard negatives and the passages beside it; loss."""
        ranks: list[float] = []
        losses: list[float] = []
        for start in range(0, len(self.held_out), 32):
            examples = self.held_out[start : start + 32]
            hard = self.prepared.negatives[examples].astype(np.int64)
            positive = self.prepared.positive[examples].astype(np.int64)[:, None]
            numbers, place = _unique(np.concatenate([positive, hard], axis=1))
            scores, _ = self._scores(examples, numbers)
            ignored = self._ignored(examples, numbers, place[:, 0], self.prepared.teacher(examples, numbers))
            scores = scores.masked_fill(ignored, -torch.inf)
            first = torch.from_numpy(place[:, 0]).to(scores.device)
            own = scores.gather(1, first[:, None])
            # Equal scores share their ranks, so that a model that gives the same to all is not lucky.
            better = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
            ranks += (1 / (1 + better)).tolist()
            losses += functional.cross_entropy(scores, first, reduction="none").tolist()
        if not ranks:
            return {}
        return {
            "mrr": float(np.mean(ranks)),
            "accuracy": float(np.mean([rank == 1.0 for rank in ranks])),
            "loss": float(np.mean(losses)),
        }

    def save(self, directory: str) -> None:
        """The model directory; its config says how to expand and what the largest weight is."""
        settings = self.settings
        config = {**self.config, "architectures": ["TILDEv2"], "model_type": "bert"}
        expansion = None
        if self.expander is not None:
            place = os.path.relpath(os.path.abspath(self.expander.path), os.path.abspath(directory))
            expansion = {"model": place, "top": settings["top"]}
        config["retrieval"] = {
            "kind": "tildev2", "window": settings["window"], "length": settings["length"],
            "expansion": expansion, "maximum": self._largest(), "precision": settings["precision"],
        }  # fmt: skip
        save_model(
            directory, config, self.model.state_dict(), self.vocabulary.data, self.vocabulary.name,
            dtype=settings["dtype"],
        )  # fmt: skip

    def _largest(self) -> float:
        """The largest weight of a term in a sample of passages, for the quantiser."""
        count = min(len(self.passages), int(self.settings["maximum"]))
        chosen = np.random.default_rng([self.options.seed, 4]).choice(
            len(self.passages), count, replace=False
        )
        sequences = [self.passages[i] for i in np.sort(chosen).tolist()]
        weights = token_weights(self.model, sequences)
        terms = np.concatenate([np.empty(0, np.int32), *sequences])
        largest = float(weights[self.kept[terms]].max(initial=0.0))
        if not largest > 0:
            raise UserError(
                "the trained model gives no term a weight above 0: its ReLU is dead; train with a lower "
                "learning rate, or another --seed"
            )
        return largest


def _unique(candidates: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(distinct passages, where each candidate is among them; -1 stays -1)."""
    numbers, place = np.unique(candidates, return_inverse=True)
    place = place.reshape(candidates.shape).astype(np.int64)
    if len(numbers) and numbers[0] < 0:
        numbers, place = numbers[1:], place - 1
    return numbers, place


def _check(settings: Mapping[str, Any], options: TaskOptions) -> None:
    check_model_settings(settings)
    if settings["group"] < 1 or settings["top"] < 0:
        raise UserError("group is 1 or more, and top 0 or more")
    weights = [settings[name] for name in ("ce", "margin", "kl")]
    if min(weights) < 0 or not any(weights):
        raise UserError("the weights ce, margin and kl are 0 or more, and one of them is above 0")
    if settings["maximum"] < 1:
        raise UserError(f"--set maximum={settings['maximum']}: give a number of passages, 1 or more")
    if settings["temperature"] <= 0 or settings["scale"] <= 0:
        raise UserError("temperature and scale are above 0")
    if (settings["margin"] or settings["kl"]) and not options.teacher and not options.data:
        raise UserError("the losses margin and kl need a teacher; give --teacher DIR")


@register("tildev2", kind="training task")
def create(options: TaskOptions) -> TildeV2Task:
    """A training of TILDEv2. Raises UserError, BadLine."""
    return TildeV2Task(options)
