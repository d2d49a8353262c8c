"""CIFF: what is written reads back, byte for byte as protocol buffers have it; damage is one sentence."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import UserError
from retrieval.data import ciff
from retrieval.data.ciff import CiffReader, DocRecord, Header
from retrieval.data.corpus import open_corpus
from retrieval.data.protobuf import sized, varint_bytes

Lists = dict[str, dict[int, int]]


def written(path: Path, lists: Lists, ids: list[str], **changes: Any) -> Path:
    header = Header(len(lists), len(ids), len(lists), len(ids), 7, 3.5, "a test")._replace(**changes)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        ciff.write_header(file.write, header)
        for term, postings in lists.items():
            columns = [np.array(list(column), np.int64) for column in (postings, postings.values())]
            ciff.write_list(file.write, term.encode(), *columns)
        for number, doc_id in enumerate(ids):
            ciff.write_document(file.write, DocRecord(number, doc_id, number * 3))
    return path


def read(path: Path) -> Lists:
    reader = CiffReader(path)
    return {
        each.term: dict(zip(each.docs.tolist(), each.values.tolist(), strict=True)) for each in reader.lists()
    }


def test_the_bytes_of_a_small_file(tmp_path: Path) -> None:
    path = written(tmp_path / "x.ciff", {"ab": {0: 1, 2: 300}}, ["a", "ü"])
    # by hand, from the schema and the description of the wire form
    header = bytes.fromhex("0801 1001 1802 2001 2802 3007 39 0000000000000c40 4206") + b"a test"
    postings = (
        bytes.fromhex("0a02 6162 1002 18ad02")
        + bytes.fromhex("2202 1001")
        + bytes.fromhex("2205 0802 10ac02")
    )
    first, second = b"\x12\x01a", b"\x08\x01\x12\x02" + "ü".encode() + b"\x18\x03"
    messages = [header, postings, first, second]
    assert path.read_bytes() == b"".join(bytes([len(message)]) + message for message in messages)


def gone_through(path: Path) -> None:
    reader = CiffReader(path)
    list(reader.lists())
    list(reader.documents())


numbers = st.dictionaries(st.integers(0, 400), st.integers(1, 2**31 - 1), min_size=1, max_size=60)


@given(lists=st.dictionaries(st.text(min_size=1, max_size=9), numbers, max_size=8))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, lists: Lists) -> None:
    path = tmp_path_factory.mktemp("c") / "x.ciff"
    sorted_lists = {term: dict(sorted(each.items())) for term, each in lists.items()}
    written(path, sorted_lists, [f"d{n}" for n in range(401)])
    assert read(path) == sorted_lists
    assert [record.doc_id for record in CiffReader(path).documents()] == [f"d{n}" for n in range(401)]


@pytest.mark.parametrize("name", ["x.ciff", "x.ciff.gz"])
def test_long_lists(tmp_path: Path, name: str) -> None:
    rng = random.Random(4)
    docs = sorted(rng.sample(range(70_000), 9_000))
    lists = {
        "from zero": dict.fromkeys(range(3000), 255),
        "many": {doc: rng.choice([1, 127, 128, 16383, 16384, 2**31 - 1]) for doc in docs},
        "one": {69_999: 1},
    }
    path = written(tmp_path / name, lists, [f"d{n}" for n in range(70_000)])
    assert read(path) == lists
    reader = CiffReader(path)
    assert reader.header == Header(3, 70_000, 3, 70_000, 7, 3.5, "a test")
    assert sum(1 for _ in reader.documents()) == 70_000
    assert reader.bytes_total == path.stat().st_size


@pytest.mark.parametrize("count", [3, 400])
def test_other_writers(tmp_path: Path, count: int) -> None:
    """Fields in another order, unknown fields, a docid of 0 written out: protocol buffers allow it."""
    plain = b"".join(b"\x22\x04\x08" + bytes([n > 0]) + b"\x10\x05" for n in range(count))
    odd = b"".join(b"\x22\x04\x10\x05\x08" + bytes([n > 0]) for n in range(count))
    tail = b"\x22\x04\x08\x01\x10\x07"
    head = b"\x0a\x01t\x10" + varint_bytes(count + 1)
    last = b"\x7a\x03new" + tail
    for body in (head + plain + tail, head + odd + tail, odd + tail + head, head + plain + last):
        path = tmp_path / "x.ciff"
        with open(path, "wb") as file:
            ciff.write_header(file.write, Header(1, count + 1, 1, 1, 1, 1.0, ""))
            file.write(sized(body))
            for n in range(count + 1):
                ciff.write_document(file.write, DocRecord(n, f"d{n}", 1))
        assert read(path) == {"t": {**dict.fromkeys(range(count), 5), count: 7}}


def test_a_file_cut_at_any_byte(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.ciff",
        {"a": {0: 1, 3: 2}, "b": dict.fromkeys(range(60), 3)},
        ["x"] + [f"y{n}" for n in range(59)],
    )
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"x\.ciff: .*; is it a CIFF file, and whole\?$") as raised:
            gone_through(path)
        assert "\n" not in str(raised.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="what follows the last document: there should be nothing"):
        list(CiffReader(path).documents())


def test_any_flipped_bit_is_an_error_or_another_number(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.ciff",
        {"a": {0: 1, 3: 2}, "b": dict.fromkeys(range(60), 3)},
        [f"y{n}" for n in range(60)],
    )
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (5 * at % 8)
        path.write_bytes(damaged)
        try:
            reader = CiffReader(path)
            for each in reader.lists():
                assert (np.diff(each.docs) > 0).all()
                assert each.docs[0] >= 0
                assert each.docs[-1] < reader.header.documents
                assert each.values.min() > 0
            list(reader.documents())
        except UserError:
            refused += 1
    assert refused > len(whole) // 2


def broken(path: Path, body: bytes, documents: int = 9) -> CiffReader:
    with open(path, "wb") as file:
        ciff.write_header(file.write, Header(1, documents, 1, documents, 1, 1.0, ""))
        file.write(sized(body))
    return CiffReader(path)


NEGATIVE = b"\xff" * 9 + b"\x01"  # -1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\x0a\x01t\x10\x02" + b"\x22\x04\x08\x03\x10\x01" * 1, "'t' has 1 postings and says that it has 2"),
        (b"\x0a\x01t\x10\x02" + b"\x22\x04\x08\x03\x10\x01" + b"\x22\x02\x10\x01", "do not ascend"),
        (b"\x0a\x01t\x10\x01" + b"\x22\x0d\x08" + NEGATIVE + b"\x10\x01", "do not ascend"),
        (
            b"\x0a\x01t\x10\x02" + b"\x22\x04\x08\x03\x10\x01" + b"\x22\x0d\x08" + NEGATIVE + b"\x10\x01",
            "do not ascend",
        ),
        (b"\x0a\x01t\x10\x01" + b"\x22\x04\x08\x09\x10\x01", "stands in document 9, and there are 9"),
        (b"\x0a\x01t\x10\x01" + b"\x22\x02\x08\x03", "stands 0 times"),
        (b"\x0a\x01t\x10\x01" + b"\x22\x0d\x08\x03\x10" + NEGATIVE, "stands -1 times"),
        (b"\x10\x01" + b"\x22\x04\x08\x03\x10\x01", "it has no term"),
        (b"\x0a\x01\xff\x10\x00", "the term is not UTF-8"),
        (b"\x0a\x05t", "ends within a field"),
        (b"\x0b\x01t", "a field of kind 3"),
        (b"\x0a\x01t\x10\x01\x20\x07", "a posting of another kind"),
    ],
)
@pytest.mark.parametrize("more", [0, 100])
def test_lists_that_cannot_be(tmp_path: Path, body: bytes, problem: str, more: int) -> None:
    if more and b"\x22" in body and "postings and" not in problem:  # the fast path sees the same
        count = b"\x10" + bytes([body[4] + more])
        body = body[:3] + count + body[5:] if body[3] == 0x10 else body
        front = b"".join(b"\x22\x04\x08\x01\x10\x01" for _ in range(more))
        at = body.index(b"\x22")
        body = body[:at] + front + body[at:]
        problem = problem.replace(
            "document 9, and there are 9", f"document {more + 9}, and there are {more + 9}"
        )
    reader = broken(tmp_path / "x.ciff", body, 9 + more)
    with pytest.raises(UserError, match=rf"x\.ciff: postings list 1 of 1: .*{problem}"):
        list(reader.lists())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ends 1 bytes too early"),
        (b"not a CIFF file at all, but some text", "the header: "),
        (b"\x08\x08\x02\x10\x01\x18\x01\x20\x01", "it is of version 2, and only 1 is known"),
        (b"\x0d\x08\x01\x10" + NEGATIVE, "it counts -1 lists"),
        (b"\x02\x0d\x01", "ends within a field"),
        (b"\xff\xff\xff\xff\xff", "its length makes no sense"),
        (b"\xff\xff\xff\xff\x07", "bytes too early"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.ciff"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        CiffReader(path)


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([DocRecord(0, "a", 1), DocRecord(0, "b", 1)], "the number 0 comes twice"),
        ([DocRecord(0, "a", 1), DocRecord(2, "b", 1)], "it has the number 2, not one of 0 to 1"),
        ([DocRecord(0, "a b", 1), DocRecord(1, "b", 1)], "holds white space"),
        ([DocRecord(0, "", 1), DocRecord(1, "b", 1)], "the id is empty"),
    ],
)
def test_documents_that_cannot_be(tmp_path: Path, records: list[DocRecord], problem: str) -> None:
    path = tmp_path / "x.ciff"
    with open(path, "wb") as file:
        ciff.write_header(file.write, Header(0, 2, 0, 2, 1, 1.0, ""))
        for record in records:
            ciff.write_document(file.write, record)
    with pytest.raises(UserError, match=problem):
        list(CiffReader(path).documents())


def test_a_claim_of_many_documents_takes_no_memory(tmp_path: Path) -> None:
    path = written(tmp_path / "x.ciff", {"a": {0: 1}}, ["x"], documents=2**31 - 1)
    with pytest.raises(UserError, match=r"document 2 of 2,147,483,647: the file ends"):
        list(CiffReader(path).documents())


def test_compressed_data_that_end_early(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.ciff.gz", {"a": {n: n + 1 for n in range(999)}}, [f"d{n}" for n in range(999)]
    )
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="the compressed data end early or are damaged"):
        list(CiffReader(path).documents())


def test_as_a_corpus(tmp_path: Path) -> None:
    path = written(tmp_path / "x.ciff.gz", {"a": {0: 1}}, [f"d{n}" for n in range(2500)])
    corpus = open_corpus(path)
    assert not corpus.has_text
    assert [document.doc_id for document in corpus] == [f"d{n}" for n in range(2500)]
    assert [len(batch) for batch in corpus.batches(1000)] == [1000, 1000, 500]
    assert corpus.bytes_total == path.stat().st_size
    with open(tmp_path / "y.ciff", "wb") as file:
        ciff.write_header(file.write, Header(0, 2, 0, 2, 1, 1.0, ""))
        for number in (1, 0):
            ciff.write_document(file.write, DocRecord(number, f"d{number}", 1))
    with pytest.raises(UserError, match="document 0 has the number 1"):
        list(open_corpus(tmp_path / "y.ciff"))
    with pytest.raises(UserError, match="no such file"):
        open_corpus(tmp_path / "z.ciff")
