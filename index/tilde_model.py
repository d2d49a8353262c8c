"""TILDE, the model: term likelihoods of a passage or a query from BERT's masked-LM head. Needs torch.

A passage (or a query) goes through BERT with its first token, [CLS], replaced by a marker; the masked-LM
head over that one position gives a logit a vocabulary term, and p(t | x) = sigmoid(logit): terms are
independent of one another. Query likelihood QL(q, d) is the sum of log10 p(t | d) over the query's tokens,
document likelihood DL(q, d) the mean of log10 p(t | q) over the passage's; the score is alpha * QL +
(1 - alpha) * DL.

Differs from the official code: the loss is taken from logits (log(sigmoid) is -inf from a logit of 17 on in
float32), ids are never cut to 16 bits, and the labels that it builds from other pairs of the batch and never
uses are left out.

Zhuang and Zuccon: TILDE: Term Independent Likelihood moDEl for Passage Re-ranking. SIGIR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.bert import Bert, BertConfig, MlmHead, Packed, pack, plan_batches
from retrieval.index.expansion import expand
from retrieval.index.model_files import ModelFiles
from retrieval.index.vocabulary import Vocabulary

_ROWS = 256  # rows of logits at a time: 30 MB of BERT's vocabulary


class Tilde(nn.Module):
    """tilde(packed) is logits [B, V] of each sequence; its first token is a marker (see marked)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = MlmHead(self.bert)

    def forward(self, packed: Packed) -> Tensor:
        first, _ = self.bert.first(packed)
        logits: Tensor = self.cls(first)
        return logits


class Markers(NamedTuple):
    """The ids that stand in the place of [CLS]."""

    document: int
    query: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Markers:
        """[unused0] and [unused1], ids 1 and 2 of BERT. Raises UserError for a vocabulary without them."""
        document, query = vocabulary.id("[unused0]"), vocabulary.id("[unused1]")
        if document is None or query is None:
            raise UserError(
                f"{vocabulary.name!r} has no pieces [unused0] and [unused1], by which TILDE tells documents "
                "and queries apart; use a BERT vocabulary that has them"
            )
        return cls(document, query)


def marked(ids: NDArray[np.int32], marker: int, sep: int) -> NDArray[np.int32]:
    """marker ids [SEP]: what the model reads."""
    sequence = np.empty(len(ids) + 2, np.int32)
    sequence[0], sequence[1:-1], sequence[-1] = marker, ids, sep
    return sequence


def load_tilde(files: ModelFiles) -> Tilde:
    """The model of a directory, ready to encode, on the GPU where there is one. Raises UserError."""
    model = Tilde(BertConfig.from_dict(files.config))
    files.load_into(model)
    return model.eval().to(best_device())


def best_device() -> torch.device:
    """A CUDA device where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch_tokens(device: torch.device) -> int:
    """Tokens of a batch: what stays in a processor's cache, and what keeps a GPU busy."""
    return 8192 if device.type == "cpu" else 65536


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


class Terms(NamedTuple):
    """Sets of terms: row i holds the ids at rows == i, each once. int64[n] both."""

    rows: Tensor
    ids: Tensor


def term_sets(sequences: Sequence[NDArray[np.int32]], valid: NDArray[np.bool_]) -> Terms:
    """The set of valid ids of each sequence: the labels of the other side. valid: bool[V]."""
    lengths = [len(sequence) for sequence in sequences]
    rows = np.repeat(np.arange(len(sequences)), lengths)
    ids = np.concatenate(sequences).astype(np.int64) if sum(lengths) else np.empty(0, np.int64)
    kept = valid[ids]
    rows, ids = np.divmod(np.unique(rows[kept] * len(valid) + ids[kept]), len(valid))
    return Terms(torch.from_numpy(rows), torch.from_numpy(ids))


def bidirectional_loss(
    passage_logits: Tensor, query_logits: Tensor, query_terms: Terms, passage_terms: Terms, valid: Tensor
) -> Tensor:
    """BiQDL, a scalar: cross-entropy of the queries' terms from passages and of the passages' from queries.

    passage_logits, query_logits: [B, V] of B pairs. valid: bool[V], false for ids that are ignored as
    labels (the index stop list). Summed over pairs and terms and divided by twice the valid terms, as the
    official loss: B * ln 2 where all logits are 0. Divide by B for a mean.
    """
    total = _cross_entropy(passage_logits, query_terms, valid) + _cross_entropy(
        query_logits, passage_terms, valid
    )
    return total / (2 * valid.sum())


def _cross_entropy(logits: Tensor, terms: Terms, valid: Tensor) -> Tensor:
    """Summed binary cross-entropy from logits: softplus(z) - z * label."""
    logits = logits.float()
    every = functional.softplus(logits)
    return (every * valid.to(every.dtype)).sum() - logits[terms.rows, terms.ids].sum()


def log10_likelihoods(logits: Tensor) -> Tensor:
    """log10 p(t | x) of each term, the shape of the logits."""
    return functional.logsigmoid(logits.float()) / math.log(10)


def query_likelihood(log_p: Tensor, query: NDArray[np.int32]) -> Tensor:
    """QL [n]: the sum of log10 p(t | d), [n, V] of n passages, over the query's clean ids with repeats."""
    return log_p[:, torch.from_numpy(query.astype(np.int64)).to(log_p.device)].sum(1)


def document_likelihood(log_p: Tensor, passages: Sequence[NDArray[np.int32]]) -> Tensor:
    """DL [n]: the mean of log10 p(t | q), [V] of one query, over each passage's clean ids with repeats.

    A passage without any has the likelihood of the least likely term.
    """
    means = [
        log_p[torch.from_numpy(ids.astype(np.int64))].mean() if len(ids) else log_p.min() for ids in passages
    ]
    return torch.stack(means) if means else log_p.new_empty(0)


def encoder_precision(model: nn.Module, precision: str) -> torch.autocast:
    """A context in which matrix products of an encoder are taken in bfloat16, or ("float32") as they are."""
    kind = device_of(model).type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


def logit_batches(
    model: Tilde,
    sequences: Sequence[NDArray[np.int32]],
    precision: str = "float32",
    tokens: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """(which sequences, their logits [n, V]) in batches sorted by length; without gradients.

    The head is float32 always: in bfloat16 terms would be equal that are not.
    """
    device = device_of(model)
    with torch.inference_mode():
        lengths = [len(sequence) for sequence in sequences]
        for batch in plan_batches(lengths, tokens or batch_tokens(device)):
            for at in range(0, len(batch), _ROWS):
                rows = batch[at : at + _ROWS]
                packed = pack([sequences[i] for i in rows], device=device)
                with encoder_precision(model, precision):
                    first, _ = model.bert.first(packed)
                yield rows, model.cls(first.float())


def expansions(
    model: Tilde,
    vocabulary: Vocabulary,
    passages: Sequence[NDArray[np.int32]],
    m: int,
    excluded: NDArray[np.bool_],
    precision: str = "float32",
) -> list[NDArray[np.int32]]:
    """The terms that each passage (ids without special tokens) gains; see expansion.expand."""
    marker = Markers.of(vocabulary).document
    gained: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(passages)
    if m <= 0:
        return gained
    sequences = [marked(passage, marker, vocabulary.sep) for passage in passages]
    for rows, logits in logit_batches(model, sequences, precision):
        for row, terms in zip(rows, expand(logits, [passages[i] for i in rows], m, excluded), strict=True):
            gained[row] = terms
    return gained
