"""The shipped models: small, with a card, loadable, and what `--sparse KIND` uses when no model is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.index.index import Index
from retrieval.index.model_files import ModelFiles, shipped

pytest.importorskip("torch")

KINDS = ("tilde", "tildev2", "bprop")
MEGABYTES = 10
TEXTS = {
    "leukemia": "Symptoms of acute lymphoblastic leukemia include fever, feeling tired, and easy bleeding.",
    "lion": "The lion is a large cat native to Africa and India, with a muscular body and a rounded head.",
    "archive": "7-Zip file archiver with a high compression ratio; it packs and unpacks many formats.",
    "game": "The Panthers defeated the Cardinals in the championship and went to their second Super Bowl.",
}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_small_and_has_a_card(kind: str) -> None:
    folder = Path(shipped(kind))
    assert _size(folder) <= MEGABYTES * 1e6
    card = (folder / "README.md").read_text()
    for said in (
        "| start |",
        "| text |",
        "| licence |",
        "retrieve train",
        "sha256" if kind == "tilde" else "opentext",
    ):
        assert said in card


def test_all_are_small_together() -> None:
    assert sum(_size(Path(shipped(kind))) for kind in KINDS) <= 3 * MEGABYTES * 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_each_loads_and_says_what_it_is(kind: str) -> None:
    files = ModelFiles.open(shipped(kind))
    assert files.settings["kind"] == kind
    assert files.config["vocab_size"] == files.vocabulary.size


def test_the_learned_road_needs_no_model_named(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", ["bm25", "tildev2", "tilde", "bprop"])
    index.add([{"_id": name, "text": text} for name, text in TEXTS.items()])
    index.commit()
    for name in ("tildev2", "tilde", "bprop"):
        (best, *_) = index.search("acute leukemia symptoms", pipeline=name)
        assert best.doc_id == "leukemia", name
    assert not index.search("american football team", pipeline="bm25")  # no document holds these words
    for name in ("tildev2", "tilde"):
        assert index.search("american football team", pipeline=name)[0].doc_id == "game"


def test_the_small_smith_reads_whole_documents_by_name(tmp_path: Path) -> None:
    pytest.importorskip("sentencex")
    folder = Path(shipped("smith"))
    assert _size(folder) <= MEGABYTES * 1e6
    card = (folder / "README.md").read_text()
    assert all(said in card for said in ("| start |", "| text |", "| licence |", "retrieve train", "dev"))
    index = Index.create(tmp_path / "index", ["bm25"], dense=["smith", "blocks=smith(blocks=model)"])
    filler = "Nothing that anybody would look for is said in this sentence. " * 200
    index.add([{"_id": name, "text": filler + text + filler} for name, text in TEXTS.items()])
    index.commit()
    assert index.encoding("smith")["dropped"] == 0
    assert index.representations["smith"]["source"] == "smith"
    for name in ("smith", "blocks"):
        assert {hit.doc_id for hit in Index.open(index.path).search("lions", pipeline=name)} == set(TEXTS)
    (passage,) = index.passages("the lion is a large cat", ["lion"], pipeline="blocks")
    assert passage is not None
    assert passage.start <= len(filler) < passage.end
