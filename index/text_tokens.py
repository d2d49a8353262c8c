"""Texts to token ids as a model reads them: any tokenizer, cut to length, what was cut counted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.diskio import disk_errors
from retrieval.errors import MissingExtra, UserError
from retrieval.index.vocabulary import Vocabulary

FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model",
    "tokenizer.model", "bpe.codes", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json",
)  # fmt: skip
_PIECE = 1 << 17  # characters of a text that are read at a time ...
_BATCH = 1 << 22  # ... and of a call of the tokenizer: what bounds its memory


class Tokenised(NamedTuple):
    """ids: int32, with special tokens, cut; tokens: of each text before that; dropped: cut off."""

    ids: list[NDArray[np.int32]]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int64]


class Tokens:
    """A model's tokenizer. `prefix` and `suffix` are the special tokens that stand around a text.

    Special tokens in a text are text: it cannot introduce control tokens. One thread at a time.
    """

    def __init__(self, folder: str, kind: str) -> None:
        self.folder = folder
        self._fast: Any = None
        self._slow: Any = None
        self._words: Vocabulary | None = None
        self.prefix: list[int] = []
        self.suffix: list[int] = []
        if os.path.isfile(os.path.join(folder, "tokenizer.json")):
            self._fast = _from_file(os.path.join(folder, "tokenizer.json"))
        elif kind == "bert" and os.path.isfile(os.path.join(folder, "vocab.txt")):
            words = self._words = Vocabulary.load(folder)
            self._fast = words._tokenizer
            self.prefix, self.suffix = [words.cls], [words.sep]
        else:
            tokenizer = _from_transformers(folder)
            self._fast = tokenizer.backend_tokenizer if tokenizer.is_fast else None
            self._slow = tokenizer
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
            self._fast.encode_special_tokens = True
        if not self.prefix:
            self._learn_frame()
        if not (self.prefix or self.suffix) and self._fast is not None:
            ids = [self._fast.token_to_id(piece) for piece in ("[CLS]", "[SEP]")]
            if kind in ("bert", "distilbert") and None not in ids:  # old files left them to the library
                self.prefix, self.suffix = ids[:1], ids[1:]

    @property
    def around(self) -> int:
        """How many special tokens stand around a text."""
        return len(self.prefix) + len(self.suffix)

    @property
    def sha256(self) -> str:
        """Of the files that decide about ids, in hex; of tokenizer.json alone where there is one.

        Without it, settings such as do_lower_case of tokenizer_config.json decide too.
        """
        if self._words is not None:
            return self._words.sha256
        names = [name for name in FILES if os.path.isfile(os.path.join(self.folder, name))]
        names = names[:1] if names[:1] == ["tokenizer.json"] else names
        digest = hashlib.sha256(b"" if names else type(self._slow).__name__.encode())
        for name in names:
            with disk_errors("read", name), open(os.path.join(self.folder, name), "rb") as file:
                data = file.read()
            digest.update(data if len(names) == 1 else b"%d %s\n%s" % (len(data), name.encode(), data))
        return digest.hexdigest()

    def files(self) -> dict[str, bytes]:
        """The tokenizer's files, for a copy of the model."""
        files = {}
        for name in FILES:
            path = os.path.join(self.folder, name)
            if os.path.isfile(path):
                with disk_errors("read", path), open(path, "rb") as file:
                    files[name] = file.read()
        return files

    def encode(self, texts: Sequence[str], limit: int) -> Tokenised:
        """At most `limit` tokens of each text, the special ones among them.

        A long text is read a piece at a time, so that memory does not grow with it; its tokens are all
        counted. (A word that lies across two pieces is counted in two parts, after the first 131,072
        characters.)
        """
        room = max(limit - self.around, 0)
        kept, counts = self._bare(texts, room)
        head, tail = np.array(self.prefix, np.int32), np.array(self.suffix, np.int32)
        ids = [np.concatenate([head, part, tail]) for part in kept]
        return Tokenised(ids, counts + self.around, np.maximum(counts - room, 0))

    def bare(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """All tokens of each text without the special ones."""
        return self._bare(texts, None)[0]

    def _bare(self, texts: Sequence[str], room: int | None) -> tuple[list[NDArray[np.int32]], NDArray[Any]]:
        """(the first `room` tokens of each text, how many it has)."""
        pieces: list[str] = []
        owner: list[int] = []
        for number, text in enumerate(texts):
            parts = _pieces(clean(text))
            pieces += parts
            owner += [number] * len(parts)
        kept: list[list[NDArray[np.int32]]] = [[] for _ in texts]
        counts = np.zeros(len(texts), np.int64)
        for start, end in _calls(pieces):
            for number, found in zip(owner[start:end], self._read(pieces[start:end]), strict=True):
                wanted = len(found) if room is None else room - int(counts[number])
                if wanted > 0:
                    kept[number].append(np.array(found[:wanted], np.int32))
                counts[number] += len(found)
        none = [np.empty(0, np.int32)]
        return [np.concatenate(parts or none) for parts in kept], counts

    def pair_frame(self) -> tuple[Any, Any, Any, tuple[int, int, int, int, int]]:
        """Special tokens before, between and after two texts, and the segments of the five parts (0 or 1).

        Raises UserError where the tokenizer changes the texts' tokens.
        """
        if self._fast is not None:
            bare = list(self._fast.encode("a", add_special_tokens=False).ids)
            made = self._fast.encode("a", "a", add_special_tokens=True)
            framed, kinds = list(made.ids), list(made.type_ids)
        else:
            bare = list(self._slow("a", add_special_tokens=False)["input_ids"])
            found = self._slow("a", "a", add_special_tokens=True, return_token_type_ids=True)
            framed, kinds = list(found["input_ids"]), list(found["token_type_ids"])
        size = len(bare)
        at = [i for i in range(len(framed) - size + 1) if framed[i : i + size] == bare]
        second = next((i for i in at if at[0] + size <= i), None) if at else None
        if second is None:
            raise UserError(f"the tokenizer of {self.folder!r} changes texts' tokens when it joins a pair")
        first = at[0]
        parts = [framed[:first], framed[first + size : second], framed[second + size :]]
        before, between, after = (np.array(part, np.int32) for part in parts)
        starts = (0, first, first + size, second, second + size)
        a, b, c, d, e = (kinds[min(start, len(kinds) - 1)] for start in starts)
        return before, between, after, (a, b, c, d, e)

    def count(self, text: str) -> int:
        """Tokens of a text without the special ones."""
        return sum(len(ids) for ids in self._read(_pieces(clean(text))))

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """(start, end) of each token in characters of its text, shape (tokens, 2); no special tokens.

        Raises UserError where the tokenizer is one of transformers' slow ones, which do not know.
        """
        if self._fast is None:
            raise UserError(f"the tokenizer of {self.folder!r} knows no offsets; save it as a tokenizer.json")
        found = self._fast.encode_batch([clean(text) for text in texts], add_special_tokens=False)
        return [np.array(each.offsets, np.int64).reshape(-1, 2) for each in found]

    def _read(self, texts: list[str]) -> list[list[int]]:
        if self._fast is not None:
            return [e.ids for e in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        found = self._slow(texts, add_special_tokens=False, truncation=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    def _learn_frame(self) -> None:
        if self._fast is not None:
            bare = self._fast.encode("a", add_special_tokens=False).ids
            framed = self._fast.encode("a", add_special_tokens=True).ids
        else:
            bare, framed = (self._slow("a", add_special_tokens=s)["input_ids"] for s in (False, True))
        for at in range(len(framed) - len(bare) + 1):
            if list(framed[at : at + len(bare)]) == list(bare):
                self.prefix, self.suffix = list(framed[:at]), list(framed[at + len(bare) :])
                return
        raise UserError(f"the tokenizer of {self.folder!r} changes a text's tokens when it frames them")


def clean(text: str) -> str:
    """A lone surrogate cannot cross into the tokenizer and becomes one replacement character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _pieces(text: str) -> list[str]:
    """Cut before white space where there is any."""
    if len(text) <= _PIECE:
        return [text]
    parts, start = [], 0
    while len(text) - start > _PIECE:
        end = start + _PIECE
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = space if space > start + _PIECE // 2 else end
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


def _calls(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Runs of pieces of about _BATCH characters."""
    calls, start, filled = [], 0, 0
    for at, piece in enumerate(pieces):
        if at > start and filled + len(piece) > _BATCH:
            calls.append((start, at))
            start, filled = at, 0
        filled += len(piece)
    return [*calls, (start, len(pieces))] if len(pieces) > start else calls


def _from_file(file: str) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(file)
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(f"{file!r} is no tokenizer ({error}); copy it again") from error


def _from_transformers(folder: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtra("models", f"the tokenizer of {folder!r} needs transformers, which is") from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever its tokenizers make of files that are absent or damaged
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read a tokenizer in {folder!r}: {first}") from error
