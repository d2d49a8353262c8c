"""Graphs for ONNX Runtime and OpenVINO: the vectors of torch; the cache; what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval.errors import MissingExtra, UserError  # noqa: E402
from retrieval.index import graph_encoder, graph_files  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from tests.index.text_models import FOREIGN, TEXTS, write_layout, write_model  # noqa: E402

MODULES = {"onnx": "onnxruntime", "openvino": "openvino"}
TEXTS = [*TEXTS, "sun " * 30]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "retrieval" / "graphs"


def opened(directory: Path, **params: Any) -> Any:
    return open_encoder(str(directory), params={"precision": "float32", "threads": 1, **params})


@pytest.mark.parametrize("backend", MODULES)
@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_vectors_are_those_of_torch(tmp_path: Path, home: Path, backend: str, kind: str) -> None:
    pytest.importorskip(MODULES[backend])
    write_model(tmp_path / "m", kind, {"type_vocab_size": 1})
    plain, graph = opened(tmp_path / "m"), opened(tmp_path / "m", backend=backend, batch=60)
    assert graph.identity == plain.identity
    assert graph.runtime == {"backend": backend, "precision": "float32"}
    expected, found = plain.encode(TEXTS), graph.encode(TEXTS)
    np.testing.assert_allclose(found.rows, expected.rows, atol=2e-5)
    np.testing.assert_array_equal(found.dropped, expected.dropped)
    np.testing.assert_allclose(graph.encode(TEXTS[1:2]).rows[0], found.rows[1], atol=2e-5)
    (entry,) = home.iterdir()
    again = opened(tmp_path / "m", backend=backend)
    again._make_onnx = again._make_openvino = None  # what is cached is not made
    np.testing.assert_allclose(again.encode(TEXTS).rows, found.rows, atol=2e-5)
    for file in entry.iterdir():
        if file.suffix != ".json":
            file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    np.testing.assert_allclose(
        opened(tmp_path / "m", backend=backend).encode(TEXTS).rows, found.rows, atol=2e-5
    )


def test_fewer_bits_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    write_model(tmp_path / "m", "bert", {"initializer_range": 0.05})
    write_layout(tmp_path / "m", {"pooling_mode_mean_tokens": True}, prompts={"query": "q : "})
    plain = opened(tmp_path / "m").encode(TEXTS, "query").rows
    graph = opened(tmp_path / "m", backend="openvino", precision="bfloat16")
    assert 0.99 <= graph.runtime["gate"]["min"] <= 1
    assert (graph.encode(TEXTS, "query").rows * plain).sum(1).min() > 0.98


def test_int8(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    write_model(tmp_path / "m", "bert", {"initializer_range": 0.05})
    plain = opened(tmp_path / "m").encode(TEXTS).rows
    encoder = opened(tmp_path / "m", backend="onnx", precision="int8")
    try:
        precision = encoder.runtime["precision"]
    except UserError as error:  # sums of bytes saturate where the processor has no VNNI: the gate is for that
        if "cosine to float32" not in str(error):
            raise
        pytest.skip(f"this processor multiplies bytes too coarsely: {error}")
    assert precision == "int8"
    rows = encoder.encode(TEXTS).rows
    assert (rows != plain).any()
    assert (rows * plain).sum(1).min() > 0.98


def test_a_graph_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    write_model(tmp_path / "m", "bert", {})
    right = graph_files.export_onnx

    def merged(bert: Any, file: str) -> None:
        with torch.no_grad():
            bert.embeddings.LayerNorm.bias.add_(1)
            right(bert, file)
            bert.embeddings.LayerNorm.bias.sub_(1)

    monkeypatch.setattr(graph_encoder, "export_onnx", merged)
    with pytest.raises(UserError, match="computes something else than torch"):
        opened(tmp_path / "m", backend="onnx").encode(["a"])


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "e", "electra", FOREIGN["electra"])
    write_model(tmp_path / "m", "bert", {})
    with pytest.raises(UserError, match="int8 is not offered with backend=torch"):
        opened(tmp_path / "m", precision="int8")
    for backend, module in MODULES.items():
        with monkeypatch.context() as patched:
            patched.setitem(__import__("sys").modules, module, None)
            with pytest.raises(MissingExtra, match=rf"retrieval\[{backend}\]"):
                opened(tmp_path / "m", backend=backend)
        pytest.importorskip(module)
        with pytest.raises(UserError, match="is a 'electra' model; use backend=torch"):
            opened(tmp_path / "e", backend=backend)
    with pytest.raises(UserError, match="bfloat16 is not offered with backend=onnx"):
        opened(tmp_path / "m", backend="onnx", precision="bfloat16")
    assert opened(tmp_path / "e", backend="auto").runtime["backend"] == "torch"
    assert opened(tmp_path / "m", backend="auto").runtime["backend"] == "openvino"


def test_openvino_reports_nothing_to_anybody() -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys; from retrieval.index.graph_encoder import _openvino; _openvino(); "
        "import openvino.tools.ovc.telemetry_utils as used; print(used.tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.parametrize("backend", MODULES)
def test_a_device_that_is_not_used_is_refused(tmp_path: Path, backend: str) -> None:
    write_model(tmp_path / "m", "roberta", {"type_vocab_size": 1})
    with pytest.raises(UserError, match="computes on the CPU here"):
        opened(tmp_path / "m", backend=backend, device="cuda")


def test_openvino_has_one_core_for_good() -> None:
    """With the last one goes the stack of signal handlers: seen as a crash at the next Ctrl-C."""
    openvino = pytest.importorskip("openvino")
    core = graph_encoder._core(openvino)
    assert isinstance(core, openvino.Core)
    assert graph_encoder._core(openvino) is core
