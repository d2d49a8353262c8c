"""B-PROP as a method of the index: weights by brute force, queries without torch, models that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index, UserError
from retrieval.index.analysis import analyzer
from retrieval.index.method import create_method, parse_spec

torch = pytest.importorskip("torch")

from retrieval.index.bprop import BPropEncoder, BPropMethod  # noqa: E402
from retrieval.index.bprop_model import load_bprop  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402

TEXTS = {
    "d0": "The cabs of a cab. Bad CABS!",
    "d1": "Zebra, zoo and zebras; naïve İstanbul café-zoo",
    "d2": "quick fox " * 60,
    "d3": "fox " * 500,
    "d4": "...!",
    "d5": "bad fox 3.14 x1",
}
Maker = Callable[..., Path]


def documents() -> list[dict[str, str]]:
    return [{"id": name, "text": text} for name, text in TEXTS.items()]


def method(directory: Path) -> BPropMethod:
    found = create_method(parse_spec(f"bprop:{directory}"), "english", {})
    assert isinstance(found, BPropMethod)
    return found


def by_hand(directory: Path, text: str, pieces: str, window: int, windows: int) -> dict[str, float]:
    """The weights of a text's terms: one window after another, one token after another."""
    files = ModelFiles.open(str(directory))
    bert = load_bprop(files)[0].bert.eval()
    vocabulary = files.vocabulary
    tokens = vocabulary.spans(text)
    room = window - 2
    kept = tokens[: room * windows]
    count = -(-len(kept) // room)
    found: dict[str, float] = defaultdict(float)
    spans = analyzer("english").spans(text)
    seen: set[tuple[int, int]] = set()
    for i in range(count):
        part = kept[i * len(kept) // count : (i + 1) * len(kept) // count]
        ids = [vocabulary.cls, *(number for _, _, number in part), vocabulary.sep]
        from retrieval.index.bert import pack

        with torch.no_grad():
            _, attention = bert(pack([ids]), cls_attention=True)
        assert float(attention.sum()) == pytest.approx(1, abs=1e-5)
        for (start, _, _), value in zip(part, attention[1:-1].tolist(), strict=True):
            for low, high, term in spans:
                if low <= start < high and (pieces == "sum" or (low, high) not in seen):
                    seen.add((low, high))
                    found[term] += value / count**0.5
    return {term: value / (value + 0.01) for term, value in found.items()}


@pytest.mark.parametrize("pieces", ["sum", "first"])
def test_weights_are_those_of_brute_force(tiny_model: Maker, pieces: str) -> None:
    directory = tiny_model("bprop", words=["fox", "zoo"], pieces=pieces, window=20, windows=8)
    made = method(directory)
    encoder = made.load(ModelFiles.open(str(directory)))
    assert isinstance(encoder, BPropEncoder)
    for text, found in zip(TEXTS.values(), encoder.encode(list(TEXTS.values())), strict=True):
        wanted = by_hand(directory, text, pieces, 20, 8)
        assert dict(zip(found.terms, found.weights.tolist(), strict=True)) == pytest.approx(wanted, abs=1e-5)
        assert found.tokens == len(ModelFiles.open(str(directory)).vocabulary.encode([text])[0])
        assert found.dropped == max(0, found.tokens - 18 * 8)


def test_scores_are_idf_times_quantised_weights(tiny_model: Maker, tmp_path: Path) -> None:
    directory = tiny_model("bprop", words=["fox", "zoo"])
    index = Index.create(tmp_path / "index", sparse=[f"bprop:{directory}"])
    index.add(documents())
    index.commit()
    encoder = method(directory).load(ModelFiles.open(str(directory)))
    quantiser = method(directory).quantiser
    weights = {}
    for name, found in zip(TEXTS, encoder.encode(list(TEXTS.values())), strict=True):
        values = quantiser.quantise(found.weights)[0]
        weights[name] = dict(zip(found.terms, values.tolist(), strict=True))
    statistics = index.statistics("bprop")
    for query in ("bad cabs", "fox fox zebra", "zoos unknownword", "the", ""):
        for idf in (1, 0):
            wanted: dict[str, float] = defaultdict(float)
            for term in analyzer("english").terms(query):
                for name, held in weights.items():
                    if term in held:
                        wanted[name] += held[term] * (statistics.idf(term) if idf else 1.0)
            hits = index.search(query, k=10, pipeline=f"bprop(idf={idf})")
            assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(dict(wanted), rel=1e-4)
    assert index.search("fox", 10) == index.search("fox", 10, pipeline="bprop(idf=1)")
    assert index.search("fox", 10) != index.search("fox", 10, pipeline="bprop(idf=0)")
    with pytest.raises(UserError, match="bprop cannot take k1"):
        index.search("fox", pipeline="bprop(k1=0.9)")


def test_matching_is_as_bm25s(tiny_model: Maker, tmp_path: Path) -> None:
    directory = tiny_model("bprop", words=["fox", "zoo"])
    index = Index.create(tmp_path / "index", sparse=["bm25", f"bprop:{directory}"])
    index.add(documents())
    index.commit()
    for query in ("cab", "zebra", "quick", "istanbul cafe", "café", "naive", "x1", "3.14", "bad"):
        ours = {hit.doc_id for hit in index.search(query, pipeline="bprop")}
        assert ours == {hit.doc_id for hit in index.search(query, pipeline="bm25")}, query
    assert index.spans("Zebras run", "bprop") == index.spans("Zebras run", "bm25")


def test_adding_later_changes_no_weight_and_follows_the_collection(tiny_model: Maker, tmp_path: Path) -> None:
    directory = tiny_model("bprop", words=["fox", "zoo"])
    once = Index.create(tmp_path / "once", sparse=[f"bprop:{directory}"])
    once.add(documents())
    once.commit()
    slowly = Index.create(tmp_path / "slowly", sparse=[f"bprop:{directory}"])
    for document in documents():
        slowly.add([document])
        slowly.commit()
    slowly.add([{"id": "gone", "text": "fox zebra"}])
    slowly.commit()
    slowly.delete(["gone"])
    slowly.commit()
    for query in ("fox zebra", "bad cab quick zoo"):
        assert once.search(query, k=10) == slowly.search(query, k=10)
    slowly.merge()
    assert once.search("fox zebra", k=10) == slowly.search("fox zebra", k=10)


def test_searching_needs_neither_the_model_nor_torch(tiny_model: Maker, tmp_path: Path, root: Path) -> None:
    directory = tiny_model("bprop", words=["fox", "zoo"])
    index = Index.create(tmp_path / "index", sparse=[f"bprop:{directory}"])
    index.add(documents())
    index.commit()
    wanted = [hit.doc_id for hit in index.search("fox zebra")]
    shutil.rmtree(directory)
    code = (
        "import sys; import retrieval;"
        f"print([h.doc_id for h in retrieval.Index.open({str(tmp_path / 'index')!r}).search('fox zebra')]);"
        "print(sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    ).stdout.splitlines()
    assert shown == [repr(wanted), "[]"]
    with pytest.raises(UserError, match="no model directory"):
        Index.open(tmp_path / "index").add([{"id": "new", "text": "fox"}])


def test_another_model_is_refused_when_documents_are_added(tiny_model: Maker, tmp_path: Path) -> None:
    directory = tiny_model("bprop", words=["fox", "zoo"])
    index = Index.create(tmp_path / "index", sparse=[f"bprop:{directory}"])
    index.add(documents())
    index.commit()
    shutil.rmtree(directory)
    tiny_model("bprop", words=["fox", "zoo"], seed=1)
    with pytest.raises(UserError, match="made with a model 'bprop' whose weights differ"):
        Index.open(tmp_path / "index").add([{"id": "new", "text": "fox"}])
    assert len(Index.open(tmp_path / "index")) == len(TEXTS)


def test_another_analyzer_is_refused(tiny_model: Maker) -> None:
    directory = tiny_model("bprop")
    made = method(directory)
    stored = json.loads(json.dumps(made.settings))
    assert BPropMethod.restore(stored, {}).settings == made.settings
    stored["analyzer"]["stop"] = "0" * 64
    with pytest.raises(UserError, match="built with analyzer 'english'"):
        BPropMethod.restore(stored, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"saturation": 0}, "saturation of"),
        ({"saturation": True}, "saturation of"),
        ({"pieces": "last"}, "pieces as 'last'"),
        ({"layers": "first"}, "layers as 'first'"),
        ({"window": 65}, "window of"),
        ({"windows": 0}, "windows of"),
        ({"precision": "int3"}, "precision of"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_model: Maker, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(tiny_model("bprop", **settings))


def test_a_model_of_another_kind_is_refused(tiny_model: Maker) -> None:
    with pytest.raises(UserError, match="kind 'tilde', and bprop needs"):
        method(tiny_model("tilde"))


def test_weights_that_are_no_numbers_are_refused(
    tiny_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_model("bprop")
    encode = BPropEncoder.encode

    def broken(self: BPropEncoder, texts: list[str]) -> Any:
        return [each._replace(weights=each.weights * np.nan) for each in encode(self, texts)]

    monkeypatch.setattr(BPropEncoder, "encode", broken)
    index = Index.create(tmp_path / "index", sparse=[f"bprop:{directory}"])
    with pytest.raises(UserError, match="not finite"):
        index.add(documents())


def test_a_kill_loses_no_encoded_document(
    tiny_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_model("bprop", words=["fox"])
    path = tmp_path / "index"
    first = Index.create(path, sparse=[f"bprop:{directory}"])
    first.add(documents()[:4])
    first.close()  # never committed
    asked: list[str] = []
    encode = BPropEncoder.encode

    def counted(self: BPropEncoder, texts: list[str]) -> Any:
        asked.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(BPropEncoder, "encode", counted)
    again = Index.create(path, sparse=[f"bprop:{directory}"])
    again.add(documents())
    again.commit()
    assert asked == list(TEXTS.values())[4:]
    fresh = Index.create(tmp_path / "fresh", sparse=[f"bprop:{directory}"])
    fresh.add(documents())
    fresh.commit()
    for query in ("fox zebra", "bad cab"):
        assert again.search(query) == fresh.search(query)


def test_damaged_records_of_the_journal_are_not_believed(tiny_model: Maker, tmp_path: Path) -> None:
    builder = method(tiny_model("bprop", words=["fox"])).builder(str(tmp_path), 1 << 20)
    (record,) = builder._records(["fox cab fox"])
    assert builder._sound(record)
    count = 2
    names, values = record[16 + count :], record[16 : 16 + count]
    assert names.split(b"\0") == [b"fox", b"cab"]
    bad = [None, b"", record[:-4], record[:10], record + b"\0", record[:16] + b"\0" + values[1:] + names]
    bad += [record[: 16 + count] + b"fox\0fox", record[: 16 + count] + b"\xff\0fox", record[: 16 + count]]
    assert not any(builder._sound(one) for one in bad)
    (nothing,) = builder._records(["..."])
    assert builder._sound(nothing)
