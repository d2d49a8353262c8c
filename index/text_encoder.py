"""Dense encoders of the BERT kind, from a directory in sentence-transformers' or transformers' layout.

BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet run packed in our own network (bert.py); whatever
else transformers has runs through it (foreign.py). Reimers & Gurevych, "Sentence-BERT" (EMNLP 2019), for what
comes after the network: pooling, projection, length 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval.encoder import DenseEncoder, Kind, Vectors
from retrieval.errors import UserError
from retrieval.index import families, gate, text_save
from retrieval.index.bert import Bert
from retrieval.index.file_hashes import sha256_of
from retrieval.index.foreign import load_foreign
from retrieval.index.fused import FusedBert, can_pack
from retrieval.index.layout import Layout, read_json, read_layout
from retrieval.index.model_files import CONFIG, WEIGHTS, check_weights, fill, read_tensors
from retrieval.index.packed import Packed, pack
from retrieval.index.pooling import Head, pool
from retrieval.index.processor import bfloat16_pays
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
    wanted = read_params(params)
    if wanted.backend == "auto":
        wanted = replace(wanted, backend=_backend(path, wanted))
    if wanted.backend == "torch":
        return TextEncoder(path, wanted)
    from retrieval.index.graph_encoder import GraphEncoder

    return GraphEncoder(path, wanted)


def _backend(path: str, params: TextParams) -> str:
    """The fastest that is installed and takes the model and the device."""
    config = read_json(read_layout(path).folder, CONFIG) if os.path.isdir(path) else {}
    if params.precision == "int8":
        return "onnx"
    if families.is_packed(config) and params.device in ("auto", "cpu") and not torch.cuda.is_available():
        for backend, module in (("openvino", "openvino"), ("onnx", "onnxruntime")):
            if find_spec(module) and not (backend == "onnx" and params.precision == "bfloat16"):
                return backend
    return "torch"


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
        self.budget = params.batch or (32768 if self.device.type == "cuda" else 2048)
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
        self._laid_out: dict[str, tuple[int, FusedBert]] = {}

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
    def identity(self) -> Mapping[str, Any]:  # type: ignore[override]
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
        return "+".join(sha256_of(os.path.join(folder, os.path.basename(str(part)))) for part in parts)

    @property
    def runtime(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See retrieval.encoder.DenseEncoder. The first look at it computes the gate, where there is one."""
        return {
            "backend": "torch",
            "precision": self.precision,
            **({"gate": self._gate} if self._gate else {}),
        }

    @cached_property
    def precision(self) -> str:
        """float32 or bfloat16, settled at the first use. Raises UserError for one that the gate refuses."""
        if self._wanted == "bfloat16":
            assert self._gate is not None  # for the type checker
            if gate.holds(self._gate):
                return "bfloat16"
            if self.params.precision != "auto":
                gate.refuse(self._gate, "precision=bfloat16")
            self._gate = None
        return "float32"

    @cached_property
    def _wanted(self) -> str:
        if self.params.precision != "auto":
            return self.params.precision
        if self.device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        pays = isinstance(self.network, Bert) and bfloat16_pays()
        return "bfloat16" if pays else "float32"

    @cached_property
    def _gate(self) -> dict[str, float] | None:
        if self._wanted == "float32":
            return None
        key = {"identity": self.identity, "precision": self._wanted, "device": str(self.device),
               "torch": torch.__version__, "fused": can_pack(torch.bfloat16)}  # fmt: skip
        return gate.remembered(key, self._measure)

    def _measure(self) -> dict[str, float]:
        probe = self.prepare(gate.PROBE)
        with torch.inference_mode():
            found, exact = (self._rows(probe, precision) for precision in (self._wanted, "float32"))
        return gate.measure(found.cpu().numpy(), exact.cpu().numpy())

    @property
    def network(self) -> nn.Module:
        """What makes token states: Bert, or Foreign."""
        network: nn.Module = self.module.network  # type: ignore[assignment]
        return network

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See retrieval.encoder.DenseEncoder. params.threads is torch's number of threads meanwhile."""
        before = torch.get_num_threads()
        try:
            if self.params.threads:
                torch.set_num_threads(self.params.threads)
            return super().encode(texts, kind)
        finally:
            if self.params.threads:
                torch.set_num_threads(before)

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """(start, end) of each token in characters of its text, shape (tokens, 2); no special tokens."""
        return self.tokens.offsets(texts)

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
        """See TorchEncoder.embed. With gradients or in training always in the module's precision."""
        if torch.is_grad_enabled() or self.module.training:
            return self._rows(sequences, "")
        return self._rows(sequences, self.precision)

    def states(self, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """The token states before pooling: [tokens of all sequences, width], int64[sequences + 1] offsets."""
        packed = pack(sequences.ids, device=self.device)
        return self._hidden(packed, self.precision), packed.offsets

    def head(self, pooled: Tensor) -> Tensor:
        """What follows pooling: [n, width] to float32[n, dim]."""
        rows: Tensor = self.module.head(pooled)  # type: ignore[operator]
        return rows

    def _hidden(self, packed: Packed, precision: str) -> Tensor:
        network = self.network
        if precision and isinstance(network, Bert) and self.device.type == "cpu":
            return self._fused(network, precision)(packed)
        narrow = precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if narrow else nullcontext():
            hidden: Tensor = network(packed)
        return hidden

    def _rows(self, sequences: Sequences, precision: str) -> Tensor:
        packed = pack(sequences.ids, device=self.device)
        skip = torch.from_numpy(sequences.skip).to(self.device) if sequences.skip.any() else None
        return self.head(pool(self._hidden(packed, precision), packed.offsets, self.layout.pooling, skip))

    def save(self, directory: str, **more: Any) -> None:
        """See TorchEncoder.save; in sentence-transformers' layout. Raises UserError, StorageError."""
        network, head, layout = self.network, self.module.head, self.layout
        assert isinstance(head, Head)  # for the type checker
        settings = {"kind": "bert", **self.config.get("retrieval", {}), **more}
        width = head.pooled // len(layout.pooling)
        files, folders = text_save.describe(
            layout.steps,
            layout.pooling,
            width,
            normalise=self.normalise,
            include_prompt=layout.include_prompt,
        )
        files["config.json"] = {**self.config, "retrieval": settings}
        files["sentence_bert_config.json"] = {"max_seq_length": self.length, "do_lower_case": layout.lower}
        files["config_sentence_transformers.json"] = {
            "prompts": {"query": self.prompts["query"], "document": self.prompts["passage"]},
            "default_prompt_name": None, "similarity_fn_name": "cosine" if self.normalise else "dot",
        }  # fmt: skip
        files |= self.tokens.files()
        tensors = {WEIGHTS: families.stored(self.kind, network) if isinstance(network, Bert) else
                   network.model.state_dict()}  # type: ignore[operator, union-attr]  # fmt: skip
        for step, folder, module in zip(layout.steps, folders, head.steps, strict=True):
            if step.kind != "normalise":
                files[f"{folder}/config.json"] = {k: v for k, v in step.config.items() if k != "activation"}
                tensors[f"{folder}/{WEIGHTS}"] = module.state_dict()
        text_save.write(directory, files, tensors)

    def _fused(self, network: Bert, precision: str) -> FusedBert:
        """The network laid out for inference, again whenever its parameters have changed."""
        state = sum(parameter._version for parameter in network.parameters())
        known = self._laid_out.get(precision)
        if known is None or known[0] != state:
            known = state, FusedBert(network, torch.bfloat16 if precision == "bfloat16" else torch.float32)
            self._laid_out[precision] = known
        return known[1]


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
