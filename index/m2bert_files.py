"""M2-BERT on disk: the names and shapes of its state dict, published checkpoints converted, tables grown.

A checkpoint is an encoder, or something that holds one: prefixes `module.`, `model.`, `bert.` of training
wrappers, composer's {"state": {"model": ...}}, buffers of FlashFFTConv, classifiers, masked-LM heads. What is
no encoder is dropped; every tensor of the encoder must be there, in its shape, and nothing else.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retrieval.errors import UserError
from retrieval.index.m2bert import M2Bert, M2Config
from retrieval.index.m2bert_filters import times
from retrieval.index.model_files import CONFIG, WEIGHTS, ModelFiles, save_model
from retrieval.index.vocabulary import Vocabulary

NAMES = (WEIGHTS, "pytorch_model.bin", "model.bin")  # of weights in a published directory; else one .pt
_PREFIXES = ("module.", "model.", "bert.")
_DROPPED = re.compile(r"(?:^|\.)(?:flashfft\w*|classifier|dropout|cls)(?:\.|$)")
_FREQ = re.compile(r"(.*\.filter_fn2?)\.implicit_filter(?:_rev)?\.\d\.freq")
# What follows from the configuration alone: it may be absent, and is written anew where lengths change.
_COMPUTED = ("embeddings.position_ids",)
_COMPUTED_ENDS = (".pos_emb.t", ".modulation.deltas")


def clean(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The encoder's tensors of a checkpoint by their plain names, floating-point ones float32.

    Times and decays that were rounded to half precision are left out: they are computed better than that.

    Raises UserError where two tensors would get one name, or the six `freq` of a filter differ.
    """
    inner = state.get("state")
    if isinstance(inner, Mapping) and isinstance(inner.get("model"), Mapping):
        state = inner["model"]
    elif isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or _DROPPED.search(name):
            continue
        short = name
        while short.startswith(_PREFIXES):
            short = short.partition(".")[2]
        if short in found:
            raise UserError(f"the checkpoint holds {short!r} twice, the second time as {name!r}")
        if short.endswith(_COMPUTED_ENDS) and tensor.dtype != torch.float32:
            continue
        found[short] = tensor.float() if tensor.is_floating_point() else tensor
    _check_freq(found)
    return found


def _check_freq(tensors: Mapping[str, Tensor]) -> None:
    """One tensor is listed six times; copies that differ would be of a model that this one is not."""
    first: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _FREQ.fullmatch(name)
        if match and not torch.equal(first.setdefault(match[1], tensor), tensor):
            raise UserError(
                f"the checkpoint's {name!r} differs from the other freq of its filter; published models have "
                "one freq a filter"
            )


def load(model: M2Bert, tensors: Mapping[str, Tensor], source: str) -> None:
    """Fills a model. Raises UserError that names what is missing, unexpected or misshapen."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors and not _is_computed(name)]
    unexpected = [name for name in tensors if name not in wanted]
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} and should be {tuple(shaped.shape)}"
        for name, shaped in wanted.items()
        if name in tensors and tensors[name].shape != shaped.shape
    ]
    for what, names in (
        ("lacks", missing),
        ("has what no M2-BERT has:", unexpected),
        ("does not fit:", wrong),
    ):
        if names:
            raise UserError(
                f"{source!r} {what} {', '.join(names[:3])}"
                + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                + f"; nothing is loaded in part. Are weights and {CONFIG} of one model?"
            )
    with torch.no_grad():
        for name, target in wanted.items():
            if name in tensors:
                target.copy_(tensors[name])
    model.kernels.clear()


def _is_computed(name: str) -> bool:
    return name in _COMPUTED or name.endswith(_COMPUTED_ENDS)


def grown(tensors: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """Tensors for a greater length: positions and z tiled, as the 32k model was begun from the 8k one.

    What the filters see as time, t, runs from 0 to 1 over the new length. The model has to be trained on at
    the new length: tiling is a start, not a model. Raises UserError for a smaller length.
    """
    made = dict(tensors)
    for name, tensor in tensors.items():
        if name == "embeddings.position_embeddings.weight":
            if length < len(tensor):
                raise UserError(
                    f"the model reads {len(tensor)} tokens; it can grow, but not shrink to {length}: open "
                    "it with (length=...) where its mode allows it"
                )
            made[name] = tensor.repeat(-(-length // len(tensor)), 1)[:length]
        elif name.endswith(".pos_emb.z"):
            made[name] = tensor.repeat(1, -(-length // tensor.shape[1]), 1)[:, :length]
        elif name.endswith(".pos_emb.t"):
            made[name] = times(length)
        elif name == "embeddings.position_ids":
            made[name] = torch.arange(length)[None]
    return made


def open_model(files: ModelFiles) -> M2Bert:
    """The network of a model directory, in eval mode. Raises UserError."""
    model = M2Bert(M2Config.from_dict(files.config))
    load(model, clean(files.tensors()), files.path)
    return model.eval()


def convert(
    source: str, out: str, *, length: int | None = None, tokenizer: str | None = None
) -> dict[str, Any]:
    """A published checkpoint (directory or .bin/.pt/.safetensors file) as a model directory `out`.

    length     grow the tables to so many tokens (2k to 8k to 32k): the result is a start for training
    tokenizer  directory with vocab.txt or tokenizer.json, where the checkpoint's own has none

    Pickled weights are read with weights_only=True, which runs no code. The result opens as pad=faithful: the
    published models need their padding. Returns {"out", "parameters", "length"}. Raises UserError.
    """
    file = _weights_file(source)
    tensors = clean(_read(file))
    config = _config(file, tensors)
    if length is not None and length != config.max_position_embeddings:
        tensors = grown(tensors, length)
        config = replace(config, max_position_embeddings=length)
    model = M2Bert(config)
    load(model, tensors, file)
    vocabulary = _vocabulary(file, tokenizer)
    if vocabulary.size > config.vocab_size:
        raise UserError(
            f"the tokenizer has {vocabulary.size} pieces and {file!r} {config.vocab_size}; give the model's "
            "own: tokenizer=DIR"
        )
    settings = {
        "kind": "m2bert", "pad": "faithful", "pooling": "mean" if config.pool_all else "cls",
        "normalise": True, "converted_from": os.path.basename(file),
    }  # fmt: skip
    saved = {**config.to_dict(), "model_type": "m2bert", "retrieval": settings}
    save_model(out, saved, model.state_dict(), vocabulary.data, vocabulary.name)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"out": out, "parameters": count, "length": config.max_position_embeddings}


def _weights_file(source: str) -> str:
    if os.path.isfile(source):
        return source
    if not os.path.isdir(source):
        raise UserError(f"no checkpoint {source!r}; give a directory, or a .bin, .pt or .safetensors file")
    names = os.listdir(source)
    found = [name for name in NAMES if name in names] or sorted(n for n in names if n.endswith(".pt"))
    if not found:
        raise UserError(f"{source!r} holds none of {', '.join(NAMES)} and no .pt file")
    if len(found) > 1 and found[0].endswith(".pt"):
        raise UserError(f"{source!r} holds {len(found)} .pt files; name the one to convert")
    return os.path.join(source, found[0])


def _read(file: str) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.endswith(".safetensors"):
            tensors: dict[str, Any] = load_file(file)
            return tensors
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file!r} holds more than tensors, and nothing that can run code is read "
            f"({str(error).splitlines()[0]}); save its state dict alone where you trust it"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"cannot read {file!r} ({str(error).splitlines()[0]}); copy it again") from None
    if not isinstance(state, Mapping):
        raise UserError(f"{file!r} holds a {type(state).__name__}, no state dict")
    return state


def _config(file: str, tensors: Mapping[str, Tensor]) -> M2Config:
    """The configuration: what the tensors say about shapes, and config.json beside them about the rest."""
    path = os.path.join(os.path.dirname(file), CONFIG)
    given: dict[str, Any] = {}
    if os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as opened:
                given = json.load(opened)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"cannot read {path!r}: {error}") from None
        if not isinstance(given, dict):
            raise UserError(f"{path!r} holds no JSON object")
    word = tensors.get("embeddings.word_embeddings.weight")
    position = tensors.get("embeddings.position_embeddings.weight")
    gated = tensors.get("encoder.layer.0.mlp.gated_layers.weight")
    z = tensors.get("encoder.layer.0.attention.filter_fn.pos_emb.z")
    first = tensors.get("encoder.layer.0.attention.filter_fn.implicit_filter.0.weight")
    if word is None or position is None or gated is None or z is None or first is None or gated.ndim != 3:
        raise UserError(
            f"{file!r} is no M2-BERT encoder: embeddings, block-diagonal layers and filters have the names "
            f"embeddings.*, encoder.layer.N.mlp.gated_layers, encoder.layer.N.attention.filter_fn; it begins "
            f"with {', '.join(list(tensors)[:2]) or 'no tensor at all'}"
        )
    layers = {name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}
    shapes = {
        "vocab_size": word.shape[0], "hidden_size": word.shape[1], "num_hidden_layers": len(layers),
        "max_position_embeddings": position.shape[0], "long_conv_l_max": z.shape[1],
        "hyena_filter_order": first.shape[0], "hyena_emb_dim": first.shape[1],
        "monarch_mlp_nblocks": gated.shape[0], "intermediate_size": gated.shape[0] * gated.shape[1] // 2,
    }  # fmt: skip
    return M2Config.from_dict({**given, **shapes, "hidden_dropout_prob": 0.0})


def _vocabulary(file: str, tokenizer: str | None) -> Vocabulary:
    try:
        return Vocabulary.load(tokenizer or os.path.dirname(file) or ".")
    except UserError as error:
        raise UserError(
            f"{error} (the published checkpoints use bert-base-uncased's: tokenizer=DIR with its vocab.txt)"
        ) from None
