"""Building an impact index part: token streams in, inverted lists out, in bounded memory.

Documents are inverted a run at a time (see invert.py); runs wait in memory, or in scratch files once they
pass the budget, and are joined term by term at the end. A term's number is its order of first sight, so
runs need no sorting.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.diskio import disk_errors
from retrieval.index.bounds import bm25_table
from retrieval.index.invert import invert_run, invert_weighted, merge_runs
from retrieval.index.lexicon import write_lexicon
from retrieval.index.list_files import CHUNK, DENSE, ListFiles
from retrieval.index.packing import ListPacker

if TYPE_CHECKING:
    from retrieval.part import Part

_BUFFER = 1 << 23  # postings joined before they are written
_HALF = 15
_RARE_LARGE = 0.01  # share of larger values up to which half a byte a value is smaller and as fast

Run = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint8], NDArray[np.int32]]


class PostingsWriter:
    """Collects documents in order and writes one segment's lists.

    scratch   a directory for what does not fit; the caller removes it
    budget    bytes that waiting tokens and runs may take together
    weighted  tokens come with an 8-bit weight, once a document (impacts); else occurrences are counted (BM25)
    """

    def __init__(self, scratch: str, budget: int = 1 << 30, *, weighted: bool = False) -> None:
        self._scratch = scratch
        self._budget = budget
        self._weighted = weighted
        self._vocabulary = 0
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]] = []
        self._waiting_docs = 0
        self._waiting_tokens = 0
        self._runs: list[Run] = []
        self._chunks: list[int] = []
        self._run_documents: list[int] = []
        self._held = 0
        self._spilled: list[int] = []  # postings of the runs whose documents and values are in scratch files
        self._lengths: list[NDArray[np.int32]] = []
        self._large = 0  # postings with a value that does not fit half a byte
        self.documents = 0

    def add(
        self, offsets: NDArray[np.int64], tokens: NDArray[np.int32], weights: NDArray[np.uint8] | None = None
    ) -> None:
        """Documents i = tokens[offsets[i]:offsets[i + 1]] (term numbers), with weights where weighted."""
        values = np.empty(0, np.uint8) if weights is None else weights
        start, n = 0, len(offsets) - 1
        while start < n:
            room = CHUNK - (self.documents % CHUNK)
            end = min(n, start + room)
            a, b = int(offsets[start]), int(offsets[end])
            part = values[a:b] if self._weighted else values
            self._waiting.append((offsets[start : end + 1] - a, tokens[a:b], part))
            self._lengths.append(np.diff(offsets[start : end + 1]).astype(np.int32))
            self.documents += end - start
            self._waiting_docs += end - start
            self._waiting_tokens += b - a
            if b > a:
                self._vocabulary = max(self._vocabulary, int(tokens[a:b].max()) + 1)
            if self.documents % CHUNK == 0 or 16 * self._waiting_tokens > self._budget // 2:
                self._flush()
            start = end

    def _flush(self) -> None:
        """Inverts the waiting documents as one run."""
        if not self._waiting_docs:
            return
        first = self.documents - self._waiting_docs
        counts = np.concatenate([np.diff(offsets) for offsets, _, _ in self._waiting])
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        tokens = np.concatenate([part for _, part, _ in self._waiting])
        if self._weighted:
            weights = np.concatenate([part for _, _, part in self._waiting])
            run = invert_weighted(tokens, weights, offsets, first % CHUNK, self._vocabulary)
        else:
            run = invert_run(tokens, offsets, first % CHUNK, self._vocabulary)
        self._waiting, self._waiting_docs, self._waiting_tokens = [], 0, 0
        self._keep(run, first // CHUNK, self.documents - first)

    def add_run(self, run: Run, lengths: NDArray[np.int32]) -> None:
        """A ready run of the next len(lengths) documents, which do not cross a chunk's border (merging)."""
        self._lengths.append(lengths)
        self._keep(run, self.documents // CHUNK, len(lengths))
        self.documents += len(lengths)

    def _keep(self, run: Run, chunk: int, documents: int) -> None:
        self._runs.append(run)
        self._chunks.append(chunk)
        self._run_documents.append(documents)
        self._large += int(np.count_nonzero(run[3] >= _HALF))
        self._held += sum(array.nbytes for array in run)
        if self._held > self._budget // 2:
            self._spill()

    def _spill(self) -> None:
        for i in range(len(self._spilled), len(self._runs)):
            terms, counts, docs, values, big = self._runs[i]
            for name, array in (("docs", docs), ("values", values)):
                path = os.path.join(self._scratch, name)
                with disk_errors("write", path), open(path, "ab") as file:
                    file.write(array.data)
            self._spilled.append(len(docs))
            self._runs[i] = (terms, counts, docs[:0], values[:0], big)
        self._held = sum(array.nbytes for run in self._runs for array in run)

    def _all(self, column: int, name: str, dtype: Any) -> NDArray[Any]:
        """One column of every run behind one another, from memory or from its scratch file."""
        if self._spilled:
            path = os.path.join(self._scratch, name)
            with disk_errors("read", path):
                return np.memmap(path, dtype, "r") if sum(self._spilled) else np.empty(0, dtype)
        columns = [run[column] for run in self._runs]
        return np.concatenate(columns) if columns else np.empty(0, dtype)

    def finish(
        self,
        part: Part,
        terms: Sequence[str],
        *,
        compact: bool = False,
        forward: bool = False,
        order: NDArray[np.int32] | None = None,
    ) -> dict[str, Any]:
        """Writes every file of the part; returns its facts for the commit.

        terms: term number -> term. forward: also the documents' rows (impacts only). order int32[n]: document
        number in the lists -> document ordinal, where they differ.
        """
        self._flush()
        if self._spilled:
            self._spill()
        vocabulary = len(terms)
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int32)
        if order is not None:
            part.array("order.npy", order)
        distinct, code = np.unique(lengths, return_inverse=True)
        code = code.astype(np.uint16 if len(distinct) <= 65536 else np.uint32)
        width = 0 if self._weighted else max(1, len(distinct))
        mean = float(lengths.sum(dtype=np.int64)) / max(1, len(lengths))
        table, _ = bm25_table(distinct, mean) if not self._weighted else (np.empty(0, np.float32), None)
        sizes = [sum(int(run[1].sum()) for run in self._runs[i : i + 1]) for i in range(len(self._runs))]
        n_big = sum(len(run[4]) for run in self._runs)
        entries = sum(len(run[0]) for run in self._runs)
        state = _Merge(self._runs, sizes, vocabulary, entries, n_big)
        state.run_chunk = np.array(self._chunks, np.int64)
        all_docs, all_values = self._all(2, "docs", np.uint16), self._all(3, "values", np.uint8)
        total = sum(sizes)
        packer = ListPacker(part, vocabulary) if compact else None
        bits = 8 if compact or self._weighted or self._large > total * _RARE_LARGE else 4
        with ListFiles(part, total - self._dense_postings(bits, compact), bits, packer) as files:
            term = 0
            largest = max(_BUFFER, int(state.list_sizes(vocabulary).max(initial=0)))
            docs, values = np.empty(largest, np.uint16), np.empty(largest, np.uint8)
            while term < vocabulary:
                before = term
                term, n = state.step(
                    term, largest, all_docs, all_values, not self._weighted, table, width, code, docs, values
                )
                files.write(docs[:n], values[:n], state, before, term)
        write_lexicon(part, terms)
        if forward and self._weighted:
            self._write_rows(part, sizes, lengths, all_docs, all_values)
        if not self._weighted:
            part.array("lengths.npy", distinct.astype(np.int32))
            part.array("codes.npy", code)
        if not compact:
            state.big_place, state.big_tf = files.large(state.big_place, state.big_tf)
        if len(state.big_place):
            part.array("big_place.npy", state.big_place)
            part.array("big_tf.npy", state.big_tf)
        part.array("df.npy", state.df)
        if not compact:
            part.array("dir_ptr.npy", state.dir_ptr.astype(np.uint32))
            part.array("dir_chunk.npy", state.dir_chunk[: state.n_dir])
            part.array("dir_count.npy", state.dir_count[: state.n_dir])
            part.array("dir_bound.npy", state.dir_bound[: state.n_dir])
        part.array("kth.npy", state.kth)
        part.array("peak.npy", state.peak)
        facts = {
            "documents": int(self.documents),
            "tokens": int(lengths.sum(dtype=np.int64)),
            "mean": mean,
            "postings": int(total),
            "terms": vocabulary,
            "compact": compact,
            "bits": bits,
            "dense": not compact,
            "weighted": self._weighted,
            "forward": forward and self._weighted,
        }
        part.json("facts.json", facts)
        return facts

    def _dense_postings(self, bits: int, compact: bool) -> int:
        """Postings that go into dense blocks; to know the length of the files before they are written."""
        if compact:
            return 0
        total = 0
        for chunk in sorted(set(self._chunks)):
            runs = [run for run, where in zip(self._runs, self._chunks, strict=True) if where == chunk]
            counts = runs[0][1].astype(np.int64)
            if len(runs) > 1:
                terms = np.concatenate([run[0] for run in runs])
                counts = np.bincount(terms, np.concatenate([run[1] for run in runs])).astype(np.int64)
            total += int(counts[counts >= DENSE[bits]].sum())
        return total

    def _write_rows(
        self,
        part: Part,
        sizes: Sequence[int],
        lengths: NDArray[np.int32],
        all_docs: NDArray[np.uint16],
        all_values: NDArray[np.uint8],
    ) -> None:
        """The forward view, a run after another: their documents follow each other."""
        from retrieval.index.forward import transpose_run

        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        with (
            part.array_stream("row_terms.npy", np.uint32, int(ends[-1])) as row_terms,
            part.array_stream("row_values.npy", np.uint8, int(ends[-1])) as row_values,
        ):
            at = document = 0
            for run, size, n in zip(self._runs, sizes, self._run_documents, strict=True):
                _, terms, values = transpose_run(
                    run[0], run[1], all_docs[at : at + size], all_values[at : at + size], document % CHUNK, n
                )
                row_terms.write(terms)
                row_values.write(values)
                at += size
                document += n
        part.array("row_ends.npy", ends)


class _Merge:
    """The joining of runs between two calls of merge_runs."""

    def __init__(self, runs: list[Run], sizes: list[int], vocabulary: int, entries: int, n_big: int) -> None:
        def joined(column: int, dtype: Any) -> NDArray[Any]:
            return np.concatenate([run[column] for run in runs]) if runs else np.empty(0, dtype)

        self.run_terms, self.run_counts = joined(0, np.uint32), joined(1, np.uint32)
        self.run_big = joined(4, np.int32)
        ends = np.cumsum([0] + [len(run[0]) for run in runs])
        self.cursor, self.run_end = ends[:-1].astype(np.int64), ends[1:].astype(np.int64)
        self.big_cursor = np.cumsum([0] + [len(run[4]) for run in runs])[:-1].astype(np.int64)
        self.place = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        self.run_chunk: NDArray[np.int64] = np.empty(0, np.int64)
        self.df = np.zeros(vocabulary, np.uint32)
        self.dir_ptr = np.zeros(vocabulary + 1, np.int64)
        self.dir_chunk = np.empty(entries, np.uint16)
        self.dir_count = np.empty(entries, np.uint16)
        self.dir_bound = np.empty(entries, np.uint8)
        self.kth = np.zeros((vocabulary, 4), np.uint8)
        self.peak = np.zeros(vocabulary, np.uint8)
        self.big_place = np.empty(n_big, np.int64)
        self.big_tf = np.empty(n_big, np.int32)
        self.written = self.n_dir = self.n_big = 0

    def list_sizes(self, vocabulary: int) -> NDArray[np.int64]:
        """Postings of each term over all runs."""
        return np.bincount(self.run_terms, self.run_counts, minlength=vocabulary).astype(np.int64)

    def step(self, term: int, capacity: int, *rest: Any) -> tuple[int, int]:
        """Joins lists from `term` on; returns the next term and the number of postings made."""
        all_docs, all_values, bm25, table, width, code, docs, values = rest
        term, n, self.n_dir, self.n_big = merge_runs(
            term, len(self.df), capacity, self.run_terms, self.run_counts, self.run_big, self.cursor,
            self.run_end, self.big_cursor, self.place, self.run_chunk, all_docs, all_values, bm25, table,
            width, code, docs, values, self.df, self.dir_ptr, self.dir_chunk, self.dir_count, self.dir_bound,
            self.kth, self.peak, self.big_place, self.big_tf, self.written, self.n_dir, self.n_big,
        )  # fmt: skip
        self.written += n
        return term, n
