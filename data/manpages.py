"""Pairs of long documents out of manual pages: `python -m retrieval.data.manpages FOLDER --out DIR`.

Two pages are a pair where one names the other under SEE ALSO. docs/training-text.md has the rules.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.data.corpus import open_corpus
from retrieval.data.output import atomic, json_line
from retrieval.data.roff import link_target, sections
from retrieval.diskio import disk_errors
from retrieval.errors import RetrievalError, UserError
from retrieval.progress import Progress
from retrieval.types import Document

_FILE = re.compile(r"(?P<name>\S+)\.(?P<section>[1-9nl][a-zA-Z0-9_]*)(?:\.gz)?")
_NAMED = re.compile(r"([\w.:+@\[-]+) ?\(([1-9nl][a-zA-Z0-9_]*)\)")
_SEE_ALSO = re.compile(r"see[ -]also|related (pages|documents|information)", re.IGNORECASE)
_LEAST = 20  # words of a page; one with fewer is a name that leads elsewhere
_HOPS = 5  # links that lead to links


class Page(NamedTuple):
    """A manual page: its document, its names ("open.2" first, then those that lead to it), SEE ALSO's."""

    document: Document
    names: tuple[str, ...]
    refers: tuple[tuple[str, str], ...]


def read_pages(folder: str | os.PathLike[str]) -> list[Page]:
    """The pages of a folder, sorted by id ("open.2"): a man hierarchy, or unpacked packages with theirs.

    Read are man1 to man9 (mann, manl) of every folder named man, and of `folder` itself, so no translations.
    Title: "open(2)". Text: the sections, each after its heading, without SEE ALSO. A link and a page of
    `.so` are further names of the page that they lead to, and so is a page with the same text as another;
    links that lead nowhere, pages below 20 words and what is no manual page are left out. Where several
    hierarchies have a page of one name, the first path counts. Raises UserError where there is no page at
    all, StorageError where the disk fails.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{os.fspath(folder)!r} is no folder; name a man hierarchy or an unpacked package")
    names: dict[Path, list[str]] = defaultdict(list)
    texts: dict[Path, str] = {}
    for path in _files(root):
        place = _followed(path, texts)
        name = path.name.removesuffix(".gz")
        if place is not None and name not in names[place]:
            names[place].append(name)
    pages: dict[str, Page] = {}
    same: dict[str, str] = {}
    taken: set[str] = set()
    with Progress("reading", len(names), unit="pages") as bar:
        for place, found in sorted(names.items(), key=lambda one: str(one[0])):
            bar.update()
            own = place.name.removesuffix(".gz")
            mine = [name for name in sorted(found, key=lambda name: (name != own, name)) if name not in taken]
            if not mine or (page := _page(mine, texts[place])) is None:
                continue
            taken.update(mine)
            first = same.setdefault(page.document.text, mine[0])
            if first != mine[0]:
                pages[first] = pages[first]._replace(names=(*pages[first].names, *mine))
            else:
                pages[first] = page
    if not pages:
        raise UserError(f"{os.fspath(folder)!r} holds no manual page such as man1/ls.1.gz; name another one")
    return [pages[name] for name in sorted(pages)]


def _files(root: Path) -> list[Path]:
    """The files of the man hierarchies, sorted; a page that has a name with white space is none."""
    with disk_errors("read", root):
        found = [
            Path(at) / name
            for at, _, names in os.walk(root)
            if re.fullmatch(r"man[1-9nl]", os.path.basename(at))
            and (Path(at).parent.name == "man" or Path(at).parent == root)
            for name in names
        ]
    return sorted(path for path in found if _FILE.fullmatch(path.name))


def _followed(path: Path, texts: dict[Path, str]) -> Path | None:
    """The file that a page's file leads to, itself mostly; its source comes into `texts`."""
    for _ in range(_HOPS):
        place = path.resolve()
        if not place.is_file():
            return None
        if place not in texts:
            texts[place] = _source(place)
        target = link_target(texts[place])
        if target is None:
            return place
        base = place.parent.parent if "/" in target else place.parent
        path = next((file for end in ("", ".gz") if (file := base / f"{target}{end}").is_file()), base)
    return None


def _source(path: Path) -> str:
    with disk_errors("read", path):
        content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is no gzip file that can be read ({error}); copy it again") from None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _page(names: Sequence[str], source: str) -> Page | None:
    """The page of a source, or None where it says too little."""
    parts: list[str] = []
    refers: dict[tuple[str, str], None] = {}
    for section in sections(source):
        if _SEE_ALSO.match(section.heading):
            refers |= dict.fromkeys(_NAMED.findall(section.text))
        else:
            parts += [part for part in section if part]
    text = "\n".join(parts)
    if len(text.split()) < _LEAST:
        return None
    name, _, part = names[0].rpartition(".")
    return Page(Document(names[0], text, f"{name}({part})"), tuple(names), tuple(refers))


def see_also(pages: Sequence[Page]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of pages of which one refers to the other, each once, sorted.

    A reference such as CA.pl(1) is to CA.pl.1, else to the one page of that name in section 1 or a part of it
    (1ssl); letters' case counts. To what is not among the pages there is no pair.
    """
    exact = {name: at for at, page in enumerate(pages) for name in page.names}
    loose: dict[tuple[str, str], set[int]] = defaultdict(set)
    for full, at in exact.items():
        name, _, part = full.rpartition(".")
        loose[name, part[0]].add(at)
    found = set()
    for at, page in enumerate(pages):
        for name, part in page.refers:
            other = exact.get(f"{name}.{part}")
            if other is None:
                candidates = loose[name, part[0]]
                other = next(iter(candidates)) if len(candidates) == 1 else None
            if other is not None and other != at:
                found.add((min(at, other), max(at, other)))
    return sorted(found)


def held_out(doc_id: str, share: float) -> bool:
    """Whether a page is held out: by a hash of its id, so that it stays where it is when pages are added."""
    return int.from_bytes(hashlib.sha256(doc_id.encode()).digest()[:4], "big") < share * 2**32


def build(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    exclude: Iterable[str] = (),
    share: float = 0.1,
    most: int = 8,
) -> dict[str, int]:
    """Write OUT/corpus.jsonl, OUT/train.jsonl and OUT/dev.jsonl, the same bytes every time.

    corpus   {"_id", "title", "text"} of all pages
    train    {"query", "positive": {"title", "text"}}: both pages of a pair ask for each other; each page asks
             at most `most` times (which, is decided by a hash)
    dev      the same of pairs with a page that is held out, who asks; such a pair is not in `train`
    exclude  corpora: a page is left out where any of its names, whatever its section, is one of their ids
    share    of the pages that are held out

    Returns counts. Raises UserError for a folder without pages, a share not in 0..1, or a `most` below 1.
    """
    if not 0 <= share <= 1 or most < 1:
        raise UserError(f"share={share} held out, {most} pairs a page; give 0 to 1, and 1 or more")
    names = {_name(document.doc_id) for source in exclude for document in open_corpus(source)}
    every = read_pages(folder)
    pages = [page for page in every if names.isdisjoint(map(_name, page.names))]
    pairs = see_also(pages)
    partners: Mapping[int, list[int]] = defaultdict(list)
    for one, other in pairs:
        partners[one].append(other)
        partners[other].append(one)
    apart = [held_out(page.document.doc_id, share) for page in pages]
    target = Path(out)
    with disk_errors("create", target, placing=True):
        target.mkdir(parents=True, exist_ok=True)
    with atomic(target / "corpus.jsonl") as write:
        for page in pages:
            write(json_line(_record(page.document)))
    counts = {"pages": len(pages), "excluded": len(every) - len(pages)}
    counts["words"] = sum(len(page.document.full_text().split()) for page in pages)
    counts |= {"names": sum(len(page.names) for page in pages), "pairs": len(pairs)}
    for split, asks in (("train", False), ("dev", True)):
        lines = 0
        with atomic(target / f"{split}.jsonl") as write:
            for at in (at for at in sorted(partners) if apart[at] is asks):
                allowed = [other for other in partners[at] if asks or not apart[other]]
                for other in sorted(allowed, key=lambda other: _drawn(pages, at, other))[:most]:
                    positive = _record(pages[other].document)
                    del positive["_id"]
                    write(json_line({"query": pages[at].document.full_text(), "positive": positive}))
                    lines += 1
        counts[split] = lines
    return counts | {"held_out": sum(apart)}


def _name(doc_id: str) -> str:
    """ "open" of "open.2"."""
    return doc_id.rpartition(".")[0] or doc_id


def _drawn(pages: Sequence[Page], one: int, other: int) -> bytes:
    names = f"{pages[one].document.doc_id} {pages[other].document.doc_id}"
    return hashlib.sha256(names.encode()).digest()


def _record(document: Document) -> dict[str, Any]:
    return {"_id": document.doc_id, "title": document.title, "text": document.text}


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code. The counts come out as JSON."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.data.manpages", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="a man hierarchy, or unpacked packages")
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="for corpus.jsonl, train.jsonl, dev.jsonl"
    )
    parser.add_argument(
        "--exclude", metavar="CORPUS", action="append", default=[], help="leave its pages out"
    )
    parser.add_argument("--held-out", type=float, default=0.1, metavar="SHARE", help="of the pages (0.1)")
    parser.add_argument("--most", type=int, default=8, metavar="N", help="pairs that a page asks in (8)")
    options = parser.parse_args(words)
    try:
        made = build(
            options.folder, options.out, exclude=options.exclude, share=options.held_out, most=options.most
        )
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.buffer.write(json_line(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
