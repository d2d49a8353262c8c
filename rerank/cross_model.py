"""A cross-encoder: BERT reads query and document together, a linear layer on the pooled [CLS] scores them.

Nogueira and Cho, "Passage Re-ranking with BERT" (arXiv 1901.04085, 2019). Files are those of transformers'
BertForSequenceClassification with one label (its logit is the score) or two (the second's minus the first's).
A pre-trained B-PROP model (index/bprop_model.py) without a classifier scores with its ROP head, which learned
a like question without labels. What differs from the paper: batches are packed without padding. Needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UnknownName, UserError
from retrieval.index.bert import Bert, BertConfig, Packed, pack, plan_batches
from retrieval.index.model_files import ModelFiles, fill
from retrieval.index.tilde_model import batch_tokens
from retrieval.rerank.pairs import Joined

_ROP = "rop."


class CrossEncoder(nn.Module):
    """cross(packed) is the score of each sequence, float[B]."""

    def __init__(self, config: BertConfig, labels: int = 1) -> None:
        super().__init__()
        self.bert = Bert(config, pooler=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, labels)
        self.bert.initialise(self.classifier)

    def forward(self, packed: Packed) -> Tensor:
        assert self.bert.pooler is not None  # for the type checker
        first, _ = self.bert.first(packed)
        return score_of(self.classifier(self.dropout(self.bert.pooler(first))))


def score_of(logits: Tensor) -> Tensor:
    """float[B] of logits [B, labels]: the one label's, or of two the second's minus the first's."""
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def load_cross(
    files: ModelFiles, config: BertConfig | None = None, *, fresh: Sequence[str] = ()
) -> tuple[CrossEncoder, list[str]]:
    """The model of a directory, and which parameters it did not have.

    config: instead of the directory's own (another dropout). fresh: beginnings of parameter names that may be
    absent, as in ModelFiles.load_into. Raises UserError, for a classifier of more than two labels too.
    """
    tensors = files.tensors()
    if "classifier.weight" not in tensors and f"{_ROP}weight" in tensors:
        tensors |= {f"classifier.{part}": tensors[f"{_ROP}{part}"] for part in ("weight", "bias")}
    head = tensors.get("classifier.weight")
    labels = count_labels(files.path, tuple(head.shape)) if head is not None else 1
    model = CrossEncoder(config or BertConfig.from_dict(files.config), labels)
    return model, fill(model, tensors, files.path, fresh=fresh)


def count_labels(path: str, shape: tuple[int, ...]) -> int:
    """1 or 2, the rows of a classifier of this shape. Raises UserError for more."""
    if len(shape) != 2 or shape[0] not in (1, 2):
        raise UserError(
            f"{path!r} has a classifier of shape {shape}; a re-ranker has one label, or two "
            "(not relevant, relevant)"
        )
    return shape[0]


def score_pairs(model: CrossEncoder, pairs: Sequence[Joined]) -> NDArray[np.float32]:
    """The score of each pair, float32[n], in batches sorted by length; without gradients.

    By the module itself, for training; cross_packed.py does so faster.
    """
    device = next(model.parameters()).device
    found = np.empty(len(pairs), np.float32)
    with torch.inference_mode():
        for batch in plan_batches([len(pair.ids) for pair in pairs], batch_tokens(device)):
            some = [pairs[i] for i in batch.tolist()]
            packed = pack([one.ids for one in some], [one.segments for one in some], device)
            found[batch] = model(packed).float().cpu().numpy()
    return found


LOSSES = ("softmax", "hinge", "kl")


def group_loss(
    scores: Tensor, groups: Tensor, form: str = "softmax", teacher: Tensor | None = None
) -> Tensor:
    """Mean loss of groups of candidates, each with one positive.

    scores   float[n], the candidates of all groups behind one another, each group's positive first
    groups   int64[g], the number of candidates of each, 2 or more
    form     softmax: cross-entropy of the positive among its group; hinge: mean of
             max(0, 1 - s(positive) + s(negative)) over the group's negatives; kl: KL(teacher || scores) of
             the softmax over each group, where no place means anything
    teacher  float[n], for kl: logits of the same candidates

    Raises UnknownName for a form.
    """
    if form not in LOSSES:
        raise UnknownName("loss", form, sorted(LOSSES))
    count, widest = len(groups), int(groups.max())
    inside = torch.arange(widest, device=scores.device)[None, :] < groups[:, None]
    table = scores.new_full((count, widest), -torch.inf, dtype=torch.float32)
    table[inside] = scores.float()
    if form == "kl":
        assert teacher is not None  # for the type checker
        wanted = torch.full_like(table, -torch.inf)
        wanted[inside] = teacher.float()
        # log(0) outside of a group would make 0 * -inf of what counts nothing.
        own = functional.log_softmax(table, 1).masked_fill(~inside, 0)
        wanted = functional.log_softmax(wanted, 1).masked_fill(~inside, 0)
        return (inside * wanted.exp() * (wanted - own)).sum() / count
    if form == "softmax":
        return functional.cross_entropy(table, torch.zeros(count, dtype=torch.long, device=scores.device))
    margins = torch.where(inside, functional.relu(1 - table[:, :1] + table), 0)[:, 1:]
    return (margins.sum(1) / (groups - 1)).mean()
