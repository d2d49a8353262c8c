"""Training TILDE: from a passage to the terms of its queries, from a query to the terms of its passage.

The loss is the model's bidirectional one (tilde_model.py), as nats a text: summed over the vocabulary, halved
over the two sides, averaged over passages. A passage with several queries is read once, and its labels are
the share of its queries that hold a term: the same gradient as one pair after another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.bert import BertConfig
from retrieval.index.examples import Prepared, Tokens
from retrieval.index.learned import positions
from retrieval.index.model_files import ModelFiles, save_model
from retrieval.index.packed import pack
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.tilde_model import Markers, Tilde, device_of, marked, term_sets
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.index.vocabulary import Vocabulary
from retrieval.registry import register

_OWN: dict[str, Any] = {
    "window": 128,  # tokens of a passage, marker and [SEP] included
    "query_tokens": 64,
    "both": True,  # train also from queries to passages (false: half the time, for a model that only expands)
    "dropout": 0.0,  # while training (BERT's own is 0.1; small models do without)
    "prior": True,  # let a new head begin with how often each term is in a query
    "dtype": "float32",  # of the saved model
    "precision": "float32",  # that the saved model is indexed with: float32 or bfloat16
}
DTYPES = ("float32", "float16", "int8")
HELD_OUT = 300  # examples, unless said
_CHUNK = 4096
_TOP = 200  # terms, of the recall figures


def tokenise(
    options: TaskOptions,
    prepared: Prepared,
    words: Vocabulary,
    which: Literal["queries", "passages"],
    limit: int,
) -> Tokens:
    """The ids of the queries or passages, at most `limit` each, without special tokens; kept on disk."""
    stem = os.path.join(prepared.directory, f"{which}-{words.sha256[:8]}-{limit}")
    found = Tokens.open(stem)
    if found is not None:
        return found
    texts: Any = prepared.queries if which == "queries" else prepared.texts()
    total = len(prepared.queries if which == "queries" else prepared.passages)

    def batches() -> Iterator[list[NDArray[np.int32]]]:
        stream = iter(texts)
        with options.counting(f"tokenising {which}", total, which) as count:
            while chunk := [text for _, text in zip(range(_CHUNK), stream)]:
                options.stop()
                yield words.encode(chunk, limit)
                count(len(chunk))

    return Tokens.write(stem, batches())


def check_model_settings(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a form that models are not saved in, and for no room for tokens."""
    for name, known in (("dtype", DTYPES), ("precision", ("float32", "bfloat16"))):
        if settings[name] not in known:
            raise UserError(f"--set {name}={settings[name]}: give one of {', '.join(known)}")
    for name in ("window", "query_tokens"):
        if settings[name] < 3:
            raise UserError(f"--set {name}={settings[name]}: give 3 tokens or more")


def fit_lengths(settings: dict[str, Any], options: TaskOptions, files: ModelFiles, *names: str) -> None:
    """Lowers defaults to what the model can read. Raises UserError for a length that was given and is beyond:
    what is trained with it could not be used.
    """
    most = positions(files)
    for name in names:
        if name not in options.settings:
            settings[name] = min(settings[name], most)
        if not 3 <= settings[name] <= most:
            raise UserError(f"--set {name}={settings[name]}: {files.path!r} reads 3 to {most} tokens")


def training_config(files: ModelFiles, dropout: float) -> BertConfig:
    """The configuration of the start model with another dropout. Raises UserError."""
    if not 0 <= dropout < 1:
        raise UserError(f"--set dropout={dropout}: give a share from 0 to below 1, such as 0.1")
    config = BertConfig.from_dict(files.config)
    return replace(config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


def start_files(options: TaskOptions) -> ModelFiles:
    """The model that a training begins with. Raises UserError where none is named."""
    if options.start is None:
        raise UserError(
            "name a model to start from: --start DIR (config.json, model.safetensors, a vocabulary)"
        )
    return ModelFiles.open(options.start)


def shuffled(numbers: NDArray[np.int64], batch: int, epoch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Batches of equal size in a random order of the epoch; what is left over at its end is left out.

    Fewer numbers than a batch are one batch.
    """
    order = np.random.default_rng([seed, 2, epoch]).permutation(numbers)
    for start in range(0, max(1, len(order) - batch + 1), batch):
        if len(found := order[start : start + batch]):
            yield found


class TildeTask:
    """Task: see trainer.Task. A unit of a batch is a passage with all its queries."""

    name = "tilde"
    better: Literal["higher", "lower"] = "lower"
    recipe: Mapping[str, Any] = {"lr": 5e-4, "epochs": 3}

    def __init__(self, options: TaskOptions) -> None:
        self.settings = read_settings("tilde", {**SETTINGS, "negatives": 0, **_OWN}, options.settings)
        check_model_settings(self.settings)
        if options.teacher and not self.settings["mined"]:
            raise UserError("tilde uses a teacher only to mine queries; add --set mined=5, or leave it out")
        files = start_files(options)
        read = ("window", "query_tokens") if self.settings["both"] else ("window",)
        fit_lengths(self.settings, options, files, *read)
        self.batch = options.batch or 64
        self.config = dict(files.config)
        self.vocabulary = files.vocabulary
        self.markers = Markers.of(files.vocabulary)
        self.model = Tilde(training_config(files, self.settings["dropout"]))
        fresh = files.load_into(self.model, fresh=("cls.",))
        self.prepared = prepared = prepare(options, self.settings, negatives=False)
        self.queries = tokenise(
            options, prepared, self.vocabulary, "queries", self.settings["query_tokens"] - 2
        )
        self.passages = tokenise(options, prepared, self.vocabulary, "passages", self.settings["window"] - 2)
        self.valid = np.ones(self.model.bert.config.vocab_size, bool)
        self.valid[list(self.vocabulary.index_stop)] = False
        held_out = HELD_OUT if options.held_out is None else options.held_out
        training, self.held_out = prepared.split(held_out, options.seed)
        self.units = Units(prepared.positive, training)
        if fresh and self.settings["prior"]:
            self._set_prior(training)
        self.facts = {
            "start": files.identity["weights"], "tokenizer": files.identity["tokenizer"],
            "data": list(options.data), "corpus": list(options.corpus),
            "teacher": options.teacher, "batch": self.batch,
            "held_out": held_out, "settings": self.settings,
        }  # fmt: skip

    def _set_prior(self, training: NDArray[np.int64]) -> None:
        """The head's bias: the log odds of each term in a query."""
        counts = np.zeros(len(self.valid), np.int64)
        for example in training.tolist():
            counts[np.unique(self.queries[example])] += 1
        share = (counts + 0.1) / (len(training) + 1)
        bias = self.model.cls.predictions.bias
        with torch.no_grad():
            bias.copy_(torch.from_numpy(np.log(share / (1 - share))).to(bias))

    def batches(self, epoch: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Numbers of units."""
        return shuffled(np.arange(len(self.units)), self.batch, epoch, seed)

    def loss(self, batch: NDArray[np.int64]) -> tuple[Tensor, Figures]:
        units = [self.units[unit] for unit in batch.tolist()]
        examples = np.concatenate(units)
        owner = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        passages = [self.passages[int(self.prepared.positive[unit[0]])] for unit in units]
        return self._loss(passages, [self.queries[i] for i in examples.tolist()], owner)

    def _loss(
        self,
        passages: list[NDArray[np.int32]],
        queries: list[NDArray[np.int32]],
        owner: NDArray[np.int64],
    ) -> tuple[Tensor, Figures]:
        """owner: int64[q], the passage of each query."""
        device = device_of(self.model)
        share = torch.from_numpy(1.0 / np.bincount(owner)[owner]).float().to(device)
        valid = torch.from_numpy(self.valid).to(device)
        wanted = term_sets(queries, self.valid)
        place = torch.from_numpy(owner)[wanted.rows].to(device)
        logits = self._logits(passages, self.markers.document)
        document = soft_cross_entropy(
            logits, place, wanted.ids.to(device), share[wanted.rows.to(device)], valid
        ).sum()
        figures = {"document": float(document.detach()) / len(passages)}
        if not self.settings["both"]:
            return document / len(passages), figures
        terms = term_sets([passages[at] for at in owner.tolist()], self.valid)
        rows, ids = terms.rows.to(device), terms.ids.to(device)
        logits = self._logits(queries, self.markers.query)
        ones = torch.ones(len(rows), device=device)
        query = (soft_cross_entropy(logits, rows, ids, ones, valid) * share).sum()
        return (document + query) / (2 * len(passages)), figures

    def _logits(self, sequences: list[NDArray[np.int32]], marker: int) -> Tensor:
        sep = self.vocabulary.sep
        found: Tensor = self.model(
            pack([marked(one, marker, sep) for one in sequences], device=device_of(self.model))
        )
        return found

    def evaluate(self) -> Figures:
        """loss; recall of the queries' terms among the 200 likeliest of their passages, and of new ones."""
        if not len(self.held_out):
            return {}
        units = Units(self.prepared.positive, self.held_out)
        total = 0.0
        found = np.zeros(4)
        for start in range(0, len(units), 64):
            some = [units[at] for at in range(start, min(start + 64, len(units)))]
            examples = np.concatenate(some)
            owner = np.repeat(np.arange(len(some)), [len(unit) for unit in some])
            passages = [self.passages[int(self.prepared.positive[unit[0]])] for unit in some]
            queries = [self.queries[i] for i in examples.tolist()]
            total += float(self._loss(passages, queries, owner)[0]) * len(some)
            logits = self._logits(passages, self.markers.document).float()
            logits[:, torch.from_numpy(~self.valid).to(logits.device)] = -torch.inf
            top = torch.topk(logits, min(_TOP, logits.shape[1])).indices.cpu().numpy()
            for at, query in zip(owner.tolist(), queries):
                terms = np.unique(query[self.valid[query]])
                hit = np.isin(terms, top[at])
                new = ~np.isin(terms, passages[at])
                found += [hit.sum(), len(terms), (hit & new).sum(), new.sum()]
        hits, terms_seen, new_hits, new_seen = found.tolist()
        return {
            "loss": total / len(units),
            "recall": hits / max(1.0, terms_seen),
            "recall of new terms": new_hits / max(1.0, new_seen),
        }

    def save(self, directory: str) -> None:
        """The model directory."""
        config = {**self.config, "architectures": ["BertForMaskedLM"], "model_type": "bert"}
        config["retrieval"] = {
            "kind": "tilde", "window": self.settings["window"], "precision": self.settings["precision"],
        }  # fmt: skip
        save_model(
            directory, config, self.model.state_dict(), self.vocabulary.data, self.vocabulary.name,
            dtype=self.settings["dtype"],
        )  # fmt: skip


def soft_cross_entropy(logits: Tensor, rows: Tensor, ids: Tensor, shares: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy from logits [n, V] over the valid terms, summed a row: [n].

    The label of (rows, ids) is the sum of its `shares`, of every other term 0.
    """
    logits = logits.float()
    every = (functional.softplus(logits) * valid).sum(1)
    return every.index_add(0, rows, -logits[rows, ids] * shares)


class Units:
    """The examples of each passage, in the order of passages: units[i] is int64[examples]."""

    def __init__(self, positive: NDArray[np.int32], examples: NDArray[np.int64]) -> None:
        self._order = examples[np.argsort(positive[examples], kind="stable")]
        ordered = positive[self._order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else ordered
        self._ends = np.append(first, len(ordered)).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, at: int) -> NDArray[np.int64]:
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._order[self._ends[at] : self._ends[at + 1]]


@register("tilde", kind="training task")
def create(options: TaskOptions) -> TildeTask:
    """A training of TILDE. Raises UserError, BadLine."""
    return TildeTask(options)
