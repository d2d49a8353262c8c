"""Dense representations in an index: brute force, add, delete, merge, filters, identity, journal, damage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from retrieval import Index, registry
from retrieval.check import check
from retrieval.errors import CompositionError, CorruptIndex, UnknownName, UnsupportedFormat, UserError
from retrieval.index.export import export
from retrieval.index.vector_part import VectorPart
from retrieval.manifest import FORMAT
from retrieval.stage import Given
from retrieval.testing import check_stage
from retrieval.types import Query, Run
from tests.index.hashing_encoder import Hashing, brute, corpus, hits, install, made, model, remove

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


@pytest.mark.parametrize("raw", ["true", "false"])
def test_search_is_brute_force(tmp_path: Path, raw: str) -> None:
    documents = corpus()
    index = made(tmp_path, documents, f"{model(tmp_path)}(raw={raw})")
    for query in ("w1 w2", "w3", "w4 w5 w6 w7", "nothing known"):
        assert hits(index, query, 60) == brute(documents, query, 60, raw=raw == "true")
        assert hits(index, query, 7) == brute(documents, query, 7, raw=raw == "true")


def test_segments_deletes_updates_and_merge_change_no_score(tmp_path: Path) -> None:
    documents = corpus(50)
    index = made(tmp_path, documents[:20])
    index.add(documents[20:])
    index.commit()
    index.delete(["d3", "d30"])
    index.commit()
    newer = {"id": "d7", "text": "w1 w1 w2", "year": 7}
    index.add([newer], update=True)
    index.commit()
    kept = [d for d in documents if d["id"] not in ("d3", "d30", "d7")] + [newer]
    for query in ("w1 w2", "w9"):
        assert hits(index, query, 60) == brute(kept, query, 60)
    before = hits(index, "w1 w2", 60)
    index.merge(reorder=True)
    assert hits(index, "w1 w2", 60) == before
    assert hits(Index.open(index.path), "w1 w2", 60) == before
    assert check(index.path)["docs"] == len(kept)


def test_filters(tmp_path: Path) -> None:
    documents = corpus()
    index = made(tmp_path, documents)
    some = [d for d in documents if d["year"] < 9]
    assert hits(index, "w1 w2", 20, filter="year < 9") == brute(some, "w1 w2", 20)
    assert hits(index, "w1", filter="year < 0") == []


def test_beside_bm25_from_one_command_and_added_later(tmp_path: Path) -> None:
    documents = corpus()
    spec = f"vec={model(tmp_path)}"
    both = Index.create(tmp_path / "both", ["bm25"], [spec], pipeline="0.5*bm25%50+0.5*vec%50")
    both.add(documents)
    both.commit()
    later = Index.create(tmp_path / "later")
    later.add(documents)
    later.commit()
    later.delete(["d1"])
    later.commit()
    later.add_representation(spec, dense=True)
    assert repr(both.pipeline()) == "0.5 * bm25 % 50 + 0.5 * vec % 50"
    assert hits(both, "w1 w2") == hits(both, "w1 w2", pipeline="0.5 * bm25 % 50 + 0.5 * vec % 50")
    kept = [d for d in documents if d["id"] != "d1"]
    assert hits(later, "w1 w2", 60, pipeline="vec") == brute(kept, "w1 w2", 60)
    assert [h.doc_id for h in later.search("w1", pipeline="bm25 % 20")] == [
        doc for doc, _ in hits(later, "w1", pipeline="bm25 % 20")
    ]
    later.merge(compact=True)
    assert hits(later, "w1 w2", 60, pipeline="vec") == brute(kept, "w1 w2", 60)
    with pytest.raises(UserError, match="already"):
        later.add_representation(spec, dense=True)


def test_rescoring_gives_the_scores_of_retrieval(tmp_path: Path) -> None:
    documents = corpus()
    index = Index.create(tmp_path / "i", ["bm25"], [f"vec={model(tmp_path)}"])
    index.add(documents[:40])
    index.commit()
    index.add(documents[40:])
    index.commit()
    full = dict(hits(index, "w1 w2", 60, pipeline="vec"))
    after = hits(index, "w1 w2", 60, pipeline="bm25 % 30 >> vec")
    assert after == [pair for pair in hits(index, "w1 w2", 60, pipeline="vec") if pair[0] in dict(after)]
    foreign = Run.from_dict({"1": {"d5": 1.0, "d50": 0.5}})
    again = (Given(foreign) >> index.stage("vec"))([Query("1", "w1 w2")])
    assert {hit.doc_id: hit.score for hit in again["1"]} == {name: full[name] for name in ("d5", "d50")}


def test_the_stage_keeps_the_contract(tmp_path: Path) -> None:
    index = made(tmp_path, corpus())
    queries = {"a": "w1 w2", "b": "w3", "c": "w1 w2"}
    check_stage(index.stage("vec"), queries, tolerance=0)
    check_stage(index.stage("vec"), queries, (index.stage("vec") % 20)(queries), tolerance=0)


def test_tokens_left_out_are_counted(tmp_path: Path) -> None:
    index = made(tmp_path, corpus(), f"{model(tmp_path)}(length=3)")
    facts = index.encoding("vec")
    lengths = [len(d["text"].split()) for d in corpus()]
    assert facts["tokens"] == sum(lengths)
    assert facts["dropped"] == sum(max(0, n - 3) for n in lengths)
    run = index.stage("vec")([Query("1", "w1 w2 w3 w4 w5")])
    assert run.trace[-1].tokens_dropped == 2


def test_a_journal_spares_what_was_encoded(tmp_path: Path) -> None:
    spec = model(tmp_path)
    log = tmp_path / "hashing.log"
    index = Index.create(tmp_path / "index", dense=[f"vec={spec}"])

    def failing() -> Iterator[dict[str, Any]]:
        yield from corpus(300)
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        index.add(failing())
    first = log.read_text().count("passage")
    again = made(tmp_path, corpus(300), spec)
    assert first > 0
    assert log.read_text().count("passage") == len({d["text"] for d in corpus(300)})
    assert again.encoding("vec")["reused"] >= first
    assert hits(again, "w1 w2", 20) == brute(corpus(300), "w1 w2", 20)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    spec = model(tmp_path)
    index = made(tmp_path, corpus(), spec)
    (tmp_path / "other.log").touch()
    assert index.stage("vec", model=str(tmp_path / "other.log")) is not None  # its name decides nothing
    commit = tmp_path / "index" / "COMMIT"
    assert b'"salt"' not in commit.read_bytes()
    index._methods["vec"].settings["identity"]["model"]["weights"] = "1"  # type: ignore[index]
    index._methods["vec"]._opened.clear()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="made with another encoder: its model"):
        index.search("w1")
    with pytest.raises(UserError, match="another encoder"):
        index.stage("vec", model=str(tmp_path / "other.log"))
    (tmp_path / "hashing.log").unlink()
    with pytest.raises(UserError, match=r"made with the model in .*hashing\.log', which is not there"):
        Index.open(index.path).search("w1")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"k1": 1}, "no parameter 'k1'"),
        ({"recall": 2}, "recall=2"),
        ({"recall": True}, "recall=True"),
        ({"nprobe": 0}, "nprobe=0"),
        ({"exact": 1}, "exact=1"),
    ],
)
def test_parameters(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    index = made(tmp_path, corpus(5))
    with pytest.raises(UserError, match=message):
        index.stage("vec", **params)


def test_what_vectors_do_not_have(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", ["bm25"], [f"vec={model(tmp_path)}"])
    index.add(corpus(5))
    index.commit()
    with pytest.raises(UserError, match="neither collection statistics nor an algorithm"):
        index.stage("vec", algorithm="maxscore")
    with pytest.raises(UserError, match="no term statistics"):
        index.statistics("vec")
    assert index.explain("w1", "d1", pipeline="vec")["stages"][0]["terms"] == []
    with pytest.raises(CompositionError, match="bm25, vec"):
        index.search("w1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vec={}(ann=tree)", "ann='tree'"),
        ("vec={}(ann_threads=0)", "ann_threads=0"),
        ("vec={}(colour=red)", "no parameter 'colour'"),
        ("Vec={}", "no name for a representation"),
        ("vec=", "names no model"),
        ("vec={}(ann", "names no model|expected"),
    ],
)
def test_specs_that_are_refused(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Index.create(tmp_path / "i", dense=[spec.format(model(tmp_path))])
    assert not (tmp_path / "i").exists()


def test_pipelines_are_checked_when_the_index_is_made(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="vex"):
        Index.create(tmp_path / "i", ["bm25"], [f"vec={model(tmp_path)}"], pipeline="bm25 + vex")
    with pytest.raises(UserError, match="two representations"):
        Index.create(tmp_path / "i", ["vec=bm25"], [f"vec={model(tmp_path)}"])


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", dense=[f"vec={model(tmp_path)}"])
    with pytest.raises(UserError, match="not finite"):
        index.add([{"id": "a", "text": "NAN w1"}])
    good = made(tmp_path, corpus(5))
    with pytest.raises(UserError, match=r"query '1'.*not finite"):
        good.search("NAN")


def part_of(index: Index) -> tuple[Any, str]:
    segment = index._need_view().segments[0]
    return segment, segment.entry["parts"]["vec"]


def test_damaged_parts(tmp_path: Path) -> None:
    index = made(tmp_path, corpus(5))
    segment, part = part_of(index)

    class Changed:
        commit: ClassVar[dict[str, Any]] = {}

        def __init__(self, **files: Any) -> None:
            self.files = files

        def __contains__(self, path: object) -> bool:
            return str(path).rpartition("/")[2] in self.files or path in index._need_view().snapshot

        def json(self, path: str) -> Any:
            return self.files.get(path.rpartition("/")[2], index._need_view().snapshot.json(path))

        def array(self, path: str) -> Any:
            return self.files.get(path.rpartition("/")[2], index._need_view().snapshot.array(path))

        def bytes(self, path: str) -> Any:
            return index._need_view().snapshot.bytes(path)

    VectorPart(Changed(), part, segment.documents).check()
    damaged: list[dict[str, Any]] = [
        {"facts.json": {"documents": 4, "dim": 8, "norm": 1.0}}, {"facts.json": []},
        {"facts.json": {"documents": 5}},
        {"facts.json": {"documents": 5, "dim": 8, "norm": -1.0}}, {"facts.json": {"documents": 5, "dim": 8}},
        {"vectors.npy": np.zeros((5, 8))}, {"vectors.npy": np.zeros((5, 7), np.float32)},
    ]  # fmt: skip
    for files in damaged:
        with pytest.raises(CorruptIndex):
            VectorPart(Changed(**files), part, segment.documents)
    bad = VectorPart(Changed(**{"vectors.npy": np.full((5, 8), np.nan, np.float32)}), part, segment.documents)
    with pytest.raises(CorruptIndex, match="not finite"):
        bad.check()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    index = made(tmp_path, corpus(5))
    _, part = part_of(index)
    file = tmp_path / "index" / part / "vectors.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptIndex, match=r"vectors\.npy"):
        Index.open(index.path)


def test_only_a_new_reader_may_open_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = made(tmp_path, corpus(5))
    head = json.loads((tmp_path / "index" / "COMMIT").read_bytes().split(b"\n", 1)[1])
    assert (head["format"], head["min_reader"]) == (FORMAT, 3)
    monkeypatch.setattr("retrieval.manifest.FORMAT", 2)
    with pytest.raises(UnsupportedFormat, match=rf"format {FORMAT}, this build reads 1\.\.2"):
        Index.open(index.path)


def test_the_registry_knows_the_encoders() -> None:
    assert {"bert", "llm", "m2bert"} <= set(registry.names("dense encoder"))


def test_export_for_other_tools(tmp_path: Path) -> None:
    documents = corpus(30)
    index = made(tmp_path, documents[:20])
    index.add(documents[20:])
    index.delete(["d4"])
    index.commit()
    done = export(index, "vec", str(tmp_path / "out.npy"))
    kept = [d for d in documents if d["id"] != "d4"]
    assert done.documents == 29
    assert (tmp_path / "out.ids").read_text().split() == [d["id"] for d in kept]
    wanted = Hashing("/dev/null", {}).encode([d["text"] for d in kept]).rows
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy", allow_pickle=False), wanted)
    with pytest.raises(UserError, match="dense"):
        export(index, "vec", str(tmp_path / "out.ciff"))


def test_a_killed_build_encodes_nothing_twice(tmp_path: Path) -> None:
    script, log, path = Path(__file__).with_name("hashing_encoder.py"), tmp_path / "x.log", tmp_path / "i"
    log.touch()
    everything = [{"id": f"d{i}", "text": f"w{i} w{i % 7}"} for i in range(900)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in everything))
    index = [sys.executable, str(script), "index", str(tmp_path / "corpus.jsonl"), "--out", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HASHING_PAUSE": "0.001"}
    with subprocess.Popen(
        [*index, "--dense", f"vec=hashing:{log}"], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and len(log.read_text().splitlines()) <= 512:  # two batches are kept
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = subprocess.run(
        [*index, "--dense", f"vec=hashing:{log}"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["committed"] == 900
    counts = Counter(log.read_text().splitlines())
    assert len(counts) == 900
    assert sum(count - 1 for count in counts.values()) <= 256  # the batch that the kill met
    assert hits(Index.open(path), "w3 w5", 900) == brute(everything, "w3 w5", 900)


def test_a_blank_query_finds_nothing(tmp_path: Path) -> None:
    index = made(tmp_path, corpus(5))
    assert hits(index, "") == hits(index, " \t") == []
    found = index.stage("vec")({"a": "w1", "b": "", "c": "w2"})
    assert [len(found[name]) for name in "abc"] == [5, 0, 5]


def test_another_model_by_mistake_is_named(tmp_path: Path) -> None:
    index = made(tmp_path, corpus(5))
    with pytest.raises(UserError, match=r"no model directory '/absent'"):
        index.stage("vec", model="/absent")
    with pytest.raises(UserError, match=r"write \['vec=x'\]"):
        Index.create(tmp_path / "other", dense="vec=x")
