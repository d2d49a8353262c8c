"""The small cross-encoder that comes with the package: `cross` without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval import Index
from retrieval.errors import UserError
from retrieval.index.model_files import WEIGHTS, ModelFiles, shipped
from retrieval.registry import make

pytest.importorskip("torch")

TEXTS = {
    "leukemia": "Symptoms of acute lymphoblastic leukemia include fever, feeling tired, and easy bleeding.",
    "lion": "The lion is a large cat native to Africa and India, with a muscular body and a rounded head.",
    "archive": "7-Zip file archiver with a high compression ratio; it packs and unpacks many formats.",
    "symptom": "Symptoms of this word: fever, fever, fever. Acute accents stand on letters.",
}


@pytest.fixture
def folder() -> Path:
    try:
        return Path(shipped("cross"))
    except UserError:
        pytest.skip("no index/weights/cross yet: nothing is shipped that could be tested")


def test_it_is_small_and_has_a_card(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10e6
    card = (folder / "README.md").read_text()
    for said in ("| start |", "| text |", "| licence |", "retrieve train"):
        assert said in card
    files = ModelFiles.open(str(folder))
    assert files.settings["kind"] == "cross"
    assert files.config["vocab_size"] == files.vocabulary.size


def test_it_ranks_without_a_model_named(folder: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([{"_id": name, "text": text} for name, text in TEXTS.items()])
    index.commit()
    stage = index.pipeline("bm25 % 10 >> cross")
    assert repr(stage) == "bm25 % 10 >> cross"
    hits = index.search("what are the symptoms of acute leukemia", pipeline=stage)
    assert hits[0].doc_id == "leukemia"
    assert make("cross", {}).identity["name"] == "cross"


def test_without_it_the_message_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.is_file
    monkeypatch.setattr(
        "os.path.isfile", lambda path: not str(path).endswith(f"cross/{WEIGHTS}") and real(Path(path))
    )
    with pytest.raises(UserError, match=r"no small model of kind 'cross'.*cross\(DIR\) in a pipeline"):
        make("cross", {})
