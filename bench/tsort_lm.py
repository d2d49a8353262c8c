"""How likely a decoder finds the beginning of one text after the end of another, for TSort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval.errors import StorageError, UserError, is_memory
from retrieval.index.llm_files import LlmFiles
from retrieval.index.llm_pooling import pad
from retrieval.rerank.llm_decoder import open_decoder

_BATCH = 4  # pairs; their logits over the whole vocabulary are held


class LmScorer:
    """The sum of log p over the tokens of the second text, given those of the first.

    model      a decoder's directory or GGUF file
    precision  float32 or bfloat16
    Raises UserError, MissingExtra, StorageError.
    """

    def __init__(self, model: str, precision: str = "float32") -> None:
        if precision not in ("float32", "bfloat16"):
            raise UserError(f"lm cannot take precision={precision!r}; give float32 or bfloat16")
        self._decoder = open_decoder(LlmFiles(model), precision)
        self._device = next(self._decoder.module.parameters()).device

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """float64[n]; 0 for a pair with nothing on either side. Raises UserError, StorageError."""
        scores = np.zeros(len(pairs))
        asked = [at for at, pair in enumerate(pairs) if all(pair)]
        for start in range(0, len(asked), _BATCH):
            batch = asked[start : start + _BATCH]
            scores[batch] = self._score([pairs[at] for at in batch])
        if not np.isfinite(scores).all():
            raise UserError(
                f"{self._decoder.path!r} gives numbers that are not finite; its files are damaged"
            )
        return scores

    def _score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        prompts = self._decoder.prompts
        read = prompts.read([text for pair in pairs for text in pair])
        prefix = np.array(prompts.tokens.prefix, np.int32)
        firsts = [np.concatenate([prefix, ids]) for ids in read[::2]]
        rows = [np.concatenate([first, ids]) for first, ids in zip(firsts, read[1::2], strict=True)]
        longest = max(map(len, rows))
        if longest > self._decoder.context:
            raise UserError(
                f"{self._decoder.path!r} reads {self._decoder.context} tokens, and a pair has {longest}; "
                "give fewer --words"
            )
        ids, mask = pad(rows, prompts.tokens.pad)  # on the right, where causal attention does not see it
        try:
            with torch.inference_mode():
                logits = self._decoder.module(
                    input_ids=ids.to(self._device),
                    attention_mask=mask.long().to(self._device),
                    use_cache=False,
                ).logits
                found = [
                    float(_log_likelihood(logits[at, len(first) - 1 : len(row) - 1], row[len(first) :]))
                    for at, (first, row) in enumerate(zip(firsts, rows, strict=True))
                ]
        except (RuntimeError, MemoryError) as error:
            if is_memory(error):
                raise StorageError(
                    f"out of memory while {self._decoder.path!r} read {longest} tokens; give fewer --words"
                ) from error
            raise
        return np.array(found)


def _log_likelihood(logits: torch.Tensor, ids: NDArray[np.int32]) -> torch.Tensor:
    """Sum of log p of ids int32[t], each by its row of logits [t, V]."""
    wanted = torch.from_numpy(ids.astype(np.int64)).to(logits.device)[:, None]
    return logits.float().log_softmax(1).gather(1, wanted).sum()
