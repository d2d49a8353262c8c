"""WordPiece as an analyzer: the pieces of a BERT vocabulary are the terms (by `tokenizers`)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

_VERSION = "wordpiece-1"
_ADVICE = "give a BERT model's vocab.txt or tokenizer.json"


class WordPieceAnalyzer:
    """Pieces of `vocab.txt` (lower case, no accents: an uncased BERT) or of a `tokenizer.json` as it says.

    No special tokens are added and none is recognised in the text (a text that says "[SEP]" gives brackets
    and letters), nothing is truncated, and the unknown piece is dropped. The identity holds the file's
    sha256 and not its path. Raises UserError where the file is missing or is neither.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        if not path:
            raise UserError(f"analyzer {name!r} names no file; {_ADVICE}: wordpiece:FILE")
        file = Path(path)
        try:
            data = file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"analyzer {name!r}: cannot read the file ({reason}); {_ADVICE}") from error
        self._tokenizer = _load(data, file)
        self._sha256 = hashlib.sha256(data).hexdigest()
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        self._pieces: dict[int, str] = {number: piece for piece, number in pieces.items()}
        for special in ("[UNK]", "<unk>"):
            self._pieces.pop(pieces.get(special, -1), None)

    def __repr__(self) -> str:
        return f"analyzer({self.name!r})"

    @property
    def identity(self) -> dict[str, str]:
        """Kind, version, sha256 of the tokenizer's file."""
        return {"name": "wordpiece", "rules": _VERSION, "tokenizer": self._sha256}

    def terms(self, text: str) -> list[str]:
        """The pieces of a text in order, repeats kept, unknown ones dropped."""
        pieces = self._pieces
        encoding = self._tokenizer.encode(_clean(text), add_special_tokens=False)
        return [pieces[number] for number in encoding.ids if number in pieces]

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, piece) of each piece, in characters of the text."""
        pieces = self._pieces
        encoding = self._tokenizer.encode(_clean(text), add_special_tokens=False)
        return [
            (*place, pieces[number])
            for number, place in zip(encoding.ids, encoding.offsets)
            if number in pieces
        ]

    def encoder(self) -> WordPieceEncoder:
        """A new encoder without terms, as fast as `tokenizers` is: there is no compiled path of ours."""
        return WordPieceEncoder(self)


class WordPieceEncoder:
    """Texts to term ids; term ids are dense in order of first sight and are not the vocabulary's numbers."""

    def __init__(self, analyzer: WordPieceAnalyzer) -> None:
        self._tokenizer = analyzer._tokenizer
        self._pieces = analyzer._pieces
        self._term_of_piece: dict[int, int] = {}
        self.terms: list[str] = []

    @property
    def nbytes(self) -> int:
        """Estimate of the memory held, in bytes."""
        return 200 * len(self.terms)

    def encode(self, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(offsets int64[n + 1], term ids int32[offsets[n]]): text i has ids[offsets[i]:offsets[i + 1]]."""
        import numpy as np

        known, pieces = self._term_of_piece, self._pieces
        encodings = self._tokenizer.encode_batch_fast(
            [_clean(text) for text in texts], add_special_tokens=False
        )
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        ids: list[int] = []
        for i, encoding in enumerate(encodings):
            for number in encoding.ids:
                term = known.get(number)
                if term is None:
                    if number not in pieces:
                        continue
                    term = known[number] = len(self.terms)
                    self.terms.append(pieces[number])
                ids.append(term)
            offsets[i + 1] = len(ids)
        return offsets, np.array(ids, dtype=np.int32)


def _clean(text: str) -> str:
    # A lone surrogate cannot cross into the tokenizer; one replacement character for each keeps the offsets.
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def _load(data: bytes, file: Path) -> Tokenizer:
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    tokenizer: Tokenizer
    try:
        if data[:1] == b"{":
            tokenizer = Tokenizer.from_str(data.decode())
        else:
            lines = (
                data.decode().rstrip("\n").split("\n")
            )  # not splitlines: a piece may be another line break
            vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
            if "[UNK]" not in vocabulary:
                raise ValueError("it has no piece [UNK]")
            tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)._tokenizer
        if type(tokenizer.model).__name__ != "WordPiece":
            raise ValueError(f"its model is {type(tokenizer.model).__name__}")
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(
            f"{str(file)!r} is no WordPiece vocabulary or tokenizer ({error}); {_ADVICE}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # text cannot introduce control tokens
    return tokenizer
