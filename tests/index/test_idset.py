"""The set of waiting ids against a dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retrieval.index.idset import IdSet

ids = st.lists(st.text(alphabet="abc", min_size=1, max_size=3), unique=True, max_size=20)


@given(st.lists(ids, max_size=8), ids)
def test_finds_what_was_added(batches: list[list[str]], asked: list[str]) -> None:
    known: dict[str, int] = {}
    found = IdSet()
    for batch in batches:
        assert found.find(batch).tolist() == [known.get(doc_id, -1) for doc_id in batch]
        found.add(batch)
        known.update({doc_id: number for number, doc_id in enumerate(batch, found.count - len(batch))})
    assert found.find(asked).tolist() == [known.get(doc_id, -1) for doc_id in asked]
    assert found.count == sum(map(len, batches))
