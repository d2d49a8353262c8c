"""TILDE as a re-ranker: query and document likelihood from the documents' texts, mixed by alpha.

`bm25 % 1000 >> likelihood(MODEL, alpha=0.5)`. score = alpha * QL + (1 - alpha) * DL, where QL is the sum of
log10 p(t | d) over the query's tokens and DL the mean of log10 p(t | q) over the document's, stop words and
special tokens taken out of both; alpha = 1 needs no pass over the query, alpha = 0 none over the documents.
Candidates beyond cut_off keep their order below the others: each scores one less than the one before it.

Differs from the official code: long documents are read in windows (a term's likelihood is the largest over
them), ids of documents need not be numbers, and a run comes from the stage before, not from a file of six
columns. A query without a token that counts has QL 0, and a document without one the lowest DL.

Zhuang and Zuccon: TILDE: Term Independent Likelihood moDEl for Passage Re-ranking. SIGIR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.encoding import cut_windows
from retrieval.index.expansion import id_mask
from retrieval.index.learned import open_model, read_common
from retrieval.index.model_files import ModelFiles, find_model
from retrieval.registry import register
from retrieval.rerank.text_stage import TextStage
from retrieval.types import Query, Run

_DOCUMENTS = 512  # texts in memory at a time
_QUERIES = 128  # queries at a time: their likelihoods over the whole vocabulary are held


@register("likelihood")
class Likelihood(TextStage):
    """The stage. model: a TILDE directory, the packaged one by default. Needs the documents' texts."""

    name = "likelihood"

    def __init__(self, model: str = "", alpha: float = 0.5, cut_off: int = 1000) -> None:
        number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not number or not 0 <= alpha <= 1:
            raise UserError(f"likelihood cannot take alpha={alpha!r}; it weighs QL against DL, 0 to 1")
        if isinstance(cut_off, bool) or not isinstance(cut_off, int) or cut_off < 1:
            raise UserError(
                f"likelihood cannot take cut_off={cut_off!r}; it is a number of documents, 1 or more"
            )
        self.params = {"model": model, "alpha": alpha, "cut_off": cut_off}
        if not model:
            del self.params["model"]
        if cut_off == 1000:
            del self.params["cut_off"]
        self._alpha, self._cut_off = float(alpha), cut_off
        self._files = open_model("tilde", find_model("tilde", model))
        self._scorer: _Scorer | None = None

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        run, lookup = self._given(run)
        if self._scorer is None:
            self._scorer = _Scorer(self._files)
        rank = np.arange(len(run.docs)) - np.repeat(run.offsets[:-1], np.diff(run.offsets))
        near = np.flatnonzero(rank < self._cut_off)
        scores = np.empty(len(run.docs), np.float64)
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        dropped = 0
        for first in range(0, len(queries), _QUERIES):
            mine = near[(query[near] >= first) & (query[near] < first + _QUERIES)]
            texts = [one.text for one in queries[first : first + _QUERIES]]
            scores[mine], lost = self._scorer.score(
                texts, query[mine] - first, run.docs[mine], self._alpha,
                lambda docs: [one.full_text() for one in lookup([run.doc_ids[int(doc)] for doc in docs])],
            )  # fmt: skip
            dropped += lost
        for i in np.flatnonzero(np.diff(run.offsets) > self._cut_off).tolist():
            start = int(run.offsets[i]) + self._cut_off
            end = int(run.offsets[i + 1])
            last = scores[int(run.offsets[i]) : start].min()
            scores[start:end] = last - np.arange(1, end - start + 1)
        return Run(queries, run.offsets, run.docs, scores.astype(np.float32), run.doc_ids, dropped=dropped)


class _Scorer:
    """The loaded model."""

    def __init__(self, files: ModelFiles) -> None:
        from retrieval.index.tilde_model import Markers, load_tilde

        self._settings: dict[str, Any] = read_common(files)
        self._vocabulary = files.vocabulary
        self._markers = Markers.of(files.vocabulary)
        self._stop = id_mask(files.vocabulary.size, files.vocabulary.index_stop | files.vocabulary.special)
        self._model = load_tilde(files)

    def _clean(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        return ids[~self._stop[ids]].astype(np.int64)

    def score(
        self,
        texts: Sequence[str],
        query: NDArray[np.int64],
        docs: NDArray[np.int32],
        alpha: float,
        read: Callable[[NDArray[np.int32]], list[str]],
    ) -> tuple[NDArray[np.float64], int]:
        """(score float64[n], tokens dropped) of n pairs: texts[query[i]] with document docs[i].

        read: the texts of some documents.
        """
        ids = self._vocabulary.encode(list(texts))
        clean = [self._clean(one) for one in ids]
        log_p, dropped = np.empty((0, 0), np.float32), 0
        if alpha < 1:
            size = self._settings["window"] - 2
            log_p = self._queries([one[:size] for one in ids])
            dropped = sum(max(0, len(one) - size) for one in ids)
        found = np.empty(len(docs), np.float64)
        order = np.argsort(docs, kind="stable")
        distinct, first = np.unique(docs[order], return_index=True)
        ends = np.append(first, len(docs))
        for at in range(0, len(distinct), _DOCUMENTS):
            wanted = distinct[at : at + _DOCUMENTS]
            pairs = order[ends[at] : ends[at + len(wanted)]]
            local = np.searchsorted(wanted, docs[pairs])
            documents, lost = self._windows(read(wanted))
            dropped += lost
            mixed = np.zeros(len(pairs))
            if alpha > 0:
                mixed += alpha * self._query_likelihood(documents, local, [clean[i] for i in query[pairs]])
            if alpha < 1:
                bags = [self._clean(np.concatenate(windows)) for windows in documents]
                for i, (row, document) in enumerate(zip(query[pairs], local, strict=True)):
                    bag = bags[document]
                    mixed[i] += (1 - alpha) * (log_p[row, bag].mean() if len(bag) else log_p[row].min())
            found[pairs] = mixed
        return found, dropped

    def _windows(self, texts: list[str]) -> tuple[list[list[NDArray[np.int32]]], int]:
        """(the windows of each text, one at least; tokens in none)."""
        settings = self._settings
        cut = cut_windows(self._vocabulary.encode(texts), settings["window"] - 2, settings["windows"])
        documents: list[list[NDArray[np.int32]]] = [[] for _ in texts]
        for owner, ids in zip(cut.owner.tolist(), cut.ids, strict=True):
            documents[owner].append(ids)
        return [one or [np.empty(0, np.int32)] for one in documents], int(cut.dropped.sum())

    def _queries(self, ids: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        """log10 p(t | q) float32[q, V]."""
        from retrieval.index.tilde_model import log10_likelihoods, logit_batches, marked

        log_p = np.empty((len(ids), self._model.bert.config.vocab_size), np.float32)
        sequences = [marked(one, self._markers.query, self._vocabulary.sep) for one in ids]
        for rows, logits in logit_batches(self._model, sequences, self._settings["precision"]):
            log_p[rows] = log10_likelihoods(logits).cpu().numpy()
        return log_p

    def _query_likelihood(
        self,
        documents: list[list[NDArray[np.int32]]],
        local: NDArray[np.int64],
        queries: Sequence[NDArray[np.int64]],
    ) -> NDArray[np.float64]:
        """QL of pairs, ascending in local: documents[local[i]] with the clean ids queries[i]."""
        from retrieval.index.tilde_model import log10_likelihoods, logit_batches, marked

        sizes = np.array([len(one) for one in queries], np.int64)
        terms = np.concatenate([np.empty(0, np.int64), *queries])
        best = np.full(len(terms), -np.inf, np.float32)
        starts = np.append(0, np.cumsum(sizes))
        border = np.searchsorted(local, np.arange(len(documents) + 1))
        owner = np.repeat(np.arange(len(documents)), [len(windows) for windows in documents])
        marker, sep = self._markers.document, self._vocabulary.sep
        sequences = [marked(ids, marker, sep) for windows in documents for ids in windows]
        for rows, logits in logit_batches(self._model, sequences, self._settings["precision"]):
            log_p = log10_likelihoods(logits).cpu().numpy()
            for row, document in zip(log_p, owner[rows].tolist(), strict=True):
                mine = slice(starts[border[document]], starts[border[document + 1]])
                best[mine] = np.maximum(best[mine], row[terms[mine]])
        pair = np.repeat(np.arange(len(queries)), sizes)
        sums: NDArray[np.float64] = np.bincount(pair, best, minlength=len(queries)).astype(np.float64)
        return sums
