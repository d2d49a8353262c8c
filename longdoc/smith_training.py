"""SMITH with what only its training needs: heads for masked words, masked blocks and matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from retrieval.errors import UserError
from retrieval.index.bert import Bert, MlmHead
from retrieval.index.dense_spec import detect
from retrieval.index.dense_start import set_dropout
from retrieval.index.m2bert_data import mask
from retrieval.index.model_files import ModelFiles, fill
from retrieval.index.packed import pack
from retrieval.index.trainer import Figures, TaskOptions
from retrieval.longdoc import smith_start
from retrieval.longdoc.smith import SmithEncoder
from retrieval.longdoc.smith_losses import (
    MaskedBlocks,
    Matching,
    block_loss,
    draw_blocks,
    draw_slots,
    word_loss,
)
from retrieval.longdoc.smith_model import Smith

SHAPE: Mapping[str, Any] = {
    "block": 0, "positions": 0, "layers": 0, "heads": 0, "intermediate": 0, "pooling": "", "document": "",
    "combine": "", "attention_size": 0, "compat": False, "loop": 0,
}  # fmt: skip
"""Settings of a new model's shape (smith_model.SmithConfig), where they are given."""
_ASKED = 1024  # words whose logits are in memory together
_COMPAT_MOST = 5  # words that the released code asks for in a block


class Lot(NamedTuple):
    """Documents of a step: n blocks of d documents.

    blocks   framed token ids of each block
    offsets  int64[d + 1], where each document's begin
    begin    int64[d], the number of each document's first block that is read
    """

    blocks: list[NDArray[np.int32]]
    offsets: NDArray[np.int64]
    begin: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        reader: SmithEncoder,
        documents: Sequence[NDArray[np.int32]],
        window: int,
        rng: np.random.Generator | None,
    ) -> Lot:
        """Of prepared documents; at most `window` blocks (0: all), with rng from a random one on."""
        config = reader.module.config
        window = min(window or config.loop, config.loop) if config.compat else window
        blocks: list[NDArray[np.int32]] = []
        offsets, begin = [0], []
        for ids in documents:
            own, _ = reader.cut([ids])
            spare = len(own) - window if window else 0
            first = int(rng.integers(0, spare + 1)) if spare > 0 and rng is not None else 0
            blocks += own[first : first + window] if window else own
            begin.append(0 if config.compat else first)
            offsets.append(len(blocks))
        return cls(blocks, np.array(offsets, np.int64), np.array(begin, np.int64))


class Heads(nn.Module):
    """words: logits of masked words. blocks: see MaskedBlocks. matching: see Matching."""

    def __init__(self, bert: Bert, *, compat: bool, slots: int) -> None:
        super().__init__()
        self.words = MlmHead(bert)
        config = bert.config
        self.blocks = MaskedBlocks(
            config.hidden_size, slots=slots if compat else 0, eps=config.layer_norm_eps
        )
        self.matching = Matching(compat=compat)


class SmithForTraining(nn.Module):
    """The network (`smith`), the heads, and the encoder that reads texts for it.

    source: what `facts` say of the start.
    """

    def __init__(self, reader: SmithEncoder, heads: Heads, source: Mapping[str, Any]) -> None:
        super().__init__()
        self.smith: Smith = reader.module
        self.heads = heads
        self.reader = reader
        self.source = source

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.heads.matching.scale.device

    def read(self, lot: Lot) -> Tensor:
        """float32[n, H]: the blocks' vectors."""
        return self.smith.blocks(pack(lot.blocks, device=self.device))

    def documents(self, rows: Tensor, lot: Lot) -> Tensor:
        """float32[d, dim]: the documents' vectors."""
        return self.reader.documents(rows, torch.from_numpy(lot.offsets).to(self.device))

    def masked(
        self, lot: Lot, share: float, k: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Figures]:
        """(loss of words, loss of blocks, the blocks' vectors float32[n, H], accuracies).

        share: of each block's words that are masked, 0: none. k: blocks of each document; 0: none.
        """
        blocks, figures = lot.blocks, {}
        words = torch.zeros((), device=self.device)
        if share:
            words, rows, figures["words"] = self._words(lot, share, rng)
        else:
            rows = self.smith.blocks(pack(blocks, device=self.device))
        found = words * 0.0
        if k:
            found, figures["blocks"] = self._blocks(rows, lot, k, rng)
        return words, found, rows, figures

    def _words(self, lot: Lot, share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
        """Loss, the vectors of the blocks with words masked, and the share that is right."""
        compat = self.smith.config.compat
        shares = [min(share, _COMPAT_MOST / len(ids)) if compat else share for ids in lot.blocks]
        masked = [mask(ids, self.reader.words, own, rng) for ids, own in zip(lot.blocks, shares, strict=True)]
        packed = pack([one.ids for one in masked], device=self.device)
        hidden = self.smith.sentence(packed)
        rows = self.smith.pooled(hidden, packed)
        starts = packed.offsets[:-1].tolist()
        asked = np.concatenate([start + one.places for start, one in zip(starts, masked, strict=True)])
        labels = torch.from_numpy(np.concatenate([one.labels for one in masked])).to(self.device)
        # The number of each asked word's block in its document.
        number = np.arange(len(masked)) - np.repeat(lot.offsets[:-1], np.diff(lot.offsets))
        slots = np.repeat(number, [len(one.places) for one in masked])
        wanted = hidden[torch.from_numpy(asked).to(self.device)]
        losses, right = self._word_losses(wanted, labels)
        loss = word_loss(losses, torch.from_numpy(slots).to(self.device), compat=compat)
        return loss, rows, right / max(1, len(labels))

    def _word_losses(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """float32[m], and how many are right; logits of a part at a time, computed again going back."""

        def part(rows: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.heads.words(rows).float()
            losses = functional.cross_entropy(logits, answers, reduction="none")
            return losses, (logits.detach().argmax(1) == answers).sum()

        found, right = [hidden.new_empty(0, dtype=torch.float32)], 0.0
        for rows, answers in zip(torch.split(hidden, _ASKED), torch.split(labels, _ASKED), strict=True):
            losses, hits = checkpoint(part, rows, answers, use_reentrant=False)
            found.append(losses)
            right += float(hits)
        return torch.cat(found), right

    def _blocks(self, rows: Tensor, lot: Lot, k: int, rng: np.random.Generator) -> tuple[Tensor, float]:
        """Loss of masked blocks, and the share that is told from the others."""
        counts = np.diff(lot.offsets)
        if self.smith.config.compat:
            return self._released(rows, lot, counts, k, rng)
        places = torch.from_numpy(draw_blocks(counts, k, rng)).to(self.device)
        if not len(places):
            return rows.sum() * 0.0, 0.0
        predicted, wanted = self._predict(rows, lot, places), rows[places]
        right = (predicted.detach() @ wanted.detach().T).argmax(1) == torch.arange(
            len(places), device=self.device
        )
        return block_loss(predicted, wanted), float(right.float().mean())

    def _predict(self, rows: Tensor, lot: Lot, places: Tensor) -> Tensor:
        """float32[m, H]: what the document level says of blocks at some places, which it does not see."""
        hidden = self.heads.blocks.hide(rows, places)
        offsets, begin = (torch.from_numpy(each).to(self.device) for each in (lot.offsets, lot.begin))
        predicted: Tensor = self.heads.blocks(self.smith.mix(hidden, offsets, begin).blocks[places])
        return predicted.float()

    def _released(
        self, rows: Tensor, lot: Lot, counts: NDArray[np.int64], k: int, rng: np.random.Generator
    ) -> tuple[Tensor, float]:
        """The same with slots that may be padding: without weight as questions, but among the answers."""
        loop = self.smith.config.loop
        slots = draw_slots(len(counts), loop, min(k, loop), rng)
        real = slots < counts[:, None]
        places = torch.from_numpy((lot.offsets[:-1, None] + slots)[real]).to(self.device)
        at = torch.from_numpy(np.flatnonzero(real)).to(self.device)
        blank = self.smith.padding(self.reader.words.pad).expand(slots.size, -1)
        wanted = blank.index_copy(0, at, rows[places])
        predicted = torch.zeros_like(blank)
        if len(places):
            predicted = predicted.index_copy(0, at, self._predict(rows, lot, places))
        weights = torch.from_numpy(real.ravel()).to(self.device).float()
        assert self.heads.blocks.bias is not None  # for the type checker
        bias: Tensor = self.heads.blocks.bias[: slots.size]
        bias = functional.pad(bias, (0, slots.size - len(bias)))
        right = (predicted @ wanted.T + bias).detach().argmax(1) == torch.arange(
            slots.size, device=self.device
        )
        share = float((right * weights).sum() / weights.sum().clamp(min=1))
        return block_loss(predicted, wanted, bias=bias, weights=weights), share

    def save(self, directory: str) -> None:
        """Writes the encoder, the heads beside it."""
        more = {"max_blocks": 0 if self.smith.config.compat else self.reader.limit}
        smith_start.save(directory, self.smith, self.reader.words, more, self.heads)


def open_training(
    options: TaskOptions, settings: Mapping[str, Any], batch: int
) -> tuple[SmithForTraining, str]:
    """What a training begins with, and a line that says what it is. Raises UserError, UnknownName."""
    assert options.start is not None  # for the type checker
    shape = {name: settings[name] for name in SHAPE if name in options.settings}
    going_on = detect(options.start) == smith_start.KIND
    if going_on:
        files = ModelFiles.open(options.start)
        model = smith_start.open_model(files)
        present = asdict(model.config)
        for name, value in shape.items():
            if value != present[name]:
                raise UserError(
                    f"--set {name}={value}: {options.start!r} is a SMITH with {present[name]}; leave it out"
                )
    else:
        model, files = smith_start.begin(options.start, **shape)
    reader = SmithEncoder(files.vocabulary, model, files.identity, device="cpu")
    slots = batch * max(settings["masked_blocks"], 1) * (2 + settings["negatives"] + settings["random"])
    heads = Heads(model.sentence, compat=model.config.compat, slots=slots)
    _fill(heads, files, "heads." if going_on else "cls.")
    training = SmithForTraining(reader, heads, files.identity)
    model.requires_grad_(True)
    set_dropout(training, settings["dropout"])
    config = model.config
    count = sum(parameter.numel() for parameter in model.parameters())
    what = f"goes on with {options.start!r}" if going_on else f"new SMITH on {options.start!r}"
    return training, (
        f"{what}: blocks of {config.block} tokens, {config.layers} layers above, {count:,} parameters"
    )


def _fill(heads: Heads, files: ModelFiles, prefix: str) -> None:
    """Heads of an earlier training, or a BERT's own head of masked words."""
    found = {
        name.removeprefix(prefix): tensor
        for name, tensor in files.tensors().items()
        if name.startswith(prefix)
    }
    if prefix == "cls.":
        found = {f"words.{name}": tensor for name, tensor in found.items()}
    bias = heads.blocks.bias
    if "blocks.bias" in found and (bias is None or found["blocks.bias"].shape != bias.shape):
        del found["blocks.bias"]  # of another size of batch
    fill(heads, found, files.path, fresh=("",))
