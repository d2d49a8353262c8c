"""The text and TOML forms: what repr prints reads back, and binds as Python does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.pipeline import from_toml, parse, to_toml
from retrieval.stage import Cut, Fuse, Param, Stage, Weighted


class Leaf(Stage):
    def __init__(self, name: str, params: dict[str, Param] | None = None) -> None:
        self.name = name
        self.params = params or {}
        self.needs_run = name.startswith("r")


def tree(stage: Stage | Weighted) -> Any:
    """Everything that tells one pipeline from another."""
    if isinstance(stage, Weighted):
        return ("weighted", stage.weight, tree(stage.stage))
    if isinstance(stage, Leaf):
        return (stage.name, dict(stage.params), {key: type(value) for key, value in stage.params.items()})
    own = stage.k if isinstance(stage, Cut) else None
    parts = stage.operands if isinstance(stage, Fuse) else stage.parts
    return (type(stage).__name__, own, *map(tree, parts))


NAMES = st.sampled_from(["bm25", "a", "minilm-l6", "m2bert.32k", "tilde_v2", "été", "2bert"])
VALUES = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(
        ["./models/minilm", "org/model-1.0", "true", "3", "1e5", "nan", "1_0", 'a"b', "x)", "", " "]
    )
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
)
PARAMS = st.dictionaries(st.sampled_from(["model", "k1", "b", "prompt", "été"]), VALUES, max_size=3)
WEIGHTS = st.floats(0, 1e30) | st.sampled_from([0.3, 1, 1e-7, 1e22])
LEAVES = st.builds(Leaf, NAMES, PARAMS)
RERANKERS = st.builds(Leaf, st.just("rerank"), PARAMS)


def extend(stages: st.SearchStrategy[Stage]) -> st.SearchStrategy[Stage]:
    operands = stages | st.builds(Weighted, WEIGHTS, stages)
    return (
        st.builds(lambda left, right: left >> right, stages, stages | RERANKERS)
        | st.builds(lambda stage, k: stage % k, stages, st.integers(1, 10**6))
        | st.builds(lambda left, right: left + right, operands, operands)
    )


PIPELINES = st.recursive(LEAVES, extend, max_leaves=8)

TEXTS = st.recursive(
    st.sampled_from(["a", "b", "c", "r"]),
    lambda texts: (
        st.builds("({})".format, texts)
        | st.builds("{} >> {}".format, texts, texts)
        | st.builds("{}+{}".format, texts, texts)
        | st.builds("{}%3".format, texts)
        | st.builds("{} * 2".format, texts)
        | st.builds(lambda text: f"0.5*({text})" if text[0] == "0" else f"0.5*{text}", texts)
    ),
    max_leaves=6,
)


@given(PIPELINES)
def test_what_repr_prints_reads_back(pipeline: Stage) -> None:
    read = parse(repr(pipeline), Leaf)
    assert repr(read) == repr(pipeline)
    assert tree(read) == tree(pipeline)


@given(PIPELINES)
def test_toml_reads_back(pipeline: Stage) -> None:
    read = from_toml(to_toml(pipeline), Leaf)
    assert to_toml(read) == to_toml(pipeline)
    assert tree(read) == tree(pipeline)


@given(TEXTS)
def test_a_text_means_what_it_means_to_python(text: str) -> None:
    try:
        meant = eval(text, {name: Leaf(name) for name in "abcr"})  # noqa: S307
    except CompositionError:
        meant = None
    if isinstance(meant, Stage):
        assert tree(parse(text, Leaf, given=True)) == tree(meant)
    else:
        with pytest.raises(CompositionError):
            parse(text, Leaf, given=True)


@given(st.text('ab3.5 >>%+*()=,"\\é\n-', max_size=20))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        stage = parse(text, Leaf)
    except CompositionError:
        return
    assert repr(parse(repr(stage), Leaf)) == repr(stage)


def test_the_pipeline_of_the_manual() -> None:
    text = "bm25 % 1000 >> tildev2 % 100 >> cross(./models/minilm) % 10"
    stage = parse(f"  {text.replace(' ', '')}\n", Leaf)
    assert repr(stage) == text
    cross = stage.parts[2].parts[0]
    assert (cross.name, cross.params) == ("cross", {"model": "./models/minilm"})
    bm25 = parse('bm25( k1 = 0.9,b=0.4, deep=true, n=7, s="a, \\"b\\"" )', Leaf)
    assert bm25.params == {"k1": 0.9, "b": 0.4, "deep": True, "n": 7, "s": 'a, "b"'}
    assert parse("a()", Leaf).params == {}


@pytest.mark.parametrize(
    ("text", "character", "expected"),
    [
        ("", 1, "a stage, the text ends"),
        ("bm25 % 1000 >> ", 16, "a stage, the text ends"),
        ("bm25 % ten", 8, "a whole number"),
        ("bm25 % 2.5", 8, "a whole number"),
        ("bm25 % 99999999999", 8, "a whole number"),
        ("bm25 % " + "9" * 5000, 8, "a whole number"),
        ("bm25 tilde", 6, "an operator"),
        ("(bm25 >> tilde", 15, r"an operator \(>> % \+ \*\) or '\)'"),
        ("bm25)", 5, "an operator"),
        ("0.3 bm25", 5, r"'\*' after a weight"),
        ("bm25 * b", 8, "a number"),
        ("-0.3 * a + b", 1, "a stage, found '-0.3"),
        ("a + + b", 5, "a stage"),
        ("bm25(k1=)", 9, "a value"),
        ("bm25(k1=1, 2)", 12, "name=value"),
        ("bm25(k1=1 b=2)", 11, "',' or"),
        ("bm25(k1=1, k1=2)", 12, "'k1' only once"),
        ("bm25(m, model=x)", 9, "'model' only once"),
        ("bm25(3=x)", 6, "the name of a parameter"),
        ("bm25(k1=1", 10, "',' or"),
        (r'x("\q")', 3, "a string with JSON's escapes"),
        ('x("open)', 3, "a value"),
        ("(" * 51 + "a", 51, "no more than 50"),
    ],
)
def test_an_error_points_at_its_place(text: str, character: int, expected: str) -> None:
    with pytest.raises(CompositionError, match=rf"character {character}: expected {expected}"):
        parse(text, Leaf)


def test_an_error_in_a_long_text_shows_its_surroundings_only() -> None:
    with pytest.raises(CompositionError, match=r"character 7001: .* found '& b \+ a") as caught:
        parse("a + b + " * 875 + "& b + a" + " + b" * 999, Leaf)
    assert len(str(caught.value)) < 250


def test_what_does_not_compose_is_refused_while_it_is_parsed() -> None:
    for text in ("rerank % 10", "rerank + bm25", "rerank >> bm25"):
        with pytest.raises(CompositionError, match="put a retriever and >> before it"):
            parse(text, Leaf)
    assert repr(parse("rerank % 10", Leaf, given=True)) == "rerank % 10"
    for text in ("0.3 * bm25", "0.3 * a >> b", "a >> 0.3 * b % 10"):
        with pytest.raises(CompositionError, match="outside of a sum"):
            parse(text, Leaf)
    with pytest.raises(CompositionError, match="finite number"):
        parse("1e999 * a + b", Leaf)
    with pytest.raises(CompositionError, match="1 or more"):
        parse("a % 0", Leaf)


def test_without_resolve_names_come_from_the_registry() -> None:
    with pytest.raises(UnknownName, match="unknown stage 'no-such-stage'"):
        parse("no-such-stage % 10")


def test_toml_tables_fill_in_parameters_and_brackets_win() -> None:
    stage = from_toml(
        """
        pipeline = "bm25(b=0.1) % 1000 >> cross % 10 + bm25"
        [stages.bm25]
        k1 = 0.9
        b = 0.4
        [stages.cross]
        model = "./models/minilm"
        """,
        Leaf,
    )
    assert repr(stage) == "bm25(k1=0.9, b=0.1) % 1000 >> cross(./models/minilm) % 10 + bm25(k1=0.9, b=0.4)"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("pipeline = bm25", "not TOML"),
        ("pipeline = 3", "has no text"),
        ("", "has no text"),
        ('pipeline = "a"\nstages = 3', r"tables like \[stages.bm25\]"),
        ('pipeline = "a"\nstages.a = 3', r"tables like \[stages.bm25\]"),
        ('pipeline = "a"\n[stages.a]\nk = [1]', r"\[stages.a\]: k = \[1\]"),
        ('pipeline = "bm25"\n[stages.bm52]\nk1 = 1', "did you mean 'stages.bm25'"),
        ('pipelin = "bm25"', "did you mean 'pipeline'"),
    ],
)
def test_toml_that_is_wrong_is_refused(toml: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_toml(toml, Leaf)
