"""What a pre-training of M2-BERT begins with: an M2-BERT that goes on, or a new one with a BERT's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from retrieval.errors import UserError
from retrieval.index.dense_spec import detect
from retrieval.index.m2bert import M2Bert, M2Config, M2ForPretraining
from retrieval.index.m2bert_files import clean, grown, load
from retrieval.index.model_files import ModelFiles, fill

SHAPE: Mapping[str, Any] = {"layers": 0, "hidden": 0, "intermediate": 0, "order": 0, "blocks": 0}
"""Settings of a model's shape. 0: that of the start or, in a new model, NEW, the width of the start's words
and 4 times that width."""
NEW = {"layers": 4, "order": 64, "blocks": 4, "length": 2048}
_BEGIN_TAPS = 0.02


def inherited(files: ModelFiles, given: Mapping[str, str]) -> dict[str, Any]:
    """What an M2-BERT says of its use, where the user says nothing else."""
    if detect(files.path) != "m2bert":
        return {}
    own = {"pooling": "mean" if files.config.get("pool_all") else "cls", "pooler": True, "pad": "faithful"}
    own |= {name: files.settings[name] for name in own if name in files.settings}
    return {name: value for name, value in own.items() if name not in given}


def begin(files: ModelFiles, settings: Mapping[str, Any]) -> tuple[M2ForPretraining, str]:
    """The model that a training begins with, and a line that says what it is. Raises UserError."""
    if detect(files.path) == "m2bert":
        return _go_on(files, settings)
    return _new(files, settings)


def _go_on(files: ModelFiles, settings: Mapping[str, Any]) -> tuple[M2ForPretraining, str]:
    config = M2Config.from_dict(files.config)
    shape = (
        config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.hyena_filter_order,
        config.monarch_mlp_nblocks,
    )  # fmt: skip
    for name, present in zip(SHAPE, shape, strict=True):
        if settings[name] not in (0, present):
            raise UserError(
                f"--set {name}={settings[name]}: {files.path!r} is an M2-BERT with {present}; leave it out"
            )
    everything = files.tensors()
    tensors = clean(everything)
    before, length = config.max_position_embeddings, settings["length"] or config.max_position_embeddings
    tensors = grown(tensors, length)
    model = M2Bert(replace(config, max_position_embeddings=length, hidden_dropout_prob=settings["dropout"]))
    load(model, tensors, files.path)
    whole = M2ForPretraining(model)
    head = {name: tensor for name, tensor in everything.items() if name.startswith("cls.")}
    absent = fill(
        whole.cls, {name.removeprefix("cls."): t for name, t in head.items()}, files.path, fresh=("",)
    )
    report = f"goes on with {files.path!r} at {length:,} tokens"
    report += f", tables grown from {before:,}" if length > before else ""
    return whole, report + (", with a new masked-LM head" if absent else "")


def _new(files: ModelFiles, settings: Mapping[str, Any]) -> tuple[M2ForPretraining, str]:
    given = {name: settings[name] or value for name, value in NEW.items()}
    start: dict[str, Tensor] = {}
    if settings["embeddings"] == "start":
        start = {name.removeprefix("bert."): tensor for name, tensor in files.tensors().items()}
    words = start.get("embeddings.word_embeddings.weight")
    if words is None and settings["embeddings"] == "start":
        raise UserError(f"{files.path!r} has no word embeddings of a BERT; give --set embeddings=random")
    hidden = settings["hidden"] or (128 if words is None else words.shape[1])
    config = M2Config.from_dict({
        "vocab_size": files.vocabulary.size, "hidden_size": hidden, "num_hidden_layers": given["layers"],
        "intermediate_size": settings["intermediate"] or 4 * hidden, "hyena_filter_order": given["order"],
        "monarch_mlp_nblocks": given["blocks"], "max_position_embeddings": given["length"],
        "hidden_dropout_prob": settings["dropout"], "pool_all": settings["pooling"] == "mean",
    })  # fmt: skip
    model = M2Bert(config)
    if settings["begin"] == "residual":
        begin_residual(model, settings["reach"])
    if words is not None:
        if words.shape[1] != hidden:
            raise UserError(
                f"--set hidden={hidden}: the word embeddings of {files.path!r} are {words.shape[1]} wide; "
                "leave it out, or give --set embeddings=random"
            )
        with torch.no_grad():
            model.embeddings.word_embeddings.weight[: len(words)].copy_(words[: config.vocab_size])
            for name in ("token_type_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"):
                own, theirs = model.embeddings.get_parameter(name), start.get(f"embeddings.{name}")
                if theirs is not None and theirs.shape == own.shape:
                    own.copy_(theirs)
    count = sum(parameter.numel() for parameter in model.parameters())
    source = "random words" if words is None else f"the words of {files.path!r}"
    shape = f"{given['layers']} layers of {hidden}, {given['length']:,} tokens, {count:,} parameters"
    return M2ForPretraining(model), f"new M2-BERT: {shape}, {source}"


def begin_residual(model: M2Bert, reach: int) -> None:
    """A start of our own: each layer hands its input on, and filters begin near 0 and decay within `reach`.

    The published start lets every layer mix all positions with kernels of thousands of large random taps, in
    which a token itself drowns until it has been trained for long. Here the second convolution begins as the
    identity and so does what follows it; training brings the mixing in.

    reach: tokens; 0, or the length and more: filters decay over the whole length, as published. A model that
    is trained on short texts first has never seen its far taps at work, which are noise on long ones.
    """
    with torch.no_grad():
        for layer in model.encoder.layers():
            mixer = layer.attention
            torch.nn.init.eye_(mixer.out_linear.weight)
            torch.nn.init.ones_(mixer.filter_fn2.bias)
            for each in mixer.filters():
                for mlp in (each.implicit_filter, each.implicit_filter_rev):
                    last = mlp[6].weight
                    assert isinstance(last, Tensor)  # for the type checker
                    last.mul_(_BEGIN_TAPS)
                if reach:
                    each.modulation.deltas.mul_(max(1.0, model.config.max_position_embeddings / reach))
