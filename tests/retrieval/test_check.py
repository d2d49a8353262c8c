"""check and rollback: what they answer, what they find that an opening does not, the way back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.artefact import Store
from retrieval.check import check, rollback
from retrieval.errors import CorruptIndex, Locked, UnsupportedFormat, UserError
from retrieval.index.documents import DocumentsWriter
from retrieval.manifest import decode, encode
from retrieval.types import Document


def add(path: Path, ids: list[str], deleted: tuple[int, ...] = ()) -> None:
    """Commit a segment of these ids, some of them deleted."""
    with Store.writer(path, create=not path.exists()) as writer:
        part = writer.part()
        documents = DocumentsWriter(part)
        documents.add([Document(each, f"text of {each}") for each in ids])
        documents.finish()
        entry: dict[str, Any] = {"name": part.name, "docs": len(ids), "deleted": len(deleted)}
        if deleted:
            mask = np.zeros(len(ids), np.bool_)
            mask[list(deleted)] = True
            bits = writer.part()
            bits.array("deleted.npy", np.packbits(mask, bitorder="little"))
            entry["deletes"] = {"file": f"{bits.name}/deleted.npy"}
        writer.commit({"segments": [*writer.base["segments"], entry], "representations": {"bm25": {"k": 1}}})


def digest(ids: list[str]) -> str:
    """The reference: sha256 of the sorted ids joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def test_what_check_answers(tmp_path: Path) -> None:
    add(tmp_path / "i", ["b", "a", "\U0001f600", "\uffff", "é"], deleted=(0,))
    add(tmp_path / "i", ["z", "aa"])
    expected = {
        "generation": 2,
        "docs": 6,
        "ids_sha256": digest(["a", "\U0001f600", "\uffff", "é", "z", "aa"]),
        "representations": {"bm25": {"k": 1}},
    }
    assert check(tmp_path / "i") == expected
    assert check(tmp_path / "i", full=False) == expected


def test_an_index_without_documents(tmp_path: Path) -> None:
    Store.create(tmp_path)
    assert check(tmp_path) == {
        "generation": 0,
        "docs": 0,
        "ids_sha256": hashlib.sha256().hexdigest(),
        "representations": {},
    }
    with pytest.raises(UserError):
        check(tmp_path / "absent")
    (tmp_path / "other").mkdir()
    for action in (check, rollback):
        with pytest.raises(UserError, match="no index"):
            action(tmp_path / "other")
    assert os.listdir(tmp_path / "other") == []


IDS = st.text(
    st.characters(min_codepoint=33, exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, max_examples=30)
@given(ids=st.lists(IDS, unique=True, max_size=30), cuts=st.integers(1, 5))
def test_ids_of_any_kind(tmp_path_factory: pytest.TempPathFactory, ids: list[str], cuts: int) -> None:
    path = tmp_path_factory.mktemp("x") / "index"
    Store.create(path)
    for cut in range(cuts):
        add(path, ids[cut::cuts])
    assert check(path)["ids_sha256"] == digest(ids)


def test_counts_that_do_not_fit(tmp_path: Path) -> None:
    add(tmp_path / "i", ["a", "b"])
    add(tmp_path / "i", ["b"])
    with pytest.raises(CorruptIndex, match="'b' is live twice"):
        check(tmp_path / "i")
    add(tmp_path / "j", ["a", "b"])
    with Store.writer(tmp_path / "j") as writer:
        writer.commit({"docs": 3})
    with pytest.raises(CorruptIndex, match="counts 3 documents"):
        check(tmp_path / "j")
    with Store.writer(tmp_path / "j") as writer:
        writer.commit({"segments": [{**writer.base["segments"][0], "deleted": 1}]})
    with pytest.raises(CorruptIndex, match="counts 1 deleted"):
        check(tmp_path / "j")
    with Store.writer(tmp_path / "j") as writer:
        writer.commit({"segments": [{**writer.base["segments"][0], "deleted": 0, "docs": 5}]})
    with pytest.raises(CorruptIndex, match="has 2 ids"):
        check(tmp_path / "j")


def test_check_covers_what_is_kept_for_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "i"
    add(path, ["a"])
    old = set(Store.open(path).parts())
    with Store.writer(path) as writer:
        writer.commit({"segments": []})
    for file in [path / "old" / "commit-1", *(path / old.pop()).iterdir()]:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        Store.open(path)
        with pytest.raises(CorruptIndex, match=file.name):
            check(path)
        file.unlink()
        with pytest.raises(CorruptIndex):
            check(path)
        file.write_bytes(whole)
        check(path)
    (path / "LOCK").write_text("x")
    with pytest.raises(CorruptIndex, match="LOCK"):
        check(path)


def test_rollback_of_a_damaged_commit(tmp_path: Path) -> None:
    path = tmp_path / "i"
    add(path, ["a"])
    before = check(path)
    add(path, ["b"])
    for damage in (b"", b"x" * 500, None):
        if damage is None:
            (path / "COMMIT").unlink()
        else:
            (path / "COMMIT").write_bytes(damage)
        with pytest.raises(CorruptIndex):
            check(path)
        after = rollback(path)
        assert after["generation"] > 2  # readers see it advance
        assert check(path) == after
        assert {**after, "generation": 1} == before
        add(path, [f"c{after['generation']}"])
        before = {**check(path), "generation": 1}
        assert before["docs"] == after["docs"] + 1
        add(path, ["b"])


def test_rollback_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "i"
    add(path, ["a"])
    first = {file.parent.name for file in path.glob("seg-*/ids.bin")}
    add(path, ["b"])
    file = next(file for file in path.glob("seg-*/ids.bin") if file.parent.name not in first)
    file.write_bytes(b"?")
    with pytest.raises(CorruptIndex):
        check(path)
    assert rollback(path)["docs"] == 1
    assert Store.open(path).generation == 3
    add(path, ["b"])
    assert check(path)["docs"] == 2


def test_a_rollback_can_be_undone(tmp_path: Path) -> None:
    path = tmp_path / "i"
    add(path, ["a"])
    add(path, ["b"])
    assert [rollback(path)["docs"] for _ in range(3)] == [1, 2, 1]
    assert check(path)["generation"] == 5


def test_what_check_advises(tmp_path: Path) -> None:
    """Rolling back, only where that brings documents back."""
    path, again = tmp_path / "i", "index the corpus again with --overwrite"
    add(path, ["a"])
    first = set(path.glob("seg-*/ids.bin"))
    assert again in damaged(path, *first)
    add(path, ["b"])
    assert again in damaged(path, *first)  # which the former commit needs too
    (second,) = set(path.glob("seg-*/ids.bin")) - first
    assert damaged(path, second).endswith("go back one commit with `retrieve check DIR --rollback`")
    assert damaged(path, path / "old" / "commit-1").endswith("wait for the next commit, which renews it")


def damaged(path: Path, victim: Path) -> str:
    """What check says while one file is damaged."""
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    with pytest.raises(CorruptIndex) as error:
        check(path)
    victim.write_bytes(whole)
    return str(error.value)


def test_rollback_without_a_way_back(tmp_path: Path) -> None:
    path = tmp_path / "i"
    add(path, ["a"])
    add(path, ["b"])
    (path / "COMMIT").write_bytes(b"")
    with Store.writer(tmp_path / "j", create=True):
        pass
    with pytest.raises(CorruptIndex, match="no former commit"):
        rollback(tmp_path / "j")
    (path / "old" / "commit-1").write_bytes(b"")
    with pytest.raises(CorruptIndex, match="damaged too"):
        rollback(path)
    assert (path / "COMMIT").read_bytes() == b""


def test_rollback_leaves_newer_formats_and_writers_alone(tmp_path: Path) -> None:
    path = tmp_path / "i"
    add(path, ["a"])
    add(path, ["b"])
    with Store.writer(path), pytest.raises(Locked):
        rollback(path)
    commit = decode((path / "COMMIT").read_bytes(), "COMMIT")
    (path / "COMMIT").write_bytes(encode({**commit, "format": 7, "min_reader": 7}))
    with pytest.raises(UnsupportedFormat):
        rollback(path)
