"""Prompts that a text cannot break out of.

The prompt around the texts is rendered by the model's own chat template and turned into tokens before any
text is seen: texts never pass through the template. A text stands in its place as one line without square
brackets, so that it can neither end its line nor carry a passage number, and none of its tokens is a control
token: what looks like one is spelled out in characters. The space in front of a text belongs to it, as models
have most words in their vocabulary with one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.llm_files import Tokens
from retrieval.index.text_tokens import clean

Ids = NDArray[np.int32]

_DATE = "01 Jan 2025"  # templates that print the day would otherwise rank differently every day
_LEAD = (
    ":"  # what a text follows while it is read: some tokenizers put a space of their own before a beginning
)
_SLOT = re.compile(r"<slot-([0-9]+)>")
_BRACKETS = {
    char: "(" if "[" in unicodedata.normalize("NFKC", chr(char)) else ")"
    for char in (*map(ord, "[]"), *range(0xFE10, 0xFF60))  # wide and vertical forms, which tokenizers fold
    if set(unicodedata.normalize("NFKC", chr(char))) & set("[]")
}


def slot(number: int) -> str:
    """Where text `number` stands in a question, after a space."""
    return f"<slot-{number}>"


def one_line(text: str) -> str:
    """A text as it stands in a prompt: white space is single spaces, square brackets are round."""
    return " ".join(clean(text).translate(_BRACKETS).split())


class Form(NamedTuple):
    """A prompt with places for texts: pieces[0], text slots[0], pieces[1], ... pieces[-1]."""

    pieces: list[Ids]
    slots: list[int]

    @property
    def fixed(self) -> int:
        """Tokens without the texts."""
        return sum(map(len, self.pieces))

    def fill(self, texts: Sequence[Ids]) -> Ids:
        """int32[t]: the prompt with these texts in its slots."""
        parts = [self.pieces[0]]
        for number, piece in zip(self.slots, self.pieces[1:], strict=True):
            parts += [texts[number], piece]
        return np.concatenate(parts)


class Prompts:
    """What makes prompts of one tokenizer. path: the model's, for messages."""

    def __init__(self, tokens: Tokens, path: str) -> None:
        self.tokens = tokens
        self.path = path
        tokenizer = tokens.tokenizer
        self._control = {at for piece, at in tokenizer.get_added_vocab().items() if piece.strip()}
        self._control |= set(tokenizer.all_special_ids)
        ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        self._control -= {tokenizer.unk_token_id} - ends  # stands for odd characters, and controls nothing
        self._spelled: dict[int, list[int]] = {}

    def form(self, question: str, answer: str = "") -> Form:
        """The prompt that asks a question with slots, by the chat template where there is one.

        answer: how the reply begins. Raises UserError for a template that fails or loses a part of it.
        """
        prefix: Sequence[int] = ()
        if getattr(self.tokens.tokenizer, "chat_template", None):
            rendered = self._chat(question) + answer
        else:
            rendered = f"{question}\n\nAnswer:{answer and ' ' + answer}"
            prefix = self.tokens.prefix
        texts = _SLOT.split(rendered)
        if texts[1::2] != _SLOT.findall(question):
            raise UserError(f"the chat template of {self.path!r} does not keep what the user says; mend it")
        pieces = [self._ids(piece.removesuffix(" ")) for piece in texts[:-1:2]] + [self._ids(texts[-1])]
        pieces[0] = np.array([*prefix, *pieces[0]], np.int32)
        return Form(pieces, [int(number) for number in texts[1::2]])

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of texts, int32 each, uncut; control tokens are not among them."""
        return [self._text(one_line(text)) for text in texts]

    def count(self, text: str) -> int:
        """How many tokens a text of ours takes."""
        return len(self._ids(text))

    def first_tokens(self, words: Sequence[str]) -> set[int]:
        """The tokens that these words begin with."""
        return {int(ids[0]) for ids in map(self._ids, words) if len(ids)}

    def _chat(self, question: str) -> str:
        try:
            rendered = self.tokens.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True,
                enable_thinking=False, date_string=_DATE,
            )  # fmt: skip
        except Exception as error:  # a template is a program, and may raise what it likes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"the chat template of {self.path!r} fails: {reason}; mend it") from error
        return str(rendered)

    def _ids(self, text: str) -> Ids:
        found: Any = self.tokens.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(found, np.int32)

    def _text(self, text: str) -> Ids:
        if not text:
            return np.empty(0, np.int32)
        read = self.tokens.tokenizer(
            f"{_LEAD} {text}", add_special_tokens=False, split_special_tokens=True,
            return_offsets_mapping=True, verbose=False,
        )  # fmt: skip
        pairs = zip(read["input_ids"], read["offset_mapping"], strict=True)
        found: list[int] = [at for at, (_, end) in pairs if end > len(_LEAD)]
        if not self._control.isdisjoint(found):
            found = [part for at in found for part in (self._spell(at) if at in self._control else (at,))]
        return np.array(found, np.int32)

    def _spell(self, token: int) -> list[int]:
        """A control token as the characters that it is written with."""
        if token not in self._spelled:
            written = self.tokens.tokenizer.convert_ids_to_tokens(token)
            ids = [part for char in one_line(written) for part in self._ids(char).tolist()]
            self._spelled[token] = [part for part in ids if part not in self._control]
        return self._spelled[token]
