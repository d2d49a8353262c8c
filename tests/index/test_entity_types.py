"""Entity types as a representation: a tagger that knows two words, its index, queries, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from retrieval.errors import UserError
from retrieval.index.entity_tagger import Tagger
from retrieval.index.entity_types import name_of
from retrieval.index.index import Index
from retrieval.types import Document

LABELS = ["O", "B-PER", "I-PER", "B-FilmDirector"]
KNOWN = {"basil": 1, "hill": 2, "varda": 3}
DOCUMENTS = [
    Document("a", "of basil hill and the sea"),
    Document("b", "varda of the hill"),
    Document("c", "what of the sea"),
    Document("d", "the sea " * 40 + "and varda"),  # beyond one window of 64 tokens
]


@pytest.fixture
def tagger(tiny_model: Callable[..., Path]) -> Path:
    """A BERT that hands its word embeddings through, and a classifier that knows three of them."""
    from transformers import BertConfig, BertForTokenClassification

    plain = tiny_model("text", words=[*KNOWN, "and", "sea"])
    shape = json.loads((plain / "config.json").read_text())
    shape.pop("retrieval")
    config = BertConfig(**shape, num_labels=len(LABELS), id2label=dict(enumerate(LABELS)))
    torch.manual_seed(0)
    model = BertForTokenClassification(config)
    vocabulary = (plain / "vocab.txt").read_text().split("\n")
    with torch.no_grad():
        inner = model.bert
        for layer in inner.encoder.layer:
            for linear in (layer.attention.output.dense, layer.output.dense):
                linear.weight.zero_()
                linear.bias.zero_()
        inner.embeddings.position_embeddings.weight.zero_()
        inner.embeddings.token_type_embeddings.weight.zero_()
        words = torch.nn.functional.layer_norm(inner.embeddings.word_embeddings.weight, (16,))
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([54.0, 0, 0, 0]))
        for word, label in KNOWN.items():
            model.classifier.weight[label] = 4 * words[vocabulary.index(word)]  # 4 * 16 beats 54
    path = plain.parent / "tagger"
    model.save_pretrained(path)
    (path / "vocab.txt").write_bytes((plain / "vocab.txt").read_bytes())
    return path


def made(path: Path, tagger: Path) -> Index:
    index = Index.create(path, ["bm25", f"types=entity_types:{tagger}"])
    index.add(DOCUMENTS[:2])
    index.commit()
    index.add(DOCUMENTS[2:])
    index.commit()
    return index


def found(index: Index, query: str, pipeline: str = "types") -> set[str]:
    return {hit.doc_id for hit in index.search(query, pipeline=pipeline)}


def test_types_of_a_text_are_those_of_its_tokens(tagger: Path) -> None:
    opened = Tagger(str(tagger))
    assert opened.types == ["PER", "FilmDirector"]
    texts = [document.text for document in DOCUMENTS] + [""]
    shares, tokens, dropped = opened.probabilities(texts)
    assert (shares > 0.5).tolist() == [
        [True, False], [True, True], [False, False], [False, True], [False, False]
    ]  # fmt: skip
    assert dropped.tolist() == [0] * 5
    assert tokens.tolist() == [6, 4, 4, 82, 0]
    for at, text in enumerate(texts):
        alone, _, _ = opened.probabilities([text])
        assert alone[0] == pytest.approx(shares[at], abs=1e-5)


def test_documents_are_found_by_the_types_that_they_mention(tmp_path: Path, tagger: Path) -> None:
    index = made(tmp_path / "i", tagger)
    facts = index.encoding("types")
    assert (facts["documents"], facts["tokens"], facts["dropped"]) == (4, 6 + 4 + 4 + 82, 0)
    assert found(index, "persons") == {"a", "b"}
    assert found(index, "film director") == {"b", "d"}
    assert found(index, "sea") == set()
    assert found(index, "directors of the sea", "0.5 * bm25 % 10 + 0.5 * types % 10") == {"a", "b", "c", "d"}
    words = tmp_path / "words.tsv"
    words.write_text("politician\tperson\n")
    assert found(index, "politician", f"type_words({words}, sparse=types)") == {"a", "b"}
    index.delete(["b"])
    index.commit()
    index.merge()
    assert found(index, "person") == {"a"}
    again = Index.open(tmp_path / "i")
    again.add([Document("e", "basil")])
    again.commit()
    assert found(again, "person") == {"a", "e"}
    assert found(again, "person", "types(idf=0)") == {"a", "e"}
    with pytest.raises(UserError, match="idf"):
        again.search("person", pipeline="types(k1=1)")


def test_another_tagger_is_refused(tmp_path: Path, tagger: Path) -> None:
    made(tmp_path / "i", tagger).close()
    config = json.loads((tagger / "config.json").read_text())
    (tagger / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    index = Index.open(tmp_path / "i")
    assert found(index, "person") == {"a", "b"}  # a search needs no model
    with pytest.raises(UserError, match="whose config is another than that"):
        index.add([Document("e", "basil")])


def test_names_of_types_in_words() -> None:
    assert [name_of(kind) for kind in ("PER", "Loc", "FilmDirector", "GPE")] == [
        "person", "location", "film director", "country city state"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "which name no types"),
        ({"id2label": None}, "names no labels"),
        ({"model_type": "unheard"}, "does not have"),
    ],
)
def test_what_is_no_tagger_is_refused(tagger: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((tagger / "config.json").read_text())
    (tagger / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        Tagger(str(tagger))


def test_missing_files_are_named(tmp_path: Path, tagger: Path, tiny_text_model: Path) -> None:
    with pytest.raises(UserError, match="needs a tagger"):
        Index.create(tmp_path / "i", ["entity_types"])
    with pytest.raises(UserError, match="no model directory"):
        Index.create(tmp_path / "i", ["entity_types:nowhere"])
    (tagger / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors alone"):
        Tagger(str(tagger))
