"""Decoders as re-rankers: bad parameters and models, no memory, broken numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrieval import StorageError, UserError
from retrieval.errors import CompositionError, MissingExtra
from retrieval.stage import Given

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval.index.llm_files import LlmFiles  # noqa: E402
from retrieval.rerank.llm_decoder import open_decoder  # noqa: E402
from retrieval.rerank.llm_rank import Listwise, Pointwise  # noqa: E402
from tests.rerank.llm_texts import QUERIES, SHAPE, Make, everything, lookup  # noqa: E402


@pytest.fixture
def directory(tiny_decoder: Make) -> Path:
    return tiny_decoder(**SHAPE)


def test_bad_parameters_are_refused(directory: Path, tmp_path: Path) -> None:
    path = str(directory)
    for make_it, message in (
        (lambda: Listwise(path, window=1), "window=1; give a whole number, 2 or more"),
        (lambda: Listwise(path, window=True), "window=True"),
        (lambda: Listwise(path, window=4, step=5), "step=5 with window=4"),
        (lambda: Listwise(path, passage=3), "passage=3"),
        (lambda: Listwise(path, precision="int3"), "precision='int3'"),
        (lambda: Pointwise(path, length=2), "length=2"),
        (lambda: Pointwise(str(tmp_path / "absent")), "no model"),
    ):
        with pytest.raises(UserError, match=message):
            make_it()
    for stage, message in (
        (Listwise(path, window=300), "window=300: .* reads 2048 tokens, which leaves 0 for each passage"),
        (Pointwise(path, length=4096), "length=4096: .* reads 2048 tokens"),
        (Pointwise(path, length=100), "length=100: .* of which the prompt takes"),
    ):
        with pytest.raises(UserError, match=message):
            stage.with_documents(lookup)(QUERIES, everything())


def test_without_documents_or_a_run_it_says_what_to_do(directory: Path) -> None:
    for stage in (Pointwise(str(directory)), Listwise(str(directory))):
        with pytest.raises(CompositionError, match="reads documents' texts"):
            (Given(everything()) >> stage)(QUERIES)
        with pytest.raises(CompositionError, match="needs a run"):
            stage.with_documents(lookup)(QUERIES)


def test_models_that_generate_nothing_are_refused(tiny_decoder: Make, tiny_text_model: Path) -> None:
    headless = tiny_decoder(name="headless", max_position_embeddings=2048)  # not tied, and saved without
    for path in (headless, tiny_text_model):
        with pytest.raises(UserError, match="has no language-model head"):
            Pointwise(str(path)).with_documents(lookup)(QUERIES, everything())


def test_both_ways_is_no_decoder(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.index.llm_attention import BIDIRECTIONAL, set_attention

    load = LlmFiles.module

    def both_ways(*args: Any, **more: Any) -> Any:
        module: Any = load(*args, **more)
        set_attention(module.base_model, BIDIRECTIONAL)
        return module

    monkeypatch.setattr(LlmFiles, "module", both_ways)
    with pytest.raises(UserError, match=r"is no causal decoder \(llama\)"):
        open_decoder(LlmFiles(str(directory)), "float32")


@pytest.mark.parametrize("kind", [Pointwise, Listwise])
def test_out_of_memory_and_broken_numbers_are_one_sentence(directory: Path, kind: Any) -> None:
    stage: Any = kind(str(directory)).with_documents(lookup)
    stage._decoder = decoder = open_decoder(stage._files, "float32")
    real = decoder.module
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: not enough memory"),
        MemoryError(),
    ):

        def full(*args: Any, error: Exception = error, **more: Any) -> Any:
            raise error

        decoder.module = full
        if kind is Listwise:
            stage._window = 5
        with pytest.raises(StorageError, match="out of memory while"):
            stage(QUERIES, everything())
    with torch.no_grad():
        real.get_output_embeddings().weight.fill_(float("nan"))
    decoder.module = real
    with pytest.raises(UserError, match="not finite"):
        stage(QUERIES, everything())


def test_without_torch_it_names_the_extra(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'retrieval\[models\]'"):
        Pointwise(str(directory))
