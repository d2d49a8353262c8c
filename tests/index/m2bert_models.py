"""Small M2-BERT models of random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "the", "meeting", "remote", "control", "cost"]
PIECES += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32,
    "max_position_embeddings": 32, "hyena_filter_order": 8,
}  # fmt: skip


def vocabulary() -> bytes:
    return "".join(piece + "\n" for piece in PIECES).encode()


def network(seed: int = 0, **fields: Any) -> Any:
    """A network whose parts all matter: every parameter is random."""
    import torch

    from retrieval.index.m2bert import M2Bert, M2Config

    torch.manual_seed(seed)
    model = M2Bert(M2Config(**{**SHAPE, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def directory(path: Path, seed: int = 0, shape: dict[str, Any] | None = None, **retrieval: Any) -> str:
    """A model directory; keywords go into "retrieval" of its config.json."""
    from retrieval.index.model_files import save_model

    model = network(seed, **(shape or {}))
    config = {**model.config.to_dict(), "retrieval": {"kind": "m2bert", **retrieval}}
    save_model(str(path), config, model.state_dict(), vocabulary())
    return str(path)
