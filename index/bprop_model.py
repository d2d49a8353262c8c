"""PROP and B-PROP, the model: BERT with a masked-LM head and one score on [CLS]. Needs torch.

Pre-training sees [CLS] words [SEP] document [SEP], twice for each document: with the more representative of
two word sets and with the other. The score on the pooled [CLS] is to tell which (representative words
prediction, ROP), and masked words of the document are to be restored (MLM); the loss is the sum of both.

Ma et al., "PROP" (WSDM 2021) and "B-PROP" (SIGIR 2021). Two forms of ROP: the papers' hinge
max(0, 1 - s(better) + s(worse)), and the published code's, which takes a softmax over the pair first:
1 - (p(better) - p(worse)) = 2 sigmoid(s(worse) - s(better)), never above 2. Both are 1 at a tie.

What differs from the published code: its head was read by a name that did not exist, so that it could not
run; here it is `rop`, apart from the masked-LM head `cls`. What differs from the papers: pre-training changes
what [CLS] attends to, and the index (bprop.py) lives on it; `drift` can be added to the loss to hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UnknownName
from retrieval.index.bert import Bert, BertConfig, MlmHead, Packed, pack, plan_batches
from retrieval.index.model_files import ModelFiles
from retrieval.index.packed import Spread
from retrieval.index.tilde_model import batch_tokens

HEADS = ("cls.", "rop.", "bert.pooler.", "pooler.")
"""Beginnings of the parameters that a plain BERT may lack."""


class BProp(nn.Module):
    """bprop(packed) is (token states float[T, H], scores float[B] of the sequences)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = Bert(config, pooler=True)
        self.cls = MlmHead(self.bert)
        self.rop = nn.Linear(config.hidden_size, 1)
        self.bert.initialise(self.rop)

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:
        hidden = self.bert(packed)
        assert self.bert.pooler is not None  # for the type checker
        return hidden, self.rop(self.bert.pooler(hidden[packed.offsets[:-1]])).squeeze(-1)


def load_bprop(files: ModelFiles, config: BertConfig | None = None) -> tuple[BProp, list[str]]:
    """The model of a directory, with fresh heads where it has none, and the names of what is fresh.

    config: instead of the directory's own (another dropout). Raises UserError for weights that do not fit.
    """
    model = BProp(config or BertConfig.from_dict(files.config))
    fresh = files.load_into(model, fresh=HEADS)
    if any(name.startswith("cls.") for name in fresh):
        nn.init.eye_(model.cls.predictions.transform.dense.weight)  # type: ignore[union-attr, arg-type]
    return model, fresh


def rop_loss(scores: Tensor, form: str = "hinge") -> Tensor:
    """Mean loss of pairs that stand side by side: scores float[2n], better and worse in turn.

    Raises UnknownName for a form, ValueError for an odd number of scores.
    """
    if form not in ("hinge", "softmax"):
        raise UnknownName("form of ROP", form, ["hinge", "softmax"])
    if len(scores) % 2:
        raise ValueError(f"{len(scores)} scores do not make pairs; a batch was split within a pair")
    better, worse = scores.float().view(-1, 2).unbind(1)
    if form == "hinge":
        return functional.relu(1 - better + worse).mean()
    return 2 * torch.sigmoid(worse - better).mean()


class Instances(NamedTuple):
    """What a training step sees; labels: the masked tokens' ids, at these rows of the packed batch."""

    packed: Packed
    rows: Tensor
    labels: Tensor


def bprop_loss(model: BProp, batch: Instances, form: str = "hinge") -> tuple[Tensor, dict[str, float]]:
    """(MLM + ROP, the figures mlm, rop and accuracy) of a batch whose pairs stand side by side."""
    hidden, scores = model(batch.packed)
    rop = rop_loss(scores, form)
    mlm = hidden.new_zeros(())
    if len(batch.rows):
        mlm = functional.cross_entropy(model.cls(hidden[batch.rows]).float(), batch.labels)
    better, worse = scores.detach().view(-1, 2).unbind(1)
    right = (better > worse).float().mean()
    return mlm + rop, {"rop": float(rop.detach()), "mlm": float(mlm.detach()), "accuracy": float(right)}


def cls_attention(
    bert: Bert, sequences: Sequence[NDArray[np.int32]], cls: int, sep: int, layers: str = "last"
) -> list[NDArray[np.float32]]:
    """How much [CLS] attends to each token of each sequence: mean over heads (and layers, with "all").

    sequences: ids without special tokens. With the attention to [CLS] and [SEP], which is left out, the
    values of a sequence sum to 1.
    """
    device = next(bert.parameters()).device
    found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences)
    lengths = [len(sequence) + 2 for sequence in sequences]
    with torch.inference_mode():
        for batch in plan_batches(lengths, batch_tokens(device)):
            ready = [np.concatenate([[cls], sequences[i], [sep]]) for i in batch]
            packed = pack(ready, device=device)
            values = first_rows(bert, packed, layers).mean(0).cpu().numpy()
            ends = packed.offsets.cpu().numpy()
            for place, i in enumerate(batch.tolist()):
                found[i] = values[ends[place] + 1 : ends[place + 1] - 1]
    return found


def first_rows(bert: Bert, packed: Packed, layers: str = "last") -> Tensor:
    """Attention of the first token of each sequence, mean over heads, float32[1 or layers, T].

    layers: last, or all. Differentiable. Raises UserError for sequences that are too long.
    """
    if layers == "last":
        return bert.first(packed)[1].float()[None]
    rows, hidden, spread = [], bert.embeddings(packed), Spread(packed)
    every: list[Any] = list(bert.encoder.layer)
    *before, last = every
    for layer in before:
        rows.append(layer.attention.self.of_first(hidden, packed)[1].mean(-1))
        hidden = layer(hidden, spread)
    rows.append(last.attention.self.of_first(hidden, packed)[1].mean(-1))
    return torch.stack(rows).float()


def drift(rows: Tensor, start: Tensor, packed: Packed) -> Tensor:
    """KL(start || now) of the attention rows [L, T] of a packed batch: mean over sequences and layers."""
    terms = start * (torch.log(start.clamp_min(1e-12)) - torch.log(rows.clamp_min(1e-12)))
    return terms.sum() / (len(rows) * (len(packed.offsets) - 1))


Take = Literal["first", "sum"]


def word_attention(
    attention: NDArray[np.float32], word: NDArray[np.integer], words: int, take: Take = "first"
) -> NDArray[np.float64]:
    """Attention of each of `words` words from that of its pieces: the first one's, or the sum of all.

    word: the place of each piece's word, rising.
    """
    if take == "sum":
        return np.bincount(word, weights=attention, minlength=words).astype(np.float64)
    values = np.zeros(words)
    distinct, first = np.unique(word, return_index=True)
    values[distinct] = attention[first]
    return values
