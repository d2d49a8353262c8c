"""Texts as a decoder reads them: prompts around them, cut to length, end-of-text token after the cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.llm_files import Tokens
from retrieval.index.llm_settings import TEXT, LlmSettings
from retrieval.index.text_tokens import clean
from retrieval.index.torch_encoder import Sequences

_CHARS = 1 << 20  # of the texts that are tokenised together, which bounds the memory


class Copy(NamedTuple):
    """A prompt and one copy of a text.

    ids int32, cut to the model's length; head: how many are the prompt's; whole: how many there were.
    """

    ids: NDArray[np.int32]
    head: int
    whole: int


class Reader:
    """Tokenises texts for one kind, "query" or "passage".

    A prompt and the text are tokenised as one, as the models were trained: the tokens of the prompt are those
    that end before the text begins. Nothing in a text is read as a special token. Raises UserError where the
    prompt leaves no room for a text.
    """

    def __init__(self, tokens: Tokens, settings: LlmSettings, kind: str) -> None:
        self.tokens = tokens
        self.settings = settings
        template = settings.query_prompt if kind == "query" else settings.passage_prompt
        *self.heads, tail = (template or TEXT).split(TEXT)  # what stands before and between, and after
        self.end = [*self._plain(tail), *(tokens.eos if settings.eos else ())]
        self.room = settings.length - len(tokens.prefix) - len(self.end)
        taken = sum(len(self._plain(head)) for head in self.heads)
        if self.room < taken + len(self.heads):
            raise UserError(
                f"the {kind} prompt takes {settings.length - self.room + taken} of {settings.length} tokens "
                "and leaves none for a text; give a larger length or a shorter prompt"
            )

    def read(self, texts: Sequence[str]) -> Sequences:
        """The sequences of some texts; each has one token at least that pooling counts."""
        prefix, end = np.array(self.tokens.prefix, np.int32), np.array(self.end, np.int32)
        ids: list[NDArray[np.int32]] = []
        counts = np.zeros((3, len(texts)), np.int64)  # skip, tokens, dropped
        cleaned = [clean(text) for text in texts]
        for row, copies in enumerate(zip(*(self._copies(head, cleaned) for head in self.heads), strict=True)):
            room = max(0, self.room - sum(copy.head for copy in copies)) // len(copies)
            parts = [prefix, *(copy.ids[: copy.head + room] for copy in copies)]
            skip = sum(len(part) for part in parts[:-1]) + copies[-1].head
            whole = np.concatenate([*parts, end])
            if not len(whole):  # nothing around an empty text
                whole = np.array(self.tokens.eos or (0,), np.int32)
            if len(copies) == 1 and self.settings.include_prompt:
                skip = 0
            read = sum(copy.whole for copy in copies)
            dropped = sum(max(0, copy.whole - copy.head - room) for copy in copies)
            ids.append(whole)
            counts[:, row] = min(skip, len(whole) - 1), read + len(prefix) + len(end), dropped
        return Sequences(ids, counts[0], counts[1], counts[2])

    def _copies(self, head: str, texts: Sequence[str]) -> Iterator[Copy]:
        start = 0
        while start < len(texts):
            stop, chars = start + 1, len(texts[start])
            while stop < len(texts) and chars + len(texts[stop]) <= _CHARS:
                chars += len(texts[stop])
                stop += 1
            found = self.tokens.tokenizer(
                [head + text for text in texts[start:stop]], add_special_tokens=False,
                split_special_tokens=True, return_offsets_mapping=bool(head), return_attention_mask=False,
                verbose=False,
            )  # fmt: skip
            for at, ids in enumerate(found["input_ids"]):
                inside = 0
                if head:
                    offsets = found["offset_mapping"][at]
                    inside = next((i for i, (_, end) in enumerate(offsets) if end > len(head)), len(ids))
                yield Copy(np.array(ids[: inside + self.settings.length], np.int32), inside, len(ids))
            start = stop

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        found: list[int] = self.tokens.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found
