"""Collection statistics: what BM25 must know of the whole collection; merged, they let shards rank as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence


class Statistics:
    """Live documents, their tokens after analysis, and the number of documents that hold a term.

    df: a function or a mapping; a term that is absent counts 0.
    """

    def __init__(self, documents: int, tokens: int, df: Callable[[str], int] | Mapping[str, int]) -> None:
        self.documents = documents
        self.tokens = tokens
        self._df = (lambda term: df.get(term, 0)) if isinstance(df, Mapping) else df

    @classmethod
    def merged(cls, parts: Sequence[Statistics]) -> Statistics:
        """The statistics of several collections as one."""
        parts = list(parts)
        return cls(
            sum(part.documents for part in parts),
            sum(part.tokens for part in parts),
            lambda term: sum(part.df(term) for part in parts),
        )

    def df(self, term: str) -> int:
        """Documents that hold the term."""
        return self._df(term)

    @property
    def mean(self) -> float:
        """Mean document length in tokens."""
        return self.tokens / self.documents if self.documents else 0.0

    def idf(self, term: str) -> float:
        """Lucene's: ln(1 + (N - df + 0.5) / (df + 0.5)); 0 for a term that no document holds."""
        df = self.df(term)
        return math.log1p((self.documents - df + 0.5) / (df + 0.5)) if df else 0.0

    def weighed(self, query: Mapping[str, float], *, idf: bool) -> dict[str, float]:
        """Counts of a query's terms, times idf if so; terms that no document holds are left out."""
        known = {term: count for term, count in query.items() if self.df(term)}
        if not idf:
            return known
        weights = {term: count * self.idf(term) for term, count in known.items()}
        return {term: weight for term, weight in weights.items() if weight > 0}

    def taken(self, terms: Sequence[str]) -> Statistics:
        """The same numbers for these terms only, without the index behind them: to send to another shard."""
        return Statistics(self.documents, self.tokens, {term: self.df(term) for term in terms})

    def __repr__(self) -> str:
        return f"<Statistics: {self.documents} documents, {self.tokens} tokens>"
