"""Cross-encoders that bert.py computes, in packed batches without padding; a fast path for processors.

BERT (B-PROP's too), RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet, as transformers saves their
...ForSequenceClassification: one layer and an activation over the first token, then the classifier. Of the
last layer only the first tokens' rows are computed (index/fused.py). Needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index import families
from retrieval.index.bert import Bert, pack, plan_batches
from retrieval.index.file_hashes import sha256_of
from retrieval.index.fused import FusedBert
from retrieval.index.learned import positions
from retrieval.index.model_files import CONFIG, WEIGHTS, ModelFiles, check_weights, read_tensors
from retrieval.index.processor import bfloat16_pays
from retrieval.index.text_tokens import Tokens
from retrieval.index.tilde_model import batch_tokens, best_device, encoder_precision
from retrieval.rerank.cross_model import count_labels, load_cross, score_of
from retrieval.rerank.pairs import Frame, Ids, Joined

_KINDS = ("cross", "bprop")
_BETWEEN: Mapping[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "distilbert": ("pre_classifier", functional.relu, "classifier"),
}  # the layer before the classifier, its activation, the classifier
_USUAL = ("classifier.dense", torch.tanh, "classifier.out_proj")


class Network(nn.Module):
    """A network and the head above its first tokens, on the GPU where there is one."""

    def __init__(
        self, bert: Bert, dense: nn.Linear, activation: Callable[[Tensor], Tensor], out: nn.Linear
    ) -> None:
        super().__init__()
        self.bert, self.dense, self.out = bert, dense, out
        self._activation = activation
        self.eval().requires_grad_(False).to(best_device())
        self.device = next(self.parameters()).device
        self._fused: FusedBert | None = None

    def score(self, pairs: Sequence[Joined], precision: str) -> NDArray[np.float32]:
        """float32[n] of n pairs, in batches sorted by length. precision: of all but the head."""
        found = np.empty(len(pairs), np.float32)
        types = self.bert.config.type_vocab_size > 1
        with torch.inference_mode():
            for batch in plan_batches([len(pair.ids) for pair in pairs], batch_tokens(self.device)):
                some = [pairs[i] for i in batch.tolist()]
                segments = [one.segments for one in some] if types else None
                first = self._first(pack([one.ids for one in some], segments, self.device), precision)
                logits = self.out(self._activation(self.dense(first)))
                found[batch] = score_of(logits).cpu().numpy()
        return found

    def _first(self, packed: Any, precision: str) -> Tensor:
        if self.device.type != "cpu":
            with encoder_precision(self, precision):
                return self.bert.first(packed)[0].float()
        if self._fused is None:
            self._fused = FusedBert(self.bert, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        return self._fused.first(packed)


class _Packed:
    """What both readers share; see rerank/pairs.py. precision: auto, float32 or bfloat16."""

    path: str
    longest: int | None
    length: int
    frame: Frame
    batches = "packed"

    def __init__(self, precision: str) -> None:
        self._wanted = precision

    def _load(self) -> Network:
        raise NotImplementedError

    @cached_property
    def _network(self) -> Network:
        return self._load()

    @cached_property
    def precision(self) -> str:
        """float32 or bfloat16."""
        if self._wanted != "auto":
            return self._wanted
        if best_device().type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        return "bfloat16" if bfloat16_pays() else "float32"

    def score(self, pairs: Sequence[Joined]) -> NDArray[np.float32]:
        """See PairReader."""
        return self._network.score(pairs, self.precision)


class BertReader(_Packed):
    """A BERT with a pooler and a classifier, or B-PROP. Raises UserError."""

    def __init__(self, path: str, precision: str) -> None:
        super().__init__(precision)
        self.path = path
        self._files = files = ModelFiles.open(path)
        kind = files.settings.get("kind", "cross")
        if kind not in _KINDS:
            raise UserError(f"{path!r} holds a model of kind {kind!r}; cross takes {' or '.join(_KINDS)}")
        self.longest = positions(files)
        self.length = files.settings.get("length", self.longest)
        self.frame = Frame.of_bert(files.vocabulary.cls, files.vocabulary.sep)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See PairReader."""
        return self._files.identity

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See PairReader."""
        return self._files.vocabulary.encode(list(texts))

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """See PairReader."""
        return self._files.vocabulary.offsets(texts)

    def _load(self) -> Network:
        model, _ = load_cross(self._files)
        assert model.bert.pooler is not None  # for the type checker
        return Network(model.bert, model.bert.pooler.dense, torch.tanh, model.classifier)


class FamilyReader(_Packed):
    """A RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT or MPNet with its classifier. Raises UserError."""

    def __init__(self, path: str, config: Mapping[str, Any], precision: str) -> None:
        super().__init__(precision)
        check_weights(path)
        self.path, self._kind = path, str(config["model_type"])
        self._shape = families.read_config(config)
        self.longest = self.length = self._shape.longest
        self._tokens = Tokens(path, self._kind)
        self.frame = Frame(*self._tokens.pair_frame())

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """See PairReader."""
        return {
            "name": os.path.basename(os.path.abspath(self.path)),
            "weights": sha256_of(os.path.join(self.path, WEIGHTS)), "tokenizer": self._tokens.sha256,
            "config": sha256_of(os.path.join(self.path, CONFIG)),
        }  # fmt: skip

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See PairReader."""
        return self._tokens.bare(texts)

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """See PairReader."""
        return self._tokens.offsets(texts)

    def _load(self) -> Network:
        tensors = read_tensors(os.path.join(self.path, WEIGHTS))
        bert = families.load(self._kind, tensors, self._shape, self.path)
        dense, activation, out = _BETWEEN.get(self._kind, _USUAL)
        layers = [self._linear(tensors, name) for name in (dense, out)]
        count_labels(self.path, tuple(layers[1].weight.shape))
        return Network(bert, layers[0], activation, layers[1])

    def _linear(self, tensors: Mapping[str, Tensor], name: str) -> nn.Linear:
        weight, bias = (tensors.get(f"{name}.{part}") for part in ("weight", "bias"))
        if weight is None or bias is None:
            raise UserError(
                f"{self.path!r} lacks the tensor '{name}.weight'; it is no {self._kind} model for sequence "
                "classification"
            )
        if weight.shape != (len(bias), self._shape.hidden_size):
            raise UserError(f"{self.path!r}: tensor '{name}.weight' is {tuple(weight.shape)}; copy it again")
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight, bias
        return linear
