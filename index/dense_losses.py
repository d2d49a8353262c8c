"""Losses of dense encoders, as functions of vectors and scores: InfoNCE, MNRL, OPL, prototypes, teachers.

All of them compute in float32 at least, with autocast off: near 1, neighbours in bfloat16 are .0078 apart, so
that a cosine in it has no gradient worth the name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MNRL_SCALE = 20.0  # of sentence-transformers
_NOTHING = -1e4  # a logit of no weight; finite, so that 0 times the difference of two of them is 0, not NaN


def _exact(*tensors: Tensor) -> list[Tensor]:
    """In float32; float64 stays."""
    return [tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in tensors]


def score_matrix(queries: Tensor, passages: Tensor, *, cosine: bool = True) -> Tensor:
    """float[n, p]: the cosine (or the inner product) of n queries [n, d] with p passages [p, d]."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, passages = _exact(queries, passages)
        if cosine:
            queries, passages = functional.normalize(queries, dim=1), functional.normalize(passages, dim=1)
        return queries @ passages.T


def pair_scores(queries: Tensor, passages: Tensor, *, cosine: bool = True) -> Tensor:
    """float[n]: the cosine (or the inner product) of each row of queries with its row of passages."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, passages = _exact(queries, passages)
        if cosine:
            queries, passages = functional.normalize(queries, dim=1), functional.normalize(passages, dim=1)
        return (queries * passages).sum(1)


def infonce_loss(
    scores: Tensor,
    positive: Tensor,
    temperature: float = 0.05,
    *,
    ignored: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """Cross-entropy of each query's positive among all passages of the batch, mean over queries.

    van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, section
    2.3; with in-batch and hard negatives as in Karpukhin et al., "Dense Passage Retrieval", EMNLP 2020.

    scores     [n, p] of score_matrix(): in-batch positives and hard negatives alike are columns
    positive   int64[n], the column of each query's positive
    ignored    bool[n, p], columns that are no negatives of a query (they answer it too, or are its positive
               again); what it says of the positive itself does not count
    symmetric  half of it is the loss of each positive's query among the queries of the batch (CLIP's way):
               no two queries may then have one positive, unless `ignored` says so
    """
    with torch.autocast(scores.device.type, enabled=False):
        (logits,) = _exact(scores)
        logits = logits / temperature
        rows = torch.arange(len(logits), device=logits.device)
        if ignored is not None:
            ignored = ignored.clone()
            ignored[rows, positive] = False
            logits = logits.masked_fill(ignored, -math.inf)
        loss = functional.cross_entropy(logits, positive)
        if symmetric:
            # Column j: the queries that positive j could answer; masked where query i has it as well.
            loss = (loss + functional.cross_entropy(logits[:, positive].T, rows)) / 2
        return loss


def mnrl_loss(scores: Tensor, positive: Tensor, *, ignored: Tensor | None = None) -> Tensor:
    """MultipleNegativesRankingLoss: InfoNCE of cosines times 20 (Henderson et al., 2017, section 4.4)."""
    return infonce_loss(scores, positive, 1 / MNRL_SCALE, ignored=ignored)


def opl_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """Orthogonal projection loss: mean over pairs of (cosine - y)^2; both of one shape, y 1 or 0.

    Saad-Falcon et al., "Benchmarking and Building Long-Context Retrieval Models with LoCo and M2-BERT", 2024,
    section 3.3. The squared form: pairs that do not fit become orthogonal, not opposite. Its terms know
    nothing of one another, so pairs one at a time, each divided by their number, add up to the whole.
    """
    with torch.autocast(cosines.device.type, enabled=False):
        cosines, labels = _exact(cosines, labels)
        return (cosines - labels).square().mean()


def prototype_loss(
    queries: Tensor, passages: Tensor, teacher_queries: Tensor, teacher_passages: Tensor
) -> Tensor:
    """1 - cosine to a frozen teacher's vectors: mean over queries [n, d] plus mean over passages [p, d].

    The prototype loss of the M2-BERT paper (section 3.3 there): the student, who reads whole documents, goes
    where a teacher of short context put their beginnings. Teacher and student have one width (fit_width()).
    """
    query_term = 1 - pair_scores(queries, teacher_queries)
    passage_term = 1 - pair_scores(passages, teacher_passages)
    return query_term.mean() + passage_term.mean()


def margin_loss(student: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """Margin-MSE: squared error of the margins positive - negative, mean over those that are known.

    Hofstaetter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation", 2020, section 3.1. All three [B, G], the positive first; known: bool, which scores
    the teacher gave (its others may be anything finite). 0 where there is no margin at all.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = _exact(student, teacher)
        given, wanted = (scores[:, :1] - scores[:, 1:] for scores in (student, teacher))
        usable = known[:, :1] & known[:, 1:]
        errors = (given - wanted).square().masked_fill(~usable, 0.0)
        return errors.sum() / usable.sum().clamp(min=1)


def divergence_loss(student: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over each query's passages, mean over queries that know two.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. All three [B, G]; student
    and teacher are divided by their temperatures beforehand; known: bool, what the teacher scored (its other
    values may be anything finite). 0 where no query knows two passages.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = _exact(student, teacher)
        given = functional.log_softmax(student.masked_fill(~known, _NOTHING), dim=1)
        wanted = functional.log_softmax(teacher.masked_fill(~known, _NOTHING), dim=1)
        terms = (wanted.exp() * (wanted - given)).masked_fill(~known, 0.0).sum(1)
        usable = known.sum(1) >= 2
        total = terms.masked_fill(~usable, 0.0).sum()
        found: Tensor = total / usable.sum().clamp(min=1)
        return found


def width_map(vectors: Tensor, width: int) -> Tensor:
    """float32[t, width]: the linear map that takes a teacher's vectors [n, t] to a student's width.

    Zeros behind them where the student is wider (inner products stay what they are); else the `width`
    directions in which the vectors have most of their length (SVD without centring, which of all maps to so
    few dimensions keeps their inner products best). It is fixed before training: a learned map would let the
    student's cosines drift from the teacher's.
    """
    size = vectors.shape[1]
    if width >= size:
        return torch.eye(size, width)
    rows = vectors.double()
    _, directions = torch.linalg.eigh(rows.T @ rows)  # ascending
    found: Tensor = directions[:, -width:].flip(1).float()
    return found
