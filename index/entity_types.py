"""Types of entities that a document mentions, as a sparse representation: `--sparse types=entity_types:DIR`.

A tagger (DIR: a model for token classification of any architecture that transformers has, in safetensors; its
own code is not run) reads every document in windows. A document has a type where a token is of it with a
probability of one half or more, all tags of the type together (B-PER, I-PER); the weight is the largest such
probability. Types are stored as words: `AmericanFilmDirector` as american, film, director, the usual short
forms as what they stand for (PER as person), through the index's analyzer. So a query that names a type finds
the documents that mention entities of it whether or not they say the word; what is not in a tagger's labels
comes through `type_words(FILE, sparse=types)`, with lines such as politician<TAB>person.

Query parameter: idf (default 1); 0 takes the documents' weights alone. Searching needs no model and no torch.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from retrieval import registry
from retrieval.data.type_names import verbalised
from retrieval.errors import UserError
from retrieval.index.analysis import Analyzer, analyzer
from retrieval.index.method import SparseMethod
from retrieval.index.quantise import Quantiser
from retrieval.index.scoring import ImpactScoring

if TYPE_CHECKING:
    from retrieval.index.encoded import Cache
    from retrieval.index.entity_tagger import Tagger
    from retrieval.index.postings import Postings
    from retrieval.index.statistics import Statistics
    from retrieval.index.word_builder import WordBuilder

_SHORT = {  # of CoNLL-2003, OntoNotes and their like
    "per": "person", "loc": "location", "org": "organization", "misc": "miscellaneous", "fac": "facility",
    "gpe": "country city state", "norp": "nationality religion political group", "prod": "product",
    "evt": "event", "work_of_art": "work of art", "geo": "location", "tim": "time",
}  # fmt: skip
_QUANTISER = Quantiser.of(1.0, rounding="nearest")


@registry.register("entity_types", kind="sparse method")
class EntityTypes(SparseMethod):
    """The method."""

    kind = "entity_types"
    most = 255.0
    encodes = True

    def __init__(self, settings: Mapping[str, Any], tagger: Tagger | None = None) -> None:
        self.settings = settings
        self._tagger = tagger
        self._idf = True

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> EntityTypes:
        """A new one of a model directory. Raises UserError, MissingExtra."""
        if not model:
            raise UserError("entity_types needs a tagger; give its directory, types=entity_types:DIR")
        tagger = _open(model)
        settings = {
            "kind": cls.kind,
            "compact": bool(options.get("compact")),
            "forward": bool(options.get("forward", True)),
            "source": os.path.abspath(model),
            "model": tagger.identity,
            "analyzer": {**analyzer(analyzer_name).identity, "source": analyzer_name},
            "quantiser": _QUANTISER.facts,
        }
        return cls(settings, tagger)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> EntityTypes:
        """From a commit. Raises UserError if this build's analyzer differs from the one that indexed."""
        made = cls(settings)
        stored = {name: value for name, value in settings["analyzer"].items() if name != "source"}
        if made.analyzer.identity != stored:
            raise UserError(
                f"the index was built with analyzer {made.analyzer.name!r} as {stored}, which is "
                f"{made.analyzer.identity} here; use the version that built it, or index again"
            )
        return made

    @property
    def encoder(self) -> dict[str, Any]:
        """What the types of a text depend on."""
        return {name: self.settings[name] for name in ("kind", "model", "analyzer", "quantiser")}

    @cached_property
    def analyzer(self) -> Analyzer:
        """What cuts the names of types, and queries, into terms."""
        return analyzer(self.settings["analyzer"]["source"])

    def builder(self, scratch: str, budget: int, cache: Cache | None = None) -> WordBuilder:
        """Tags documents. Raises UserError where the model is not the one that the index was made with."""
        from retrieval.index.word_builder import WordBuilder

        if self._tagger is None:
            self._tagger = _open(self.settings["source"])
        tagger, wanted = self._tagger, self.settings["model"]
        for what, value in tagger.identity.items():
            if what != "name" and wanted.get(what) != value:
                raise UserError(
                    f"the index was made with a tagger {wanted['name']!r} whose {what} is another than that "
                    f"of {tagger.path!r}; put that model there again, or index anew"
                )
        terms = {kind: list(dict.fromkeys(self.analyzer.terms(name_of(kind)))) for kind in tagger.types}
        return WordBuilder(self, lambda: tagger.weighing(terms), _QUANTISER, scratch, budget, cache)

    def configured(self, params: Mapping[str, Any]) -> Self:
        """This method with query parameters. Raises UserError for one that it does not have."""
        for name, value in params.items():
            if name != "idf" or value not in (0, 1):
                raise UserError(f"{self.kind} cannot take {name}={value!r}; it has idf, 0 or 1 (default)")
        twin = copy.copy(self)
        twin._idf = bool(params.get("idf", self._idf))
        return twin

    def query(self, text: str) -> dict[str, float]:
        """Terms with the number of times they stand."""
        return dict(Counter(self.analyzer.terms(text)))

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        """Count times idf, or the count alone; terms of no document's types are left out."""
        return statistics.weighed(query, idf=self._idf)

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> ImpactScoring:
        """Stored weights times query weights. Raises UserError for parameters that it does not have."""
        self.configured(params)
        return ImpactScoring(postings)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """A type is no word of the text: nothing."""
        return []


def name_of(kind: str) -> str:
    """A tagger's type in words."""
    return verbalised(kind, {kind: _SHORT[kind.lower()]} if kind.lower() in _SHORT else None)


def _open(path: str) -> Tagger:
    from retrieval.index.learned import need_torch

    need_torch("tagging entities")
    from retrieval.index.entity_tagger import Tagger

    return Tagger(path)
