"""Packages of the open training text: the table, the commands, checksums, reading without unpacking."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from retrieval.data.opentext_packages import PACKAGES, Package, command, fetch, read
from retrieval.data.opentext_sources import SOURCES
from retrieval.errors import UserError

PAGES = {"usr/doc/b.html": b"<p>b", "usr/doc/a.html": b"<p>a", "usr/doc/c.png": b"c"}
HTML = re.compile(r"demo/usr/doc/[^/]+\.html")
EXPECTED = [("demo/usr/doc/a.html", b"<p>a"), ("demo/usr/doc/b.html", b"<p>b")]


def tar(mode: Any, files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("./usr/doc/link.html")
        link.type, link.linkname = tarfile.SYMTYPE, "a.html"
        archive.addfile(link)
    return held.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar("w:xz", files)}
    out = b"!<arch>\n"
    for name, content in parts.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def package(manager: str = "deb", name: str = "demo", content: bytes = b"") -> Package:
    digest = hashlib.sha256(content).hexdigest()
    return Package("perlfaq", manager, name, "1:2.0-1", "public domain", "a demonstration", digest)


def test_the_table_is_complete() -> None:
    assert {each.source for each in PACKAGES} == {*SOURCES, "trivia"}
    assert len({(each.manager, each.file) for each in PACKAGES}) == len(PACKAGES)
    for each in PACKAGES:
        assert each.manager in ("pip", "deb", "npm"), each
        assert re.fullmatch("[0-9a-f]{64}", each.sha256), each
        assert all((each.name, each.version, each.licence, each.what)), each
        assert each.file.startswith(re.split(r"[-_/]", each.name.strip("@"))[0]), each
    assert len({each.sha256 for each in PACKAGES}) == len(PACKAGES)


def test_names_of_files() -> None:
    assert package().file == "demo_1%3a2.0-1_all.deb"
    assert package("npm", "@a/b-c")._replace(version="1.0").file == "a-b-c-1.0.tgz"
    assert package("pip", "a-b")._replace(version="1.0").file == "a_b-1.0-py3-none-any.whl"


def test_commands(tmp_path: Path) -> None:
    assert command(package(), tmp_path) == ["apt-get", "download", "demo=1:2.0-1"]
    assert command(package("npm"), tmp_path) == ["npm", "pack", "--ignore-scripts", "demo@1:2.0-1"]
    wheel = command(package("pip"), tmp_path)
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(wheel)
    digest = hashlib.sha256(b"").hexdigest()
    assert Path(wheel[-1]).read_text() == f"demo==1:2.0-1 --hash=sha256:{digest}\n"
    source = command(package("pip")._replace(named="demo.tar.gz"), tmp_path)
    assert "--no-binary=demo" in source
    assert "--only-binary=:all:" not in source


@pytest.mark.parametrize("kind", ["demo.whl", "demo.tgz", "demo.deb"])
def test_files_are_read_without_unpacking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind.endswith("whl"):
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in PAGES.items():
                wheel.writestr(name, content)
    elif kind.endswith("tgz"):
        path.write_bytes(tar("w:gz", PAGES))
    else:
        path.write_bytes(deb({f"./{name}": content for name, content in PAGES.items()}))
    assert read(path, "demo", HTML) == EXPECTED
    assert [each.name for each in tmp_path.iterdir()] == [kind]


def test_a_package_of_another_form(tmp_path: Path) -> None:
    path = tmp_path / "demo.deb"
    path.write_bytes(b"!<arch>\n" + f"{'data.tar.zst':<48}{4:<10}`\n".encode() + b"abcd")
    with pytest.raises(UserError, match=r"holds no data\.tar\.xz"):
        read(path, "demo", HTML)


def test_what_is_there_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(subprocess, "run")
    wanted = package(content=b"right")
    path = tmp_path / "deb" / wanted.file
    path.parent.mkdir()
    path.write_bytes(b"right")
    assert fetch(wanted, tmp_path) == path
    path.write_bytes(b"wrong")
    with pytest.raises(UserError, match="delete it"):
        fetch(wanted, tmp_path)


def test_downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = package(content=b"right")

    def run(words: list[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        if "=" in words[-1]:
            (cwd / wanted.file).write_bytes(b"right")
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    path = fetch(wanted, tmp_path)
    assert path.read_bytes() == b"right"
    assert list(tmp_path.rglob("*")) == [tmp_path / "deb", path]  # no scratch is left


@pytest.mark.parametrize("failure", ["missing", "refused", "silent", "partial"])
def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def run(words: list[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        if failure == "partial":
            (cwd / package().file).write_bytes(b"")
        if failure == "missing":
            raise FileNotFoundError(words[0])
        code, said = (100, "Reading\nE: no such version\n") if failure in ("refused", "partial") else (0, "")
        return subprocess.CompletedProcess(words, code, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    reason = {"missing": "apt-get is not there", "refused": "E: no such version", "silent": "no file came"}
    reason["partial"] = reason["refused"]
    with pytest.raises(UserError, match=reason[failure]) as caught:
        fetch(package(), tmp_path)
    assert "put it into" in str(caught.value)
    assert list((tmp_path / "deb").iterdir()) == []
