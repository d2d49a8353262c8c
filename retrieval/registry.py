"""The registry: one dict of short names, filled by a decorator and by the entry points `retrieval.stages`.

Files on disk and pipeline texts hold these names, never import paths. A name belongs to a kind: "stage" for
what a pipeline text may call, "fusion" for what `+` reaches, and what other folders need (a kind is any
word).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from retrieval.errors import CompositionError, UnknownName

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

Factory: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Factory)

_FACTORIES: dict[tuple[str, str], Factory] = {}

# Modules of this package that register what stands in front of them, imported when it is first asked for.
_BUILT_IN = {
    ("block splitter", "sentences"): "retrieval.longdoc.blocks",
    ("block splitter", "structure"): "retrieval.longdoc.blocks",
    ("block splitter", "windows"): "retrieval.longdoc.blocks",
    ("cascade", "budget"): "retrieval.rerank.cascade",
    ("dense encoder", "bert"): "retrieval.index.text_encoder",
    ("dense encoder", "llm"): "retrieval.index.llm",
    ("dense encoder", "m2bert"): "retrieval.index.m2bert_encoder",
    ("dense encoder", "smith"): "retrieval.longdoc.smith",
    ("dense encoder", "spans"): "retrieval.longdoc.span_encoder",
    ("fusion", "minmax"): "retrieval.rerank.fusion",
    ("fusion", "rrf"): "retrieval.rerank.fusion",
    ("sparse method", "bm25"): "retrieval.index.bm25",
    ("sparse method", "entity_types"): "retrieval.index.entity_types",
    ("sparse method", "impacts"): "retrieval.index.impacts",
    ("stage", "biencoder"): "retrieval.rerank.biencoder",
    ("stage", "cross"): "retrieval.rerank.cross",
    ("stage", "gate"): "retrieval.rerank.gate",
    ("stage", "interpolate"): "retrieval.rerank.interpolate",
    ("stage", "listwise"): "retrieval.rerank.llm_rank",
    ("stage", "lucene"): "retrieval.index.lucene_stage",
    ("stage", "neighbours"): "retrieval.rerank.neighbours",
    ("stage", "parade"): "retrieval.rerank.parade",
    ("stage", "pointwise"): "retrieval.rerank.llm_rank",
    ("stage", "rm3"): "retrieval.rerank.rm3",
    ("stage", "rocchio"): "retrieval.rerank.rocchio",
    ("stage", "run"): "retrieval.rerank.run_file",
    ("stage", "type_words"): "retrieval.rerank.type_words",
    ("stage", "vector_rocchio"): "retrieval.rerank.vector_rocchio",
    ("suite", "best-answer"): "retrieval.bench.choices",
    ("suite", "casehold"): "retrieval.bench.casehold",
    ("suite", "loco-v0"): "retrieval.bench.loco",
    ("suite", "loco-v1"): "retrieval.bench.loco",
    ("suite", "neretrieve"): "retrieval.bench.neretrieve",
    ("suite", "beir"): "retrieval.bench.beir",
    ("suite", "types"): "retrieval.bench.beir",
    ("suite", "msmarco-passage"): "retrieval.bench.msmarco",
    ("suite", "msmarco-document"): "retrieval.bench.msmarco",
    ("training task", "cross"): "retrieval.rerank.cross_train",
    ("training task", "parade"): "retrieval.rerank.parade_train",
    ("training task", "bprop"): "retrieval.index.bprop_train",
    ("sparse method", "bprop"): "retrieval.index.bprop",
    ("sparse method", "tilde"): "retrieval.index.tilde",
    ("sparse method", "tildev2"): "retrieval.index.tildev2",
    ("training task", "dense"): "retrieval.index.dense_train",
    ("training task", "m2bert"): "retrieval.index.m2bert_train",
    ("training task", "smith"): "retrieval.longdoc.smith_train",
    ("training task", "tilde"): "retrieval.index.tilde_train",
    ("training task", "tildev2"): "retrieval.index.tildev2_train",
    ("stage", "likelihood"): "retrieval.rerank.likelihood",
}


def register(name: str, kind: str = "stage") -> Callable[[F], F]:
    """Decorator of a class or function: known as `name` from now on. A later one replaces an earlier."""

    def keep(factory: F) -> F:
        _FACTORIES[kind, name] = factory
        return factory

    return keep


def lookup(name: str, kind: str = "stage") -> Factory:
    """The factory registered as `name`. Raises UnknownName with the nearest known one."""
    key = (kind, name)
    if key not in _FACTORIES and key in _BUILT_IN:
        import_module(_BUILT_IN[key])
    if key not in _FACTORIES:
        for point in _entry_points().select(name=name):
            loaded = point.load()  # a module that uses the decorator, or else the factory itself
            if kind == "stage":
                _FACTORIES.setdefault(key, loaded)
    if key not in _FACTORIES:
        raise UnknownName(kind, name, names(kind))
    return _FACTORIES[key]


def names(kind: str = "stage") -> list[str]:
    """All known names of a kind, sorted."""
    known = {name for group, name in (*_FACTORIES, *_BUILT_IN) if group == kind}
    if kind == "stage":
        known |= {point.name for point in _entry_points()}
    return sorted(known)


def unknown_stage(name: str, representations: Sequence[str]) -> UnknownName:
    """The error for a name that neither an index nor the registry knows; what an index lacks can be added."""
    if name in names("sparse method"):
        hint = f"It is a way to index: retrieve add DIR --sparse {name}, or sparse = [...] in a system file"
        return UnknownName("stage", name, representations, hint)
    return UnknownName("stage", name, [*representations, *names()])


def make(name: str, params: Mapping[str, Any], kind: str = "stage") -> Any:
    """Calls the factory registered as `name` with these parameters.

    Raises UnknownName, and CompositionError for parameters that the factory does not take.
    """
    import inspect  # slow to import, as is importlib.metadata: only for who composes by name

    factory = lookup(name, kind)
    try:
        inspect.signature(factory).bind(**params)
    except TypeError as error:
        takes = ", ".join(inspect.signature(factory).parameters) or "none"
        raise CompositionError(f"{kind} {name!r}: {error}; its parameters: {takes}") from None
    return factory(**params)


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points

    return entry_points(group="retrieval.stages")
