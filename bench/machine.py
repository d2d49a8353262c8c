"""The machine that measures: processor, cores, load, GPU, energy, and the versions of what computes."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retrieval.bench.engines_report import machine

POWERCAP = "/sys/class/powercap"
_GPUS = "/proc/driver/nvidia/gpus"
_PACKAGES = ("numpy", "numba", "torch", "transformers", "tokenizers", "faiss", "faiss-cpu", "faiss-gpu")


def hardware(threads: int) -> dict[str, Any]:
    """{"processor", "cores", "threads", "load", "gpu", "system"}; gpu: its name, or None."""
    found = machine()
    return {
        "processor": found["processor"],
        "cores": found["cores"],
        "threads": threads,
        "load": round(found["load"], 2),
        "gpu": gpu(),
        "system": found["system"],
    }


def gpu(folder: str = _GPUS) -> str | None:
    """The name of the first GPU that the driver of NVIDIA reports."""
    for file in sorted(Path(folder).glob("*/information")):
        for line in _read(file).splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None


def versions() -> dict[str, str]:
    """Python, this package, and of what it stands on whatever has been loaded."""
    from retrieval import __version__

    found = {"retrieval": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        if name.partition("-")[0] in sys.modules:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    return found


class Energy:
    """A meter of the processor's energy: RAPL, which Linux reports below /sys/class/powercap.

    note: why there is no figure; empty where there is one. It counts all that the processor does, other
    processes included.
    """

    def __init__(self, folder: str = POWERCAP) -> None:
        zones = sorted(Path(folder).glob("intel-rapl:*"))
        self._zones = [zone for zone in zones if zone.name.count(":") == 1]  # whole packages, not their parts
        self.note = ""
        if not self._zones:
            self.note = f"the machine reports no energy: nothing in {folder}"
        elif self._counters() is None:
            self.note = "the machine's energy counters can be read by root only"
        self._start = self._counters() if not self.note else None

    def joules(self) -> float | None:
        """Since the meter was made; None where there is no figure."""
        now = self._counters()
        if self._start is None or now is None:
            return None
        total = 0
        for zone, before, after in zip(self._zones, self._start, now, strict=True):
            total += after - before
            if after < before:  # the counter has begun anew
                total += int(_read(zone / "max_energy_range_uj") or 0)
        return total / 1e6

    def _counters(self) -> Sequence[int] | None:
        found = [_read(zone / "energy_uj").strip() for zone in self._zones]
        return [int(value) for value in found] if all(value.isdecimal() for value in found) else None


def _read(path: Path) -> str:
    """A small file's text, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if os.access(path, os.R_OK) else ""
    except OSError:
        return ""
