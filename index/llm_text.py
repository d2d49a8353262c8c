"""Texts as a decoder reads them: prompts around them, cut to length, end-of-text token after the cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.index.llm_files import Tokens
from retrieval.index.llm_settings import TEXT, LlmSettings
from retrieval.index.torch_encoder import Sequences


class Reader:
    """Tokenises texts for one kind, "query" or "passage".

    A prompt and the text are tokenised as one, as the models were trained: the tokens of the prompt are those
    that end before the text begins. Nothing in a text is read as a special token.
    """

    def __init__(self, tokens: Tokens, settings: LlmSettings, kind: str) -> None:
        self.tokens = tokens
        self.settings = settings
        template = settings.query_prompt if kind == "query" else settings.passage_prompt
        self.parts = (template or TEXT).split(TEXT)  # what stands before, between and after

    def read(self, texts: Sequence[str]) -> Sequences:
        """The sequences of some texts; each has one token at least that pooling counts."""
        *heads, tail = self.parts
        copies = [self._tokenise(head, texts) for head in heads]
        after = self._plain(tail) if tail else []
        end = [*after, *(self.tokens.eos if self.settings.eos else ())]
        prefix = list(self.tokens.prefix)
        ids: list[NDArray[np.int32]] = []
        skip = np.zeros(len(texts), np.int64)
        whole = np.zeros(len(texts), np.int64)
        dropped = np.zeros(len(texts), np.int64)
        for row in range(len(texts)):
            own = [copy[row] for copy in copies]
            heads_taken = sum(one.head for one in own)
            room = max(0, self.settings.length - len(prefix) - len(end) - heads_taken) // len(own)
            pieces = list(prefix)
            for one in own:
                at = len(pieces) + one.head
                pieces += one.ids[: one.head + room]
                whole[row] += len(one.ids)
                dropped[row] += max(0, len(one.ids) - one.head - room)
            pieces = (pieces[: self.settings.length - len(end)] + end) or list(self.tokens.eos) or [0]
            whole[row] += len(prefix) + len(end)
            skip[row] = at if len(own) == 2 or not self.settings.include_prompt else 0
            skip[row] = min(skip[row], len(pieces) - 1)
            ids.append(np.asarray(pieces, np.int32))
        return Sequences(ids, skip, whole, dropped)

    def _tokenise(self, head: str, texts: Sequence[str]) -> list[_Part]:
        if not texts:
            return []
        found = self.tokens.tokenizer(
            [head + text for text in texts], add_special_tokens=False, split_special_tokens=True,
            return_offsets_mapping=True, return_attention_mask=False, verbose=False,
        )  # fmt: skip
        parts = []
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True):
            inside = 0
            if head:
                inside = next((i for i, (_, end) in enumerate(offsets) if end > len(head)), len(ids))
            parts.append(_Part(ids, inside))
        return parts

    def _plain(self, text: str) -> list[int]:
        found: list[int] = self.tokens.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


class _Part:
    """A prompt and one copy of a text: token ids, and how many of them are the prompt's."""

    __slots__ = ("head", "ids")

    def __init__(self, ids: list[int], head: int) -> None:
        self.ids = ids
        self.head = head
