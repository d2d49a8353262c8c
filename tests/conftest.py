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
    from retrieval.index.bert import Bert, BertConfig
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
        kinds = {"tilde": Tilde, "tildev2": TildeV2, "bprop": BProp, "cross": CrossEncoder, "text": Bert}
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


@pytest.fixture
def tiny_decoder(tmp_path: Path) -> Callable[..., Path]:
    """Writes small decoders of random weights with a tokenizer of bytes: tiny_decoder("qwen3", bos=False).

    bos, eos: whether the tokenizer itself puts <s> before a text and </s> after it. Other keywords go into
    the configuration.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    def make(
        family: str = "llama",
        *,
        name: str = "",
        seed: int = 0,
        bos: bool = True,
        eos: bool = False,
        **more: Any,
    ) -> Path:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
        special = [(piece, tokenizer.token_to_id(piece)) for piece in ("<s>", "</s>")]
        if bos or eos:
            template = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
            tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
        shape: dict[str, Any] = {
            "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "initializer_range": 0.3, "bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 256,
        }  # fmt: skip
        if family in ("mistral", "starcoder2"):
            shape["sliding_window"] = None
        config = transformers.AutoConfig.for_model(family, **{**shape, **more})
        config.architectures = [f"{family.title()}ForCausalLM"]
        torch.manual_seed(seed)
        directory = tmp_path / (name or family)
        transformers.utils.logging.disable_progress_bar()
        transformers.AutoModel.from_config(config).save_pretrained(directory)
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
        fast.save_pretrained(directory)
        return directory

    return make


@pytest.fixture
def tiny_text_model(tiny_model: Callable[..., Path]) -> Path:
    """A text encoder of random weights, a plain BERT directory."""
    return tiny_model("text")
