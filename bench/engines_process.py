"""The parent's side of an engine process: start it, ask it, stop it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from retrieval.errors import RetrievalError

# The peers' interpreters do not have this package: give them its bench folder, and nothing else, by its name.
BOOT = """
import sys, types
for name in ("retrieval", "retrieval.bench"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["retrieval.bench"].__path__ = [sys.argv[1]]
from retrieval.bench.engines_worker import main
main(sys.argv[2])
"""


class EngineFailed(RetrievalError):
    """An engine process reported an error or died; the message says which and what."""


class EngineProcess:
    """An engine in a process of its own, addressed by the requests of engines_worker.Worker."""

    def __init__(self, name: str, python: str, log: Path) -> None:
        self.name, self.python, self.log = name, python, log
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> EngineProcess:
        here = str(Path(__file__).resolve().parent)
        if self.name.startswith("ours"):
            command = [self.python, "-m", "retrieval.bench.engines_worker", self.name]
        else:
            command = [self.python, "-P", "-c", BOOT, here, self.name]
        # One thread each; what batches over two threads asks for them by argument.
        limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENAI_API_KEY": "unused"}
        with open(self.log, "ab") as log:  # some engines draw progress bars, or log every step
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **limits},
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None:
            return
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """One request, one answer; EngineFailed where the engine reports an error or has died."""
        if self.process is None or self.process.stdin is None or self.process.stdout is None:
            raise EngineFailed(f"{self.name}: the process has not been started")
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise EngineFailed(f"{self.name}: the process ended during {do!r} (exit {code}): see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineFailed(f"{self.name}: {do}: {answer['error']}")
        return answer


def cold_start(name: str, python: str, log: Path, **request: Any) -> dict[str, Any]:
    """A new process to its first answer: wall time from before it was started."""
    wall = time.perf_counter()
    with EngineProcess(name, python, log) as process:
        answer = process.ask("cold", **request)
        answer["wall"] = time.perf_counter() - wall
    return answer
