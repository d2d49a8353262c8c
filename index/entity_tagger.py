"""A model for token classification, from a directory in transformers' layout: which types a text mentions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import MissingExtra, UserError
from retrieval.index.bprop import WordWeights
from retrieval.index.encoding import cut_windows
from retrieval.index.file_hashes import sha256_of
from retrieval.index.foreign import load_shape, load_weights, longest_of
from retrieval.index.layout import read_json
from retrieval.index.llm_pooling import pad
from retrieval.index.model_files import CONFIG, WEIGHTS
from retrieval.index.packed import plan_batches
from retrieval.index.text_tokens import Tokens
from retrieval.index.tilde_model import best_device

_LEAST = 0.5  # probability of a type at one token, from which a document has it
_WINDOWS, _LONGEST = 64, 512  # of a document; tokens of one, where the model has no bound
_BATCH = 2048  # tokens
_OUTSIDE = "O"
_PREFIX = re.compile(r"^[BIESLU][-_](?=.)")


class Tagger:
    """The model. types: in the order of its labels; identity: JSON, all that its tags depend on.

    Raises UserError for a directory that holds no such model, MissingExtra.
    """

    def __init__(self, path: str) -> None:
        if not os.path.isdir(path):
            raise UserError(f"no model directory {path!r}; give one for token classification")
        if not os.path.isfile(os.path.join(path, CONFIG)):
            raise UserError(f"no {os.path.join(path, CONFIG)!r}; a model directory has one")
        if not os.path.isfile(os.path.join(path, WEIGHTS)):
            raise UserError(f"no {os.path.join(path, WEIGHTS)!r}; weights are read from safetensors alone")
        config = read_json(path, CONFIG)
        labels = config.get("id2label")
        if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
            raise UserError(f"{path!r}: config.json names no labels (id2label); give a tagger of entities")
        self.path = path
        kinds = [_PREFIX.sub("", labels[key]) for key in sorted(labels, key=int)]
        self.types = [kind for kind in dict.fromkeys(kinds) if kind != _OUTSIDE]
        if not self.types or all(re.fullmatch(r"LABEL_\d+", kind) for kind in self.types):
            raise UserError(
                f"{path!r}: its labels are {', '.join(list(labels.values())[:4])} ..., which name no types; "
                "give id2label in config.json"
            )
        self._of = np.array([self.types.index(kind) if kind != _OUTSIDE else -1 for kind in kinds])
        shape = load_shape(path, config)
        self.tokens = Tokens(path, str(config["model_type"]))
        self._length = min(longest_of(shape, config) or _LONGEST, _LONGEST)
        self._shape = shape
        self._model: Any = None
        self.identity: Mapping[str, Any] = {
            "name": os.path.basename(os.path.abspath(path)),
            "weights": sha256_of(os.path.join(path, WEIGHTS)),
            "tokenizer": self.tokens.sha256,
            "config": sha256_of(os.path.join(path, CONFIG)),
        }

    def weighing(self, terms: Mapping[str, Sequence[str]]) -> TypeWeights:
        """Texts to weighted terms; terms: those of each type's name."""
        return TypeWeights(self, terms)

    def probabilities(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64], Any]:
        """(float32[n, types], the largest probability of each type at a token; tokens; dropped)."""
        around = len(self.tokens.prefix)
        read = self.tokens.encode(texts, 1 << 40)
        bare = [ids[around : len(ids) - len(self.tokens.suffix)] for ids in read.ids]
        windows = cut_windows(bare, self._length - self.tokens.around, _WINDOWS)
        head, tail = (np.array(ids, np.int32) for ids in (self.tokens.prefix, self.tokens.suffix))
        rows = [np.concatenate([head, ids, tail]) for ids in windows.ids]
        found = np.zeros((len(texts), len(self.types)), np.float32)
        for batch in plan_batches([len(row) for row in rows], _BATCH):
            for at, best in zip(
                batch.tolist(), self._largest([rows[i] for i in batch.tolist()]), strict=True
            ):
                owner = windows.owner[at]
                found[owner] = np.maximum(found[owner], best)
        return found, windows.tokens, windows.dropped

    def _largest(self, rows: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        """float32[n, types] of sequences with their special tokens."""
        model = self._loaded()
        ids, mask = pad(rows, int(getattr(self._shape, "pad_token_id", None) or 0))
        with torch.inference_mode():
            here = model.device
            logits: Tensor = model(input_ids=ids.to(here), attention_mask=mask.long().to(here)).logits
        shares = logits.float().softmax(2).cpu().numpy()
        if not np.isfinite(shares[mask.numpy()]).all():
            raise UserError(f"{self.path!r} gives numbers that are not finite; its files are damaged")
        inside = mask.numpy().copy()
        for at, row in enumerate(rows):  # what stands around a text mentions nothing
            inside[at, : len(self.tokens.prefix)] = False
            inside[at, len(row) - len(self.tokens.suffix) : len(row)] = False
        kinds = np.zeros((*shares.shape[:2], len(self.types)), np.float32)
        for label, kind in enumerate(self._of.tolist()):
            if kind >= 0:
                kinds[:, :, kind] += shares[:, :, label]
        best: NDArray[np.float32] = np.where(inside[:, :, None], kinds, 0).max(axis=1)
        return best

    def _loaded(self) -> Any:
        if self._model is None:
            try:
                from transformers import AutoModelForTokenClassification
            except ImportError:
                raise MissingExtra("models", "a tagger needs transformers, which is") from None
            model = load_weights(AutoModelForTokenClassification, self.path, self._shape)
            if len(self._of) != int(self._shape.num_labels):
                raise UserError(
                    f"{self.path!r}: config.json names {len(self._of)} labels and the model has "
                    f"{self._shape.num_labels}"
                )
            self._model = model.to(best_device())
        return self._model


class TypeWeights:
    """A WordEncoder (word_builder.py): the terms of a text's types, each with its largest probability."""

    def __init__(self, tagger: Tagger, terms: Mapping[str, Sequence[str]]) -> None:
        self._tagger, self._terms = tagger, terms

    def encode(self, texts: Sequence[str]) -> list[WordWeights]:
        """See WordEncoder."""
        shares, tokens, dropped = self._tagger.probabilities(texts)
        found = []
        for row, read, lost in zip(shares, tokens.tolist(), dropped.tolist(), strict=True):
            best: dict[str, float] = {}
            for at in np.flatnonzero(row >= _LEAST).tolist():
                for term in self._terms[self._tagger.types[at]]:
                    best[term] = max(best.get(term, 0.0), float(row[at]))
            found.append(WordWeights(list(best), np.array(list(best.values()), np.float64), read, lost))
        return found
