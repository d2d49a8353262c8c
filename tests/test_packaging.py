"""The wheel, the sdist, an editable install and a bare checkout: one import name, nothing missing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

FOLDERS = ("data", "index", "rerank", "longdoc", "bench")
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)
PROBE = """
import importlib, retrieval, sys
names = ["retrieval." + n for n in "data index rerank longdoc bench".split()]
places = {importlib.import_module(n).__file__ for n in names} | {retrieval.__file__}
print("\\n".join(sorted(places)))
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def isolation() -> list[str]:
    """Build with the setuptools at hand where it is new enough: that needs no network."""
    try:
        return ["--no-build-isolation"] if int(version("setuptools").split(".")[0]) >= 77 else []
    except PackageNotFoundError:
        return []


@pytest.fixture(scope="module")
def tree(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: a build leaves litter in the tree and may pick up older litter."""
    return Path(shutil.copytree(root, tmp_path_factory.mktemp("tree") / "checkout", ignore=NOT_SOURCE))


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", *isolation(), "--no-deps", "-w", out, tree, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def environment(folder: Path) -> Path:
    """A virtual environment that sees this one's dependencies, but not its editable installs."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", code, cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(python: Path, *what: str | Path, cwd: Path) -> None:
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--ignore-installed",
    ]
    run(*pip, *isolation(), *what, cwd=cwd)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shipped(tree: Path) -> set[str]:
    """Every Python file of the six folders, by its place in a wheel."""
    files = {str(p.relative_to(tree)) for p in (tree / "retrieval").rglob("*.py")}
    for folder in FOLDERS:
        files |= {f"retrieval/{p.relative_to(tree)}" for p in (tree / folder).rglob("*.py")}
    return files


def test_wheel_has_one_top_level_name(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {t for t in tops if not re.fullmatch(r"retrieval-[\w.]+\.dist-info", t)} == {"retrieval"}


def test_wheel_holds_code_sample_and_licence(tree: Path, wheel: Path) -> None:
    inside = names(wheel)
    assert shipped(tree) - inside == set()
    assert "retrieval/py.typed" in inside
    for file in [*(tree / "data" / "sample").rglob("*"), *(tree / "index" / "weights").rglob("*")]:
        if file.is_file():
            assert f"retrieval/{file.relative_to(tree)}" in inside
    assert any("data/sample/" in name and "corpus" in name for name in inside)
    assert {Path(n).name for n in inside if "/licenses/" in n} >= {"LICENSE", "NOTICE"}
    assert not any("test_" in name for name in inside)


def test_sdist_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    if not isolation():
        pytest.skip("needs setuptools >= 77 in this environment")
    code = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, tmp_path, cwd=tree)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "CHANGELOG.md", "tests/test_packaging.py"} <= inside
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        *isolation(),
        "--no-deps",
        "-w",
        tmp_path,
        sdist,
        cwd=tmp_path,
    )
    (again,) = tmp_path.glob("*.whl")
    assert names(again) == names(wheel)


def test_wheel_installs_and_runs(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    install(python, wheel, cwd=tmp_path)
    places = run(python, "-c", PROBE, cwd=tmp_path).split()
    assert len(places) == 6
    assert all(place.startswith(str(tmp_path / "venv")) for place in places)
    assert "search" in run(python.with_name("retrieve"), "--help", cwd=tmp_path)


def test_editable_install(tree: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    install(python, "-e", tree, cwd=tmp_path)
    places = run(python, "-c", PROBE, cwd=tmp_path).split()
    assert places == sorted(str(tree / f / "__init__.py") for f in (*FOLDERS, "retrieval"))
    assert "search" in run(python.with_name("retrieve"), "--help", cwd=tmp_path)


def test_bare_checkout(tree: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    places = run(python, "-c", PROBE, cwd=tree).split()
    assert places == sorted(str(tree / f / "__init__.py") for f in (*FOLDERS, "retrieval"))
    assert "search" in run(python, "-m", "retrieval", "--help", cwd=tree)


def test_core_dependencies_are_what_is_imported(root: Path) -> None:
    files = [p for f in ("retrieval", *FOLDERS) for p in (root / f).rglob("*.py") if "engines" not in p.name]
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]

    def modules(requirements: list[str]) -> set[str]:
        names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in requirements}
        return {"Stemmer" if name == "PyStemmer" else name.replace("-", "_") for name in names}

    core = modules(project["dependencies"])
    extras = set().union(*map(modules, project["optional-dependencies"].values()))
    foreign = imported - set(sys.stdlib_module_names) - {"retrieval", "__future__"}
    assert core - foreign == set()
    # faiss comes as faiss-cpu or faiss-gpu, the hub's client with transformers; peers are for benchmarks.
    others = {"faiss", "huggingface_hub", "jnius", "jnius_config", "llvmlite", "sentence_transformers"}
    assert foreign - core - extras - others == set()


def test_one_version(root: Path) -> None:
    import retrieval

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert retrieval.__version__ == project["version"]
    assert f"## [{project['version']}]" in (root / "CHANGELOG.md").read_text()
    assert f"version: {project['version']}" in (root / "CITATION.cff").read_text()
