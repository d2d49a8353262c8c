"""What dense encoders on torch share: sorted batches of a token budget, order restored, finite vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval.encoder import Kind, Vectors
from retrieval.errors import StorageError, UserError, is_memory
from retrieval.index.packed import plan_batches


class Sequences(NamedTuple):
    """Texts as a model reads them, n of them.

    ids      token ids of each, int32, with prompts and special tokens, cut to the model's length
    skip     int64[n], how many leading tokens pooling leaves out (an instruction, the first copy of an echo)
    tokens   int64[n], tokens of each before it was cut
    dropped  int64[n], tokens that were cut off
    """

    ids: list[NDArray[np.int32]]
    skip: NDArray[np.int64]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> Sequences:
        """Some of them, in the order of `rows`."""
        at = np.asarray(rows, np.int64)
        return Sequences([self.ids[i] for i in at.tolist()], self.skip[at], self.tokens[at], self.dropped[at])


class TorchEncoder:
    """Base of a dense encoder: a subclass sets the fields, and has prepare(), embed() and save().

    module    the network, in eval mode and without gradients until a trainer wants them
    dim       length of a vector
    budget    tokens of one batch
    identity, runtime    see retrieval.encoder.DenseEncoder
    """

    module: nn.Module
    dim: int
    budget: int = 4096
    identity: Mapping[str, Any]
    runtime: Mapping[str, Any]

    def prepare(self, texts: Sequence[str], kind: Kind = "passage") -> Sequences:
        """Texts as the model reads them."""
        raise NotImplementedError

    def embed(self, sequences: Sequences) -> Tensor:
        """float32[n, dim] on the module's device, in order; pooled, and normalised where the encoder does.

        Gradients flow where they are switched on: training goes through here. One batch; encode() cuts.
        """
        raise NotImplementedError

    def save(self, directory: str, **more: Any) -> None:
        """Writes a model directory that opens as this encoder; `more` joins "retrieval" of its config."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """See retrieval.encoder.DenseEncoder."""
        sequences = self.prepare(texts, kind)
        rows = np.empty((len(texts), self.dim), np.float32)
        with torch.inference_mode():
            for batch in plan_batches([len(ids) for ids in sequences.ids], self.budget):
                self._fill(rows, sequences, batch)
        if not np.isfinite(rows).all():
            raise UserError(
                "the model gives vectors that are not finite; its files are damaged, or its training failed"
            )
        return Vectors(rows, sequences.tokens, sequences.dropped)

    def _fill(self, rows: NDArray[np.float32], sequences: Sequences, batch: NDArray[np.int64]) -> None:
        """Computes one batch; on a GPU that is out of memory, in halves."""
        try:
            rows[batch] = self.embed(sequences.take(batch)).float().cpu().numpy()
            return
        except torch.cuda.OutOfMemoryError as error:
            if len(batch) == 1:
                longest = len(sequences.ids[int(batch[0])])
                raise StorageError(
                    f"the GPU has no memory for one text of {longest} tokens; give device=cpu or a length"
                ) from error
        except (RuntimeError, MemoryError) as error:
            if not is_memory(error):
                raise
            tokens = sum(len(sequences.ids[int(i)]) for i in batch)
            raise StorageError(
                f"out of memory in a batch of {tokens} tokens; give batch={max(tokens // 4, 1)}"
            ) from error
        torch.cuda.empty_cache()
        half = len(batch) // 2
        self._fill(rows, sequences, batch[:half])
        self._fill(rows, sequences, batch[half:])
