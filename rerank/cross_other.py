"""Cross-encoders of any other architecture that transformers has, over padded batches sorted by length.

ELECTRA, DeBERTa, ModernBERT and what else AutoModelForSequenceClassification loads from a directory:
safetensors alone, code that comes with a model is never run, nothing is downloaded. Needs transformers.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import UserError
from retrieval.index.file_hashes import sha256_of
from retrieval.index.foreign import load_shape, load_weights, longest_of
from retrieval.index.layout import read_json
from retrieval.index.model_files import CONFIG, WEIGHTS, check_weights
from retrieval.index.text_tokens import Tokens
from retrieval.index.tilde_model import best_device, encoder_precision
from retrieval.rerank.cross_model import score_of
from retrieval.rerank.pairs import Frame, Ids, Joined

_GUESS = 512  # tokens, where the model sets no bound
_BUDGET = {"cpu": 4096, "cuda": 32768}  # tokens of a batch, padding included


class OtherReader:
    """See rerank/pairs.py. Raises UserError for a model of more than two labels, MissingExtra."""

    batches = "padded"

    def __init__(self, path: str, config: Mapping[str, Any], precision: str) -> None:
        if not os.path.isfile(os.path.join(path, f"{WEIGHTS}.index.json")):
            check_weights(path)
        self.path, self._config, self._wanted = path, config, precision
        self._shape = shape = load_shape(path, config)
        if shape.num_labels not in (1, 2):
            raise UserError(
                f"{path!r} has a classifier of {shape.num_labels} labels; a re-ranker has one label, or two "
                "(not relevant, relevant)"
            )
        self.longest = longest_of(shape, config)
        self.length = self.longest or _GUESS
        self._tokens = Tokens(path, str(shape.model_type))
        self.frame = Frame(*self._tokens.pair_frame())
        if getattr(shape, "pad_token_id", None) is None:
            shape.pad_token_id = 0  # masked, whatever it is; decoders look for it to find the last token

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """See PairReader."""
        whole = os.path.join(self.path, WEIGHTS)
        parts = [WEIGHTS]
        if not os.path.isfile(whole):
            parts = sorted(set(read_json(self.path, f"{WEIGHTS}.index.json").get("weight_map", {}).values()))
        hashes = [sha256_of(os.path.join(self.path, os.path.basename(str(part)))) for part in parts]
        return {
            "name": os.path.basename(os.path.abspath(self.path)), "weights": "+".join(hashes),
            "tokenizer": self._tokens.sha256, "config": sha256_of(os.path.join(self.path, CONFIG)),
        }  # fmt: skip

    @cached_property
    def precision(self) -> str:
        """float32 or bfloat16; auto is bfloat16 on a GPU alone, where all of a model gains by it."""
        if self._wanted != "auto":
            return self._wanted
        return "bfloat16" if best_device().type == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        return load_weights(AutoModelForSequenceClassification, self.path, self._shape).to(best_device())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """See PairReader."""
        return self._tokens.bare(texts)

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """See PairReader."""
        return self._tokens.offsets(texts)

    def score(self, pairs: Sequence[Joined]) -> NDArray[np.float32]:
        """See PairReader."""
        device = best_device()
        found = np.empty(len(pairs), np.float32)
        with torch.inference_mode(), encoder_precision(self._model, self.precision):
            for batch in padded_batches([len(pair.ids) for pair in pairs], _BUDGET[device.type]):
                logits = self._model(**self._padded([pairs[i] for i in batch.tolist()])).logits
                found[batch] = score_of(logits.float()).cpu().numpy()
        return found

    def _padded(self, pairs: Sequence[Joined]) -> dict[str, Tensor]:
        """What the model takes: int64[n, longest of them]."""
        lengths = np.array([len(pair.ids) for pair in pairs])
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(real.shape, self._shape.pad_token_id, np.int64)
        ids[real] = np.concatenate([pair.ids for pair in pairs])
        given = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
        if self._types:
            kinds = np.zeros(real.shape, np.int64)
            kinds[real] = np.concatenate([pair.segments for pair in pairs])
            given["token_type_ids"] = kinds
        device = best_device()
        return {name: torch.from_numpy(rows).to(device) for name, rows in given.items()}

    @cached_property
    def _types(self) -> bool:
        takes = inspect.signature(type(self._model).forward).parameters
        return "token_type_ids" in takes and int(getattr(self._shape, "type_vocab_size", None) or 0) > 1


def padded_batches(lengths: Sequence[int], budget: int) -> list[NDArray[np.int64]]:
    """Batches of at most `budget` tokens once padded (one sequence may have more), sorted by length."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    batches, start = [], 0
    for at, number in enumerate(order.tolist()):
        if at > start and lengths[number] * (at + 1 - start) > budget:
            batches.append(order[start:at])
            start = at
    return [*batches, order[start:]] if len(order) else []
