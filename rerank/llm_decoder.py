"""A decoder with its head, for re-ranking: the odds of one answer against another, and greedy replies.

Nothing is drawn at random. Prompts of a batch are sorted by length and padded on the left; replies are
written one prompt at a time, so that a query's order does not depend on the queries that come with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import StorageError, UserError, is_memory
from retrieval.index.llm import trained_length
from retrieval.index.llm_attention import CAUSAL, check_attention
from retrieval.index.llm_files import LlmFiles
from retrieval.index.llm_pooling import pad, positions
from retrieval.index.llm_precision import choose_device
from retrieval.index.tilde_model import batch_tokens
from retrieval.rerank.llm_prompts import Ids, Prompts


class Decoder:
    """A loaded decoder. prompts: of its tokenizer; context: tokens of a prompt and its reply."""

    def __init__(self, module: Any, prompts: Prompts, path: str) -> None:
        self.module = module
        self.prompts = prompts
        self.path = path
        self.context = trained_length(module.config.to_dict())
        self._device: torch.device = next(module.parameters()).device
        told = getattr(module, "generation_config", None)  # some models name the end of a turn only there
        ends = [getattr(one, "eos_token_id", None) for one in (prompts.tokens.tokenizer, module.config, told)]
        flat = [end for one in ends for end in (one if isinstance(one, list) else [one])]
        self._ends = {end for end in flat if end is not None}

    def odds(self, asked: Sequence[Ids], yes: set[int], no: set[int]) -> NDArray[np.float32]:
        """log p(yes) - log p(no) of the token after each prompt, float32[n]; a set of tokens is their sum.

        Raises UserError for scores that are not finite, StorageError out of memory.
        """
        found = np.empty(len(asked), np.float32)
        for batch in _batches([len(one) for one in asked], batch_tokens(self._device)):
            logits = self._last_logits([asked[at] for at in batch])
            parts = [torch.logsumexp(logits[:, sorted(tokens)], 1) for tokens in (yes, no)]
            found[batch] = (parts[0] - parts[1]).cpu().numpy()
        if not np.isfinite(found).all():
            raise self._broken()
        return found

    def reply(self, prompt: Ids, limit: int) -> str:
        """What the model writes after a prompt, its likeliest token each time, at most `limit` of them.

        Raises UserError for logits that are not finite, StorageError out of memory.
        """
        made: list[int] = []
        feed, past = torch.from_numpy(prompt.astype(np.int64))[None].to(self._device), None
        with self._memory(), torch.inference_mode():
            while len(made) < limit:
                output = self.module(input_ids=feed, past_key_values=past, use_cache=True, logits_to_keep=1)
                logits = output.logits[0, -1]
                if not bool(torch.isfinite(logits.max())):
                    raise self._broken()
                best = int(logits.argmax())
                if best in self._ends:
                    break
                made.append(best)
                feed, past = torch.tensor([[best]], device=self._device), output.past_key_values
        return str(self.prompts.tokens.tokenizer.decode(made, skip_special_tokens=True))

    def _last_logits(self, rows: list[Ids]) -> Tensor:
        """float32[n, V] of the token after each prompt."""
        ids, mask = pad(rows, self.prompts.tokens.pad, left=True)
        more: dict[str, Tensor] = {}
        if not bool(mask.all()):
            more["attention_mask"] = mask.long().to(self._device)
            more["position_ids"] = positions(mask).to(self._device)
        with self._memory(), torch.inference_mode():
            output = self.module(input_ids=ids.to(self._device), use_cache=False, logits_to_keep=1, **more)
            logits: Tensor = output.logits[:, -1].float()
        return logits

    def _broken(self) -> UserError:
        return UserError(f"{self.path!r} gives numbers that are not finite; its files are damaged")

    @contextlib.contextmanager
    def _memory(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, torch.OutOfMemoryError) or is_memory(error):
                raise StorageError(
                    f"out of memory while {self.path!r} read its prompts; give shorter passages, a smaller "
                    "window or a smaller model"
                ) from error
            raise


def open_decoder(files: LlmFiles, precision: str) -> Decoder:
    """The decoder of a directory or GGUF file, on a CUDA device where there is one.

    precision: float32 or bfloat16. Raises UserError for a model that is no causal decoder or lacks its head,
    MissingExtra, StorageError.
    """
    prompts = Prompts(files.tokens(), files.path)
    kernel = "eager" if files.config.get("attn_logit_softcapping") else "sdpa"  # sdpa cannot cap
    module: Any = files.module(getattr(torch, precision), kernel, head=True)
    module.to(choose_device("auto"))
    try:
        check_attention(module.base_model, CAUSAL, int(module.config.vocab_size))
    except UserError:
        raise UserError(
            f"{files.path!r} is no causal decoder ({module.config.model_type}); give one that generates text"
        ) from None
    return Decoder(module, prompts, files.path)


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places of prompts, longest first, in batches of at most so many tokens with their padding."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
