"""The dense method of the index: one vector a document, made by the encoder that a --dense names.

`--dense minilm=./minilm(precision=bfloat16, ann=hnsw)`: `ann` and `ann_threads` are the index's, everything
else is the encoder's. The commit keeps the encoder's identity (files by sha256, pooling, prompts, length ...)
and how to open it again; queries, and documents that come later, need the very same one.

ann  auto (by the collection's size), exact, ivf, hnsw, pq or sq8: what is built above the vectors (ann.py)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrieval.encoder import DenseEncoder
from retrieval.errors import CorruptIndex, UserError
from retrieval.index.dense_spec import DenseSpec, open_encoder
from retrieval.index.method import Method
from retrieval.manifest import DENSE

if TYPE_CHECKING:
    from retrieval.artefact import Transaction
    from retrieval.index.dense_builder import DenseBuilder
    from retrieval.index.dense_stage import DenseStage
    from retrieval.index.encoded import Cache
    from retrieval.index.view import View
    from retrieval.stage import Param

KINDS = ("auto", "exact", "ivf", "hnsw", "pq", "sq8")
_SETTINGS = {
    "source": str, "method": str, "params": dict, "identity": dict, "runtime": dict, "structure": dict,
}  # fmt: skip


class DenseMethod(Method):
    """The method; an encoder is opened when the first text needs it."""

    kind = DENSE
    has_lists = False
    encodes = True

    def __init__(self, settings: Mapping[str, Any], encoder: DenseEncoder | None = None) -> None:
        self.settings = settings
        self._opened: dict[tuple[tuple[str, Param], ...], DenseEncoder] = {}
        if encoder is not None:
            self._opened[()] = encoder

    @classmethod
    def create(cls, spec: DenseSpec) -> DenseMethod:
        """A new one, its encoder opened. Raises UserError, UnknownName, MissingExtra."""
        params = dict(spec.params)
        structure = params.pop("ann", "auto")
        threads = params.pop("ann_threads", 1)
        if structure not in KINDS:
            raise UserError(f"{spec.name} cannot take ann={structure!r}; it is one of {', '.join(KINDS)}")
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise UserError(f"{spec.name} cannot take ann_threads={threads!r}; it is a whole number above 0")
        if structure not in ("auto", "exact"):
            from retrieval.index.ann_kinds import import_faiss

            import_faiss()
        encoder = open_encoder(spec.model, spec.method, params)
        settings = {
            "kind": cls.kind,
            "source": os.path.abspath(spec.model) if os.path.exists(spec.model) else spec.model,
            "method": encoder.identity["encoder"],
            "params": params,
            "identity": dict(encoder.identity),
            "runtime": dict(encoder.runtime),
            "structure": {"kind": structure, "threads": threads},
        }
        return cls(settings, encoder)

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> DenseMethod:
        """From a commit. Raises CorruptIndex for settings that create() cannot have written."""
        for name, wanted in _SETTINGS.items():
            if not isinstance(settings.get(name), wanted):
                raise CorruptIndex(
                    f"COMMIT describes a dense representation whose {name} is {settings.get(name)!r}; index "
                    "the documents again"
                )
        dim, threads = settings["identity"].get("dim"), settings["structure"].get("threads", 1)
        if type(dim) is not int or dim < 1 or type(threads) is not int or threads < 1:
            raise CorruptIndex(
                f"COMMIT describes a dense representation of {dim!r} numbers, built by {threads!r} threads; "
                "index the documents again"
            )
        return cls(settings)

    @property
    def encoder(self) -> dict[str, Any]:
        """What the vectors of a text depend on, to the last digit."""
        runtime = {key: value for key, value in self.settings["runtime"].items() if key != "gate"}
        return {"identity": self.settings["identity"], "runtime": runtime}

    def query_encoder(self, changed: Mapping[str, Param] | None = None) -> DenseEncoder:
        """The encoder of the index, opened once.

        changed: model (the directory, where it has moved), backend, precision, device. Raises UserError
        where it is not the one that the documents were encoded with, or is not there any more.
        """
        changes = dict(changed or {})
        key = tuple(sorted(changes.items()))
        if key not in self._opened:
            model = str(changes.pop("model", self.settings["source"]))
            if "model" in dict(changed or {}) and not os.path.exists(model):
                raise UserError(
                    f"no model directory {model!r}; give the one that the documents were encoded with"
                )
            if os.path.isabs(model) and not os.path.exists(model):
                raise UserError(
                    f"the index was made with the model in {model!r}, which is not there; put it there "
                    "again, or say where it is: NAME(model=DIR)"
                )
            params = {**self.settings["params"], **changes}
            opened = open_encoder(model, self.settings["method"], params)
            check_same(self.settings["identity"], opened.identity, model)
            self._opened[key] = opened
        return self._opened[key]

    def builder(self, scratch: str, budget: int, cache: Cache | None = None) -> DenseBuilder:
        """Encodes documents. Raises UserError where the model is not the one that the index was made with."""
        from retrieval.index.dense_builder import DenseBuilder
        from retrieval.index.encoded import encoder_of

        self.query_encoder()
        dim = int(self.settings["identity"]["dim"])
        return DenseBuilder(
            encoder_of(self), dim, self.query_encoder, self.settings["structure"], scratch, cache
        )

    def stage(self, view: View, name: str, params: Mapping[str, Param], **options: Any) -> DenseStage:
        """See Method. Raises UserError for statistics or an algorithm, which vectors do not have."""
        from retrieval.index.dense_stage import DenseStage

        if options.pop("statistics", None) is not None or options.pop("algorithm", "auto") != "auto":
            raise UserError(f"{name} is dense: it takes neither collection statistics nor an algorithm")
        return DenseStage(view, name, self, params, **options)

    def merge(self, transaction: Transaction, view: View, name: str, memory: int, reorder: bool) -> str:
        """See Method; documents keep their order whatever `reorder` does to lists."""
        from retrieval.index.dense_builder import merge_vectors

        return merge_vectors(transaction, view, name, self.settings["structure"])

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """A vector has no terms: nothing."""
        return []


def check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], path: str) -> None:
    """Raises UserError where the identity of an encoder is not the one that an index holds."""
    for what in sorted(wanted.keys() | found.keys()):
        before, now = wanted.get(what), found.get(what)
        if isinstance(before, dict) and isinstance(now, dict):
            # what a directory is called decides nothing
            before, now = ({k: v for k, v in each.items() if k != "name"} for each in (before, now))
        if before != now:
            raise UserError(
                f"the index was made with another encoder: its {what} is {before!r}, and that of {path!r} "
                f"is {now!r}; use the model that the documents were encoded with, or index anew"
            )
