"""`retrieve train parade`: a transformer over the block vectors of a dense encoder, which stays as it is.

--start names that encoder. Passages are cut into blocks and encoded once, kept below --out; then training is
fast, since nothing but the small transformer runs. The loss is groupwise: cross-entropy of the positive among
itself and its hard negatives (--set loss=hinge for pairs). Examples without negatives get BM25's
(preparation.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval import registry
from retrieval.encoder import DenseEncoder
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder
from retrieval.index.model_files import CONFIG, WEIGHTS, placed
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.tilde_model import device_of
from retrieval.index.tilde_train import shuffled
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.registry import register
from retrieval.rerank.cross_model import group_loss
from retrieval.rerank.parade import KIND
from retrieval.rerank.parade_model import Blocks, ParadeConfig, ParadeModel, score_blocks

DEFAULTS: dict[str, Any] = {
    "negatives": 15,  # of each query in a step, drawn anew each time from those that were found
    "loss": "softmax",  # or hinge
    "blocks": "sentences",  # the splitter; or structure, windows
    "tokens": 126,  # of a block, as the encoder counts them
    "hidden": 64,  # the transformer's width, its layers and heads
    "layers": 2,
    "heads": 4,
    "most": 16,  # blocks of a document that the transformer reads, those closest to the query
    "dropout": 0.3,  # while training
}
_BATCH = 8  # groups
_HELD_OUT = 100
_CHARACTERS = 1 << 20  # of passages that are cut together
_ROWS, _ENDS, _MADE = "blocks.f32", "blocks.ends", "blocks.json"


class ParadeTask:
    """See retrieval.index.trainer.Task. A batch is groups: a query with its positive and negatives."""

    name = KIND
    better: Literal["higher", "lower"] = "higher"
    recipe: Mapping[str, Any] = {"lr": 5e-4, "epochs": 3, "warmup": 0.1}

    def __init__(self, options: TaskOptions) -> None:
        self.settings = settings = read_settings(KIND, {**SETTINGS, **DEFAULTS}, options.settings)
        _check(settings)
        if options.start is None:
            raise UserError("name the encoder whose block vectors are read: --start DIR")
        encoder = open_encoder(options.start)
        sizes = {name: settings[name] for name in ("hidden", "layers", "heads", "most")}
        config = ParadeConfig.from_dict({"dim": encoder.dim, **sizes})
        torch.manual_seed(options.seed)
        self._parade = ParadeModel(config, settings["dropout"])
        self.model: torch.nn.Module = self._parade
        self.options = options
        self.prepared = prepared = prepare(options, settings, negatives=True)
        self._identity = dict(encoder.identity)
        self.blocks = block_vectors(options, encoder, prepared.directory, prepared.texts(), settings)
        asked = [prepared.queries[at] for at in range(len(prepared.queries))]
        self._queries = encoder.encode(asked, "query").rows
        held_out = _HELD_OUT if options.held_out is None else options.held_out
        training, self._held_out = prepared.split(held_out, options.seed)
        self._training = training[(prepared.negatives[training] >= 0).any(1)]
        if not len(self._training):
            raise UserError("no example has a negative; give negatives, or more passages to find them among")
        self._batch = options.batch or _BATCH
        self.facts: Mapping[str, Any] = {
            "start": self._identity, "data": list(options.data), "corpus": list(options.corpus),
            "batch": self._batch, "held_out": held_out, "settings": settings,
        }  # fmt: skip

    def batches(self, epoch: int, seed: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """(numbers of examples, a seed for the choice of their negatives)."""
        for at, examples in enumerate(shuffled(self._training, self._batch, epoch, seed)):
            yield examples, (epoch << 32) + at

    def loss(self, batch: tuple[NDArray[np.int64], int]) -> tuple[Tensor, Figures]:
        """Groupwise loss, and how often the positive scores highest."""
        examples, seed = batch
        rng = np.random.default_rng([self.options.seed, 3, seed])
        groups = [
            self.prepared.group(example, self.settings["negatives"], rng) for example in examples.tolist()
        ]
        sizes = [len(group) for group in groups]
        device = device_of(self.model)
        queries = np.repeat(self._queries[examples], sizes, axis=0)
        rows, real = self.blocks.closest(queries, np.concatenate(groups), self.settings["most"])
        scores = self.model(torch.from_numpy(queries).to(device), rows.to(device), real.to(device))
        loss = group_loss(scores, torch.tensor(sizes, device=device), self.settings["loss"])
        best = [part.argmax() == 0 for part in scores.detach().split(sizes)]
        return loss, {"accuracy": float(torch.stack(best).float().mean())}

    def evaluate(self) -> Figures:
        """mrr of the positive among all its negatives, and how often it is first."""
        ranks = []
        for example in self._held_out.tolist():
            group = self.prepared.group(example, self.settings["negatives"], None)
            if len(group) < 2:
                continue
            query = np.full(len(group), example)
            scores = score_blocks(self._parade, self._queries, query, self.blocks, group)
            # Equal scores share their ranks, so that a model that gives the same to all is not lucky.
            ranks.append(1 + int((scores > scores[0]).sum()) + (int((scores == scores[0]).sum()) - 1) / 2)
        if not ranks:
            return {}
        found = np.array(ranks)
        return {"mrr": float((1 / found).mean()), "accuracy": float((found == 1).mean())}

    def save(self, directory: str) -> None:
        """A directory that `parade(...)` loads."""
        from safetensors.torch import save_file

        tensors = {name: part.detach().cpu().contiguous() for name, part in self.model.state_dict().items()}
        if not all(bool(torch.isfinite(part).all()) for part in tensors.values()):
            raise UserError("the model holds NaN or infinite values and is not saved; lower the rate")
        sizes = self._parade.config._asdict()
        cut = {name: self.settings[name] for name in ("blocks", "tokens")}
        config = {"retrieval": {"kind": KIND, "encoder": self._identity, **sizes, "trained_on": cut}}
        with placed(os.path.abspath(directory)) as folder:
            weights = os.path.join(folder, WEIGHTS)
            save_file(tensors, weights, metadata={"format": "pt"})
            with open(os.path.join(folder, CONFIG), "x", encoding="utf-8") as file:
                json.dump(config, file, indent=2, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(weights, os.stat(file.name).st_mode)  # save_file makes it 0600
            with open(weights, "rb") as written:
                os.fsync(written.fileno())


def block_vectors(
    options: TaskOptions,
    encoder: DenseEncoder,
    folder: str,
    texts: Iterator[str],
    settings: Mapping[str, Any],
) -> Blocks:
    """The block vectors of texts, made once and kept in a folder. A text without tokens has no blocks.

    Raises UserError for an encoder that cannot say where its tokens lie.
    """
    made = {"encoder": dict(encoder.identity), "blocks": settings["blocks"], "tokens": settings["tokens"]}
    rows, ends, facts = (os.path.join(folder, name) for name in (_ROWS, _ENDS, _MADE))
    if not _is_made(facts, made):
        offsets = getattr(encoder, "offsets", None)
        if offsets is None:
            raise UserError(f"{options.start!r} cannot say where its tokens lie; blocks need that")
        split: Any = registry.lookup(settings["blocks"], kind="block splitter")
        sizes: list[int] = []
        with open(rows, "wb") as file, options.counting("encoding", None, "passages") as count:
            for lot in _lots(texts):
                found = split(lot, offsets, settings["tokens"])
                sizes += map(len, found)
                parts = [text[one.start : one.end] for text, blocks in zip(lot, found) for one in blocks]
                if parts:
                    file.write(encoder.encode(parts, "passage").rows.astype(np.float32).tobytes())
                count(len(lot))
                options.stop()
        np.cumsum([0, *sizes]).astype(np.int64).tofile(ends)
        with open(facts, "w", encoding="utf-8") as file_of_facts:
            json.dump(made, file_of_facts)
    offsets_of = np.fromfile(ends, np.int64)
    shape = (int(offsets_of[-1]), encoder.dim)
    vectors = np.memmap(rows, np.float32, "r", shape=shape) if shape[0] else np.empty(shape, np.float32)
    return Blocks(vectors, offsets_of)


def _is_made(path: str, made: Mapping[str, Any]) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return bool(json.load(file) == json.loads(json.dumps(made)))
    except (OSError, ValueError):
        return False


def _lots(texts: Iterator[str]) -> Iterator[list[str]]:
    lot: list[str] = []
    for text in texts:
        lot.append(text)
        if sum(map(len, lot)) >= _CHARACTERS:
            yield lot
            lot = []
    if lot:
        yield lot


def _check(settings: Mapping[str, Any]) -> None:
    if settings["loss"] not in ("softmax", "hinge"):
        raise UserError(f"--set loss={settings['loss']}: choose one of softmax, hinge")
    for name in ("negatives", "tokens", "hidden", "layers", "heads", "most"):
        if settings[name] < 1:
            raise UserError(f"--set {name}={settings[name]}: give a number of 1 or more")
    if not 0 <= settings["dropout"] < 1:
        raise UserError(f"--set dropout={settings['dropout']}: give 0 to below 1")


@register(KIND, kind="training task")
def create(options: TaskOptions) -> ParadeTask:
    """A training of PARADE on block vectors. Raises UserError, BadLine, what opening the encoder raises."""
    return ParadeTask(options)
