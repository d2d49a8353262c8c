"""What a new index, or a new representation, is to be: specs of the user turned into methods, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval import pipeline, registry
from retrieval.errors import UnknownName, UserError
from retrieval.index.dense_spec import DenseSpec, parse_dense
from retrieval.index.method import Method, Spec, create_method, parse_spec
from retrieval.stage import Param, Stage


def make_methods(
    sparse: Sequence[str] | None, dense: Sequence[str], *, analyzer: str, compact: bool
) -> dict[str, Method]:
    """Name -> method of a new index. Raises UserError, UnknownName, MissingExtra."""
    for given in (sparse, dense):
        if isinstance(given, str):
            raise UserError(f"representations come in a list; write [{given!r}]")
    if sparse is None:
        sparse = () if dense else ("bm25",)
    specs: list[Spec | DenseSpec] = [*map(parse_spec, sparse), *map(parse_dense, dense)]
    if not specs:
        raise UserError("an index needs a representation; give sparse=['bm25']")
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two representations are called {name!r}; give one another NAME=")
    options = {"analyzer": analyzer, "compact": compact}
    return {spec.name: make_method(spec, options) for spec in specs}


def make_method(spec: Spec | DenseSpec, options: Mapping[str, Any]) -> Method:
    """The method of a spec; options: those of the index. Raises UserError, UnknownName, MissingExtra."""
    if isinstance(spec, Spec):
        compact = bool(options.get("compact", False))
        method = create_method(spec, options.get("analyzer", "english"), {"compact": compact})
        return _of_blocks(spec.name, method, spec.params)
    from retrieval.index.dense import DenseMethod

    if "blocks" not in spec.params:
        made = DenseMethod.create(spec)
        of_blocks = getattr(made.query_encoder(), "of_blocks", False)  # it cuts documents itself
        return _of_blocks(spec.name, made, {"blocks": "model"} if of_blocks else {})
    from retrieval.longdoc.splitter import SETTINGS

    cut = {key: value for key, value in spec.params.items() if key in SETTINGS}
    rest = {key: value for key, value in spec.params.items() if key not in SETTINGS}
    return _of_blocks(spec.name, DenseMethod.create(spec._replace(params=rest)), cut)


def _of_blocks(name: str, method: Method, params: Mapping[str, Param]) -> Method:
    """The method on blocks of documents, where the parameters ask for them."""
    if not params:
        return method
    from retrieval.longdoc.block_method import BlockMethod

    return BlockMethod.create(name, method, params)


class _Named(Stage):
    """Stands for a representation that does not exist yet."""

    def __init__(self, name: str, params: Mapping[str, Param]) -> None:
        self.name, self.params = name, params


def checked_pipeline(text: str, representations: Sequence[str]) -> str:
    """The text of a pipeline, as repr prints it, of representations that are to be and registered stages.

    Raises CompositionError, UnknownName, and what a registered stage raises for its parameters.
    """

    def resolve(name: str, params: dict[str, Param]) -> Stage:
        if name in representations:
            return _Named(name, params)
        if name not in registry.names():
            raise registry.unknown_stage(name, representations)
        made: Stage = registry.make(name, params)
        searched: str | None = getattr(made, "representation", None)  # by a stage that expands queries
        if searched is not None and searched not in representations:
            raise UnknownName("representation", searched, representations)
        if (inner := getattr(made, "inner", None)) is not None:
            pipeline.parse(inner, resolve, given=True)
        return made

    return repr(pipeline.parse(text, resolve))
