"""System files: what is read out of them, and every way in which one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval import Index
from retrieval.bench.system import parse_system, read_system, read_systems
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.types import Query


def test_a_pipeline_takes_the_parameters_of_the_tables() -> None:
    text = 'name = "a"\npipeline = "bm25 % 10 + bm25(k1=2)"\n[stages.bm25]\nk1 = 1.5\nb = 0.5'
    system = parse_system(text)
    assert system.pipeline == "bm25(k1=1.5, b=0.5) % 10 + bm25(k1=2, b=0.5)"
    assert (system.sparse, system.dense, system.representations) == (("bm25",), (), ["bm25"])
    assert system.file == text
    assert system.needs_index
    assert not system.only_runs


def test_representations_are_those_named_or_the_methods_of_the_pipeline() -> None:
    assert parse_system('name = "a"\npipeline = "bm25 % 9 >> tildev2"').sparse == ("bm25", "tildev2")
    own = parse_system('name = "a"\npipeline = "flat"\nsparse = ["flat=bm25"]')
    assert own.representations == ["flat"]


def test_a_run_is_a_pipeline_of_one_stage(tmp_path: Path) -> None:
    run = tmp_path / "a run.trec"
    run.write_text("q Q0 d 1 1.0 x\n")
    system = parse_system(f'name = "r"\nrun = "{run}"')
    assert system.pipeline == f'run("{run}")'
    assert system.only_runs
    assert not system.needs_index
    assert system.stage()([Query("q", "")])["q"][0].doc_id == "d"


def test_a_stage_that_reads_texts_gets_an_index(tmp_path: Path, tiny_model: object) -> None:
    run = tmp_path / "r.trec"
    run.write_text("q Q0 d1 1 1.0 x\n")
    model = tiny_model("cross")  # type: ignore[operator]
    system = parse_system(f'name = "r"\npipeline = "run({run}) % 5 >> cross({model})"')
    assert system.sparse == ("bm25",)
    assert not system.only_runs
    with Index.create(tmp_path / "index", system.sparse) as index:
        index.add([{"_id": "d1", "text": "the definition"}])
        index.commit()
        assert [hit.doc_id for hit in system.stage(index)([Query("q", "of what")])["q"]] == ["d1"]


def test_a_budget_is_kept(tmp_path: Path) -> None:
    system = parse_system('name = "b"\npipeline = "bm25 % 9 >> bm25(b=0)"\nbudget = "2pairs"')
    with Index.create(tmp_path / "index") as index:
        index.add([f"bam {i}" for i in range(9)])
        index.commit()
        run = system.stage(index)([Query("q", "bam")])
    assert run.trace[-1].candidates_in == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name = "a', "f.toml is not TOML"),
        ("", "f.toml gives its system no name"),
        ('pipeline = "bm25"', "gives its system no name"),
        ('name = " "\npipeline = "bm25"', "gives its system no name"),
        ("name = 3", "name is 3, not a text"),
        ('name = "a"', "either a pipeline or a run"),
        ('name = "a"\npipeline = "bm25"\nrun = "x"', "either a pipeline or a run"),
        ('name = "a"\nrun = "x"\nsparse = ["bm25"]', "a run, for which sparse means nothing"),
        ('name = "a"\nrun = "absent.trec"', "no run file 'absent.trec'"),
        ('name = "a"\npiepline = "bm25"', "unknown key in f.toml 'piepline'; did you mean 'pipeline'"),
        ('name = "a"\npipeline = "bm25"\nsparse = "bm25"', "sparse is 'bm25'; it is a list"),
        ('name = "a"\npipeline = "bm25"\nsparse = ["bm26"]', "unknown sparse method 'bm26'"),
        ('name = "a"\npipeline = "bm25"\n[stages.bn25]\nb = 1', "did you mean 'stages.bm25'"),
        ('name = "a"\npipeline = "bm25"\n[stages.bm25]\nb = [1]', r"b is \[1\], no number"),
        ('name = "a"\npipeline = "bm25"\nstages = 3', "parameters stand in tables"),
        ('name = "a"\npipeline = "bmm25"', "unknown stage in f.toml 'bmm25'; did you mean 'bm25'"),
        ('name = "a"\npipeline = "bm25 >>"', "f.toml: pipeline 'bm25 >>', character 8"),
        (
            'name = "a"\npipeline = "rm3 % 10"',
            "unknown representation in f.toml 'bm25'. Name it in sparse or dense.",
        ),
        ('name = "a"\npipeline = "rm3 % 10"\nsparse = ["bm25"]', "f.toml: .* re-ranks and needs a run"),
        ('name = "a"\npipeline = "bm25"\nbudget = "5 parsecs"', "^f.toml: .*'5 parsecs': write milliseconds"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        parse_system(text, "f.toml")
    assert "\n" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\npipeline = "bm25"')
    assert read_system(path).path == str(path)
    twin = tmp_path / "b.toml"
    twin.write_text('name = "a"\npipeline = "bm25(b=1)"')
    with pytest.raises(UserError, match=r"a.toml and .*b.toml are both called 'a'"):
        read_systems([path, twin])
    with pytest.raises(UserError, match=r"no system file '.*absent.toml'"):
        read_system(tmp_path / "absent.toml")
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="no text in UTF-8"):
        read_system(path)
    path.write_text('name = "a"\npipeline = "bm25 >> "')
    with pytest.raises(CompositionError):
        read_system(path)
    path.write_text('name = "a"\npipeline = "nothing"')
    with pytest.raises(UnknownName):
        read_system(path)
