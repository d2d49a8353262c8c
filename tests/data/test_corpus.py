"""Every form of corpus behind one door: which form it is, where a document stood, what is skipped."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data.corpus import open_corpus
from retrieval.data.lines import Limits
from retrieval.errors import BadLine, MissingExtra, RetrievalError, UnknownName, UserError
from retrieval.types import Document

GOOD = b'{"_id": "%d", "text": "text %d"}\n'
COUNTS = {"scifact": 5183, "debtags": 30300, "wordnet-entities": 7730}


def lines(count: int) -> bytes:
    return b"".join(GOOD % (n, n) for n in range(count))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.jsonl", b'{"_id": "1", "text": "t"}\n'),
        ("c.jsonl.gz", gzip.compress(b'{"_id": "1", "text": "t"}\n')),
        ("c.ndjson", b'{"_id": "1", "text": "t"}\n'),
        ("c.tsv", b"1\tt\n"),
        ("c.tsv.gz", gzip.compress(b"1\tt\n")),
        ("c.trec", b"<DOC><DOCNO>1</DOCNO>t</DOC>"),
        ("c.trec.gz", gzip.compress(b"<DOC><DOCNO>1</DOCNO>t</DOC>")),
        ("unnamed", b'\n{"_id": "1", "text": "t"}\n'),
        ("unnamed", b"1\tt\n"),
        ("unnamed.gz", gzip.compress(b"<DOC><DOCNO>1</DOCNO>t</DOC>")),
        ("folder/corpus.jsonl", b'{"_id": "1", "text": "t"}\n'),
        ("folder/corpus.jsonl.gz", gzip.compress(b'{"_id": "1", "text": "t"}\n')),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_forms(tmp_path: Path, name: str, content: bytes, as_text: bool) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    source = path.parent if name.startswith("folder") else path
    corpus = open_corpus(str(source) if as_text else source)
    assert list(corpus) == list(corpus) == [Document("1", "t")]
    assert corpus.source == str(path)
    assert corpus.bytes_read == corpus.bytes_total == path.stat().st_size


def test_batches_have_their_size_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n" + lines(2500))
    batches = list(open_corpus(path).batches(1000))
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    assert [line for batch in batches for line, _ in batch] == list(range(2, 2502))
    assert [document.doc_id for batch in batches for _, document in batch] == [str(n) for n in range(2500)]
    path.write_bytes(lines(2000))
    assert [len(batch) for batch in open_corpus(path).batches(1000)] == [1000, 1000]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("c.jsonl", b'{"_id": "1", "text": "%s"}\n' % (b"word " * 20_000)),
        ("c.tsv", b"1\t%s\n" % (b"word " * 20_000)),
        ("c.trec", b"<DOC><DOCNO>1</DOCNO>\n%s\n</DOC>\n" % (b"word " * 20_000)),
    ],
)
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, name: str, line: bytes) -> None:
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(line, 1) * 600)  # 60 MB
    tracemalloc.start()
    count = sum(1 for _ in open_corpus(tmp_path / f"{name}.gz"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600
    assert peak < 25 << 20  # two batches at most, of 8 MiB each


def test_the_first_bad_line_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(lines(3) + b"nonsense\n" + lines(3))
    with pytest.raises(BadLine) as caught:
        list(open_corpus(path))
    assert (caught.value.source, caught.value.line, caught.value.exit_code) == (str(path), 4, 2)


def test_skip_bad_counts_all_and_keeps_twenty(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes((GOOD % (1, 1) + b"nonsense\n") * 30 + b"x" * 100 + b"\n" + lines(1))
    corpus = open_corpus(path, skip_bad=True, limits=Limits(line_bytes=99))
    for _ in range(2):  # each iteration counts anew
        assert len(list(corpus)) == 31
        assert corpus.skipped_count == 31
        assert [bad.line for bad in corpus.skipped] == list(range(2, 42, 2))
    assert str(corpus.skipped[0]).startswith(f"{path}:2: not JSON")


def test_callers_may_reject_too(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(lines(1))
    with pytest.raises(BadLine, match=r"c\.jsonl:1: the id '0' comes twice"):
        open_corpus(path).reject(1, "the id '0' comes twice")
    tolerant = open_corpus(path, skip_bad=True)
    tolerant.reject(1, "the id '0' comes twice")
    assert tolerant.skipped_count == 1


def test_skip_bad_does_not_hide_lost_data(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(20_000).hex().encode())[:-4000])
    with pytest.raises(BadLine, match="the compressed data end early"):
        list(open_corpus(path, skip_bad=True))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"")])
@pytest.mark.parametrize("name", ["c.jsonl", "c.tsv", "c.trec", "c"])
def test_nothing_in_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="holds no document; check that it is the file you mean"):
        list(open_corpus(tmp_path / name))


def test_nothing_good_in_it(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b"a\nb\n")
    with pytest.raises(UserError, match=r"holds no document: 2 lines are bad, first .*c\.jsonl:1: not JSON"):
        list(open_corpus(tmp_path / "c.jsonl", skip_bad=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path / "absent.jsonl",
        lambda path: str(path / "absent"),
        lambda path: "./absent",
        lambda path: "absent.jsonl.gz",
        lambda path: Path("absent"),
        lambda path: "",
        lambda path: "a\nb",
    ],
)
def test_what_does_not_exist(tmp_path: Path, make: object) -> None:
    with pytest.raises(UserError, match="no such file or folder") as caught:
        open_corpus(make(tmp_path))  # type: ignore[operator]
    assert type(caught.value) is UserError


def test_errors_come_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder without a corpus: no corpus\.jsonl"):
        open_corpus(tmp_path)
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="looks like a binary file"):
        open_corpus(tmp_path / "binary.jsonl")
    (tmp_path / "prose").write_text("To be, or not to be\n")
    with pytest.raises(UserError, match="cannot tell what form"):
        open_corpus(tmp_path / "prose")
    with pytest.raises(UserError, match="no file can have that name"):
        open_corpus("a\0b")
    with pytest.raises(UserError, match="too long"):
        open_corpus("a/" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").touch(0o000)
    with pytest.raises(UserError, match="permission denied"):
        open_corpus(tmp_path / "c.jsonl")


def test_standard_input_is_json_lines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines(3))))
    corpus = open_corpus("-")
    assert [document.doc_id for document in corpus] == ["0", "1", "2"]
    assert (corpus.source, corpus.bytes_total, corpus.bytes_read) == ("-", None, len(lines(3)))
    with pytest.raises(UserError, match="standard input can be read only once"):
        list(corpus)


def test_a_named_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(lines(5),))
    writer.start()
    assert len(list(open_corpus(pipe))) == 5
    writer.join()


def test_an_id_without_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'retrieval\[bench\]'"):
        open_corpus("msmarco-passage")


def test_an_unknown_id_is_met_with_the_nearest() -> None:
    pytest.importorskip("ir_datasets")
    with pytest.raises(UnknownName, match="'msmarco-pasage'; did you mean 'msmarco-passage'"):
        open_corpus("msmarco-pasage")


@pytest.mark.parametrize("name", ["c.jsonl", "c.tsv", "c.trec", "c"])
@settings(deadline=None)
@given(
    content=st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [b'{"_id":"1","text":"t"}', b"\n", b"\t", b"<DOC>", b"</DOC>", b"<DOCNO>1</DOCNO>", b"x"]
        )
        | st.binary(max_size=3)
    ).map(b"".join),
    packed=st.booleans(),
    damage=st.integers(0, 40),
    skip_bad=st.booleans(),
)
def test_garbage_gives_documents_or_errors_of_the_tree(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    content: bytes,
    packed: bool,
    damage: int,
    skip_bad: bool,
) -> None:
    path = tmp_path_factory.mktemp("garbage") / name
    path.write_bytes(gzip.compress(content)[: 60 - damage] if packed else content)
    try:
        for document in open_corpus(path, skip_bad=skip_bad, repair_encoding=True):
            assert document.doc_id
            assert document.full_text().strip()
            document.full_text().encode()
    except RetrievalError as error:
        assert (error.exit_code, "\n" in str(error)) == (2, False)  # noqa: PT017


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_real_collections(collections: Path, name: str) -> None:
    corpus = open_corpus(collections / name)
    ids = {document.doc_id for document in corpus}
    assert len(ids) == COUNTS[name]
    assert corpus.line == COUNTS[name]
    assert corpus.bytes_read == corpus.bytes_total


def test_a_folder_of_json_lines(tmp_path: Path) -> None:
    folder = tmp_path / "collection"
    folder.mkdir()
    sizes = {"docs00.json": 5, "docs01.jsonl.gz": 0, "docs02.jsonl.gz": 3, "docs03.ndjson": 4}
    number = 0
    for name, size in sizes.items():
        opened = gzip.open if name.endswith(".gz") else open
        with opened(folder / name, "wt") as file:
            for _ in range(size):
                file.write(json.dumps({"id": f"d{number}", "contents": f"text {number}"}) + "\n\n")
                number += 1
    (folder / "docs01.jsonl.gz").write_bytes(gzip.compress(b"\n"))
    (folder / "README.md").write_text("about them")
    corpus = open_corpus(folder)
    assert [document.text for document in corpus] == [f"text {n}" for n in range(12)]
    read = []
    for batch in corpus.batches(4):
        read.append((Path(corpus.source).name, [line for line, _ in batch]))
    assert read == [
        ("docs00.json", [1, 3, 5, 7]),
        ("docs00.json", [9]),
        ("docs02.jsonl.gz", [1, 3, 5]),
        ("docs03.ndjson", [1, 3, 5, 7]),
    ]
    assert corpus.bytes_read == corpus.bytes_total == sum((folder / name).stat().st_size for name in sizes)
    (folder / "docs02.jsonl.gz").write_bytes(gzip.compress(b'{"id": "x", "text": "y"}\nbad\n'))
    with pytest.raises(BadLine, match=r"docs02\.jsonl\.gz:2: not JSON"):
        list(corpus)
    (folder / "queries.jsonl").write_text("")
    with pytest.raises(UserError, match=r"without a corpus: no corpus\.jsonl"):
        open_corpus(folder)
