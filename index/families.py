"""Models that are BERT under other names: RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, MPNet; their files.

Liu et al., "RoBERTa" (2019): positions begin at padding_idx + 1. Sanh et al., "DistilBERT" (2019): no token
types. Song et al., "MPNet" (NeurIPS 2020): no token types, and T5's bias by distance, shared by all layers.
All run in bert.py, packed; tensors are renamed as they are read, and back as they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from retrieval.errors import UserError
from retrieval.index.bert import Bert, BertConfig
from retrieval.index.model_files import fill

_TYPES = "embeddings.token_type_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"


class Family(NamedTuple):
    """What tells a family from BERT.

    prefix  of the base model's tensors in the file of a model with a head
    offset  whether positions begin behind that of the padding
    types   whether it has token types
    fields  of config.json, and what BERT calls them
    parts   of tensors' names, theirs and BERT's, replaced in this order
    """

    prefix: str
    offset: bool = False
    types: bool = True
    fields: Mapping[str, str] = {}
    parts: tuple[tuple[str, str], ...] = ()


_DISTIL_FIELDS = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size", "activation": "hidden_act", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}  # fmt: skip
_DISTIL_PARTS = (
    ("transformer.layer.", "encoder.layer."),
    (".attention.q_lin.", ".attention.self.query."),
    (".attention.k_lin.", ".attention.self.key."),
    (".attention.v_lin.", ".attention.self.value."),
    (".attention.out_lin.", ".attention.output.dense."),
    (".sa_layer_norm.", ".attention.output.LayerNorm."),
    (".ffn.lin1.", ".intermediate.dense."),
    (".ffn.lin2.", ".output.dense."),
    (".output_layer_norm.", ".output.LayerNorm."),
)
_MPNET_PARTS = (
    (".attention.attn.q.", ".attention.self.query."),
    (".attention.attn.k.", ".attention.self.key."),
    (".attention.attn.v.", ".attention.self.value."),
    (".attention.attn.o.", ".attention.output.dense."),
    (".attention.LayerNorm.", ".attention.output.LayerNorm."),
)
FAMILIES: Mapping[str, Family] = {
    "bert": Family("bert."),
    "roberta": Family("roberta.", offset=True),
    "xlm-roberta": Family("roberta.", offset=True),
    "camembert": Family("roberta.", offset=True),
    "distilbert": Family("distilbert.", types=False, fields=_DISTIL_FIELDS, parts=_DISTIL_PARTS),
    "mpnet": Family("mpnet.", offset=True, types=False, parts=_MPNET_PARTS),
}


def is_packed(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a model that bert.py computes."""
    kind = config.get("model_type", "bert")
    known = isinstance(kind, str) and kind in FAMILIES
    absolute = config.get("position_embedding_type", "absolute") == "absolute"
    return known and absolute and not config.get("is_decoder")


def read_config(config: Mapping[str, Any]) -> BertConfig:
    """The shape of a model of one of the families. Raises UserError."""
    kind = config.get("model_type", "bert")
    family = FAMILIES[kind]
    renamed = {family.fields.get(name, name): value for name, value in config.items()}
    if not family.types:
        renamed["type_vocab_size"] = 1
    shape = BertConfig.from_dict({**renamed, "model_type": "bert"})
    if family.offset:
        padding = config.get("pad_token_id", 1)
        offset = padding + 1 if isinstance(padding, int) and not isinstance(padding, bool) else -1
        if not 0 <= offset < shape.max_position_embeddings:
            raise UserError(f"config.json: pad_token_id is {padding!r}; it must be an id of the vocabulary")
        shape = replace(shape, position_offset=offset)
    if kind == "mpnet":
        buckets = config.get("relative_attention_num_buckets", 32)
        if (
            isinstance(buckets, bool)
            or not isinstance(buckets, int)
            or not 4 <= buckets <= 4096
            or buckets % 4
        ):
            raise UserError(
                f"config.json: relative_attention_num_buckets is {buckets!r}; it must be a multiple of 4"
            )
        shape = replace(shape, relative_buckets=buckets)
    return shape


def load(kind: str, tensors: Mapping[str, Tensor], shape: BertConfig, source: str) -> Bert:
    """The network, filled with the tensors of its file; `source` is named in messages. Raises UserError."""
    family = FAMILIES[kind]
    renamed = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(family.prefix)
        for theirs, ours in family.parts:
            own = own.replace(theirs, ours)
        renamed[own] = tensor
    if not family.types:
        renamed[_TYPES] = torch.zeros(1, shape.hidden_size)
    with _Unstarted():
        bert = Bert(shape)
    fill(bert, renamed, source)
    return bert.eval().requires_grad_(False)


class _Unstarted(TorchFunctionMode):
    """Leaves new weights as they lie in memory: a file fills them anyway.

    (The device "meta" does so too, but its random draws import torch's compiler: 3 seconds.)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def stored(kind: str, bert: Bert) -> dict[str, Tensor]:
    """The network's tensors as its family's files name them."""
    family = FAMILIES[kind]
    tensors = {}
    for name, tensor in bert.state_dict().items():
        if not family.types:  # their model has no place for it: every token's position takes it over
            if name == _TYPES:
                continue
            if name == _POSITIONS:
                tensor = tensor + bert.embeddings.token_type_embeddings.weight.detach()
        for theirs, ours in family.parts:
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    return tensors
