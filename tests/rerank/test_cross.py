"""The cross-encoder as a stage: scores by brute force and by transformers, truncation, bad models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Index, UserError
from retrieval.errors import CompositionError, MissingExtra
from retrieval.registry import make
from retrieval.stage import Given, Stage
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run

torch = pytest.importorskip("torch")

from retrieval.index.bert import BertConfig  # noqa: E402
from retrieval.index.model_files import ModelFiles, save_model  # noqa: E402
from retrieval.rerank.cross import Cross  # noqa: E402
from retrieval.rerank.cross_model import CrossEncoder, load_cross  # noqa: E402
from retrieval.rerank.pairs import Frame, join  # noqa: E402

Maker = Callable[..., Path]
TEXTS = {
    "d0": "cab zoo",
    "d1": "fox " * 100,
    "d2": "bad fox, bad zoo. the end",
    "d3": "q",
    "d4": "zoo of the fox " * 3,
}
QUERIES = [Query("1", "bad fox"), Query("2", "zoo?"), Query("3", "cab " * 90), Query("4", "")]


def lookup(names: Any) -> list[Document]:
    return [Document(name, TEXTS[name]) for name in names]


def everything(queries: list[Query] = QUERIES) -> Run:
    return Run.from_dict({query.query_id: dict.fromkeys(TEXTS, 1.0) for query in queries})


def by_hand(directory: Path, query: str, text: str, length: int) -> float:
    """The score of one pair, alone in its batch."""
    from retrieval.index.bert import pack

    files = ModelFiles.open(str(directory))
    model = load_cross(files)[0].eval()
    words = files.vocabulary
    asked, read = (ids.tolist() for ids in words.encode([query, text]))
    asked = asked[: max(1, length // 2 - 2)]
    read = read[: length - 3 - len(asked)]
    ids = [words.cls, *asked, words.sep, *read, words.sep]
    segments = [0] * (len(asked) + 2) + [1] * (len(read) + 1)
    with torch.no_grad():
        return float(model(pack([ids], [segments]))[0])


def test_scores_are_those_of_one_pair_after_another(tiny_model: Maker) -> None:
    directory = tiny_model("cross", words=["fox", "zoo"])
    for length in (0, 20):
        stage = Cross(str(directory), length=length).with_documents(lookup)
        found = stage(QUERIES, everything())
        for query in QUERIES:
            wanted = {
                name: by_hand(directory, query.text, text, length or 64) for name, text in TEXTS.items()
            }
            scores = {hit.doc_id: hit.score for hit in found[query.query_id]}
            assert scores == pytest.approx(wanted, abs=1e-5)
            ranked = sorted(scores, key=lambda name: (scores[name], name), reverse=True)
            assert [hit.doc_id for hit in found[query.query_id]] == ranked


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_those_of_transformers(tmp_path: Path, tiny_model: Maker, labels: int) -> None:
    transformers = pytest.importorskip("transformers")
    directory = tiny_model("cross", words=["fox", "zoo"])
    torch.manual_seed(labels)
    config = transformers.BertConfig.from_dict({
        **json.loads((directory / "config.json").read_text()), "num_labels": labels,
    })  # fmt: skip
    other = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    saved = tmp_path / "other"
    other.save_pretrained(saved)
    (saved / "vocab.txt").write_bytes((directory / "vocab.txt").read_bytes())
    stage = Cross(str(saved)).with_documents(lookup)
    found = stage(QUERIES, everything())
    words = ModelFiles.open(str(saved)).vocabulary
    for query in QUERIES[:2]:
        for hit in found[query.query_id]:
            if hit.doc_id == "d1":
                continue  # cut
            asked, read = (ids.tolist() for ids in words.encode([query.text, TEXTS[hit.doc_id]]))
            ids = torch.tensor([[words.cls, *asked, words.sep, *read, words.sep]])
            kinds = torch.tensor([[0] * (len(asked) + 2) + [1] * (len(read) + 1)])
            with torch.no_grad():
                logits = other(input_ids=ids, token_type_ids=kinds).logits[0].tolist()
            assert hit.score == pytest.approx(logits[-1] - (logits[0] if labels == 2 else 0), abs=1e-4)


@given(st.integers(0, 40), st.integers(0, 60), st.integers(8, 50))
def test_what_does_not_fit_is_counted(asked: int, read: int, limit: int) -> None:
    found = join(np.full(asked, 7, np.int32), np.full(read, 8, np.int32), limit, Frame.of_bert(2, 3))
    ids = found.ids.tolist()
    assert len(ids) == len(found.segments) <= limit
    kept = ids.count(7), ids.count(8)
    assert ids == [2, *[7] * kept[0], 3, *[8] * kept[1], 3]
    assert found.segments.tolist() == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
    assert found.dropped == asked + read - sum(kept)
    if found.dropped and kept[0] == asked:
        assert len(ids) == limit
    if asked + read + 3 <= limit and asked <= limit // 2 - 2:
        assert found.dropped == 0


def test_dropped_tokens_are_in_the_trace(tiny_model: Maker) -> None:
    stage = Cross(str(tiny_model("cross", words=["fox", "zoo"]))).with_documents(lookup)
    queries = [Query("1", "fox")]
    trace = stage(queries, everything(queries)).trace[-1]
    assert trace.tokens_dropped == 100 - (64 - 3 - 1)
    assert (trace.candidates_in, trace.candidates_out) == (len(TEXTS), len(TEXTS))


def test_it_is_a_good_stage(tiny_model: Maker) -> None:
    stage = Cross(str(tiny_model("cross", words=["fox", "zoo"]))).with_documents(lookup)
    check_stage(stage, QUERIES[:3], everything(QUERIES[:3]))
    assert isinstance(make("cross", {"model": stage.params["model"], "length": 32}), Cross)


def test_many_documents_are_read_in_turns(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Cross(str(tiny_model("cross", words=["fox", "zoo"]))).with_documents(lookup)
    whole = stage(QUERIES, everything())
    monkeypatch.setattr("retrieval.rerank.text_stage._DOCUMENTS", 2)
    parts = stage(QUERIES, everything())
    assert parts.trace[-1].tokens_dropped == whole.trace[-1].tokens_dropped
    for query, hits in whole.to_dict().items():
        assert parts.to_dict()[query] == pytest.approx(hits, abs=1e-5)


def test_in_a_pipeline_of_an_index(tiny_model: Maker, tmp_path: Path) -> None:
    directory = tiny_model("cross", words=["fox", "zoo"])
    index = Index.create(tmp_path / "index")
    index.add([Document(name, text) for name, text in TEXTS.items()])
    index.commit()
    stage = index.pipeline(f"bm25 % 10 >> cross({directory}) % 2")
    found = stage([Query("1", "fox")])
    wanted = {name: by_hand(directory, "fox", TEXTS[name], 64) for name in ("d1", "d2", "d4")}
    best = sorted(wanted, key=lambda name: wanted[name], reverse=True)[:2]
    assert [hit.doc_id for hit in found["1"]] == best
    assert repr(stage) == f"bm25 % 10 >> cross({directory}) % 2"


def test_a_fetched_hub_id_and_a_model_of_bytes(
    tiny_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_model("cross", words=["fox", "zoo"])
    files = ModelFiles.open(str(directory))
    monkeypatch.setattr("retrieval.index.model_files._INT8_SIZE", 100)
    small, vocabulary = str(tmp_path / "small"), files.vocabulary
    save_model(small, files.config, files.tensors(), vocabulary.data, vocabulary.name, dtype="int8")
    monkeypatch.setattr("retrieval.index.hub._snapshot", lambda model, local: small)
    stage = make("cross", {"model": "owner/name"}).with_documents(lookup)
    assert repr(stage) == "cross(owner/name)"
    found = stage(QUERIES, everything()).to_dict()
    wanted = Cross(str(directory)).with_documents(lookup)(QUERIES, everything()).to_dict()
    apart = [abs(found[query][doc] - score) for query, docs in wanted.items() for doc, score in docs.items()]
    assert 1e-5 < max(apart) < 0.5  # a byte a weight, and the right ones


def test_a_bprop_model_scores_with_its_rop_head(tiny_model: Maker) -> None:
    from retrieval.index.bert import pack
    from retrieval.index.bprop_model import load_bprop

    directory = tiny_model("bprop", words=["fox", "zoo"])
    files = ModelFiles.open(str(directory))
    model = load_bprop(files)[0].eval()
    ids = [files.vocabulary.cls, 10, files.vocabulary.sep, 11, 12, files.vocabulary.sep]
    packed = pack([ids], [[0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        scores = [float(model(packed)[1][0]), float(load_cross(files)[0].eval()(packed)[0])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert len(Cross(str(directory)).with_documents(lookup)(QUERIES, everything())["1"]) == len(TEXTS)


def test_without_documents_or_a_run_it_says_what_to_do(tiny_model: Maker) -> None:
    stage = Cross(str(tiny_model("cross")))
    with pytest.raises(CompositionError, match="reads documents' texts"):
        (Given(everything()) >> stage)(QUERIES)
    with pytest.raises(CompositionError, match="needs a run"):
        stage.with_documents(lookup)(QUERIES)
    with pytest.raises(CompositionError, match="put a retriever"):
        stage >> Stage()


def other_labels(directory: Path, labels: int) -> None:
    files = ModelFiles.open(str(directory))
    model = CrossEncoder(BertConfig.from_dict(files.config), labels)
    save_model(str(directory), files.config, model.state_dict(), files.vocabulary.data, files.vocabulary.name)


def test_bad_models_and_parameters_are_refused(tiny_model: Maker, tmp_path: Path) -> None:
    directory = tiny_model("cross")
    for params, message in (
        ({"length": 65}, "reads 8 to 64 tokens"),
        ({"length": True}, "length=True"),
        ({"precision": "int3"}, "precision='int3'"),
    ):
        with pytest.raises(UserError, match=message):
            Cross(str(directory), **params)
    with pytest.raises(UserError, match="no model directory"):
        Cross(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="kind 'tilde'; cross takes cross or bprop"):
        Cross(str(tiny_model("tilde")))
    other_labels(directory, 3)
    with pytest.raises(UserError, match=r"a classifier of shape \(3, 16\)"):
        Cross(str(directory)).with_documents(lookup)(QUERIES, everything())


def test_scores_that_are_no_numbers_are_refused(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Cross(str(tiny_model("cross"))).with_documents(lookup)
    monkeypatch.setattr(
        "retrieval.rerank.cross_packed.Network.score",
        lambda _, pairs, precision: np.full(len(pairs), np.nan, np.float32),
    )
    with pytest.raises(UserError, match="not finite"):
        stage(QUERIES, everything())


def test_without_torch_it_names_the_extra(tiny_model: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tiny_model("cross")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'retrieval\[models\]'"):
        Cross(str(directory))
