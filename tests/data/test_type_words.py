"""Words of types from WordNet's files and from NERetrieve's train split, and the file that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data.type_names import read_type_words
from retrieval.data.type_words import from_neretrieve, from_wordnet, main, write_type_words
from retrieval.errors import UserError
from tests.bench import neretrieve_files

DATA = """  1 This is the licence.
00000010 17 n 02 river 0 watercourse 0 001 @ 00000001 n 0000 | a large stream
00000020 17 n 01 tributary 0 001 @ 00000010 n 0000 | a branch
00000030 17 n 01 head_water 0 001 @ 00000020 n 0000 | a source
00000040 15 n 01 Danube 0 001 @i 00000010 n 0000 | of Europe
00000050 18 n 01 river 0 001 @ 00000001 n 0000 | another sense
00000060 18 n 01 bather 0 001 @ 00000050 n 0000 | of the other sense
"""
INDEX = """  1 This is the licence.
danube n 1 1 @i 1 0 00000040
head_water n 1 1 @ 1 0 00000030
river n 2 2 @ ~ 2 1 00000010 00000050
tributary n 1 2 @ ~ 1 0 00000020
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    return tmp_path


def test_kinds_of_the_first_sense_without_instances(wordnet: Path) -> None:
    assert dict(from_wordnet(wordnet)) == {
        "river": ["watercourse", "tributary", "head water"],
        "tributary": ["head water"],
    }
    assert dict(from_wordnet(wordnet, most=1))["river"] == ["watercourse"]


def test_damaged_or_missing_files_are_named(wordnet: Path) -> None:
    (wordnet / "index.noun").write_text("river n\n")
    with pytest.raises(UserError, match=r"index\.noun:1: not a line"):
        list(from_wordnet(wordnet))
    (wordnet / "index.noun").unlink()
    with pytest.raises(UserError, match=r"no index\.noun"):
        list(from_wordnet(wordnet))


def test_entities_of_the_train_split(tmp_path: Path) -> None:
    found = dict(from_neretrieve(neretrieve_files.write(tmp_path)))
    assert found == {"lake": ["Lake Corin"]}


def test_the_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    assert write_type_words([("lake", ["Lake Corin, the", ",", "mere"])], path) == 1
    assert path.read_text() == "lake\tLake Corin the, mere\n"
    assert read_type_words(path) == {"lake": ["Lake Corin the", "mere"]}


def test_the_command(wordnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = wordnet / "words.tsv"
    main([str(out), "--wordnet", str(wordnet)])
    assert capsys.readouterr().out == f"{out}: 2 types\n"
    with pytest.raises(SystemExit) as stopped:
        main([str(out), "--neretrieve", str(wordnet)])
    assert stopped.value.code == 2
    assert "holds no NERetrive_IR_train" in capsys.readouterr().err
