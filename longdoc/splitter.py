"""How an index cuts its documents into blocks: a registered splitter with its settings, and what counts.

`bm25(blocks=windows, tokens=120, overlap=30)`: `blocks` names a splitter (longdoc/blocks.py), the others are

tokens      of a block; default 128 words, or what the encoder reads at once, less room for the title
overlap, max_blocks, language, compat   see the splitters
title       whether the document's title stands before each of its blocks' texts (true)

A dense encoder counts its own tokens. Everything else counts words: runs of letters and digits, each
character of Chinese, Japanese and Korean by itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval import registry
from retrieval.encoder import DenseEncoder
from retrieval.errors import UserError
from retrieval.longdoc.blocks import Block
from retrieval.longdoc.tokens import Offsets
from retrieval.stage import Param
from retrieval.types import Document

KIND = "block splitter"
WORDS = 128  # of a block, by default
TITLE = 24  # tokens of the encoder's length that a block leaves to the title
_LONGEST = 256  # tokens of a block by default, whatever an encoder could read
_OWN = {"blocks": str, "tokens": int, "title": bool}
_OPTIONS = {"overlap": int, "max_blocks": int, "language": str, "compat": bool}
_CJK = "\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]{{1,64}}")
SETTINGS = (*_OWN, *_OPTIONS)


def words(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Offsets (see longdoc/tokens.py) of the words of each text."""
    return [
        np.fromiter((place for found in _WORD.finditer(text) for place in found.span()), np.int64).reshape(
            -1, 2
        )
        for text in texts
    ]


class Splitter:
    """A splitter with settings, which are JSON and stand in the commit.

    offsets  of the tokenizer that counts; None: words
    """

    def __init__(self, settings: Mapping[str, Any], offsets: Offsets | None = None) -> None:
        self.settings = dict(settings)
        self._split: Any = registry.lookup(str(settings["blocks"]), kind=KIND)
        self._offsets = offsets or words
        self._title = bool(settings["title"])
        self._options = {key: value for key, value in settings.items() if key in _OPTIONS}
        self._split(
            [""], self._offsets, settings["tokens"], **self._options
        )  # its own checks, before any work

    def blocks(self, documents: Sequence[Document]) -> list[list[Block]]:
        """The blocks of each document's text, one or more: a text without tokens is one block."""
        texts = [document.text for document in documents]
        found = self._split(texts, self._offsets, self.settings["tokens"], **self._options)
        return [blocks or [Block(0, len(text), 0)] for blocks, text in zip(found, texts, strict=True)]

    def documents(self, document: Document, blocks: Sequence[Block]) -> Iterator[Document]:
        """Each block as a document of its own, "D12#0" and so on."""
        title = document.title if self._title else ""
        for number, block in enumerate(blocks):
            yield Document(f"{document.doc_id}#{number}", document.text[block.start : block.end], title)


def take_settings(name: str, params: Mapping[str, Param], default: int = WORDS) -> dict[str, Any]:
    """The settings of the splitter that `params` names, complete. default: tokens, where they do not say.

    Raises UserError for a value of the wrong type or a setting that this splitter does not have, UnknownName.
    """
    known = {**_OWN, **_OPTIONS}
    for key, value in params.items():
        kind = known[key]
        if type(value) is not kind:
            raise UserError(f"{name} cannot take {key}={value!r}; it is {_NAMED[kind]}")
    split: Any = registry.lookup(str(params["blocks"]), kind=KIND)
    takes = inspect.signature(split).parameters
    for key in params:
        if key in _OPTIONS and key not in takes:
            raise UserError(
                f"{name}: blocks={params['blocks']} has no {key}; it has "
                f"{', '.join(k for k in ('tokens', 'title', *_OPTIONS) if k in takes or k in _OWN)}"
            )
    settings = {"tokens": default, "title": True, **params}
    Splitter(settings)
    return settings


def room(encoder: DenseEncoder) -> int:
    """Tokens of a block by default: what the encoder reads at once, less its own tokens and a title's."""
    length = encoder.identity.get("length")
    if type(length) is not int:
        return _LONGEST - TITLE
    framed = int(encoder.encode([""], "passage").tokens[0])  # the prompt and special tokens
    return max(8, min(length - framed, _LONGEST) - TITLE)


_NAMED = {str: "a name", int: "a whole number", bool: "true or false"}
