"""The error tree: exit codes, messages, suggestions."""

from __future__ import annotations

import copy
import re

import pytest

from retrieval import errors
from retrieval.errors import BadLine, MissingExtra, RetrievalError, UnknownName, is_memory, suggest

CODES = {
    "RetrievalError": 1,
    "UserError": 2,
    "BadLine": 2,
    "UnknownName": 2,
    "MissingExtra": 2,
    "CompositionError": 2,
    "CorruptIndex": 3,
    "UnsupportedFormat": 3,
    "Locked": 4,
    "StorageError": 5,
}


def test_every_error_is_in_the_tree_with_its_exit_code() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, RetrievalError)
    }
    assert found == CODES


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+) +(\d) ", (errors.__doc__ or "").replace("\n", " \n")))
    assert {name: int(code) for name, code in drawn.items()} == CODES


def test_bad_line_names_the_place_and_keeps_its_parts() -> None:
    error = BadLine("corpus.jsonl", 12, "not an object")
    assert str(error) == "corpus.jsonl:12: not an object"
    assert (error.source, error.line, error.problem) == ("corpus.jsonl", 12, "not an object")


def test_unknown_name_suggests_the_nearest_or_lists_the_known() -> None:
    near = UnknownName(
        "dataset", "msmarco-pasage", ["msmarco-passage", "loco"], "List them: retrieve data list"
    )
    assert str(near) == (
        "unknown dataset 'msmarco-pasage'; did you mean 'msmarco-passage'? List them: retrieve data list"
    )
    assert str(UnknownName("stage", "zzz", ["rrf", "bm25"])) == "unknown stage 'zzz'; known: bm25, rrf"
    assert str(UnknownName("stage", "zzz")) == "unknown stage 'zzz'"


def test_missing_extra_names_the_install_command() -> None:
    assert str(MissingExtra("models", "cross-encoders")).endswith("pip install 'retrieval[models]'")


@pytest.mark.parametrize(
    "error", [BadLine("f", 3, "p"), UnknownName("stage", "a", ["b"]), MissingExtra("x", "y")]
)
def test_errors_survive_copying_as_between_processes(error: RetrievalError) -> None:
    twin = copy.copy(error)
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


def test_suggest_ignores_case_and_far_names() -> None:
    assert suggest("BM25", ["bm25", "tilde"]) == "did you mean 'bm25'?"
    assert suggest("smith", ["bm25", "tilde"]) == ""


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (RuntimeError("unable to mmap 90868376 bytes: Cannot allocate memory (12)"), True),
        (RuntimeError("shape mismatch"), False),
        (OSError("No such file or directory"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error: Exception, memory: bool) -> None:
    assert is_memory(error) is memory
