"""Prepared training examples: passages, queries, hard negatives and a teacher's vectors, made once, on disk.

In OUT/examples/:
    passages.jsonl   {"text", "origin"} one passage a line; passages of one origin are parts of one document
    examples.jsonl   {"query", "positive", "negatives", "scores"} by passage number (line, from 0)
    mined.jsonl      {"query", "positive"} by number, further pairs that a teacher found
    queries.f16, passages.f16   the teacher's unit vectors, float16[n, d]
    prepared.json    what they were made from; written last
Every file is made by itself, whole or (vectors) to be gone on with: a killed preparation loses little.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.mining import read_mined

FOLDER = "examples"
PASSAGES, EXAMPLES, FACTS = "passages.jsonl", "examples.jsonl", "prepared.json"


class Lines:
    """The JSON records of a file by number, read when asked for: 8 bytes a line in memory."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            lengths = np.fromiter((len(line) for line in file), np.int64)
        self._starts = np.append(0, np.cumsum(lengths))
        self._file = open(path, "rb")  # noqa: SIM115

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, at: int) -> Any:
        start, end = int(self._starts[at]), int(self._starts[at + 1])
        return self._record(os.pread(self._file.fileno(), end - start, start))

    def __iter__(self) -> Iterator[Any]:
        with open(self.path, "rb") as file:
            for line in file:
                yield self._record(line)

    def _record(self, line: bytes) -> Any:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError as error:
            folder = os.path.dirname(self.path)
            raise UserError(
                f"{self.path!r} is damaged ({error}); delete {folder!r} to prepare anew"
            ) from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __del__(self) -> None:
        self.close()


class Prepared:
    """Prepared examples in columns: n examples of p passages, at most k negatives each.

    queries    the n query texts, those of mined pairs last
    positive   int32[n], the number of the passage that answers
    negatives  int32[n, k], numbers of hard negatives, -1 where there are fewer
    scores     float32[n, 1 + k] or None: given with the data, the positive's first, NaN where there is none
    origin     int32[p], which document a passage is of
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.passages = Lines(os.path.join(directory, PASSAGES))
        self.origin = np.fromiter((record["origin"] for record in self.passages), np.int32)
        lines = Lines(os.path.join(directory, EXAMPLES))
        keys, positive, hard, scores = array("q"), array("i"), array("i"), array("f")
        counts, given = array("i"), array("i")
        for record in lines:
            keys.append(_hash(record["query"]))
            positive.append(record["positive"])
            for column, lengths, name in ((hard, counts, "negatives"), (scores, given, "scores")):
                values = record.get(name, ())
                column.extend(values)
                lengths.append(len(values))
        asked, answers = read_mined(directory)
        self._vector = np.append(np.arange(len(lines)), asked)  # the row of each example's query
        self.queries = Queries(lines, self._vector)
        self.positive = np.append(np.array(positive, np.int32), answers)
        self._relevant = Relevant(np.array(keys, np.int64)[self._vector], self.positive)
        blank = np.zeros(len(asked), np.int64)
        sizes = np.append(np.array(counts, np.int64), blank)
        width = int(sizes.max(initial=0))
        self.negatives = _matrix(np.array(hard, np.int32), sizes, width, -1)
        self.scores = None
        if len(scores):
            sizes = np.append(np.array(given, np.int64), blank)
            self.scores = _matrix(np.array(scores, np.float32), sizes, width + 1, np.nan)
        self._query_vectors = self._vectors("queries.f16", len(lines))
        self._passage_vectors = self._vectors("passages.f16", len(self.passages))

    def __len__(self) -> int:
        return len(self.queries)

    def texts(self, start: int = 0, end: int | None = None) -> Iterator[str]:
        """The texts of passages, streamed."""
        for at in range(start, len(self.passages) if end is None else end):
            yield self.passages[at]["text"]

    def _vectors(self, name: str, rows: int) -> NDArray[np.float16] | None:
        path = os.path.join(self.directory, name)
        if not os.path.exists(path) or not rows:
            return None
        if (size := os.path.getsize(path)) == 0 or size % (2 * rows):
            raise UserError(f"{path!r} is damaged: it has {size:,} bytes for {rows:,} texts; delete it")
        return np.memmap(path, np.float16, "r").reshape(rows, -1)

    def group(self, example: int, most: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
        """Passages of an example, its positive first, `most` negatives drawn by rng; without it all."""
        hard = self.negatives[example]
        hard = hard[hard >= 0].astype(np.int64)
        if rng is not None:
            hard = rng.permutation(hard)[:most]
        return np.append(self.positive[example], hard).astype(np.int64)

    def vectors(self) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """The teacher's vectors of the queries and of the passages. Raises UserError where there are none."""
        if self._query_vectors is None or self._passage_vectors is None:
            raise UserError("these examples were prepared without a teacher; give --teacher DIR")
        return self._query_vectors, self._passage_vectors

    @property
    def has_teacher(self) -> bool:
        """Whether teacher() can say anything."""
        return self._query_vectors is not None or self.scores is not None

    def teacher(
        self, examples: NDArray[np.integer[Any]], passages: NDArray[np.integer[Any]]
    ) -> NDArray[np.float32] | None:
        """The teacher's cosine of each of these examples' queries with each of these passages: [e, p].

        None where the examples were prepared without a teacher.
        """
        if self._query_vectors is None or self._passage_vectors is None:
            return None
        queries = self._query_vectors[self._vector[examples]].astype(np.float32)
        found: NDArray[np.float32] = queries @ self._passage_vectors[passages].astype(np.float32).T
        return found

    def teacher_vectors(
        self, examples: NDArray[np.integer[Any]], passages: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The teacher's vectors of these examples' queries and of these passages; raises as vectors()."""
        queries, rows = self.vectors()
        return queries[self._vector[examples]].astype(np.float32), rows[passages].astype(np.float32)

    def relevant(self, examples: NDArray[np.integer[Any]]) -> list[NDArray[np.int32]]:
        """The passages that answer each example's query: its positive, and those of its query elsewhere."""
        return [self._relevant[at] for at in examples.tolist()]

    def split(self, held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(training, held-out) example numbers; a held-out example shares its document with no training one.

        Whole documents are held out until there are `held_out` examples or a twentieth of all.
        """
        held_out = min(held_out, len(self) // 20)
        group = self.origin[self.positive]
        order = np.random.default_rng([seed, 1]).permutation(int(group.max(initial=0)) + 1)
        counts = np.bincount(group, minlength=len(order))[order]
        taken = order[np.cumsum(counts) - counts < held_out]
        out = np.isin(group, taken)
        return np.flatnonzero(~out), np.flatnonzero(out)


class Queries(Sequence[str]):
    """Texts of queries, read from examples.jsonl when asked for."""

    def __init__(self, lines: Lines, rows: NDArray[np.int64]) -> None:
        self._lines, self._rows = lines, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self._text(row) for row in self._rows[at].tolist()]
        return self._text(int(self._rows[at]))

    def _text(self, row: int) -> str:
        text: str = self._lines[row]["query"]
        return text


class Relevant:
    """The positives of each query, for queries that stand in several examples: found[example].

    keys: int64[n], equal for equal queries.
    """

    def __init__(self, keys: NDArray[np.int64], positive: NDArray[np.int32]) -> None:
        self._order = np.argsort(keys, kind="stable")
        ordered = keys[self._order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(keys) else keys
        self._ends = np.append(first, len(keys))
        self._group = np.empty(len(keys), np.int64)
        self._group[self._order] = np.repeat(np.arange(len(first)), np.diff(self._ends))
        self._positive = positive

    @classmethod
    def of(cls, queries: Iterable[str], positive: NDArray[np.int32]) -> Relevant:
        """From the texts of the queries."""
        return cls(np.fromiter((_hash(query) for query in queries), np.int64), positive)

    def __getitem__(self, example: int) -> NDArray[np.int32]:
        group = self._group[example]
        found: NDArray[np.int32] = self._positive[self._order[self._ends[group] : self._ends[group + 1]]]
        return found


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _matrix(flat: NDArray[Any], lengths: NDArray[np.int64], width: int, filler: float) -> NDArray[Any]:
    """Rows of these lengths, one behind the other in `flat`, filled up to `width`."""
    found = np.full((len(lengths), width), filler, flat.dtype)
    found[np.arange(width) < lengths[:, None]] = flat
    return found


class Tokens:
    """Token ids of many texts behind one another, in a file or in memory: tokens[i] is int32[length]."""

    def __init__(self, flat: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        self.flat = flat
        self.ends = ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, at: int) -> NDArray[np.int32]:
        row: NDArray[np.int32] = self.flat[self.ends[at] : self.ends[at + 1]]
        return row

    @classmethod
    def open(cls, stem: str) -> Tokens | None:
        """What write() left at STEM.ids and STEM.ends, or None."""
        if not os.path.exists(f"{stem}.ends"):
            return None
        ends = np.fromfile(f"{stem}.ends", np.int64)
        flat = np.memmap(f"{stem}.ids", np.int32, "r") if ends[-1] else np.empty(0, np.int32)
        if len(flat) != ends[-1]:
            raise UserError(f"{stem}.ids is not as long as {stem}.ends says; delete both and run again")
        return cls(flat, ends)

    @classmethod
    def write(cls, stem: str, batches: Iterator[list[NDArray[np.int32]]]) -> Tokens:
        """Streams sequences into STEM.ids and, at the end, STEM.ends."""
        lengths: list[NDArray[np.int64]] = []
        with open(f"{stem}.ids", "wb") as file:
            for batch in batches:
                lengths.append(np.array([len(one) for one in batch], np.int64))
                file.write(np.concatenate([np.empty(0, np.int32), *batch]).astype(np.int32).tobytes())
        ends = np.append(0, np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths])))
        ends.tofile(f"{stem}.ends.tmp")
        os.replace(f"{stem}.ends.tmp", f"{stem}.ends")
        found = cls.open(stem)
        assert found is not None  # for the type checker: it was just written
        return found
