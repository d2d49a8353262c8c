"""A system to measure: a TOML file with a name and a pipeline, or with a run that was made elsewhere.

    name = "BM25 >> TILDEv2"
    pipeline = "bm25 % 1000 >> tildev2 % 100"
    sparse = ["bm25", "tildev2"]        # as `retrieve index --sparse` takes them
    dense = []                          # as --dense does
    trained_on = "open text; no collection of this suite"
    budget = "50ms"                     # a query, as `retrieve search --budget` takes it
    [stages.tildev2]                    # parameters of the stages, as in a pipeline file
    idf = 1

    name = "docT5query"
    run = "runs/docT5query.trec.gz"     # the same as: pipeline = "run(runs/docT5query.trec.gz)"

Paths are as seen from where the command runs, as in every pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from retrieval import pipeline as pipelines
from retrieval import registry
from retrieval.diskio import disk_errors
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.index.creation import checked_pipeline
from retrieval.index.dense_spec import parse_dense
from retrieval.index.method import parse_spec
from retrieval.rerank.cascade import Budgeted, read_budget
from retrieval.stage import Param, Stage, lacks_documents

if TYPE_CHECKING:
    from retrieval.index.index import Index

KEYS = ("name", "pipeline", "run", "sparse", "dense", "trained_on", "budget", "stages")
RUN = "run"  # the stage that reads a run file


@dataclass(frozen=True)
class System:
    """What a system file says.

    pipeline       as `repr` prints it, parameters of the file's tables included
    sparse, dense  the representations that it needs; where both are empty, it needs no index
    trained_on     as stated; "" where nothing is
    budget         `50ms` or `200pairs` a query; "" for none
    file           the whole text
    path           where it was read
    """

    name: str
    pipeline: str
    sparse: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    trained_on: str = ""
    budget: str = ""
    file: str = ""
    path: str = ""

    @property
    def representations(self) -> list[str]:
        """The names of the representations that it needs."""
        return [*(parse_spec(spec).name for spec in self.sparse),
                *(parse_dense(spec).name for spec in self.dense)]  # fmt: skip

    @property
    def needs_index(self) -> bool:
        """Whether it reads an index; a run file, or a sum of some, does not."""
        return bool(self.sparse or self.dense)

    @property
    def only_runs(self) -> bool:
        """Whether it is made of run files, whose making nobody timed."""
        leaves: list[str] = []

        def leaf(name: str, params: dict[str, Param]) -> Stage:
            leaves.append(name)
            return _Leaf(name, params)

        pipelines.parse(self.pipeline, leaf)
        return set(leaves) == {RUN}

    def stage(self, index: Index | None = None, *, threads: int = 1) -> Stage:
        """The pipeline, bound to an index; without one, a system that needs none. Within its budget."""
        if index is None:
            made = pipelines.parse(self.pipeline)
        else:
            made = index.pipeline(self.pipeline, threads=threads)
        return Budgeted(made, self.budget) if self.budget else made


class _Leaf(Stage):
    """Stands for a stage of which only the text counts."""

    def __init__(self, name: str, params: dict[str, Param]) -> None:
        self.name, self.params = name, params


def read_system(path: str | os.PathLike[str]) -> System:
    """The system of a file. Raises UserError, CompositionError, UnknownName, MissingExtra."""
    name = os.fspath(path)
    if not os.path.exists(name):
        raise UserError(f"there is no system file {name!r}; docs/bench.md says what stands in one")
    with disk_errors("read", name), open(name, "rb") as file:
        data = file.read()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{name} is no text in UTF-8; write it anew") from None
    return parse_system(text, name)


def read_systems(paths: Sequence[str | os.PathLike[str]]) -> list[System]:
    """The systems of several files. Raises as read_system, and UserError where two have one name."""
    found: dict[str, System] = {}
    for path in paths:
        system = read_system(path)
        if system.name in found:
            raise UserError(
                f"{found[system.name].path} and {system.path} are both called {system.name!r}; "
                "give each system its own name"
            )
        found[system.name] = system
    return list(found.values())


def parse_system(text: str, path: str = "the system file") -> System:
    """The system of a file's text; path: what errors call it. Raises as read_system.

    Without `sparse`, the sparse methods that the pipeline names by their own names are meant.
    """
    import tomllib

    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    for key in content:
        if key not in KEYS:
            raise UnknownName(f"key in {path}", key, KEYS)
    name = _text(path, content, "name")
    if not name:
        raise UserError(f'{path} gives its system no name; begin it with a line like name = "BM25"')
    if ("pipeline" in content) == ("run" in content):
        raise UserError(f"{path} has to have either a pipeline or a run; see docs/bench.md")
    if "run" in content:
        for key in ("sparse", "dense", "stages", "budget"):
            if key in content:
                raise UserError(f"{path} is a run, for which {key} means nothing; leave it out")
        pipeline = repr(_Leaf(RUN, {"model": _text(path, content, "run")}))
    else:
        pipeline = _filled(path, content)
    sparse, dense = _specs(path, content, "sparse"), _specs(path, content, "dense")
    if "sparse" not in content:
        sparse = _named_methods(pipeline, [parse_dense(spec).name for spec in dense])
    system = System(
        name, pipeline, sparse, dense, _text(path, content, "trained_on"), _text(path, content, "budget"),
        text, path,
    )  # fmt: skip
    if system.budget:
        try:
            read_budget(system.budget)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    try:
        pipeline = checked_pipeline(pipeline, system.representations)
    except CompositionError as error:
        raise CompositionError(f"{path}: {error}") from None
    except UnknownName as error:
        if error.kind == "representation":
            hint = "Name it in sparse or dense."
            raise UnknownName(f"representation in {path}", error.name, system.representations, hint) from None
        known = {*error.known, *system.representations, *registry.names("sparse method")}
        raise UnknownName(f"{error.kind} in {path}", error.name, known) from None
    if not system.needs_index and lacks_documents(system.stage()):  # it reads texts, which any index has
        sparse = ("bm25",)
    return replace(system, pipeline=pipeline, sparse=sparse)


def _filled(path: str, content: dict[str, Any]) -> str:
    """The pipeline's text with the parameters of the tables; its own brackets win."""
    tables = content.get("stages", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UserError(f"{path}: parameters stand in tables like [stages.cross]")
    used: list[str] = []
    for stage, table in tables.items():
        for key, value in table.items():
            if not isinstance(value, bool | int | float | str):
                raise UserError(
                    f"{path}: [stages.{stage}] {key} is {value!r}, no number, text, true or false"
                )

    def leaf(name: str, params: dict[str, Param]) -> Stage:
        used.append(name)
        return _Leaf(name, tables.get(name, {}) | params)

    try:
        text = repr(pipelines.parse(_text(path, content, "pipeline"), leaf))
    except CompositionError as error:
        raise CompositionError(f"{path}: {error}") from None
    for name in tables:
        if name not in used:
            raise UnknownName(f"stage in {path}", f"stages.{name}", [f"stages.{one}" for one in used])
    return text


def _named_methods(pipeline: str, others: Sequence[str]) -> tuple[str, ...]:
    """The sparse methods among the leaves of a pipeline, in their order; others: what is known already."""
    found: dict[str, None] = {}
    methods = set(registry.names("sparse method")) - set(registry.names()) - set(others)

    def leaf(name: str, params: dict[str, Param]) -> Stage:
        if name in methods:
            found[name] = None
        return _Leaf(name, params)

    pipelines.parse(pipeline, leaf)
    return tuple(found)


def _text(path: str, content: dict[str, Any], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"{path}: {key} is {value!r}, not a text")
    return value.strip()


def _specs(path: str, content: dict[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise UserError(f'{path}: {key} is {value!r}; it is a list of texts, such as ["bm25"]')
    return tuple(value)
