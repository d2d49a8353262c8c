"""The dense encoder "smith": documents of any length to one vector each, and one for each of their blocks.

Texts are cut into blocks of whole sentences (blocks.py); a BERT reads each block, a transformer their vectors
(smith_model.py). Attention costs what the block's length and the number of blocks say, not the text's length
squared. Queries are short documents, and are read alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.encoder import Kind
from retrieval.errors import UnknownName, UserError
from retrieval.index.fused import FusedBert
from retrieval.index.grad_cache import embed_cached, embed_plainly
from retrieval.index.model_files import Dtype, ModelFiles
from retrieval.index.packed import pack, plan_batches
from retrieval.index.torch_encoder import Sequences, TorchEncoder
from retrieval.index.vocabulary import Vocabulary
from retrieval.longdoc import smith_start
from retrieval.longdoc.blocks import Block, sentences
from retrieval.longdoc.smith_model import Smith
from retrieval.registry import register
from retrieval.stage import Param

Level = Literal["out", "in"]

_PARAMS = ("batch", "device", "max_blocks")
_BUDGET_CPU, _BUDGET_GPU = 4096, 65536


class BlockVectors(NamedTuple):
    """The blocks of n texts and their vectors; those of text i are offsets[i] to offsets[i + 1].

    rows     float32[b, H], at length 1
    offsets  int64[n + 1]
    blocks   where each lies in its text; a text without tokens has one block, of no characters
    """

    rows: NDArray[np.float32]
    offsets: NDArray[np.int64]
    blocks: list[Block]


@register("smith", kind="dense encoder")
def open_encoder(path: str, params: Mapping[str, Param]) -> SmithEncoder:
    """The encoder of a model directory (`retrieve train smith` makes one).

    params: max_blocks (of a text at most, the rest is dropped and counted; 0: all), batch (tokens that the
    sentence level reads together), device. Raises UserError, UnknownName.
    """
    for name in params:
        if name not in _PARAMS:
            raise UnknownName("parameter of smith", name, _PARAMS)
    values: dict[str, Any] = {"batch": 0, "max_blocks": None, "device": "auto", **params}
    for name in ("batch", "max_blocks"):
        value = values[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UserError(f"{name}={value}: give a whole number, 0 or more")
    if values["device"] not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={values['device']}: smith has auto, cpu, cuda")
    if values["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no CUDA device that torch can use; give device=cpu")
    files = ModelFiles.open(path)
    model = smith_start.open_model(files)
    limit = files.settings.get("max_blocks", 0) if values["max_blocks"] is None else values["max_blocks"]
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise UserError(
            f"{path!r}: max_blocks of config.json is {limit!r}; it must be a whole number, 0 or more"
        )
    return SmithEncoder(
        files.vocabulary, model, files.identity, limit=limit, budget=values["batch"], device=values["device"]
    )


class SmithEncoder(TorchEncoder):
    """See retrieval.encoder.DenseEncoder and TorchEncoder.

    words, model   the vocabulary and the network
    source         what the identity calls the model
    limit          blocks of a text that are read, 0: all
    budget         tokens that the sentence level reads together; 0: what suits the device
    """

    module: Smith

    def __init__(
        self,
        words: Vocabulary,
        model: Smith,
        source: Mapping[str, Any],
        *,
        limit: int = 0,
        budget: int = 0,
        device: str = "auto",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.words = words
        self.module = model.eval().to(device)
        config = self.module.config
        self.limit = limit or (config.loop if config.compat else 0)
        if config.compat and self.limit > config.loop:
            raise UserError(
                f"max_blocks={limit}: the released model has {config.loop} slots; give at most that"
            )
        self.capacity = config.block - 3
        self.dim = self.module.dim
        self.budget = budget or (_BUDGET_GPU if device == "cuda" else _BUDGET_CPU)
        self.checkpointing = False
        self.identity = {
            "encoder": "smith", "model": dict(source), "dim": self.dim, "pooling": config.document,
            "normalise": config.normalised, "length": self.limit * self.capacity or None,
            "prompts": {"query": "", "passage": ""}, "block": config.block, "max_blocks": self.limit,
            "combine": config.combine, "compat": config.compat,
        }  # fmt: skip
        self.runtime: Mapping[str, Any] = {"backend": "torch", "precision": "float32"}
        self._laid_out: tuple[int, FusedBert] | None = None

    def __repr__(self) -> str:
        return f"<SmithEncoder of {self.dim}, blocks of {self.module.config.block} tokens>"

    # --- texts to tokens ------------------------------------------------------------------------------------

    def split(self, text: str) -> tuple[list[Block], list[NDArray[np.int32]]]:
        """The blocks of a text and the token ids of each, special ones not among them; none where no tokens.

        The text is tokenised once, as a whole.
        """
        tokens = _Tokens(self.words)
        compat = self.module.config.compat
        (blocks,) = sentences([text], tokens, self.capacity, compat=compat, max_blocks=self.limit or None)
        ids = np.concatenate([np.empty(0, np.int32), *tokens.ids])
        begins = np.cumsum([0, *(block.tokens + block.dropped for block in blocks)])
        if begins[-1] != len(ids):  # this vocabulary has tokens of white space, which are in no block
            spans = [text[block.start : block.end] for block in blocks]
            return blocks, self.words.encode(spans, self.capacity)
        starts = begins[:-1].tolist()
        return blocks, [ids[at : at + block.tokens] for at, block in zip(starts, blocks, strict=True)]

    def _framed(self, text: str) -> tuple[list[Block], list[NDArray[np.int32]]]:
        """As split(), framed; a text without tokens has one empty block."""
        blocks, ids = self.split(text)
        if not blocks:
            blocks, ids = [Block(0, 0, 0)], [np.empty(0, np.int32)]
        ends = [self.words.sep] * (2 if self.module.config.compat else 1)
        return blocks, [np.concatenate([[self.words.cls], one, ends]).astype(np.int32) for one in ids]

    def prepare(self, texts: Sequence[str], kind: Kind = "passage") -> Sequences:
        """See TorchEncoder. A text's ids are its blocks behind one another, each with its [CLS] and [SEP]."""
        whole: list[NDArray[np.int32]] = []
        dropped = np.zeros(len(texts), np.int64)
        for at, text in enumerate(texts):
            blocks, ids = self._framed(text)
            whole.append(np.concatenate(ids))
            dropped[at] = sum(block.dropped for block in blocks)
        lengths = np.array([len(ids) for ids in whole], np.int64)
        return Sequences(whole, np.zeros(len(texts), np.int64), lengths + dropped, dropped)

    def cut(self, ids: Sequence[NDArray[np.int32]]) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
        """The blocks of prepared texts, and int64[n + 1], where those of each begin."""
        blocks: list[NDArray[np.int32]] = []
        offsets = [0]
        for one in ids:
            blocks += np.split(one, np.flatnonzero(one[1:] == self.words.cls) + 1)
            offsets.append(len(blocks))
        return blocks, np.array(offsets, np.int64)

    # --- tokens to vectors ----------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        """Where the network is."""
        return self.module.positions.weight.device

    def embed(self, sequences: Sequences) -> Tensor:
        """See TorchEncoder."""
        blocks, offsets = self.cut(sequences.ids)
        return self.documents(self.block_rows(blocks), torch.from_numpy(offsets).to(self._device))

    def documents(self, rows: Tensor, offsets: Tensor) -> Tensor:
        """float32[d, dim] of blocks' vectors; see Smith.documents."""
        config, padding = self.module.config, None
        if config.compat and config.combine != "normal":
            padding = self.module.padding(self.words.pad)
        return self.module.documents(rows, offsets, padding)

    def block_rows(self, blocks: Sequence[NDArray[np.int32]]) -> Tensor:
        """float32[n, H], the sentence level's vectors of framed blocks, in order.

        With gradients all blocks are one packed call, unless checkpointing; without them `budget` tokens at a
        time, which changes the last digits alone.
        """
        lengths = np.array([len(ids) for ids in blocks], np.int64)
        if not len(lengths):
            return torch.empty(0, self.module.sentence.config.hidden_size, device=self._device)
        graphs = torch.is_grad_enabled()
        whole = graphs and not self.checkpointing
        batches = plan_batches(lengths, int(lengths.sum()) if whole else self.budget)

        def read(some: NDArray[np.int64]) -> Tensor:
            return self._read([blocks[at] for at in some.tolist()])

        if graphs and self.checkpointing:
            return embed_cached(read, batches, self._device, torch.initial_seed())
        return embed_plainly(read, batches)

    def _read(self, blocks: list[NDArray[np.int32]]) -> Tensor:
        """One packed call of the sentence level."""
        packed = pack(blocks, device=self._device)
        plain = torch.is_grad_enabled() or self.module.training or self._device.type != "cpu"
        if plain:
            return self.module.blocks(packed)
        return self.module.pooled(self._fused()(packed), packed)

    def _fused(self) -> FusedBert:
        """The sentence level laid out for inference, again whenever its parameters have changed."""
        state = sum(parameter._version for parameter in self.module.sentence.parameters())
        if self._laid_out is None or self._laid_out[0] != state:
            self._laid_out = state, FusedBert(self.module.sentence)
        return self._laid_out[1]

    def encode_blocks(
        self, texts: Sequence[str], kind: Kind = "passage", level: Level = "out"
    ) -> BlockVectors:
        """The blocks of texts and a vector of each.

        level   in: what the sentence level makes of the block alone. out: what the document level makes of it
                among the others, through the head of documents, so that it can be compared with what encode()
                makes of a query (where combine=normal)

        Raises UserError for another level.
        """
        if level not in ("in", "out"):
            raise UserError(f"level={level!r}: blocks have vectors in (alone) and out (in their document)")
        framed = [self._framed(text) for text in texts]
        offsets = np.cumsum([0, *(len(blocks) for blocks, _ in framed)]).astype(np.int64)
        rows = np.empty((int(offsets[-1]), self.module.sentence.config.hidden_size), np.float32)
        with torch.inference_mode():
            for batch in plan_batches([sum(map(len, ids)) for _, ids in framed], self.budget):
                part = self.block_rows([one for at in batch.tolist() for one in framed[at][1]])
                ends = np.cumsum([0, *np.diff(offsets)[batch]])
                if level == "out":
                    mixed = self.module.mix(part, torch.from_numpy(ends).to(self._device))
                    part = self.module.document_head(mixed.blocks)
                for at, own in zip(
                    batch.tolist(), np.split(part.float().cpu().numpy(), ends[1:-1]), strict=True
                ):
                    rows[offsets[at] : offsets[at + 1]] = own
        if not np.isfinite(rows).all():
            raise UserError(
                "the model gives vectors that are not finite; its files are damaged, or its training failed"
            )
        return BlockVectors(rows, offsets, [block for blocks, _ in framed for block in blocks])

    # --- training and files ---------------------------------------------------------------------------------

    def trainable(self, settings: Mapping[str, Any]) -> None:
        """Of `retrieve train dense`: switches gradients on; checkpointing keeps the vectors of blocks alone.

        Raises UserError for LoRA, which SMITH does not have.
        """
        if settings["lora"]:
            raise UserError("smith has no lora; leave --set lora out")
        self.checkpointing = bool(settings["checkpointing"])
        self.module.requires_grad_(True)

    def save(self, directory: str, *, dtype: Dtype = "float32", card: str | None = None, **more: Any) -> None:
        """See TorchEncoder. dtype: of the numbers on disk, float32, float16 or int8; card: its README.md."""
        smith_start.save(
            directory, self.module, self.words, {"max_blocks": self.limit, **more}, dtype=dtype, card=card
        )


class _Tokens:
    """Offsets of a splitter, and the ids of all tokens that it asked for, in order."""

    def __init__(self, words: Vocabulary) -> None:
        self.words = words
        self.ids: list[NDArray[np.int32]] = []

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        found = []
        for text in texts:
            spans = np.array(self.words.spans(text), np.int64).reshape(-1, 3)
            self.ids.append(spans[:, 2].astype(np.int32))
            found.append(spans[:, :2])
        return found


def new(path: str, *, device: str = "auto", **shape: Any) -> SmithEncoder:
    """A new SMITH on the BERT of a directory, untrained above it; shape, errors: see smith_start.begin."""
    model, files = smith_start.begin(path, **shape)
    return SmithEncoder(files.vocabulary, model, files.identity, device=device)
