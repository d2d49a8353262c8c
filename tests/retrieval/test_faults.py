"""Kills and failing disks, by strace: nothing told of is lost, no state is torn, a rerun needs no cleaning.

Every test drives a command (Target) that creates an index or appends to one: the Store (fault_writer.py) and
the command line. The full suites are marked slow; the others take a few of the same places.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from retrieval.artefact import Store
from retrieval.check import check, live_ids
from retrieval.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
CALLS = "openat,write,pwrite64,fsync,mkdir,rename,link,unlink,rmdir,unlinkat,ftruncate"
FAILING = ("write", "pwrite64", "fsync")
OLD = {f"d{number:06}" for number in range(20)}
NEW = {f"d{number:06}" for number in range(20, 40)}

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace (a Debian package): it injects the faults"
)


class Target(NamedTuple):
    """A way to write an index; `append` wants documents that are not there yet."""

    name: str

    def command(self, verb: str, index: Path, first: int, count: int, commits: int = 1) -> list[str]:
        """The command that adds `count` documents from `first` on (in several commits where it can)."""
        if self.name == "store":
            script = Path(__file__).with_name("fault_writer.py")
            return [sys.executable, str(script), verb, str(index), str(first), str(count), str(commits)]
        corpus = index.parent / f"corpus-{first}-{count}.jsonl"
        if not corpus.exists():
            lines = (
                {"id": f"d{first + n:06}", "text": f"the text of {first + n} " * 9} for n in range(count)
            )
            corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
        append = ["--append"] if verb == "append" else []
        return [sys.executable, "-m", "retrieval", "index", str(corpus), "--out", str(index), *append]


class Place(NamedTuple):
    """The `when`-th call of a name by the first thread, which touches the index."""

    call: str
    when: int


class Case(NamedTuple):
    """One command, the state before it, and the places where it touches the disk."""

    command: list[str]
    path: Path
    base: Path | None  # a copy of the state before
    before: set[str]
    after: set[str]
    places: list[Place]

    def reset(self) -> None:
        """The state before."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.base is not None:
            shutil.copytree(self.base, self.path)


def environment(tmp: Path) -> dict[str, str]:
    """The same few files read and none written beside the index, whatever ran before."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp / "cache"),
    }


def run(command: list[str], tmp: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    """Run a command, under strace with these options where there are any."""
    if strace:
        command = ["strace", "-f", "-qq", "-y", "-o", str(tmp / "strace.log"), *strace, *command]
    return subprocess.run(
        command, env=environment(tmp), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def touching(tmp: Path, index: Path) -> list[Place]:
    """From a log of all calls: those of the first thread that change the index."""
    places: list[Place] = []
    seen: dict[str, int] = {}
    first = ""
    for line in (tmp / "strace.log").read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match is None:
            continue
        first = first or match[1]
        if match[1] != first:
            continue
        call, arguments = match[2], match[3]
        seen[call] = seen.get(call, 0) + 1
        if str(index) in arguments and (call != "openat" or "O_CREAT" in arguments):
            places.append(Place(call, seen[call]))
    return places


def ids(index: Path) -> set[str]:
    """The live documents; none where there is no index yet."""
    try:
        with Store.open(index) as snapshot:
            return {raw.decode() for raw in live_ids(snapshot)}
    except UserError:
        return set()


def tidy(index: Path) -> None:
    """Nothing lies about but what the two last generations name."""
    check(index)
    found = {name for name in os.listdir(index) if name not in ("LOCK", "COMMIT", "old")}
    assert len(os.listdir(index / "old")) <= 1
    with Store.open(index) as snapshot:
        assert found == set(snapshot.parts())


def prepare(tmp: Path, target: str, verb: str) -> Case:
    """Run the command once, undisturbed, and note where it touches the disk."""
    way = Target(target)
    index = tmp / "work" / "index"
    index.parent.mkdir()
    base = None
    if verb == "append":
        base = tmp / "base"
        done = run(way.command("create", index, 0, 20), tmp)
        assert done.returncode == 0, done.stderr
        shutil.copytree(index, base)
    case = Case(
        way.command(verb, index, 20 if base else 0, 20),
        index,
        base,
        OLD if base else set(),
        OLD | NEW if base else OLD,
        [],
    )
    for _ in range(2):  # the first run may fill caches
        case.reset()
        done = run(case.command, tmp, "-e", f"trace={CALLS}")
        assert done.returncode == 0, done.stderr
    assert ids(index) == case.after
    places = touching(tmp, index)
    assert len(places) > 30
    return case._replace(places=places)


@pytest.fixture(scope="module")
def cases() -> dict[tuple[str, str], Case]:
    """Cases by target and verb, once prepared."""
    return {}


@pytest.fixture(params=["store", "cli"])
def target(request: pytest.FixtureRequest) -> str:
    """Who writes."""
    if request.param == "cli" and not (ROOT / "retrieval" / "__main__.py").exists():
        pytest.skip("there is no command line yet")
    return str(request.param)


@pytest.fixture(params=["create", "append"])
def case(
    request: pytest.FixtureRequest,
    target: str,
    cases: dict[tuple[str, str], Case],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """A command with its places, prepared once."""
    key = (target, request.param)
    if key not in cases:
        cases[key] = prepare(tmp_path_factory.mktemp("faults"), *key)
    return cases[key]


def acknowledged(output: str) -> list[int]:
    """The numbers that were told to be committed."""
    return [json.loads(line)["committed"] for line in output.splitlines() if line.startswith('{"committed"')]


def messages(stderr: str) -> list[str]:
    """The lines that are not progress."""
    return [line for line in stderr.splitlines() if line.strip() and not re.match(r"\w[\w ]*: \d+", line)]


def kill_at(case: Case, place: Place) -> None:
    """Kill at the place: the old state or the new one, and a rerun that ends in the new one."""
    tmp = case.path.parent
    case.reset()
    done = run(
        case.command,
        tmp,
        "-e",
        f"trace={place.call}",
        "-e",
        f"inject={place.call}:signal=KILL:when={place.when}",
    )
    assert done.returncode in (-9, 137), (place, done)
    found = ids(case.path)
    assert found in (case.before, case.after), place
    if acknowledged(done.stdout):
        assert found == case.after, place
    rerun(case, found)


def rerun(case: Case, found: set[str]) -> None:
    """The same command again, without cleaning."""
    tmp = case.path.parent
    again = run(case.command, tmp)
    if found == case.after:
        assert again.returncode == 2, again.stderr  # an index that is there, an id that is known
        assert len(messages(again.stderr)) in (1, 2), again.stderr
    else:
        assert again.returncode == 0, again.stderr
        tidy(case.path)
    assert ids(case.path) == case.after


def fail_at(case: Case, place: Place, error: str) -> None:
    """Let one call fail: exit 5 and the old state, or success and the new one."""
    tmp = case.path.parent
    case.reset()
    done = run(
        case.command,
        tmp,
        "-e",
        f"trace={place.call}",
        "-e",
        f"inject={place.call}:error={error}:when={place.when}",
    )
    found = ids(case.path)
    assert "Traceback" not in done.stderr, (place, done.stderr)
    if done.returncode:
        assert done.returncode == 5, (place, done.stderr)
        assert error in done.stderr
        assert len(messages(done.stderr)) in (1, 2), done.stderr
        assert not acknowledged(done.stdout)
        # A late progress line moves the count: what failed then is the line that says "committed".
        unsaid = "standard output" in done.stderr
        assert found == (case.after if unsaid else case.before), place
    else:
        assert acknowledged(done.stdout) == [len(case.after)]
        assert found == case.after, place
    rerun(case, found)


def sample(places: list[Place], count: int) -> list[Place]:
    """Some of the places, evenly, and those around the last rename, where a commit is switched."""
    step = max(1, len(places) // count)
    switch = max((at for at, place in enumerate(places) if place.call == "rename"), default=len(places) - 2)
    return sorted({*places[::step], *places[switch : switch + 2]}, key=places.index)


def test_some_kills(case: Case) -> None:
    for place in sample(case.places, 4):
        kill_at(case, place)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_some_failures(case: Case, error: str) -> None:
    for place in sample([each for each in case.places if each.call in FAILING], 2):
        fail_at(case, place, error)


@pytest.mark.slow
def test_a_kill_at_every_call(case: Case) -> None:
    for place in case.places:
        kill_at(case, place)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_failure_of_every_write_and_sync(case: Case, error: str) -> None:
    for place in case.places:
        if place.call in FAILING:
            fail_at(case, place, error)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_failure_of_every_other_call(case: Case, error: str) -> None:
    for place in case.places:
        if place.call not in FAILING:
            fail_at(case, place, error)


@pytest.mark.slow
def test_kills_at_random_instants(target: str, tmp_path: Path) -> None:
    """300 kills of a command that commits again and again; what was acknowledged is there, whole."""
    way = Target(target)
    index = tmp_path / "work" / "index"
    index.parent.mkdir()
    count = 50
    seconds = 0.0
    expected: set[str] = set()
    rng = random.Random(5)
    for number in range(301):
        if number % 50 == 0:
            shutil.rmtree(index, ignore_errors=True)
            expected = set()
        verb = "append" if expected else "create"
        first = len(expected)
        command = way.command(verb, index, first, count, commits=5)
        started = time.monotonic()
        output = tmp_path / "output"
        with output.open("wb") as out:
            process = subprocess.Popen(
                command, env=environment(tmp_path), cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL
            )
            if number:
                time.sleep(rng.uniform(0.3, 1.05) * seconds)
                process.kill()
            process.wait()
        seconds = seconds or time.monotonic() - started
        found = ids(index)
        check(index) if found else None
        told = acknowledged(output.read_text())
        assert len(found) >= max([len(expected), *told])
        assert (len(found) - first) % count == 0
        assert found == {f"d{each:06}" for each in range(len(found))}
        expected = found


def test_the_limit_of_a_file_s_size(tmp_path: Path) -> None:
    """ulimit -f: the signal is ignored, the error is named, what was there stays searchable."""
    index = tmp_path / "index"
    way = Target("store")
    assert run(way.command("create", index, 0, 20), tmp_path).returncode == 0
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "-", *way.command("append", index, 20, 20_000)]
    done = run(limited, tmp_path)
    assert done.returncode == 5, done
    assert "ulimit -f" in done.stderr
    assert ids(index) == OLD
    assert run(way.command("append", index, 20, 20), tmp_path).returncode == 0
    tidy_after = {name for name in os.listdir(index) if name.startswith("tmp-")}
    assert not tidy_after
