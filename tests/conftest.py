"""Options and fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--collections",
        default=str(ROOT.parent / "shared" / "data"),
        help="folder of real collections in BEIR layout; the tests on them are skipped where it is absent",
    )
    parser.addoption(
        "--weights",
        default=str(ROOT.parent / "weights"),
        help="folder that holds minilm/, mpnet/, smollm2/; the tests on them are skipped where it is absent",
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def collections(request: pytest.FixtureRequest) -> Path:
    """The folder of real collections; skips where there is none."""
    folder = Path(request.config.getoption("--collections"))
    if not folder.is_dir():
        pytest.skip(f"no real collections in {folder}: pass --collections DIR")
    return folder


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest) -> Path:
    """The folder of real pretrained weights; skips where there is none."""
    folder = Path(request.config.getoption("--weights"))
    if not folder.is_dir():
        pytest.skip(f"no pretrained weights in {folder}: pass --weights DIR")
    return folder


@pytest.fixture(scope="session")
def parity(root: Path) -> Path:
    """The folder of cases computed by the official implementations; skips where there is none."""
    folder = root.parent / "shared" / "parity"
    if not folder.is_dir():
        pytest.skip(f"no parity cases in {folder}")
    return folder


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes small models of random weights: tiny_model("tilde", name="a", seed=1, window=20) is a directory.

    Keywords but for name, seed and words go into "retrieval" of config.json.
    """
    torch = pytest.importorskip("torch")
    from retrieval.index.bert import BertConfig
    from retrieval.index.model_files import save_model

    def make(kind: str, *, name: str = "", seed: int = 0, words: Sequence[str] = (), **settings: Any) -> Path:
        from retrieval.index.bprop_model import BProp
        from retrieval.index.tilde_model import Tilde
        from retrieval.index.tildev2_model import TildeV2
        from retrieval.rerank.cross_model import CrossEncoder

        pieces = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces += [".", ",", "-", "the", "of", "what", "definition", "##s"]
        letters = "abcdefghijklmnopqrstuvwxyz"
        pieces += [*letters, *(f"##{letter}" for letter in letters if letter != "s"), *words]
        shape = {
            "vocab_size": len(pieces), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.3,
        }  # fmt: skip
        torch.manual_seed(seed)
        kinds = {"tilde": Tilde, "tildev2": TildeV2, "bprop": BProp, "cross": CrossEncoder}
        model = kinds[kind](BertConfig.from_dict(shape))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        directory = tmp_path / (name or kind)
        config = {**shape, "model_type": "bert", "retrieval": {"kind": kind, **settings}}
        data = "".join(piece + "\n" for piece in pieces).encode()
        save_model(str(directory), config, model.state_dict(), data)
        return directory

    return make
