"""Dense encoders of the BERT kind, from a directory in sentence-transformers' or transformers' layout.

BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet run packed in our own network (bert.py); whatever
else transformers has runs through it (foreign.py). Reimers & Gurevych, "Sentence-BERT" (EMNLP 2019), for what
comes after the network: pooling, projection, length 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.encoder import DenseEncoder, Kind
from retrieval.errors import UserError
from retrieval.index import families
from retrieval.index.file_hashes import sha256_of
from retrieval.index.foreign import load_foreign
from retrieval.index.layout import Layout, read_json, read_layout
from retrieval.index.model_files import CONFIG, WEIGHTS, check_weights, fill, read_tensors
from retrieval.index.packed import pack
from retrieval.index.pooling import Head, pool
from retrieval.index.text_params import TextParams, read_params
from retrieval.index.text_tokens import Tokens
from retrieval.index.torch_encoder import Sequences, TorchEncoder
from retrieval.registry import register
from retrieval.stage import Param

_GUESS = 512  # tokens, where neither files nor network set a bound


@register("bert", kind="dense encoder")
def open_encoder(path: str, params: Mapping[str, Param]) -> DenseEncoder:
    """The encoder of a model directory; `params` as text_params.TextParams says.

    Raises UserError for a directory, file or parameter that is no good; MissingExtra.
    """
    return TextEncoder(path, read_params(params))


class TextModule(nn.Module):
    """The network and what follows its pooling."""

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network = network
        self.head = head


class TextEncoder(TorchEncoder):
    """See retrieval.encoder.DenseEncoder. What it was opened with: `layout`, `tokens`, `length` ..."""

    def __init__(self, path: str, params: TextParams) -> None:
        if not os.path.isdir(path):
            raise UserError(f"no model directory {path!r}; give one that holds {CONFIG} and {WEIGHTS}")
        self.path, self.params = path, params
        layout = read_layout(path)
        if params.pooling is not None:
            layout = replace(layout, pooling=params.modes or ())
        self.layout: Layout = layout
        self.normalise = layout.normalise if params.normalise is None else params.normalise
        self.prompts = {kind: _prompt(layout, params, kind) for kind in ("query", "passage")}
        if not os.path.isfile(os.path.join(layout.folder, CONFIG)):
            raise UserError(f"no {os.path.join(layout.folder, CONFIG)!r}; a model directory has one")
        self.config = read_json(layout.folder, CONFIG)
        self.kind = str(self.config.get("model_type", "bert"))
        self.device = _device(params.device)
        self.budget = params.batch or (32768 if self.device.type == "cuda" else 4096)
        network, width, longest = self._network()
        self.length = _length(params, layout, longest)
        self.tokens = Tokens(layout.folder, self.kind)
        if self.tokens.around >= self.length:
            raise UserError(f"length={self.length}: {self.tokens.around} special tokens fill it; give more")
        if layout.width not in (None, width):
            raise UserError(
                f"the pooling file of {path!r} speaks of token vectors of {layout.width} numbers and the "
                f"network has {width}; they are of different models"
            )
        head = Head(layout.steps, width * len(layout.pooling), normalise=self.normalise)
        for step, module in zip(layout.steps, head.steps, strict=True):
            if step.kind != "normalise":
                check_weights(step.folder)
                fill(module, read_tensors(os.path.join(step.folder, WEIGHTS)), step.folder)
        self.dim = head.width
        self.module = TextModule(network, head).eval().requires_grad_(False).to(self.device)
        self._skip: dict[str, int] = {}

    def _network(self) -> tuple[nn.Module, int, int | None]:
        """The network, the numbers of a token's vector, and the tokens that it has positions for."""
        folder = self.layout.folder
        if families.is_packed(self.config):
            shape = families.read_config(self.config)
            check_weights(folder)
            tensors = read_tensors(os.path.join(folder, WEIGHTS))
            return families.load(self.kind, tensors, shape, folder), shape.hidden_size, shape.longest
        if not os.path.isfile(os.path.join(folder, f"{WEIGHTS}.index.json")):
            check_weights(folder)
        foreign = load_foreign(folder, self.config)
        return foreign, foreign.width, foreign.longest

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """See retrieval.encoder.DenseEncoder; layout: whether the pooling was read or is the usual guess."""
        folder = self.layout.folder
        model = {
            "name": os.path.basename(os.path.abspath(self.path)),
            "weights": self._weights(folder),
            "tokenizer": self.tokens.sha256,
            "config": sha256_of(os.path.join(folder, CONFIG)),
        }
        more: dict[str, Any] = {}
        if self.layout.steps:
            more["after"] = [
                step.kind if step.kind == "normalise" else
                f"{step.kind} {step.config.get('activation', '')} {self._weights(step.folder)}"
                for step in self.layout.steps
            ]  # fmt: skip
        if not self.layout.include_prompt:
            more["include_prompt"] = False
        if self.layout.lower:
            more["lower"] = True
        return {
            "encoder": "bert", "model": model, "dim": self.dim, "pooling": "+".join(self.layout.pooling),
            "normalise": self.normalise, "length": self.length, "prompts": dict(self.prompts),
            "layout": "sentence-transformers" if self.layout.known else "plain", **more,
        }  # fmt: skip

    def _weights(self, folder: str) -> str:
        whole = os.path.join(folder, WEIGHTS)
        if os.path.isfile(whole):
            return sha256_of(whole)
        parts = sorted(set(read_json(folder, f"{WEIGHTS}.index.json").get("weight_map", {}).values()))
        return "+".join(sha256_of(os.path.join(folder, str(part))) for part in parts)

    @property
    def runtime(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See retrieval.encoder.DenseEncoder."""
        return {"backend": "torch", "precision": "float32"}

    def prepare(self, texts: Sequence[str], kind: Kind = "passage") -> Sequences:
        """Texts as the network reads them."""
        prompt = self.prompts[kind]
        read = [prompt + text for text in texts] if prompt else list(texts)
        if self.layout.lower:
            read = [text.lower() for text in read]
        found = self.tokens.encode(read, self.length)
        skip = self._skipped(prompt)
        return Sequences(found.ids, np.full(len(read), skip, np.int64), found.tokens, found.dropped)

    def _skipped(self, prompt: str) -> int:
        """Leading tokens that are not pooled: the prompt's and what stands before it."""
        if self.layout.include_prompt or not prompt:
            return 0
        if prompt not in self._skip:
            text = prompt.lower() if self.layout.lower else prompt
            self._skip[prompt] = len(self.tokens.prefix) + self.tokens.count(text)
        return self._skip[prompt]

    def embed(self, sequences: Sequences) -> Tensor:
        """See TorchEncoder.embed."""
        packed = pack(sequences.ids, device=self.device)
        skip = torch.from_numpy(sequences.skip).to(self.device) if sequences.skip.any() else None
        module: Any = self.module
        rows: Tensor = module.head(pool(module.network(packed), packed.offsets, self.layout.pooling, skip))
        return rows


def _prompt(layout: Layout, params: TextParams, kind: str) -> str:
    given: str | None = getattr(params, f"{kind}_prompt")
    return layout.prompt(kind, getattr(params, f"{kind}_prompt_name")) if given is None else given


def _length(params: TextParams, layout: Layout, longest: int | None) -> int:
    if params.length is not None:
        if longest is not None and params.length > longest:
            raise UserError(
                f"length={params.length}: the model has positions for {longest} tokens; give fewer"
            )
        return params.length
    bounds = [bound for bound in (layout.length, longest) if bound is not None]
    return min(bounds, default=_GUESS)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name!r} is no device: {str(error).splitlines()[0]}") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name!r}: give cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name!r}: torch finds no CUDA device here; give device=cpu")
    return device
