"""Small BERT and SMITH models of random weights, for tests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "the", "meeting", "remote", "control", "cost"]
PIECES += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
BERT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "block": 12,
    "positions": 16,
    "layers": 2,
    "heads": 2,
    "intermediate": 32,
    "attention_size": 8,
}
RELEASED: dict[str, Any] = {**SHAPE, "compat": True, "pooling": "cls", "document": "first", "loop": 8}
TEXT = " ".join(f"The meeting of {word} is remote. The cost of control is a {word}." for word in "abcdefgh")


def vocabulary() -> bytes:
    """As a vocab.txt."""
    return "".join(piece + "\n" for piece in PIECES).encode()


def bert(path: Path, seed: int = 0, **fields: Any) -> str:
    """A directory with a BERT."""
    import torch

    from retrieval.index.bert import Bert, BertConfig
    from retrieval.index.model_files import save_model

    torch.manual_seed(seed)
    config = BertConfig(**{**BERT, **fields})
    model = Bert(config, pooler=True)
    save_model(str(path), {**asdict(config), "model_type": "bert"}, model.state_dict(), vocabulary())
    return str(path)


def network(seed: int = 0, **shape: Any) -> Any:
    """A network whose parts all matter: every parameter is random."""
    import torch

    from retrieval.index.bert import BertConfig
    from retrieval.longdoc.smith_model import Smith, SmithConfig

    torch.manual_seed(seed)
    sentence = BertConfig(**BERT)
    model = Smith(sentence, SmithConfig.from_dict({**SHAPE, **shape}, sentence)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.requires_grad_(False)


def encoder(seed: int = 0, *, limit: int = 0, budget: int = 0, **shape: Any) -> Any:
    """An encoder of such a network."""
    from retrieval.index.vocabulary import Vocabulary
    from retrieval.longdoc.smith import SmithEncoder

    words = Vocabulary.from_bytes(vocabulary(), "vocab.txt")
    model = network(seed, **shape)
    return SmithEncoder(words, model, {"name": "test"}, limit=limit, budget=budget, device="cpu")
