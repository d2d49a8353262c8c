"""Export and import: what leaves an index as CIFF or JSON vectors ranks the same when it comes back."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import BadLine, Index, StorageError, UserError
from retrieval.data.ciff import CiffReader
from retrieval.errors import UnknownName
from retrieval.index import export as exporting
from retrieval.index import vectors
from retrieval.index.export import export
from retrieval.index.vectors import Vectors, read_range

Docs = dict[str, dict[str, int]]


def corpus(count: int, most: int = 255) -> Docs:
    rng = random.Random(7)
    return {
        f"d{n}": {f"t{rng.randrange(40)}": rng.randint(1, most) for _ in range(rng.randrange(12))}
        for n in range(count)
    }


def weighted(path: Path, docs: Docs, **options: Any) -> Index:
    """Impacts and BM25 of the same documents, in two segments, every seventh deleted."""
    index = Index.create(path, ["impacts", "bm25"], analyzer="words", **options)
    items = list(docs.items())
    for part in (items[: len(items) // 3], items[len(items) // 3 :]):
        index.add(
            {
                "id": name,
                "text": " ".join(t for t, w in vector.items() for _ in range(w)) or "-",
                "vector": vector,
            }
            for name, vector in part
        )
        index.commit()
    index.delete(list(docs)[::7])
    index.commit()
    return index


def answers(index: Index, name: str) -> list[list[tuple[str, float]]]:
    queries = ["t1", "t1 t2 t3 t3", " ".join(f"t{n}" for n in range(40)), "t99", ""]
    return [[(hit.doc_id, hit.score) for hit in index.search(query, 500, pipeline=name)] for query in queries]


@pytest.fixture(scope="module")
def docs() -> Docs:
    return corpus(200)


@pytest.fixture(scope="module", params=["plain", "compact", "reordered"])
def index(request: pytest.FixtureRequest, docs: Docs, tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = weighted(tmp_path_factory.mktemp("i") / "i", docs, compact=request.param == "compact")
    if request.param == "reordered":
        made.merge(reorder=True)
        made.delete("d1")
        made.commit()
    return made


def live(docs: Docs, index: Index) -> Docs:
    return {name: vector for name, vector in docs.items() if name in index}


def imported(path: Path, spec: str, docs: Docs, **options: Any) -> Index:
    made = Index.create(path, [spec], analyzer="words", **options)
    made.add({"id": name, "text": "x"} for name in reversed(docs))
    made.commit()
    return made


@pytest.mark.parametrize("file", ["x.ciff", "x.ciff.gz", "x.jsonl", "x.json.gz", "folder"])
@pytest.mark.parametrize("method", ["impacts", "bm25"])
def test_there_and_back(
    tmp_path: Path, docs: Docs, index: Index, file: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_FILE", 50)
    monkeypatch.setattr(vectors, "_BATCH", 30)
    kept = live(docs, index)
    path = tmp_path / file
    done = export(index, method, str(path))
    assert done == (len(kept), sum(map(len, kept.values())))
    back = imported(tmp_path / "back", f"{method}:{path}", kept)
    assert answers(back, method) == answers(index, method)


def test_the_lists_of_a_ciff_file(tmp_path: Path, docs: Docs, index: Index) -> None:
    kept = live(docs, index)
    export(index, "impacts", str(tmp_path / "x.ciff"))
    reader = CiffReader(tmp_path / "x.ciff")
    records = list(reader.documents())
    assert [record.doc_id for record in records] == list(kept)
    assert [record.length for record in records] == [sum(vector.values()) for vector in kept.values()]
    lists = list(reader.lists())
    assert [each.term for each in lists] == sorted({term for vector in kept.values() for term in vector})
    found: Docs = {name: {} for name in kept}
    for each in lists:
        for doc, value in zip(each.docs.tolist(), each.values.tolist(), strict=True):
            found[records[doc].doc_id][each.term] = value
    assert found == kept
    assert reader.header.lists == len(lists)
    assert reader.header.total_terms == sum(record.length for record in records)
    assert reader.header.average_length == pytest.approx(reader.header.total_terms / len(kept))
    # frequencies: the same document lengths, for they are the sums
    export(index, "bm25", str(tmp_path / "b.ciff"))
    assert [record.length for record in CiffReader(tmp_path / "b.ciff").documents()] == [
        record.length for record in records
    ]


def test_json_records(tmp_path: Path, docs: Docs, index: Index) -> None:
    kept = live(docs, index)
    export(index, "impacts", str(tmp_path / "x.jsonl.gz"))
    with gzip.open(tmp_path / "x.jsonl.gz") as file:
        records = [json.loads(line) for line in file]
    assert {record["id"]: record["vector"] for record in records} == kept
    assert records[0]["contents"] == index.document(records[0]["id"]).text
    assert set(records[0]) == {"id", "contents", "vector"}


def test_frequencies_that_a_byte_does_not_hold(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", analyzer="words")
    index.add(
        [{"id": "a", "text": "x " * 300 + "y " * 255}, {"id": "b", "text": "x y z"}, {"id": "c", "text": "x"}]
    )
    index.commit()
    for file in ("x.ciff", "x.jsonl"):
        export(index, "bm25", str(tmp_path / file))
        back = imported(tmp_path / f"from {file}", f"bm25:{tmp_path / file}", {"a": {}, "b": {}, "c": {}})
        for query in ("x", "y", "x y z"):
            assert back.search(query) == index.search(query)
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["vector"] == {"x": 300, "y": 255}
    assert back.representations["bm25"] == index.representations["bm25"]
    back.add([{"id": "d", "text": "z z"}])  # and what comes later is analyzed
    back.commit()
    assert [hit.doc_id for hit in back.search("z")] == ["d", "b"]


def test_a_budget_that_takes_many_passes(tmp_path: Path, docs: Docs, index: Index) -> None:
    kept = live(docs, index)
    path = str(tmp_path / "x.ciff")
    export(index, "impacts", path)

    def stored(weights: Any) -> Any:
        return weights.astype(np.uint8)

    for budget in (1, 800, 1 << 20):
        scratch = tmp_path / f"s{budget}"
        scratch.mkdir()
        found = Vectors(path, stored, str(scratch), budget)
        wanted = [name for name in docs if name in kept][::-3] * 2
        ends, terms, values = found.take(wanted)
        for at, name in enumerate(wanted):
            own = slice(int(ends[at]), int(ends[at + 1]))
            names = [found.names[term] for term in terms[own].tolist()]
            assert dict(zip(names, values[own].tolist(), strict=True)) == kept[name]
        assert found.take([])[0].tolist() == [0]
        with pytest.raises(UserError, match=r"document 'nobody' has no vector in .*x\.ciff"):
            found.take(["nobody"])
        found.close()


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", ["bm25"])
    index.add(["x"])
    index.commit()
    with pytest.raises(UnknownName, match="unknown representation 'bm52'; did you mean 'bm25'"):
        export(index, "bm52", str(tmp_path / "x.ciff"))
    with pytest.raises(UserError, match=r"x\.txt'?: cannot tell what form is wanted"):
        export(index, "bm25", str(tmp_path / "x.txt"))
    with pytest.raises(UserError, match="cannot write"):
        export(index, "bm25", str(tmp_path / "none" / "x.ciff"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    with pytest.raises(UserError, match="is there already and not empty"):
        export(index, "bm25", str(tmp_path / "full"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "i"]


@pytest.mark.parametrize("file", ["x.ciff", "x.jsonl", "folder"])
def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, docs: Docs, index: Index, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_STEP", 7)
    (tmp_path / "x.ciff").write_text("of before")

    def stop(count: int) -> None:
        raise StorageError("the disk is full")

    with pytest.raises(StorageError):
        export(index, "impacts", str(tmp_path / file), stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ciff"]
    assert (tmp_path / "x.ciff").read_text() == "of before"


# --- import -------------------------------------------------------------------------------------------------


def lines(path: Path, docs: dict[str, Any]) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps({"id": i, "contents": "x", "vector": v}) + "\n" for i, v in docs.items())
    return path


def test_a_folder_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    lines(folder / "docs01.json.gz", {"a": {"x": 2, "y": 9}, "b": {"x": 7}})
    lines(folder / "docs00.jsonl", {"c": {"y": 200}, "d": {}})
    (folder / "README.md").write_text("no vectors")
    (folder / ".hidden.json").write_text("no vectors")
    index = imported(tmp_path / "i", f"u=impacts:{folder}", {"a": {}, "b": {}, "c": {}, "d": {}})
    assert index.representations["u"]["quantiser"]["rounding"] == "none"
    assert [(hit.doc_id, hit.score) for hit in index.search("y x")] == [("c", 200.0), ("a", 11.0), ("b", 7.0)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "not JSON"),
        ('{"id": "b"}', 'not {"id": ..., "vector"'),
        ('{"id": 3, "vector": {}}', 'not {"id": ..., "vector"'),
        ('{"id": "b", "vector": {"x": NaN}}', "not JSON"),
        ('{"id": "b", "vector": {"x": "1"}}', "the weight of 'x' is '1', no number"),
        ('{"id": "b", "vector": {"x": 1e999}}', "docs01"),
        ("[1]", 'not {"id": ..., "vector"'),
    ],
)
def test_a_bad_line_in_a_folder(tmp_path: Path, line: str, problem: str) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    lines(folder / "docs00.json", {"a": {"x": 2}})
    with gzip.open(folder / "docs01.json.gz", "wt") as file:
        file.write('{"id": "c", "vector": {"x": 1}}\n\n' + line + "\n")
    with pytest.raises(BadLine) as raised:
        Index.create(tmp_path / "i", [f"impacts:{folder}"])
    assert str(raised.value).startswith(f"{folder / 'docs01.json.gz'}:3: ")
    assert problem in str(raised.value)
    assert not (tmp_path / "i").exists()


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl or \.json file"):
        read_range(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no file of vectors at"):
        read_range(str(tmp_path / "none"))
    (tmp_path / "x.ciff").write_bytes(b"\x02\x08\x01")
    with pytest.raises(UserError, match="holds no positive weight"):
        read_range(str(tmp_path / "x.ciff"))
    with pytest.raises(UserError, match="holds weights, and bm25 counts"):
        Index.create(tmp_path / "i", [f"bm25:{lines(tmp_path / 'w.jsonl', {'a': {'x': 0.5}})}"])
    index = Index.create(tmp_path / "i", [f"bm25:{lines(tmp_path / 'w.jsonl', {'a': {'x': 2**31 - 1}})}"])
    with pytest.raises(UserError, match="document 'a' has 2,147,483,647 words"):
        index.add([{"id": "a", "text": "x"}])


def test_ciff_is_told_by_content_too(tmp_path: Path, docs: Docs, index: Index) -> None:
    export(index, "impacts", str(tmp_path / "x.ciff"))
    (tmp_path / "x.ciff").rename(tmp_path / "unicoil.bin")
    assert read_range(str(tmp_path / "unicoil.bin")) == (255.0, True)


def test_larger_weights_of_a_ciff_file_are_quantised(tmp_path: Path) -> None:
    from retrieval.data import ciff

    with open(tmp_path / "x.ciff", "wb") as file:
        ciff.write_header(file.write, ciff.Header(2, 2, 2, 2, 0, 0.0, ""))
        ciff.write_list(file.write, b"x", np.array([0, 1]), np.array([1000, 4]))
        ciff.write_list(file.write, b"y", np.array([1]), np.array([500]))
        for number in range(2):
            ciff.write_document(file.write, ciff.DocRecord(number, f"d{number}", 1))
    index = imported(tmp_path / "i", f"impacts:{tmp_path / 'x.ciff'}", {"d0": {}, "d1": {}})
    assert index.representations["impacts"]["quantiser"] == {"bits": 8, "maximum": 1000.0, "rounding": "ceil"}
    assert [(hit.doc_id, hit.score) for hit in index.search("x x y")] == [("d0", 510.0), ("d1", 132.0)]


def test_two_lists_of_one_term(tmp_path: Path) -> None:
    from retrieval.data import ciff

    with open(tmp_path / "x.ciff", "wb") as file:
        ciff.write_header(file.write, ciff.Header(2, 1, 2, 1, 0, 0.0, ""))
        for _ in range(2):
            ciff.write_list(file.write, b"x", np.array([0]), np.array([3]))
        ciff.write_document(file.write, ciff.DocRecord(0, "d0", 1))
    with pytest.raises(UserError, match="two postings lists of 'x'"):
        imported(tmp_path / "i", f"impacts:{tmp_path / 'x.ciff'}", {"d0": {}})


def test_a_query_of_2000_terms(tmp_path: Path) -> None:
    """SPLADE's topics for Anserini repeat a term as often as it weighs."""
    docs = {f"d{n}": {f"t{(n * 7 + m) % 500}": 1 + m for m in range(20)} for n in range(300)}
    index = imported(tmp_path / "i", f"impacts:{lines(tmp_path / 'v.jsonl', docs)}", docs)
    weights = {f"t{n}": 1 + n % 7 for n in range(500)}
    query = " ".join(term for term, count in weights.items() for _ in range(count))
    assert len(query.split()) > 1900
    wanted = {
        name: float(sum(weights[term] * value for term, value in vector.items()))
        for name, vector in docs.items()
    }
    assert {hit.doc_id: hit.score for hit in index.search(query, 300)} == wanted
