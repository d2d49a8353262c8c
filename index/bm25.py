"""BM25 as Lucene computes it: frequencies and exact lengths are stored, so k1 and b stay free for queries.

score = sum over query terms of idf(t) * tf / (tf + k1 * (1 - b + b * length / mean length)), repeated query
terms counting as often as they stand (Robertson and Zaragoza 2009; Lucene's form leaves out the factor k1 +
1). `bm25:FILE` takes the frequencies from a CIFF file (or JSON vectors) and not from the text; a document's
length is their sum. The analyzer, which must be the one that made them, reads queries and later documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.analysis import Analyzer, analyzer
from retrieval.index.bounds import K1, B
from retrieval.index.method import SparseMethod
from retrieval.index.scoring import Bm25Scoring
from retrieval.index.statistics import Statistics
from retrieval.types import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retrieval.index.postings import Postings
    from retrieval.index.vectors import Vectors
    from retrieval.part import Part

_FEW = 256  # documents whose occurrences are written out at a time
_LONGEST = 1 << 24  # words of a document: each is written out, and a file that claims more fills the memory


@registry.register("bm25", kind="sparse method")
class Bm25(SparseMethod):
    """The method. Query parameters: k1 (0 and more) and b (0 to 1)."""

    kind = "bm25"
    most = 1.0

    def __init__(self, settings: Mapping[str, Any], analyzer_: Analyzer, path: str = "") -> None:
        self.settings = settings
        self.analyzer = analyzer_
        self._path = path

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Bm25:
        """A new one; the model is a file of term frequencies, if any. Raises UnknownName, UserError."""
        if model:
            from retrieval.index.vectors import read_range

            largest, whole = read_range(model)
            if not whole or largest >= 2**31:
                raise UserError(
                    f"{model!r} holds weights, and bm25 counts: they are whole numbers; use impacts:{model}"
                )
        chosen = analyzer(analyzer_name)
        settings = {
            "kind": cls.kind,
            "analyzer": {**chosen.identity, "source": analyzer_name},
            "compact": bool(options.get("compact")),
        }
        return cls(settings, chosen, model)

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> Bm25:
        """From a commit. Raises UserError if this build's analyzer differs from the one that indexed."""
        stored = dict(settings["analyzer"])
        source = stored.pop("source")
        chosen = analyzer(source)
        if chosen.identity != stored:
            raise UserError(
                f"the index was built with analyzer {source!r} as {stored}, which is {chosen.identity} here; "
                "use the version that built it, or index again"
            )
        return cls(settings, chosen)

    def builder(self, scratch: str, budget: int) -> Bm25Builder | GivenBuilder:
        """Counts terms of title and text, or takes the frequencies that were given."""
        if self._path:
            return GivenBuilder(self._path, scratch, budget, compact=self.settings["compact"])
        return Bm25Builder(self.analyzer, scratch, budget, compact=self.settings["compact"])

    def query(self, text: str) -> dict[str, float]:
        """Terms with the number of times they stand."""
        return dict(Counter(self.analyzer.terms(text)))

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """Count times idf."""
        weights = {term: count * statistics.idf(term) for term, count in query.items()}
        return {term: weight for term, weight in weights.items() if weight > 0}

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> Bm25Scoring:
        """Raises UserError for parameters out of range or unknown."""
        values = {"k1": K1, "b": B, **params}
        for name, value in values.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            top = 1.0 if name == "b" else 1e6
            if name not in ("k1", "b") or not number or not 0 <= value <= top:
                raise UserError(f"bm25 cannot take {name}={value!r}; it has k1 (0 and more) and b (0 to 1)")
        return Bm25Scoring(postings, statistics.mean, float(values["k1"]), float(values["b"]))

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """The analyzer's terms in a text."""
        return self.analyzer.spans(text)


class Bm25Builder:
    """Analyzes documents and counts their terms; one segment."""

    def __init__(self, analyzer_: Analyzer, scratch: str, budget: int, *, compact: bool) -> None:
        from retrieval.index.postings_writer import PostingsWriter

        self._encoder = analyzer_.encoder()
        self._writer = PostingsWriter(scratch, budget)
        self._compact = compact

    def add(self, documents: Sequence[Document]) -> None:
        """Title and text of each document, as one text."""
        offsets, tokens = self._encoder.encode([document.full_text() for document in documents])
        self._writer.add(offsets, tokens)

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        self._writer.finish(part, self._encoder.terms, compact=self._compact)


class GivenBuilder:
    """One segment of term frequencies from a file. Documents of more than 16 million words are refused."""

    def __init__(self, path: str, scratch: str, budget: int, *, compact: bool) -> None:
        from retrieval.index.postings_writer import PostingsWriter

        self._path = path
        self._scratch, self._budget = scratch, budget // 2
        self._writer = PostingsWriter(scratch, self._budget)
        self._vectors: Vectors | None = None
        self._compact = compact

    def add(self, documents: Sequence[Document]) -> None:
        """The frequencies of each document's terms. Raises UserError for one that is not in the file."""
        import numpy as np

        from retrieval.index.vectors import Vectors

        if self._vectors is None:
            self._vectors = Vectors(self._path, _counts, self._scratch, self._budget)
        for start in range(0, len(documents), _FEW):  # each occurrence is written out
            some = documents[start : start + _FEW]
            ends, terms, counts = self._vectors.take([document.doc_id for document in some])
            offsets = np.append(0, np.cumsum(counts, dtype=np.int64))[ends]
            words = np.diff(offsets)
            if words.max() > _LONGEST:
                longest = int(words.argmax())
                raise UserError(
                    f"document {some[longest].doc_id!r} has {words[longest]:,} words in {self._path!r}; "
                    "are these term frequencies? for weights use impacts:FILE"
                )
            self._writer.add(offsets, np.repeat(terms, counts))

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        terms: list[str] = []
        if self._vectors is not None:
            self._vectors.close()
            terms = self._vectors.names
        self._writer.finish(part, terms, compact=self._compact)


def _counts(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    return weights.astype("i4")
