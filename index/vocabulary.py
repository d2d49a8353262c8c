"""The WordPiece vocabulary of a BERT model: texts to ids, ids to pieces, and TILDE's two stop lists."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.stopwords import NLTK_ENGLISH
from retrieval.index.wordpiece import _clean, _load

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.json", "vocab.txt")  # the first one present counts: only it says how to normalise
QUESTION_WORDS = frozenset({"where", "how", "what", "when", "which", "why", "who"})
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")


class Vocabulary:
    """`tokenizer.json` as it says, or `vocab.txt` (uncased, unless told otherwise). Needs no torch.

    Encoding adds no special token and recognises none in the text. One thread at a time.

    pieces: the piece of each id. size: their number. cls, sep, pad, unk, mask: ids. special: those five.
    data, name: the tokenizer's file and its name: `from_bytes(v.data, v.name)` gives the same vocabulary.
    sha256: of `data`.
    """

    def __init__(self, tokenizer: Tokenizer, data: bytes, name: str) -> None:
        self._tokenizer = tokenizer
        self._limit: int | None = None
        self.data = data
        self.name = name
        self._ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.size = max(self._ids.values()) + 1
        self.pieces = [""] * self.size
        for piece, number in self._ids.items():
            self.pieces[number] = piece
        self.pad, self.unk, self.cls, self.sep, self.mask = (
            self._need(piece) for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        )
        self.special = frozenset({self.pad, self.unk, self.cls, self.sep, self.mask})

    def __repr__(self) -> str:
        return f"<Vocabulary {self.name} of {self.size} pieces, sha256 {self.sha256[:12]}>"

    @classmethod
    def load(cls, directory: str) -> Vocabulary:
        """That of a model directory. Raises UserError where it holds none or the file is damaged."""
        folder = Path(directory)
        for name in FILES:
            if (folder / name).is_file():
                return cls.from_bytes(_read(folder / name), str(folder / name), cased=_is_cased(folder, name))
        raise UserError(f"{directory!r} holds no tokenizer: put the model's {' or '.join(FILES)} there")

    @classmethod
    def from_bytes(cls, data: bytes, name: str, *, cased: bool = False) -> Vocabulary:
        """From the bytes of a vocab.txt or a tokenizer.json. name: for messages; its last part is kept.

        cased: a vocab.txt is of a model that keeps case and accents; `data` then becomes a tokenizer.json,
        which says so. Raises UserError.
        """
        tokenizer = _load(data, Path(name))
        short = Path(name).name
        if cased and data[:1] != b"{":
            tokenizer.normalizer = _cased_normalizer()
            data, short = tokenizer.to_str().encode(), "tokenizer.json"
        return cls(tokenizer, data, short)

    @cached_property
    def sha256(self) -> str:
        """Of the tokenizer's file, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    def id(self, piece: str) -> int | None:
        """The id of a piece; None where the vocabulary lacks it."""
        return self._ids.get(piece)

    def encode(self, texts: list[str], limit: int | None = None) -> list[NDArray[np.int32]]:
        """The ids of each text, int32, without special tokens; at most `limit` of them where it is given."""
        encodings = self._tokenizer.encode_batch_fast([_clean(t) for t in texts], add_special_tokens=False)
        if limit is None:
            return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return [np.array(encoding.ids[:limit], dtype=np.int32) for encoding in encodings]

    def words(self, texts: list[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """(ids, word) of each text: tokens of one word of the text have its number, counted from 0."""
        encodings = self._tokenizer.encode_batch([_clean(t) for t in texts], add_special_tokens=False)
        return [(np.array(e.ids, dtype=np.int32), np.array(e.word_ids, dtype=np.int32)) for e in encodings]

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, id) of each token, in characters of the text."""
        encoding = self._tokenizer.encode(_clean(text), add_special_tokens=False)
        return [(*place, number) for place, number in zip(encoding.offsets, encoding.ids)]

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """(start, end) of each token in characters of its text, shape (tokens, 2)."""
        found = self._tokenizer.encode_batch([_clean(text) for text in texts], add_special_tokens=False)
        return [np.array(each.offsets, np.int64).reshape(-1, 2) for each in found]

    @cached_property
    def index_stop(self) -> frozenset[int]:
        """Ids that neither queries nor indexed passages keep (TILDE, `get_stop_ids`).

        Words of NLTK's English list that are one piece, question words excepted; `##s`; every piece that is
        no continuation and holds a character other than ASCII letters, digits, `_` and `-`, the special
        tokens among them.
        """
        return self._stop_ids(NLTK_ENGLISH - QUESTION_WORDS)

    @cached_property
    def expansion_stop(self) -> frozenset[int]:
        """Ids that no passage is expanded with: as `index_stop`, the question words and `definition` too."""
        return self._stop_ids(NLTK_ENGLISH | {"definition"})

    def _stop_ids(self, words: frozenset[str]) -> frozenset[int]:
        stop = {int(ids[0]) for ids in self.encode(sorted(words)) if len(ids) == 1}
        stop |= {self._ids["##s"]} if "##s" in self._ids else set()
        for number, piece in enumerate(self.pieces):
            if not piece.startswith("##") and not _PLAIN.fullmatch(piece):
                stop.add(number)
        return frozenset(stop)

    def _need(self, piece: str) -> int:
        number = self._ids.get(piece)
        if number is None:
            raise UserError(f"{self.name!r} has no piece {piece}; a BERT vocabulary has it")
        return number


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from error


def _is_cased(folder: Path, name: str) -> bool:
    """Whether tokenizer_config.json says that a vocab.txt keeps case."""
    settings = folder / "tokenizer_config.json"
    if name != "vocab.txt" or not settings.is_file():
        return False
    try:
        return json.loads(_read(settings)).get("do_lower_case") is False
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{str(settings)!r} is no JSON object ({error})") from error


def _cased_normalizer() -> Any:
    from tokenizers.normalizers import BertNormalizer

    return BertNormalizer(lowercase=False)
