"""What an import loads, and which names are public."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "faiss", "numba", "ir_datasets"}
HELP = """
import runpy
sys.argv = ["retrieve", "--help"]
try:
    runpy.run_module("retrieval", run_name="__main__")
except SystemExit:
    pass
"""


def loaded(code: str, root: Path) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`, and their top-level names."""
    code = f"import sys\n{code}\nsys.stderr.write('MODULES ' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    names = done.stderr.rpartition("MODULES ")[2].split()
    return {*names, *(name.split(".")[0] for name in names)}


def test_the_probe_sees_an_import(root: Path) -> None:
    assert "decimal" in loaded("import decimal", root)


def test_import_is_light(root: Path) -> None:
    modules = loaded("import retrieval", root)
    assert "retrieval" in modules
    assert modules & (HEAVY | {"typer", "rich", "scipy", "pandas"}) == set()


def test_help_is_light(root: Path) -> None:
    modules = loaded(HELP, root)
    assert "retrieval.cli" in modules
    assert modules & HEAVY == set()


@pytest.mark.parametrize("name", ["retrieval", "data", "index", "rerank", "longdoc", "bench"])
def test_public_names(name: str) -> None:
    module = importlib.import_module(name if name == "retrieval" else f"retrieval.{name}")
    public = getattr(module, "__all__", [])
    assert list(public) == sorted(set(public))
    for attribute in public:
        assert getattr(module, attribute) is not None


def test_names_of_the_readme_are_public() -> None:
    import retrieval

    assert {"Document", "Hit", "Index", "Qrels", "Query", "Run", "Stage"} <= set(retrieval.__all__)
    assert set(retrieval.__all__) <= set(dir(retrieval))
    with pytest.raises(AttributeError):
        _ = retrieval.no_such_name
