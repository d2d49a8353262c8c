"""A teacher: a dense encoder on disk (sentence-transformers' layout) whose cosines say how well texts fit.

BERT models run packed, in our own module (bert.py); others through transformers' AutoModel, padded. Nothing
is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.errors import MissingExtra, UserError
from retrieval.index.bert import Bert, BertConfig
from retrieval.index.model_files import ModelFiles
from retrieval.index.packed import pack, plan_batches

_TOKENS = 8192  # of one packed batch
_PADDED = 32  # texts of one padded batch


class Teacher:
    """`encode(texts)` are unit vectors, `score(queries, passages)` the cosines of pairs.

    directory  config.json, model.safetensors, a tokenizer; 1_Pooling/config.json says mean or cls (mean
               where it is absent), sentence_bert_config.json how many tokens are read
    bf16       multiply in bfloat16: faster where the processor has it, cosines change by about 1e-3
    """

    def __init__(self, directory: str, *, bf16: bool = False, device: str = "cpu") -> None:
        if not os.path.isdir(directory):
            raise UserError(f"no teacher {directory!r}; give a directory with an encoder's files")
        pooling = _json(directory, "1_Pooling", "config.json")
        modes = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
        modes = modes or {"pooling_mode_mean_tokens"}
        if not modes <= {"pooling_mode_mean_tokens", "pooling_mode_cls_token"} or len(modes) > 1:
            raise UserError(
                f"{directory!r} pools by {', '.join(sorted(modes))}; a teacher pools by mean or cls"
            )
        self.pooling = "cls" if "pooling_mode_cls_token" in modes else "mean"
        prompts = _json(directory, "config_sentence_transformers.json").get("prompts") or {}
        if not isinstance(prompts, dict):
            raise UserError(
                f"{directory!r}: config_sentence_transformers.json gives prompts that are no object"
            )
        self.prompts = {
            "query": str(prompts.get("query") or ""),
            "passage": str(prompts.get("document") or prompts.get("passage") or ""),
        }
        self.device = torch.device(device)
        self._type = torch.bfloat16 if bf16 else None
        limit = _json(directory, "sentence_bert_config.json").get("max_seq_length") or 512
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 3:
            raise UserError(
                f"{directory!r}: sentence_bert_config.json gives max_seq_length as {limit!r}; it is a number "
                "of tokens, 3 or more"
            )
        config = _json(directory, "config.json")
        self._model: Any
        if config.get("model_type", "bert") == "bert":
            files = ModelFiles.open(directory)
            self._vocabulary = files.vocabulary
            shape = BertConfig.from_dict(files.config)
            self._model = Bert(shape)
            files.load_into(self._model)
            self.limit = min(limit, shape.max_position_embeddings)
            self.size = shape.hidden_size
            self._encode = self._packed
        else:
            self._load_foreign(directory, limit)
        self._model.eval().requires_grad_(False).to(self.device)

    def _load_foreign(self, directory: str, limit: int) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise MissingExtra("models", "teachers other than BERT need transformers") from None
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            self._model = AutoModel.from_pretrained(
                directory, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"cannot load the teacher {directory!r}: {str(error).splitlines()[0]}") from None
        self.limit = limit
        self.size = int(self._model.config.hidden_size)
        self._encode = self._padded

    def encode(self, texts: Sequence[str], kind: str = "passage") -> NDArray[np.float32]:
        """float32[n, d], rows of length 1. kind: "query" or "passage", for teachers that have prompts."""
        prompt = self.prompts[kind]
        if prompt:
            texts = [prompt + text for text in texts]
        if not texts:
            return np.empty((0, self.size), np.float32)
        with torch.inference_mode():
            if self._type is None:
                return self._encode(list(texts))
            with torch.autocast(self.device.type, dtype=self._type):
                return self._encode(list(texts))

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> NDArray[np.float32]:
        """float32[n]: the cosine of each query with the passage beside it."""
        rows = self.encode(queries, "query") * self.encode(passages)
        return np.asarray(rows.sum(1), np.float32)

    def _packed(self, texts: list[str]) -> NDArray[np.float32]:
        words = self._vocabulary
        ids = [np.concatenate([[words.cls], one, [words.sep]]) for one in words.encode(texts, self.limit - 2)]
        vectors = np.empty((len(texts), self.size), np.float32)
        for batch in plan_batches([len(one) for one in ids], _TOKENS):
            packed = pack([ids[i] for i in batch], device=self.device)
            hidden = self._model(packed).float()
            if self.pooling == "cls":
                rows = hidden[packed.offsets[:-1]]
            else:
                rows = torch.segment_reduce(hidden, "mean", offsets=packed.offsets, axis=0)
            vectors[batch] = torch.nn.functional.normalize(rows, dim=1).cpu().numpy()
        return vectors

    def _padded(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.size), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(texts), _PADDED):
            batch = order[start : start + _PADDED]
            inputs = self._tokenizer(
                [texts[i] for i in batch], padding=True, truncation=True, max_length=self.limit,
                return_tensors="pt",
            ).to(self.device)  # fmt: skip
            hidden = self._model(**inputs).last_hidden_state.float()
            if self.pooling == "cls":
                rows = hidden[:, 0]
            else:
                mask = inputs["attention_mask"][..., None].float()
                rows = (hidden * mask).sum(1) / mask.sum(1)
            vectors[batch] = torch.nn.functional.normalize(rows, dim=1).cpu().numpy()
        return vectors


def _json(*parts: str) -> dict[str, Any]:
    """A JSON object of a model directory, {} where there is none. Raises UserError for what is no object."""
    path = os.path.join(*parts)
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path!r}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path!r} is no JSON object")
    return value
