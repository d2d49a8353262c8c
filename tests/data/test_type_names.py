"""Names of types in words, and the files that give words for types."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data.type_names import read_names, read_type_words, verbalised
from retrieval.errors import BadLine


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AmericanFilmDirector", "american film director"),
        ("American_film_director", "american film director"),
        ("US_politician", "US politician"),
        ("NBAPlayer", "NBA player"),
        ("HTMLElement", "HTML element"),
        ("ISO9001Standard", "ISO 9001 standard"),
        ("Écrivain_français", "écrivain français"),
        ("Women's_city", "women's city"),
        ("Film director", "Film director"),
        ("___", "___"),
    ],
)
def test_a_name_in_words(name: str, words: str) -> None:
    assert verbalised(name) == words
    assert verbalised(name, {name: "as the table says"}) == "as the table says"
    assert verbalised(name, {"another": "x"}) == words


def test_files_of_names_and_words(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("# types\nFilmDirector\tKubrick, Varda,, Kubrick\nLake\tpond\nfilm director\tOzu\n")
    assert read_type_words(path) == {"film director": ["Kubrick", "Varda", "Ozu"], "lake": ["pond"]}
    path.write_text("FilmDirector\tmaker of films\n")
    assert read_names(path) == {"FilmDirector": "maker of films"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Lake\n", ":1: 1 columns"),
        ("Lake\tpond\tmere\n", ":1: 3 columns"),
        ("Lake\t \n", ":1: .* an empty one"),
        ("Lake\tpond\nLake\tmere\n", ":2: the type 'Lake' comes twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.tsv"
    path.write_text(text)
    with pytest.raises(BadLine, match=message):
        read_names(path)
    path.write_text("Lake\t, ,\n")
    with pytest.raises(BadLine, match=":1: the type 'Lake' has no words"):
        read_type_words(path)
