"""TILDEv2, the model: a weight for every token of an expanded passage, and how it is trained. Needs torch.

BERT with one linear output a token and a ReLU. A passage's weight for a term is the largest over the term's
positions; the score of a query is the sum of the weights of its tokens (repeats count), 0 for a term that is
not there. The query side has no encoder.

Differs from the official code: scores are taken from a matrix of the batch's query terms by passages instead
of a tensor of all query by passage positions (the same numbers in less memory), query terms can be weighted
(idf), and two distillation losses stand beside the contrastive one.

Zhuang and Zuccon: Fast Passage Re-ranking with Contextualized Exact Term Matching and Efficient Passage
Expansion. arXiv 2108.08513, 2021. MarginMSE: Hofstaetter et al., arXiv 2010.02666, 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.index.bert import Bert, BertConfig, Packed, pack, plan_batches
from retrieval.index.model_files import ModelFiles
from retrieval.index.tilde_model import batch_tokens, best_device, device_of, encoder_precision


class TildeV2(nn.Module):
    """tildev2(packed) is the weight of each token, float[T], 0 and more.

    Files without the head (`tok_proj`) start from BERT's random one: normal .02, bias 0.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.tok_proj = nn.Linear(config.hidden_size, 1)
        nn.init.normal_(self.tok_proj.weight, std=0.02)
        nn.init.zeros_(self.tok_proj.bias)

    def forward(self, packed: Packed) -> Tensor:
        return self.weigh(self.bert(packed))

    def weigh(self, hidden: Tensor) -> Tensor:
        """The head over hidden states [T, H]."""
        weights: Tensor = torch.relu(self.tok_proj(hidden).squeeze(-1))
        return weights

    def bound(self) -> float:
        """What no weight can exceed: the last layer norm bounds its outputs (Cauchy-Schwarz)."""
        with torch.no_grad():
            layers: Any = self.bert.encoder.layer
            norm = layers[-1].output.LayerNorm
            head = self.tok_proj.weight[0].double()
            spread = torch.linalg.vector_norm(head * norm.weight.double()) * len(head) ** 0.5
            return float(spread + head @ norm.bias.double() + self.tok_proj.bias[0].double())


def load_tildev2(files: ModelFiles) -> TildeV2:
    """The model of a directory, ready to encode, on the GPU where there is one. Raises UserError."""
    model = TildeV2(BertConfig.from_dict(files.config))
    files.load_into(model)
    return model.eval().to(best_device())


def token_weights(
    model: TildeV2,
    sequences: Sequence[NDArray[np.int32]],
    precision: str = "float32",
    tokens: int | None = None,
) -> NDArray[np.float32]:
    """The weight of each token of the sequences behind one another, float32[T]; without gradients."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    starts = np.cumsum(lengths) - lengths
    weights = np.empty(int(lengths.sum()), np.float32)
    device = device_of(model)
    with torch.inference_mode():
        for batch in plan_batches(lengths, tokens or batch_tokens(device)):
            packed = pack([sequences[i] for i in batch], device=device)
            with encoder_precision(model, precision):
                hidden = model.bert(packed)
            found = model.weigh(hidden.float()).cpu().numpy()
            sizes = lengths[batch]
            place = np.repeat(starts[batch] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(found))
            weights[place] = found
    return weights


def match_scores(
    queries: Sequence[NDArray[np.int32]],
    packed: Packed,
    weights: Tensor,
    term_weights: Tensor | None = None,
) -> Tensor:
    """Scores [Q, P] of Q queries and the P packed passages, differentiable in weights float[T].

    queries       ids that count, cleaned and without special tokens; repeats count
    term_weights  float[V], what an occurrence of each term counts (idf); default 1

    A passage's first token ([CLS]) never matches.
    """
    device = weights.device
    passages = len(packed.offsets) - 1
    lengths = torch.tensor([len(query) for query in queries], device=device)
    flat = np.concatenate([np.empty(0, np.int64), *queries]).astype(np.int64)
    terms, column = torch.unique(torch.from_numpy(flat).to(device), return_inverse=True)
    if not len(terms):
        return weights.new_zeros(len(queries), passages) + 0 * weights.sum()
    counts = weights.new_zeros(len(queries), len(terms))
    row = torch.repeat_interleave(torch.arange(len(queries), device=device), lengths)
    counts.index_put_((row, column), torch.ones_like(column, dtype=counts.dtype), accumulate=True)
    if term_weights is not None:
        counts = counts * term_weights.to(counts)[terms]
    owner = torch.repeat_interleave(
        torch.arange(passages, device=device), packed.offsets.diff(), output_size=len(packed.ids)
    )
    place = torch.searchsorted(terms, packed.ids).clamp(max=len(terms) - 1)
    hit = (terms[place] == packed.ids) & (packed.positions > 0)
    cells = owner[hit] * len(terms) + place[hit]
    best = weights.new_zeros(passages * len(terms)).scatter_reduce(0, cells, weights[hit], "amax")
    return counts @ best.view(passages, len(terms)).T


def contrastive_loss(scores: Tensor, group: int) -> Tensor:
    """Cross-entropy over all passages of the batch: scores [B, B * G], that of query i is passage i * G."""
    labels = torch.arange(len(scores), device=scores.device) * group
    return functional.cross_entropy(scores.float(), labels)


def own_scores(scores: Tensor, group: int) -> Tensor:
    """[B, G] of scores [B, B * G]: each query with its own passages, the positive first."""
    own = torch.arange(len(scores), device=scores.device)
    return scores.view(len(scores), -1, group)[own, own]


def margin_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the margins positive - negative: student and teacher [B, G], the positive first."""
    given, wanted = (scores[:, :1] - scores[:, 1:] for scores in (student.float(), teacher.float()))
    return functional.mse_loss(given, wanted)


def kl_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softmax over each query's passages, mean over queries: both [B, G].

    temperature: what the teacher's scores are divided by.
    """
    wanted = functional.log_softmax(teacher.float() / temperature, dim=1)
    given = functional.log_softmax(student.float(), dim=1)
    return functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
