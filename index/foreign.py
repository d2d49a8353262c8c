"""Encoders of any other architecture that transformers has itself, over padded batches. Needs transformers.

Code that comes with a model is never run, and nothing is downloaded. Of a model with encoder and decoder
only the encoder is used. Longformer's first token attends to all others and they to it (Beltagy et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import MissingExtra, UserError
from retrieval.index.packed import Packed

_GLOBAL = ("longformer",)
_ENCODERS = ("t5", "mt5", "umt5")  # whose files may hold the encoder alone
_BEHIND = ("longformer", "data2vec-text", "ibert", "roberta-prelayernorm", "xlm-roberta-xl", "xmod")
_UNBOUND = (*_ENCODERS, "xlnet")  # positions by distance, whatever a field says
_LEAST = {"canine": 16}  # tokens that a batch must be wide


class Foreign(nn.Module):
    """A model of transformers: `foreign(packed)` are the last layer's hidden states, float[T, H], no padding.

    width    H
    longest  tokens that it has positions for; None where it says nothing
    """

    def __init__(self, model: Any, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model: nn.Module = model
        shape = model.config
        self.kind = str(shape.model_type)
        self.width = int(_first(shape, "hidden_size", "d_model", "dim") or 0)
        self.pad = int(getattr(shape, "pad_token_id", None) or 0)
        self.longest = longest_of(shape, config)

    def forward(self, packed: Packed) -> Tensor:
        lengths = packed.offsets.diff()
        wide = max(packed.longest, _LEAST.get(self.kind, 0))
        real = torch.arange(wide, device=lengths.device) < lengths[:, None]
        ids = torch.full(real.shape, self.pad, dtype=torch.int64, device=lengths.device)
        ids[real] = packed.ids
        more = {}
        if self.kind in _GLOBAL:
            more["global_attention_mask"] = torch.zeros_like(ids)
            more["global_attention_mask"][:, 0] = 1
        out = self.model(input_ids=ids, attention_mask=real.long(), **more)
        hidden: Tensor = out.last_hidden_state
        if hidden.shape[:2] != ids.shape:
            raise UserError(
                f"a {self.kind} model gives {hidden.shape[1]} states for {ids.shape[1]} tokens; pooling "
                "needs one for each"
            )
        return hidden[real]


def longest_of(shape: Any, config: Mapping[str, Any]) -> int | None:
    """Tokens that a model of transformers' configuration `shape` has positions for; None: unbounded."""
    kind = str(shape.model_type)
    longest = _first(shape, "max_position_embeddings", "n_positions", "max_seq_length")
    bound = longest and int(longest) > 0 and kind not in _UNBOUND
    if "deberta" in kind and not config.get("position_biased_input", True):
        bound = False
    offset = int(getattr(shape, "pad_token_id", None) or 0) + 1 if kind in _BEHIND else 0
    return int(longest) - offset if bound else None


def load_foreign(folder: str, config: Mapping[str, Any]) -> Foreign:
    """The model of a directory, float32 weights. Raises UserError, MissingExtra."""
    shape = load_shape(folder, config)
    from transformers import AutoModel, AutoModelForTextEncoding

    which: Any = AutoModelForTextEncoding if config["model_type"] in _ENCODERS else AutoModel
    model = load_weights(which, folder, shape, unused="pooler")
    if getattr(shape, "is_encoder_decoder", False) and which is AutoModel:
        model = model.get_encoder().eval().requires_grad_(False)
    return Foreign(model, config)


def load_shape(folder: str, config: Mapping[str, Any]) -> Any:
    """transformers' configuration of a directory with this config.json. Raises UserError, MissingExtra."""
    kind = config.get("model_type")
    try:
        import transformers
        from transformers import CONFIG_MAPPING, AutoConfig
        from transformers.utils import logging
    except ImportError:
        raise MissingExtra("models", f"a {kind!r} model needs transformers, which is") from None
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if not isinstance(kind, str):
        raise UserError(f"config.json of {folder!r} names no model_type; what the model is cannot be told")
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"config.json of {folder!r} describes a {kind!r} model, an architecture that transformers "
            f"{transformers.__version__} does not have{_code(config)}"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _unloaded(folder, kind, error) from error


def load_weights(which: Any, folder: str, shape: Any, *, unused: str = "") -> Any:
    """A model by one of transformers' Auto classes, float32, ready to infer. Raises UserError.

    unused: part of the names of tensors that may be absent.
    """
    kind = str(shape.model_type)
    try:
        model, report = which.from_pretrained(
            folder, config=shape, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:
        raise _unloaded(folder, kind, error) from error
    absent = sorted(name for name in report["missing_keys"] if not (unused and unused in name))
    wrong = sorted(str(entry[0]) for entry in report.get("mismatched_keys") or ())
    if absent or wrong:
        raise UserError(
            f"{folder!r} does not fit transformers' {kind!r} model: tensor {(absent + wrong)[0]!r} is "
            "absent or of another shape"
        )
    return model.eval().requires_grad_(False)


def _unloaded(folder: str, kind: str, error: Exception) -> UserError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"cannot load {folder!r}, a {kind!r} model, by transformers: {first}")


def _code(config: Mapping[str, Any]) -> str:
    """What a message says about code that comes with a model."""
    if not config.get("auto_map"):
        return "; use a model of one that it has"
    return "; its own code (auto_map) is not run: take a version of the model that needs none"


def _first(shape: Any, *names: str) -> Any:
    for name in names:
        value = getattr(shape, name, None)
        if isinstance(value, int):
            return value
    return None
