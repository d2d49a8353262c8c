"""The dense encoder "m2bert": texts of up to 32k tokens to vectors, in one of three modes of padding.

    faithful  every text, queries too, is padded to the model's full length and the padding takes part, as the
              published weights were trained and are used; a text that is too long is cut without a last [SEP]
    trim      no padding: a text is read at its own length. Cheaper, and another vector space than faithful
    masked    padded rows are zero before each convolution: the same vector whatever the padding, for models
              that were trained so

Vectors of two modes must not meet in one index: the mode is part of the identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from retrieval import registry
from retrieval.encoder import Kind
from retrieval.errors import UnknownName, UserError
from retrieval.index import gate
from retrieval.index.m2bert import M2Bert
from retrieval.index.m2bert_files import open_model
from retrieval.index.model_files import ModelFiles, save_model
from retrieval.index.torch_encoder import Sequences, TorchEncoder
from retrieval.stage import Param

Pad = Literal["faithful", "trim", "masked"]

_CHOICES = {
    "pad": ("faithful", "trim", "masked"), "pooling": ("cls", "mean"), "precision": ("float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
}  # fmt: skip
_PARAMS = ("device", "length", "normalise", "pad", "pooling", "precision")
_PROBE = (
    "short", "the committee agreed to read the report again before it decides",
    "what did the marketing expert think of the cost of the remote control?",
    " ".join(f"sentence number {n} says that long texts are read whole" for n in range(20)),
)  # fmt: skip
_BUDGET_GPU = 65536


class Settings(NamedTuple):
    """How a model is used; the first ones decide about the vector."""

    pad: Pad
    pooling: Literal["cls", "mean"]
    pooler: bool  # whether the pooled row goes through Linear and tanh
    normalise: bool
    length: int
    prompts: dict[str, str]
    precision: Literal["float32", "bfloat16"]
    device: str


@registry.register("m2bert", kind="dense encoder")
def open_encoder(path: str, params: Mapping[str, Param]) -> M2BertEncoder:
    """The encoder of a model directory (`retrieve model convert` makes one of a published checkpoint).

    params: pad, pooling, length, normalise, precision, device. Raises UserError, UnknownName.
    """
    files = ModelFiles.open(path)
    settings = read_settings(files, params)
    return M2BertEncoder(files, open_model(files), settings)


def read_settings(files: ModelFiles, params: Mapping[str, Param]) -> Settings:
    """What config.json says in "retrieval", overridden by `params`. Raises UserError, UnknownName."""
    for name in params:
        if name not in _PARAMS:
            raise UnknownName("parameter of m2bert", name, _PARAMS)
    config = files.config
    longest = config.get("max_position_embeddings", 2048)
    values: dict[str, Any] = {
        "pad": "faithful", "pooling": "mean" if config.get("pool_all") else "cls", "normalise": True,
        "length": longest, "pooler": True, "prompts": {}, "precision": "float32", "device": "auto",
    }  # fmt: skip
    values |= {name: files.settings[name] for name in values if name in files.settings} | dict(params)
    for name, known in _CHOICES.items():
        if values[name] not in known:
            raise UserError(f"{name}={values[name]}: m2bert has {', '.join(known)}")
    for name in ("normalise", "pooler"):
        if not isinstance(values[name], bool):
            raise UserError(f"{name}={values[name]}: give true or false")
    length = values["length"]
    if not isinstance(length, int) or isinstance(length, bool) or not 3 <= length <= longest:
        raise UserError(f"length={length}: {files.path!r} reads 3 to {longest} tokens")
    if values["pad"] == "faithful" and length != longest:
        raise UserError(
            f"length={length}: with pad=faithful every text is padded to the model's {longest} tokens, and "
            "another length gives other vectors; leave it out, or give pad=trim"
        )
    prompts = values["prompts"]
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(f"{files.path!r}: prompts of config.json are no texts by kind")
    values["prompts"] = {kind: prompts.get(kind, "") for kind in ("query", "passage")}
    if values["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no CUDA device that torch can use; give device=cpu")
    return Settings(**values)


class M2BertEncoder(TorchEncoder):
    """See retrieval.encoder.DenseEncoder and TorchEncoder."""

    module: M2Bert

    def __init__(self, files: ModelFiles, model: M2Bert, settings: Settings) -> None:
        self.files = files
        self.settings = settings
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module = model.eval().requires_grad_(False).to(device)
        self.dim = model.config.hidden_size
        if device == "cuda":
            self.budget = _BUDGET_GPU
        self.identity = {
            "encoder": "m2bert", "model": files.identity, "dim": self.dim, "pooling": settings.pooling,
            "pooler": settings.pooler, "normalise": settings.normalise, "length": settings.length,
            "prompts": settings.prompts, "pad": settings.pad,
        }  # fmt: skip
        self.runtime: dict[str, Any] = {"backend": "torch", "precision": settings.precision}
        if settings.precision != "float32":
            self.runtime["gate"] = self._gate()

    def __repr__(self) -> str:
        return f"<M2BertEncoder {self.files.path!r}, pad={self.settings.pad}, {self.settings.length} tokens>"

    def _gate(self) -> dict[str, float]:
        """Cosines of probe texts' vectors with those in float32. Raises UserError where they are too far."""
        exact = M2BertEncoder(self.files, self.module, self.settings._replace(precision="float32"))
        probe = _PROBE[1:2] if self.settings.pad == "faithful" else _PROBE  # each one costs the full length
        ours, theirs = self.encode(probe).rows, exact.encode(probe).rows
        found = gate.measure(ours, theirs)
        if not gate.holds(found):
            gate.refuse(found, f"precision={self.settings.precision}")
        return found

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """(start, end) of each token in characters of its text, shape (tokens, 2); no special tokens."""
        return self.files.vocabulary.offsets(texts)

    def prepare(self, texts: Sequence[str], kind: Kind = "passage") -> Sequences:
        """[CLS] text [SEP], cut to the length; only masked keeps the [SEP] of a cut text; faithful pads."""
        words, settings = self.files.vocabulary, self.settings
        prompt = settings.prompts[kind]
        encoded = words.encode([prompt + text for text in texts])
        tokens = np.array([len(ids) + 2 for ids in encoded], np.int64)
        ids = [self._framed(one) for one in encoded]
        return Sequences(ids, np.zeros(len(ids), np.int64), tokens, np.maximum(tokens - settings.length, 0))

    def _framed(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        words, length = self.files.vocabulary, self.settings.length
        room = length - 2 if self.settings.pad == "masked" else length
        row = np.concatenate([[words.cls], ids[:room], [words.sep]]).astype(np.int32)[:length]
        if self.settings.pad == "faithful":
            row = np.pad(row, (0, length - len(row)), constant_values=words.pad)
        return row

    def embed(self, sequences: Sequences) -> Tensor:
        """See TorchEncoder. Raises UserError in faithful mode for a sequence of another length."""
        rows: list[Tensor] = []
        order: list[NDArray[np.int64]] = []
        lengths = np.array([len(ids) for ids in sequences.ids], np.int64)
        self._check(lengths)
        for group in groups(lengths, equal=self.settings.pad != "masked"):
            rows.append(self._embed(sequences.take(group), lengths[group]))
            order.append(group)
        if not rows:
            return torch.empty(0, self.dim, device=self._device)
        back = np.argsort(np.concatenate(order), kind="stable")
        return torch.cat(rows)[torch.from_numpy(back).to(self._device)]

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _check(self, lengths: NDArray[np.int64]) -> None:
        longest = self.settings.length
        if self.settings.pad == "faithful" and (lengths != longest).any():
            wrong = int(lengths[lengths != longest][0])
            raise UserError(
                f"pad=faithful takes sequences of exactly {longest} tokens, padding included, and one has "
                f"{wrong}; prepare() makes them so, or open the model with pad=trim"
            )

    def _embed(self, sequences: Sequences, lengths: NDArray[np.int64]) -> Tensor:
        """One group: padded to one length in masked mode, of equal length in the others."""
        masked = self.settings.pad == "masked"
        longest = int(lengths.max())
        width = min(padded_length(longest), self.module.config.max_position_embeddings) if masked else longest
        pad = self.files.vocabulary.pad
        grid = np.full((len(lengths), width), pad, np.int64)
        for row, one in zip(grid, sequences.ids, strict=True):
            row[: len(one)] = one
        ids = torch.from_numpy(grid).to(self._device)
        real = torch.from_numpy(lengths).to(self._device)
        skip = torch.from_numpy(sequences.skip).to(self._device)
        low = self.settings.precision == "bfloat16" and not torch.is_autocast_enabled(self._device.type)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=True) if low else _as_is():
            hidden = self.module(ids, real if masked else None)
        hidden = hidden.float()
        if self.settings.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            places = torch.arange(width, device=ids.device)
            counted = (places >= skip[:, None]) & (places < real[:, None])
            if self.settings.pad == "faithful":
                counted &= ids != pad
            share = counted / counted.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.bmm(share[:, None].float(), hidden)[:, 0]
        if self.settings.pooler:
            pooled = self.module.pooler(pooled).float()
        return functional.normalize(pooled, dim=1) if self.settings.normalise else pooled

    def save(self, directory: str, **more: Any) -> None:
        """See TorchEncoder."""
        kept = self.settings._asdict()
        del kept["precision"], kept["device"]
        retrieval = {**self.files.settings, "kind": "m2bert", **kept, **more}
        config = {**self.files.config, "model_type": "m2bert", "retrieval": retrieval}
        words = self.files.vocabulary
        save_model(directory, config, self.module.state_dict(), words.data, words.name)


def _as_is() -> Any:
    import contextlib

    return contextlib.nullcontext()


def padded_length(length: int) -> int:
    """`length` rounded up to one of 16 sizes an octave, so that few kernels serve all lengths."""
    step = max(8, 1 << max(0, (length - 1).bit_length() - 5))
    return -(-length // step) * step


def groups(lengths: NDArray[np.int64], *, equal: bool) -> list[NDArray[np.int64]]:
    """Rows that go through the model together: of equal length, or near enough that little is padding."""
    order = np.argsort(lengths, kind="stable")
    made: list[NDArray[np.int64]] = []
    start = total = 0
    for at, length in enumerate(lengths[order].tolist()):
        waste = length * (at - start) - total
        if at > start and (waste > 0 if equal else waste > max(512, total // 8)):
            made.append(order[start:at])
            start, total = at, 0
        total += length
    if start < len(order):
        made.append(order[start:])
    return made
