"""A dense encoder of what a text names: a vector a name, of its tokens within the text, and one of the whole.

`--dense "spans=spans:./minilm"` is a representation of several vectors a document: the text is read once by
the text encoder (index/text_encoder.py), and each span's vector is the mean of its tokens' states, taken
through what follows pooling. So a span's vector knows its surroundings. A query is encoded whole, as by the
encoder itself with mean pooling; a document's score is that of its best span, which `passages` returns
(longdoc/block_stage.py: MaxP over one query vector). A text beyond the encoder's length is read in windows.

spans   windows (default): of 8 words, each 4 further on. names: runs of capitalised words (longdoc/names.py)
whole   whether the whole text (each window of it) has a vector too (true). Without spans it has one anyway
Other parameters are the text encoder's, but backend, which is torch, and pooling, which is the mean.

After the multi-vector search over entity spans of Shachar et al.: NER Retriever. Findings of EMNLP 2025
(arXiv 2509.04011), which takes a value projection inside a large decoder and trains a network above it; here
the states are those of the last layer, and nothing is trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.encoder import Kind, Vectors
from retrieval.errors import UnknownName, UserError
from retrieval.index.packed import plan_batches
from retrieval.index.text_encoder import TextEncoder
from retrieval.index.text_params import read_params
from retrieval.index.torch_encoder import Sequences
from retrieval.longdoc.blocks import Block, windows
from retrieval.longdoc.names import name_spans
from retrieval.longdoc.smith import BlockVectors
from retrieval.registry import register
from retrieval.stage import Param

Span = tuple[int, int]
_WORD = re.compile(r"\w+")
_WORDS, _STEP = 8, 4  # of a window


@register("spans", kind="dense encoder")
def open_encoder(path: str, params: Mapping[str, Param]) -> SpanEncoder:
    """The encoder over a model directory. Raises UserError, UnknownName."""
    return SpanEncoder(path, params)


def word_windows(text: str) -> list[Span]:
    """(start, end) of every window of words."""
    words = [match.span() for match in _WORD.finditer(text)]
    firsts = range(0, max(1, len(words) - _WORDS + _STEP), _STEP) if words else ()
    return [(words[at][0], words[min(at + _WORDS, len(words)) - 1][1]) for at in firsts]


FINDERS: dict[str, Callable[[str], list[Span]]] = {"names": name_spans, "windows": word_windows}


class _Piece(NamedTuple):
    """A window of text number `text` that is read at once: its characters, and the spans that begin there."""

    text: int
    start: int
    end: int
    spans: list[Span]


class SpanEncoder:
    """See retrieval.encoder.DenseEncoder."""

    of_blocks = True  # an index keeps its vectors a block (index/creation.py)

    def __init__(self, path: str, params: Mapping[str, Param]) -> None:
        rest = dict(params)
        name, whole = rest.pop("spans", "windows"), rest.pop("whole", True)
        if not isinstance(name, str) or name not in FINDERS:
            raise UnknownName("way to find spans", str(name), FINDERS)
        if not isinstance(whole, bool):
            raise UserError(f"whole={whole!r}: it must be true or false")
        for key, value in (("backend", "torch"), ("pooling", "mean")):
            if rest.setdefault(key, value) != value:
                raise UserError(f"{key}={rest[key]}: vectors of spans are computed with {key}={value}")
        self._of = TextEncoder(path, read_params(rest))
        self._find, self._whole = FINDERS[name], whole
        self.dim = self._of.dim
        self.identity: Mapping[str, Any] = {
            **self._of.identity, "encoder": "spans", "spans": name, "whole": whole
        }  # fmt: skip

    @property
    def runtime(self) -> Mapping[str, Any]:
        """See retrieval.encoder.DenseEncoder."""
        return self._of.runtime

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """One vector of each text, as a query has it."""
        return self._of.encode(texts, kind)

    def encode_blocks(self, texts: Sequence[str], kind: Kind = "passage") -> BlockVectors:
        """The spans of each text and a vector of each, the whole first; one at least of every text."""
        pieces = self._pieces(texts, kind)
        parts = [texts[piece.text][piece.start : piece.end] for piece in pieces]
        sequences = self._of.prepare(parts, kind)
        places = [
            _tokens_of(piece, offsets) for piece, offsets in zip(pieces, self._of.offsets(parts), strict=True)
        ]
        first = self._first(kind)
        rows: list[NDArray[np.float32]] = [np.empty((0, self.dim), np.float32)] * len(pieces)
        with torch.inference_mode():
            for batch in plan_batches([len(ids) for ids in sequences.ids], self._of.budget):
                chosen = [places[at] for at in batch.tolist()]
                made = self._rows(sequences.take(batch), chosen, first)
                ends = np.cumsum([len(spans) for spans in chosen])
                for at, own in zip(batch.tolist(), np.split(made, ends[:-1]), strict=True):
                    rows[at] = own
        found = np.concatenate([np.empty((0, self.dim), np.float32), *rows])
        if not np.isfinite(found).all():
            raise UserError(
                "the model gives vectors that are not finite; its files are damaged, or its training failed"
            )
        return _joined(len(texts), pieces, sequences, found)

    def _pieces(self, texts: Sequence[str], kind: Kind) -> list[_Piece]:
        """What is read at once, in order, and the spans in each."""
        room = max(1, self._of.length - self._first(kind) - len(self._of.tokens.suffix))
        cuts = windows(texts, self._of.offsets, room)
        pieces = []
        for number, (text, blocks) in enumerate(zip(texts, cuts, strict=True)):
            spans = self._find(text)
            for block in blocks or [Block(0, len(text), 0)]:
                own = [span for span in spans if block.start <= span[0] < block.end]
                whole = [(block.start, block.end)] if self._whole or not own else []
                pieces.append(_Piece(number, block.start, block.end, whole + own))
        return pieces

    def _first(self, kind: Kind) -> int:
        """Tokens before a text's own: special ones and the prompt."""
        prompt = self._of.prompts[kind]
        return len(self._of.tokens.prefix) + (self._of.tokens.count(prompt) if prompt else 0)

    def _rows(
        self, sequences: Sequences, places: Sequence[NDArray[np.int64]], first: int
    ) -> NDArray[np.float32]:
        """float32[spans, dim]; places: (first, last) token of each span of each sequence, its own tokens."""
        hidden, offsets = self._of.states(sequences)
        starts = offsets.cpu().numpy()
        spans = np.concatenate([
            _within(own, int(starts[at]), int(starts[at + 1]), first) for at, own in enumerate(places)
        ])  # fmt: skip
        return self._of.head(_means(hidden.float(), spans)).float().cpu().numpy()


def _tokens_of(piece: _Piece, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(first, last) token of each span, int64[spans, 2]; (-1, -1) for all of the piece."""
    found = np.full((len(piece.spans), 2), -1, np.int64)
    for at, (start, end) in enumerate(piece.spans):
        if (start, end) != (piece.start, piece.end):
            found[at, 0] = np.searchsorted(offsets[:, 1], start - piece.start, "right")
            found[at, 1] = np.searchsorted(offsets[:, 0], end - piece.start, "left")
    return found


def _within(spans: NDArray[np.int64], start: int, end: int, first: int) -> NDArray[np.int64]:
    """Spans of a sequence's tokens start:end, as rows of the packed states, never empty.

    A whole sequence is pooled with its special tokens, as the encoder itself does.
    """
    placed = np.clip(spans + (start + first), start, end)
    placed[spans[:, 1] < 0] = start, end
    empty = placed[:, 1] <= placed[:, 0]
    placed[empty] = start, end
    return placed


def _means(hidden: Tensor, spans: NDArray[np.int64]) -> Tensor:
    """The mean state of the tokens of each span, [spans, width]."""
    sizes = spans[:, 1] - spans[:, 0]
    ends = np.cumsum(sizes)
    tokens = np.arange(ends[-1]) + np.repeat(spans[:, 0] - (ends - sizes), sizes)
    owner = torch.from_numpy(np.repeat(np.arange(len(spans)), sizes)).to(hidden.device)
    sums = hidden.new_zeros(len(spans), hidden.shape[1])
    sums.index_add_(0, owner, hidden[torch.from_numpy(tokens).to(hidden.device)])
    return sums / torch.from_numpy(sizes).to(hidden.device)[:, None]


def _joined(
    texts: int, pieces: Sequence[_Piece], sequences: Sequences, rows: NDArray[np.float32]
) -> BlockVectors:
    """Rows of pieces as blocks of texts. The first span of a piece counts the piece's tokens."""
    blocks: list[Block] = []
    counts = np.zeros(texts, np.int64)
    dropped = sequences.dropped.tolist()
    for at, piece in enumerate(pieces):
        tokens = int(sequences.tokens[at]) - dropped[at]
        head, *rest = piece.spans
        blocks.append(Block(*head, tokens, dropped[at]))
        blocks += [Block(*span, 0) for span in rest]
        counts[piece.text] += len(piece.spans)
    return BlockVectors(rows, np.append(0, np.cumsum(counts)), blocks)
