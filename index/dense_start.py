"""What a dense training begins with: the encoder opened and made trainable, and its settings checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from retrieval.errors import UnknownName, UserError
from retrieval.index.dense_spec import DenseSpec, open_encoder, parse_dense
from retrieval.index.torch_encoder import TorchEncoder
from retrieval.index.trainer import TaskOptions

LOSSES = ("infonce", "mnrl", "opl", "prototype", "margin", "kl")
_LEAST = {"random": 0, "query_tokens": 0, "length": 0, "chunk": 0, "budget": 0, "lora": 0, "alpha": 0}


def open_start(options: TaskOptions) -> TorchEncoder:
    """The encoder of --start: a directory, or [METHOD:]DIR[(param=value, ...)]; float32 unless said.

    Raises UserError, and what opening it raises.
    """
    if options.start is None:
        raise UserError("name an encoder to start from: --start DIR, or METHOD:DIR(param=value)")
    if os.path.exists(options.start):
        spec = DenseSpec("start", "", options.start, {})
    else:
        spec = parse_dense(f"start={options.start}")
    try:
        encoder = open_encoder(spec.model, spec.method, {"precision": "float32", **spec.params})
    except UnknownName as error:
        if error.name != "precision" or "precision" in spec.params:
            raise
        encoder = open_encoder(spec.model, spec.method, spec.params)
    if not isinstance(encoder, TorchEncoder):
        raise UserError(
            f"{options.start!r} does not run on torch and cannot be trained; name its torch files"
        )
    return encoder


def make_trainable(encoder: TorchEncoder, settings: Mapping[str, Any]) -> None:
    """Switches gradients on, by the encoder's own `trainable(settings)` where it has one.

    Raises UserError for LoRA or checkpointing that the encoder does not have, and for weights to be trained
    that are not float32: steps of a small rate would be lost in their rounding.
    """
    hook = getattr(encoder, "trainable", None)
    if hook is not None:
        hook(settings)
    else:
        for name in ("lora", "checkpointing"):
            if settings[name]:
                raise UserError(f"this encoder has no {name}; leave --set {name} out")
        encoder.module.requires_grad_(True)
    for name, parameter in encoder.module.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UserError(
                f"the weights {name} are {kind}; training wants float32 (--precision bf16 computes in "
                "bfloat16 all the same): open the model with precision=float32"
            )
    if settings["dropout"] >= 0:
        set_dropout(encoder.module, settings["dropout"])


def set_dropout(module: torch.nn.Module, share: float) -> None:
    """Gives all dropout of a module this share, be it a layer or a number that attention is called with."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = share
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, share)


def read_terms(settings: Mapping[str, Any], options: TaskOptions) -> dict[str, float]:
    """Losses and their weights, of `infonce+0.5*kl`. Raises UserError, also for settings of no sense."""
    terms: dict[str, float] = {}
    for part in settings["loss"].split("+"):
        factor, star, name = part.rpartition("*")
        name = name.strip()
        if name not in LOSSES:
            raise UnknownName("loss", name, LOSSES)
        if name in terms:
            raise UserError(f"--set loss={settings['loss']}: {name} stands there twice")
        try:
            terms[name] = float(factor) if star else 1.0
        except ValueError:
            terms[name] = math.nan
        if not (math.isfinite(terms[name]) and terms[name] > 0):
            raise UserError(f"--set loss={settings['loss']}: the weight of {name} is a number above 0")
    if "opl" in terms and len(terms) > 1:
        raise UserError("opl is learned from pairs and does not join other losses; use it alone")
    if "prototype" in terms and not options.teacher:
        raise UserError("the loss prototype follows a teacher's vectors; give --teacher DIR")
    for name, least in _LEAST.items():
        if settings[name] < least:
            raise UserError(f"--set {name}={settings[name]}: give {least} or more")
    for name in ("temperature", "teacher_temperature", "teacher_scale"):
        if settings[name] <= 0:
            raise UserError(f"--set {name}={settings[name]}: give a number above 0")
    if settings["dropout"] >= 1:
        raise UserError(f"--set dropout={settings['dropout']}: give a share below 1")
    if settings["similarity"] not in ("cosine", "dot"):
        raise UserError(f"--set similarity={settings['similarity']}: give cosine or dot")
    return terms
