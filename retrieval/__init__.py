"""A retrieval and re-ranking engine: indexes, stages, pipelines. Public names load when first used."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.errors import BadLine as BadLine
    from retrieval.errors import CompositionError as CompositionError
    from retrieval.errors import CorruptIndex as CorruptIndex
    from retrieval.errors import Locked as Locked
    from retrieval.errors import MissingExtra as MissingExtra
    from retrieval.errors import RetrievalError as RetrievalError
    from retrieval.errors import StorageError as StorageError
    from retrieval.errors import UnknownName as UnknownName
    from retrieval.errors import UnsupportedFormat as UnsupportedFormat
    from retrieval.errors import UserError as UserError
    from retrieval.index.index import Index as Index  # type: ignore[import-not-found, unused-ignore]
    from retrieval.stage import Stage as Stage
    from retrieval.types import Document as Document
    from retrieval.types import Hit as Hit
    from retrieval.types import Qrels as Qrels
    from retrieval.types import Query as Query
    from retrieval.types import Run as Run

__version__ = "0.1.0"

# A checkout keeps index/, data/ and the others beside this folder; a wheel has them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and str(_root) not in __path__:
    __path__.append(str(_root))

_HOME = {
    "BadLine": "errors",
    "CompositionError": "errors",
    "CorruptIndex": "errors",
    "Document": "types",
    "Hit": "types",
    "Index": "index.index",
    "Locked": "errors",
    "MissingExtra": "errors",
    "Qrels": "types",
    "Query": "types",
    "RetrievalError": "errors",
    "Run": "types",
    "Stage": "stage",
    "StorageError": "errors",
    "UnknownName": "errors",
    "UnsupportedFormat": "errors",
    "UserError": "errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    value = getattr(import_module(f"retrieval.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
