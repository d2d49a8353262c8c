"""TILDE as a re-ranker: alpha * QL + (1 - alpha) * DL from texts, and what lies beyond the cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import CompositionError, Index, UserError

torch = pytest.importorskip("torch")

from retrieval.index.bert import pack  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.tilde_model import load_tilde, log10_likelihoods  # noqa: E402

TEXTS = {
    "d0": "abc of the cab, bad cabs fox",
    "d1": "what definition of zq and zw. zebra zoo fox",
    "d2": "quick fox jumps",
    "d3": "cab zoo fox " * 20,
    "d4": "the fox",
}
QUERIES = {"q0": "fox cab cab", "q1": "the quick fox", "q2": "fox zoo", "q3": "the"}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "index")
    made.add([{"id": doc_id, "text": text} for doc_id, text in TEXTS.items()])
    made.commit()
    return made


def brute(model: Path, query: str, text: str, alpha: float, window: int = 64, windows: int = 8) -> float:
    """The score in words: every window by itself."""
    files = ModelFiles.open(str(model))
    vocabulary, tilde = files.vocabulary, load_tilde(files)
    stop = vocabulary.index_stop | vocabulary.special

    def log_p(ids: list[int], marker: str) -> np.ndarray:
        first = vocabulary.id(marker)
        assert first is not None
        with torch.no_grad():
            logits = tilde(pack([[first, *ids, vocabulary.sep]]))
        found: np.ndarray = log10_likelihoods(logits)[0].numpy()
        return found

    asked = vocabulary.encode([query])[0].tolist()
    ids = vocabulary.encode([text])[0].tolist()
    count = min(-(-len(ids) // (window - 2)), windows)
    ids = ids[: count * (window - 2)]
    pieces = [ids[i * len(ids) // count : (i + 1) * len(ids) // count] for i in range(count)]
    best = np.max([log_p(piece, "[unused0]") for piece in pieces], axis=0)
    ql = sum(best[i] for i in asked if i not in stop)
    from_query = log_p(asked[: window - 2], "[unused1]")
    clean = [i for i in ids if i not in stop]
    dl = np.mean(from_query[clean]) if clean else from_query.min()
    return float(alpha * ql + (1 - alpha) * dl)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("settings", [{}, {"window": 12, "windows": 3}])
def test_scores_are_the_rule(
    index: Index, tiny_model: Callable[..., Path], alpha: float, settings: dict[str, Any]
) -> None:
    model = tiny_model("tilde", **settings)
    run = index.pipeline(f"bm25 >> likelihood({model}, alpha={alpha})")(QUERIES)
    first = index.pipeline("bm25")(QUERIES)
    assert sum(map(len, run.values())) > 8
    for query_id, hits in run.items():
        assert {hit.doc_id for hit in hits} == {hit.doc_id for hit in first[query_id]}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            wanted = brute(model, QUERIES[query_id], TEXTS[hit.doc_id], alpha, **settings)
            assert hit.score == pytest.approx(wanted, abs=1e-4)


def test_the_mix_is_linear_in_alpha(index: Index, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("tilde")
    scores = []
    for alpha in (0.0, 0.25, 1.0):
        run = index.pipeline(f"bm25 >> likelihood({model}, alpha={alpha})")({"q": "fox cab"})
        scores.append({hit.doc_id: hit.score for hit in run["q"]})
    for doc_id, mixed in scores[1].items():
        assert mixed == pytest.approx(0.75 * scores[0][doc_id] + 0.25 * scores[2][doc_id], abs=1e-4)


def test_candidates_beyond_the_cut_keep_their_order_below(
    index: Index, tiny_model: Callable[..., Path]
) -> None:
    model = tiny_model("tilde")
    first = [hit.doc_id for hit in index.pipeline("bm25")({"q": "fox"})["q"]]
    hits = index.pipeline(f"bm25 >> likelihood({model}, cut_off=2)")({"q": "fox"})["q"]
    assert {hit.doc_id for hit in hits[:2]} == set(first[:2])
    assert [hit.doc_id for hit in hits[2:]] == first[2:]
    drops = np.diff([hit.score for hit in hits[1:]])
    assert drops == pytest.approx(-1.0)


def test_many_queries_and_documents_score_as_one(
    index: Index, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of queries and of documents are a matter of memory, not of scores."""
    pipeline = f"bm25 >> likelihood({tiny_model('tilde')})"
    wanted = index.pipeline(pipeline)(QUERIES).to_dict()
    monkeypatch.setattr("retrieval.rerank.likelihood._QUERIES", 2)
    monkeypatch.setattr("retrieval.rerank.likelihood._DOCUMENTS", 2)
    found = index.pipeline(pipeline)(QUERIES).to_dict()
    assert found.keys() == wanted.keys()
    for query_id, scores in found.items():
        assert scores == pytest.approx(wanted[query_id], abs=1e-4)


def test_tokens_that_are_not_read_are_counted(index: Index, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("tilde", window=12, windows=2)
    run = index.pipeline(f"bm25 >> likelihood({model}, alpha=1)")({"q": "zebra jumps cab"})
    vocabulary = ModelFiles.open(str(model)).vocabulary
    lengths = [len(ids) for ids in vocabulary.encode([TEXTS[hit.doc_id] for hit in run["q"]])]
    assert run.trace[-1].tokens_dropped == sum(max(0, length - 20) for length in lengths) > 0


def test_its_text_rebuilds_it(index: Index, tiny_model: Callable[..., Path]) -> None:
    text = f"bm25 >> likelihood({tiny_model('tilde')}, alpha=0.25)"
    assert repr(index.pipeline(text)) == text


@pytest.mark.parametrize(
    ("params", "message"),
    [("alpha=1.5", "alpha=1.5"), ("alpha=true", "alpha=True"), ("cut_off=0", "cut_off=0")],
)
def test_parameters_that_are_refused(index: Index, params: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        index.pipeline(f"bm25 >> likelihood(model, {params})")


def test_what_else_is_refused(index: Index, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model directory"):
        index.pipeline(f"bm25 >> likelihood({tmp_path / 'none'})")
    with pytest.raises(UserError, match="kind 'tildev2', and tilde needs"):
        index.pipeline(f"bm25 >> likelihood({tiny_model('tildev2')})")
    with pytest.raises(CompositionError, match="put a retriever"):
        index.pipeline(f"likelihood({tiny_model('tilde')})")
    from retrieval.rerank.likelihood import Likelihood
    from retrieval.stage import Given

    alone = Likelihood(str(tiny_model("tilde")))
    with pytest.raises(CompositionError, match="reads documents' texts"):
        (Given(index.pipeline("bm25")({"q": "fox"})) >> alone)({"q": "fox"})
