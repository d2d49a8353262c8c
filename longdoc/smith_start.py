"""A new SMITH out of a BERT, a SMITH out of its files, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor, nn

from retrieval.errors import UnknownName, UserError
from retrieval.index import families
from retrieval.index.bert import BertConfig
from retrieval.index.layout import read_layout
from retrieval.index.model_files import Dtype, ModelFiles, fill, save_model
from retrieval.index.vocabulary import Vocabulary
from retrieval.longdoc.smith_model import Smith, SmithConfig

KIND = "smith"
COMPAT: Mapping[str, Any] = {"block": 32, "pooling": "cls", "document": "first", "positions": 128}
"""What the released configuration has, where nothing else is asked for."""


def begin(path: str, **shape: Any) -> tuple[Smith, ModelFiles]:
    """A new network on the BERT of a directory, which becomes its sentence level, and that BERT's files.

    shape: fields of SmithConfig; with compat=True the others are as released unless given. The document
    level begins at random: seed torch before. Raises UserError, UnknownName; UserError for a model with
    positions or pieces that are not BERT's.
    """
    known = [each.name for each in fields(SmithConfig)]
    for name in shape:
        if name not in known:
            raise UnknownName("setting of SMITH's shape", name, known)
    files = ModelFiles.open(read_layout(path).folder)
    kind = files.config.get("model_type", "bert")
    if files.settings.get("kind") == KIND:
        raise UserError(f"{path!r} is a SMITH already; open it as it is, or name a BERT to begin a new one")
    if not families.is_packed(files.config):
        raise UserError(f"{path!r} is of type {kind!r}; SMITH's sentence level is a BERT or DistilBERT")
    sentence = families.read_config(files.config)
    if sentence.position_offset or sentence.relative_buckets:
        raise UserError(f"{path!r} has other positions than BERT; SMITH begins with a BERT or DistilBERT")
    given = {**(COMPAT if shape.get("compat") is True else {}), **shape}
    if "block" not in given:
        given["block"] = min(SmithConfig.block, sentence.longest)
    config = SmithConfig.from_dict(given, sentence)
    model = Smith(sentence, config)
    tensors = files.tensors()
    model.sentence.load_state_dict(families.load(kind, tensors, sentence, path).state_dict())
    if config.compat:
        pooler = {
            name.rpartition("pooler.dense.")[2]: tensor
            for name, tensor in tensors.items()
            if name.removeprefix("bert.").startswith("pooler.dense.")
        }
        if pooler:
            fill(model.block_head.pooler, pooler, path)
    return model.eval().requires_grad_(False), files


def open_model(files: ModelFiles) -> Smith:
    """The network of a SMITH's directory, in eval mode without gradients. Raises UserError."""
    if files.settings.get("kind") != KIND:
        raise UserError(
            f"{files.path!r} is no SMITH; make one of it: retrieve train smith --start {files.path!r}"
        )
    sentence = BertConfig.from_dict({**files.config, "model_type": "bert"})
    model = Smith(sentence, SmithConfig.from_dict(files.settings, sentence))
    files.load_into(model)
    return model.eval().requires_grad_(False)


def save(
    directory: str,
    model: Smith,
    words: Vocabulary,
    more: Mapping[str, Any],
    heads: nn.Module | None = None,
    *,
    dtype: Dtype = "float32",
    card: str | None = None,
) -> None:
    """Writes a directory that open_model() reads. more: joins "retrieval" of its config.

    heads: what only training needs, kept under `heads.`. Raises as save_model.
    """
    settings = {**asdict(model.config), **more, "kind": KIND}
    sentence = asdict(model.sentence.config)
    config = {**sentence, "model_type": KIND, "pad_token_id": words.pad, "retrieval": settings}
    tensors: dict[str, Tensor] = dict(model.state_dict())
    if heads is not None:
        tensors |= {f"heads.{name}": tensor for name, tensor in heads.state_dict().items()}
    save_model(directory, config, tensors, words.data, words.name, dtype=dtype, card=card)
