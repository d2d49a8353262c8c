"""TILDEv2 in the index: the rule and the lists, re-scoring and retrieval as one, what is stored and shown."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index, UserError
from retrieval.cli import main
from retrieval.index.expansion import expanded_sequence, id_mask
from retrieval.index.quantise import Quantiser
from retrieval.index.record_builder import encoding_facts

torch = pytest.importorskip("torch")

from retrieval.index.bert import pack  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.tilde_model import expansions, load_tilde  # noqa: E402
from retrieval.index.tildev2_model import (  # noqa: E402
    load_tildev2,
    match_scores,
    token_weights,
)

TEXTS = {
    "d0": "abc of the cab, bad cabs",
    "d1": "what definition of zq and zw. zebra zoo",
    "d2": "quick fox jumps",
    "d3": "cab zoo fox " * 40,
    "d4": ".",
    "d5": "the fox and the cab",
}
QUERIES = ["cab", "zoo zoo fox", "what definition", "the of", "", "quick bad zebra jumps"]


def index_of(tmp_path: Path, model: Path, name: str = "index", **options: Any) -> Index:
    index = Index.create(tmp_path / name, [f"tildev2:{model}", "bm25"], **options)
    index.add([{"id": doc_id, "text": text} for doc_id, text in TEXTS.items()])
    index.commit()
    return index


def brute_values(
    model: Path, quantiser: Quantiser, window: int, windows: int, top: int | None
) -> list[dict[str, int]]:
    """Each document's values by term, one window at a time."""
    files = ModelFiles.open(str(model))
    vocabulary, tildev2 = files.vocabulary, load_tildev2(files)
    tilde = load_tilde(ModelFiles.open(str(model.parent / "tilde"))) if top is not None else None
    stop = vocabulary.index_stop | vocabulary.special
    found = []
    for text in TEXTS.values():
        ids = vocabulary.encode([text])[0]
        count = min(-(-len(ids) // (window - 2)), windows)
        ids = ids[: count * (window - 2)]
        best: dict[int, float] = {}
        for i in range(count):
            piece = ids[i * len(ids) // count : (i + 1) * len(ids) // count]
            new = np.empty(0, np.int32)
            if tilde is not None:
                excluded = id_mask(vocabulary.size, vocabulary.expansion_stop)
                (new,) = expansions(tilde, vocabulary, [piece], top or 0, excluded)
            sequence = expanded_sequence(piece, new, vocabulary.cls, vocabulary.sep, 64)
            for term, weight in zip(sequence.tolist(), token_weights(tildev2, [sequence]).tolist()):
                if term not in stop and weight > 0:
                    best[term] = max(best.get(term, 0.0), weight)
        values, _ = quantiser.quantise(np.array(list(best.values()), np.float32))
        found.append({vocabulary.pieces[t]: int(v) for t, v in zip(best, values)})
    return found


def brute_scores(
    model: Path, values: list[dict[str, int]], query: str, idf: bool = False
) -> dict[str, float]:
    vocabulary = ModelFiles.open(str(model)).vocabulary
    stop = vocabulary.index_stop | vocabulary.special
    wanted = Counter(vocabulary.pieces[i] for i in vocabulary.encode([query])[0].tolist() if i not in stop)
    scores = {}
    for doc_id, terms in zip(TEXTS, values):
        score = 0.0
        for term, count in wanted.items():
            df = sum(term in other for other in values)
            weight = math.log1p((len(values) - df + 0.5) / (df + 0.5)) if idf else 1.0
            score += count * weight * terms.get(term, 0)
        if score:
            scores[doc_id] = score
    return scores


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("top", [None, 0, 12, 60])
def test_retrieval_and_rescoring_give_the_scores_of_the_rule(
    tmp_path: Path, pair: Callable[..., Path], tiny_model: Callable[..., Path], top: int | None, compact: bool
) -> None:
    model = pair(top) if top is not None else tiny_model("tildev2", window=20)
    index = index_of(tmp_path, model, compact=compact)
    quantiser = Quantiser.from_facts(index.representations["tildev2"]["quantiser"])
    assert quantiser == Quantiser.of(load_tildev2(ModelFiles.open(str(model))).bound())
    values = brute_values(model, quantiser, 20, 8, top)
    rescored = 0
    for idf in (False, True):
        stage = index.stage("tildev2", idf=int(idf))
        for query in QUERIES:
            wanted = brute_scores(model, values, query, idf)
            hits = {hit.doc_id: hit.score for hit in stage({"q": query})["q"]}
            assert hits == pytest.approx(wanted, rel=1e-4 if idf else 0)
            again = (index.stage("bm25") >> stage)({"q": query})["q"]
            assert [hit.score for hit in again] == [hits.get(hit.doc_id, 0.0) for hit in again]
            rescored += len(again)
    assert rescored > 8


def test_expansion_lets_absent_terms_match(tmp_path: Path, pair: Callable[..., Path]) -> None:
    with_, without = (index_of(tmp_path, pair(top), f"i{top}") for top in (60, 0))
    found = [len(index.search("q z w", 10, pipeline="tildev2")) for index in (with_, without)]
    assert found[0] > found[1]


def test_windows_beyond_the_limit_are_counted(tmp_path: Path, pair: Callable[..., Path]) -> None:
    index = index_of(tmp_path, pair(windows=2))
    facts = encoding_facts(index.stage("tildev2").view, "tildev2")
    tokens = len(ModelFiles.open(str(tmp_path / "tildev2")).vocabulary.encode([TEXTS["d3"]])[0])
    assert facts["dropped"] == tokens - 2 * 18
    assert facts["cut"] == 1
    assert facts["documents"] == len(TEXTS)


def test_the_command_says_what_was_left_out(
    tmp_path: Path, pair: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in TEXTS.items()))
    out = str(tmp_path / "out")
    assert main(["index", str(corpus), "--out", out, "--sparse", f"tildev2:{pair(windows=2)}"]) == 0
    said, noted = capfd.readouterr()
    assert json.loads(said.splitlines()[-1]) == {"committed": len(TEXTS), "generation": 1}
    assert re.search(r"tildev2: 1 of 6 documents .* 324 of \d+ tokens \(\d+\.\d %\) are not in", noted)
    bad = str(tmp_path / "tilde")
    assert main(["index", str(corpus), "--out", f"{out}2", "--sparse", f"tildev2:{bad}"]) == 2
    said, noted = capfd.readouterr()
    assert said == ""
    assert noted.count("\n") == 1
    assert "Traceback" not in noted


def test_weights_above_the_maximum_are_clamped_and_counted(tmp_path: Path, pair: Callable[..., Path]) -> None:
    index = index_of(tmp_path, pair(maximum=1e-4))
    assert encoding_facts(index.stage("tildev2").view, "tildev2")["clamped"] > 0
    assert index.search("c", pipeline="tildev2")[0].score == 255


def test_documents_that_come_later_and_one_at_a_time_score_alike(
    tmp_path: Path, pair: Callable[..., Path]
) -> None:
    model = pair()
    whole = index_of(tmp_path, model)
    parts = Index.create(tmp_path / "parts", [f"tildev2:{model}"])
    for doc_id, text in TEXTS.items():
        parts.add([{"id": doc_id, "text": text}])
        parts.commit()
        parts = Index.open(tmp_path / "parts")
    parts.merge()
    for query in QUERIES:
        assert parts.search(query) == whole.search(query, pipeline="tildev2")
    added = Index.create(tmp_path / "added", ["bm25"])
    added.add([{"id": doc_id, "text": text} for doc_id, text in TEXTS.items()])
    added.commit()
    added.add_representation(f"tildev2:{model}")
    for query in QUERIES:
        assert added.search(query, pipeline="tildev2") == whole.search(query, pipeline="tildev2")


def test_what_was_encoded_before_a_failure_is_not_encoded_again(
    tmp_path: Path, pair: Callable[..., Path]
) -> None:
    model = pair()
    documents = [{"id": doc_id, "text": text} for doc_id, text in TEXTS.items()]
    begun = Index.create(tmp_path / "index", [f"tildev2:{model}"])
    begun.add(documents[:4])
    with pytest.raises(UserError, match="text"):
        begun.add([{"id": "bad"}])
    index = Index.create(tmp_path / "index", [f"tildev2:{model}"])
    index.add(documents)
    index.commit()
    assert encoding_facts(index.stage("tildev2").view, "tildev2")["reused"] == 4
    whole = index_of(tmp_path, model, "whole")
    for query in QUERIES:
        assert index.search(query) == whole.search(query, pipeline="tildev2")


def test_ids_and_texts_are_free(tmp_path: Path, pair: Callable[..., Path]) -> None:
    """The official index wants ids 0, 1, 2 ... and texts without tabs."""
    index = Index.create(tmp_path / "index", [f"tildev2:{pair()}"])
    text = "quick fox jumps what zebra"
    index.add([{"id": "z-9", "text": text.replace(" ", "\t")}, {"id": "ä/1", "text": text}])
    index.add([{"id": "7", "text": text}])
    index.commit()
    hits = index.search(text)
    assert [hit.doc_id for hit in hits] == ["ä/1", "z-9", "7"]  # equal scores: id descending
    assert len({hit.score for hit in hits}) == 1


def test_scoring_changes_nothing_that_it_is_given() -> None:
    """The official mask_sep writes into the attention mask."""
    packed, weights = pack([[1, 5, 6, 2], [1, 6, 6, 2]]), torch.rand(8)
    before = [each.clone() for each in (*packed[:4], weights)]
    query = np.array([5, 6, 2])
    match_scores([query], packed, weights)
    assert all(bool((a == b).all()) for a, b in zip(before, (*packed[:4], weights)))
    assert query.tolist() == [5, 6, 2]
    assert packed.segments.tolist() == [0] * 8


SEARCH = """
import sys, json
sys.modules["torch"] = sys.modules["safetensors"] = sys.modules["transformers"] = None
from retrieval import Index
index = Index.open(sys.argv[1])
print(json.dumps([[hit.doc_id, hit.score] for hit in index.search(sys.argv[2], pipeline="tildev2(idf=1)")]))
"""


def test_searching_needs_neither_torch_nor_the_model(
    tmp_path: Path, root: Path, pair: Callable[..., Path]
) -> None:
    model = pair()
    index = index_of(tmp_path, model)
    wanted = [[hit.doc_id, hit.score] for hit in index.search("cab fox", pipeline="tildev2(idf=1)")]
    shutil.rmtree(model)
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(tmp_path / "index"), "cab fox"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted


def test_what_is_shown_as_matched(tmp_path: Path, pair: Callable[..., Path]) -> None:
    index = index_of(tmp_path, pair())
    stage: Any = index.stage("tildev2")
    spans = stage.method.spans("The cab, cab")
    assert [(a, b) for a, b, _ in spans][:3] == [(4, 5), (5, 6), (6, 7)]
    assert all(term not in ("the", ",") for _, _, term in spans)
    explained = index.stage("tildev2").explain("cab the", 0)
    assert {each["term"] for each in explained["terms"]} == {"c", "##a", "##b"}
