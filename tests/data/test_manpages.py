"""Manual pages as training pairs: hierarchies, links, SEE ALSO, what is held out, the command."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from retrieval.data.manpages import Page, build, held_out, main, read_pages, see_also
from retrieval.data.training import read_examples
from retrieval.errors import UserError
from retrieval.types import Document

WORDS = ["pond", "duck", "frog", "mill", "wheel", "reed", "water", "stone", "bank", "fish"]


def source(name: str, section: str, refers: str = "", words: int = 40) -> str:
    rng = random.Random(name)
    body = " ".join(rng.choices(WORDS, k=words))
    also = f".SH SEE ALSO\n{refers}\n" if refers else ""
    return f".TH {name} {section}\n.SH NAME\n{name} \\- {body}\n{also}.SH NOTES\nend of {name}\n"


def write(root: Path, file: str, text: str) -> Path:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    man = tmp_path / "tree" / "package" / "usr" / "share" / "man"
    write(man, "man1/duck.1.gz", source("duck", "1", ".BR frog (3), nowhere (1), duck (1)"))
    write(man, "man3/frog.3", source("frog", "3", ".BR duck (1), alias (3), pond (1)"))
    write(man, "man1/pond.1ssl.gz", source("pond", "1ssl"))
    write(man, "man3/toad.3.gz", ".so man3/frog.3\n")
    write(man, "man3/lost.3.gz", ".so man3/nothing.3\n")
    write(man, "man7/short.7.gz", source("short", "7", words=3))
    write(man, "man7/spaced name.7", source("spaced", "7"))
    write(man, "man7/twin.7", source("frog", "3", "duck(1)"))
    write(man, "de/man1/duck.1.gz", source("ente", "1"))
    write(man, "man7/README", "no page")
    (man / "man3" / "alias.3").symlink_to("toad.3.gz")
    (man / "man3" / "gone.3").symlink_to("elsewhere.3")
    return tmp_path / "tree"


def test_pages(folder: Path) -> None:
    pages = read_pages(folder)
    assert [page.document.doc_id for page in pages] == ["duck.1", "frog.3", "pond.1ssl"]
    assert pages[1].names == ("frog.3", "alias.3", "toad.3", "twin.7")
    assert [page.document.title for page in pages] == ["duck(1)", "frog(3)", "pond(1ssl)"]
    assert pages[0].refers == (("frog", "3"), ("nowhere", "1"), ("duck", "1"))
    text = pages[0].document.text
    assert "SEE ALSO" not in text
    assert "frog(3)" not in text
    assert text.startswith("NAME\nduck - ")
    assert text.endswith("\nNOTES\nend of duck")
    assert read_pages(folder / "package" / "usr" / "share" / "man") == pages


def test_pairs(folder: Path) -> None:
    # duck and frog name each other, frog names pond(1), which is pond(1ssl) alone; alias.3 is frog itself.
    assert see_also(read_pages(folder)) == [(0, 1), (1, 2)]


def test_pairs_against_plain_python() -> None:
    rng = random.Random(3)
    for _ in range(50):
        ids = [f"{name}.{part}" for name in "abc" for part in ("1", "1ssl", "3") if rng.random() < 0.7]
        wanted = [(rng.choice("abcd"), rng.choice(["1", "1ssl", "1p", "3"])) for _ in range(len(ids))]
        pages = [
            Page(Document(one, "text", ""), (one,), (refers,))
            for one, refers in zip(ids, wanted, strict=True)
        ]
        found = set()
        for at, (name, part) in enumerate(wanted):
            near = [one for one in ids if one.split(".")[0] == name and one.split(".")[1][0] == part[0]]
            goal = f"{name}.{part}" if f"{name}.{part}" in ids else near[0] if len(near) == 1 else ids[at]
            found.add(tuple(sorted((at, ids.index(goal)))))
        assert see_also(pages) == sorted(pair for pair in found if pair[0] != pair[1])


def many(root: Path, count: int = 60) -> Path:
    for at in range(count):
        refers = ", ".join(f"page{(at + step) % count} (1)" for step in (1, 2, 5))
        write(root, f"man1/page{at}.1", source(f"page{at}", "1", refers))
    return root


def test_files(tmp_path: Path) -> None:
    counts = build(many(tmp_path / "man"), tmp_path / "out", share=0.2)
    assert (counts["pages"], counts["pairs"], counts["excluded"]) == (60, 180, 0)
    texts = {
        f"{one['title']} {one['text']}": one["_id"]
        for one in map(json.loads, (tmp_path / "out" / "corpus.jsonl").read_text().splitlines())
    }
    asked = {}
    for split in ("train", "dev"):
        examples = list(read_examples(str(tmp_path / "out" / f"{split}.jsonl")))
        asked[split] = [(texts[one.query], texts[one.positive]) for one in examples]
        assert len(examples) == len(set(examples)) == counts[split]
    apart = {one for one in texts.values() if held_out(one, 0.2)}
    assert len(apart) == counts["held_out"] > 3
    assert not apart & {one for pair in asked["train"] for one in pair}
    assert {query for query, _ in asked["dev"]} == apart
    both = {frozenset(pair) for pair in asked["train"]}
    assert len(asked["train"]) == 2 * len(both)  # each of two asks for the other
    assert len(both | {frozenset(pair) for pair in asked["dev"]}) == 180
    assert build(tmp_path / "man", tmp_path / "again", share=0.2) == counts
    for name in ("corpus", "train", "dev"):
        same = [(tmp_path / out / f"{name}.jsonl").read_bytes() for out in ("out", "again")]
        assert same[0] == same[1]


def test_how_many_a_page_asks_for(tmp_path: Path) -> None:
    counts = build(many(tmp_path / "man"), tmp_path / "out", share=0, most=2)
    assert (counts["train"], counts["dev"], counts["held_out"]) == (120, 0, 0)


def test_excluded_names(folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "other.jsonl"
    corpus.write_text('{"_id": "toad.8", "text": "a page that is tested on"}\n')
    counts = build(folder, tmp_path / "out", exclude=[str(corpus)])
    assert (counts["pages"], counts["excluded"], counts["pairs"]) == (2, 1, 0)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--out", str(tmp_path / "out"), "--held-out", "0"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["pages"], counts["names"], counts["train"]) == (3, 6, 4)
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "is no folder; name a man hierarchy" in capsys.readouterr().err
    assert main([str(folder), "--out", str(tmp_path / "out"), "--most", "0"]) == 2
    assert "give 0 to 1, and 1 or more" in capsys.readouterr().err


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no manual page"):
        read_pages(tmp_path / "empty")
    path = write(tmp_path / "man", "man1/duck.1.gz", source("duck", "1"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"duck\.1\.gz is no gzip file that can be read"):
        read_pages(tmp_path / "man")
