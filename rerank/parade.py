"""Re-ranking of long documents by their block vectors: `bm25 % 100 >> parade(./model)`.

The vectors are those that an index already keeps of its blocks; the query is encoded once and every candidate
costs a small transformer over its closest blocks (parade_model.py), no pass of a language model. Blocks are
chosen among all of a document, wherever they stand.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import Vectors
from retrieval.errors import CompositionError, UserError
from retrieval.index.learned import need_torch
from retrieval.registry import register
from retrieval.stage import Param, Stage
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.rerank.parade_model import ParadeModel

KIND = "parade"
_DOCUMENTS = 256  # whose vectors are in memory at a time


class BlockSource(Protocol):
    """Block vectors of documents and the encoder that made them; an index has one for its dense blocks.

    identity  of the encoder (retrieval/encoder.py)
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def blocks_of(self, doc_ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(float32[blocks, dim], int64[documents + 1]): the vectors of documents, in the order of the ids."""
        ...

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """The vectors of queries."""
        ...


class ArraySource:
    """A BlockSource in memory: ids, their rows and offsets, the identity and the encode of an encoder."""

    def __init__(
        self,
        ids: Sequence[str],
        rows: NDArray[np.float32],
        offsets: NDArray[np.int64],
        identity: Mapping[str, Any],
        encode: Callable[[Sequence[str]], Vectors],
    ) -> None:
        self.identity = identity
        self._place = {doc_id: at for at, doc_id in enumerate(ids)}
        self._rows, self._offsets, self._encode = rows, offsets, encode

    def blocks_of(self, doc_ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See BlockSource. Raises UserError for an id that is not there."""
        missing = [doc_id for doc_id in doc_ids if doc_id not in self._place]
        if missing:
            raise UserError(
                f"there are no block vectors of document {missing[0]!r}; is it of another corpus?"
            )
        places = [self._place[doc_id] for doc_id in doc_ids]
        parts = [self._rows[self._offsets[at] : self._offsets[at + 1]] for at in places]
        rows = np.concatenate([self._rows[:0], *parts])
        return rows, np.cumsum([0, *map(len, parts)]).astype(np.int64)

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """See BlockSource."""
        return self._encode(texts)


@register("parade")
class Parade(Stage):
    """The stage. model: a directory that `retrieve train parade` made."""

    name = "parade"
    needs_run = True

    def __init__(self, model: str) -> None:
        need_torch("re-ranking by block vectors")
        self.params: dict[str, Param] = {"model": model}
        self.config = read_config(model)
        self.blocks: BlockSource | None = None
        self._model: ParadeModel | None = None

    def with_blocks(self, source: BlockSource) -> Parade:
        """This stage with the block vectors of an index.

        Raises CompositionError where another encoder made them than the one that the model was trained on.
        """
        wanted, found = (_essence(one) for one in (self.config["encoder"], source.identity))
        if wanted != found:
            differ = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            raise CompositionError(
                f"{self!r} was trained on vectors of another encoder than the index's ({', '.join(differ)} "
                "differ); index the blocks with the encoder it was trained on, or train one on yours"
            )
        twin = copy.copy(self)
        twin.blocks = source
        return twin

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if run is None or self.blocks is None:
            raise CompositionError(
                f"{self!r} reads the vectors of blocks; give it an index's: parade(...).with_blocks(source)"
            )
        from retrieval.rerank.parade_model import Blocks, score_blocks

        if self._model is None:
            from retrieval.index.tilde_model import best_device

            self._model = load(self.params["model"]).eval().to(best_device())  # type: ignore[arg-type]
        asked = self.blocks.encode_query([one.text for one in queries])
        scores = np.empty(len(run.docs), np.float32)
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        distinct, place = np.unique(run.docs, return_inverse=True)
        for at in range(0, len(distinct), _DOCUMENTS):
            names = [run.doc_ids[int(doc)] for doc in distinct[at : at + _DOCUMENTS]]
            blocks = Blocks(*self.blocks.blocks_of(names))
            pairs = np.flatnonzero((place >= at) & (place < at + len(names)))
            scores[pairs] = score_blocks(self._model, asked.rows, query[pairs], blocks, place[pairs] - at)
        if not np.isfinite(scores).all():
            raise UserError(f"{self!r} gives scores that are not finite; its files are damaged")
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids, dropped=int(asked.dropped.sum()))


def _essence(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without the name of the model's directory, as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(identity)))
    if isinstance(plain.get("model"), dict):
        plain["model"].pop("name", None)
    return plain


def read_config(path: str) -> dict[str, Any]:
    """The "retrieval" part of a model's config.json. Raises UserError for what is no model of this kind."""
    try:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            settings = json.load(file)["retrieval"]
        kind, encoder = settings["kind"], settings["encoder"]
    except FileNotFoundError:
        raise UserError(f"no model directory {path!r}; give one that `retrieve train parade` made") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path!r} holds no model of kind {KIND} ({error!r})") from None
    if kind != KIND or not isinstance(encoder, dict):
        raise UserError(f"{path!r} holds a model of kind {kind!r}; this stage takes {KIND}")
    found: dict[str, Any] = settings
    return found


def load(path: str, dropout: float = 0.0) -> ParadeModel:
    """The model of a directory. Raises UserError for files that are absent, damaged or do not fit."""
    from retrieval.index.model_files import WEIGHTS, check_weights, fill, read_tensors
    from retrieval.rerank.parade_model import ParadeConfig, ParadeModel

    config = ParadeConfig.from_dict(read_config(path))
    check_weights(path)
    model = ParadeModel(config, dropout)
    fill(model, read_tensors(os.path.join(path, WEIGHTS)), path)
    return model
