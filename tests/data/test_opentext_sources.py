"""Cutting the open training text out of files: each form on a made-up one of its kind."""

from __future__ import annotations

import bz2
import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.data import opentext_sources as sources
from retrieval.data.opentext_packages import Files
from retrieval.data.opentext_sources import SOURCES
from retrieval.data.opentext_text import Extract, dictd, html_blocks, split, strip_tags, wiki_text

LONG = (
    "Water runs down the hill and gathers in the pond below where ducks and frogs live all through the year."
)
ALSO = (
    "Beyond the pond a narrow path leads up to the old mill whose wheel has not turned for a hundred years."
)


def cut(name: str, *contents: str | bytes, path: str = "x") -> Extract:
    out = Extract()
    files: Files = [(path, each if isinstance(each, bytes) else each.encode()) for each in contents]
    SOURCES[name].extract(files, out)
    return out


def dictionary(*entries: tuple[str, str]) -> Files:
    """A dictd dictionary; offsets below 64 * 64."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    data, index = b"", "00-database-info\tA\tA\n"
    for word, text in entries:
        places = (len(data), len(text.encode()))
        index += "\t".join([word, *(digits[n // 64] + digits[n % 64] for n in places)]) + "\n"
        data += text.encode()
    return [("d.dict.dz", gzip.compress(data)), ("d.index", index.encode())]


def cut_dictionary(name: str, *entries: tuple[str, str]) -> list[tuple[str, str]]:
    out = Extract()
    SOURCES[name].extract(dictionary(*entries), out)
    return out.passages


paragraphs = st.lists(st.lists(st.sampled_from(["Aa", "b", "c."]), max_size=60).map(" ".join), max_size=12)


@given(paragraphs)
def test_split_keeps_words_in_order(texts: list[str]) -> None:
    passages = split(texts, target=15, most=25, least=0)
    assert " ".join(passages).split() == " ".join(texts).split()
    for passage in passages:
        # Above `most` a passage is a single sentence, or one with a short rest at its end.
        assert len(passage.split()) <= 25 or len(re.split(r"(?<=\.) (?=A)", passage)) <= 2


def test_split() -> None:
    assert split(["one two", " three\n four "], least=1) == ["one two three four"]
    assert split(["one two"], least=3) == []
    assert split([" ".join(["word"] * 401)]) == []
    full, rest = " ".join(["full"] * 100), "a short rest"
    assert split([full, rest]) == [f"{full} {rest}"]
    assert split([full, rest], least=1) == [full, rest]
    assert [len(each.split()) for each in split(["less " * 90, "more " * 200])] == [90, 200]
    assert split(["A b. C d. E f."], target=2, most=4, least=1) == ["A b.", "C d.", "E f."]


def test_a_text_is_taken_once() -> None:
    out = Extract()
    out.add("A  title", ["some\ntext", "", "other"])
    out.add("B", ["SOME text"])
    assert out.passages == [("A title", "some text"), ("A title", "other")]


def test_markup_becomes_text() -> None:
    assert strip_tags("a<b>&amp;</b><!-- no --><pre>no</pre>c").split() == ["a", "&", "c"]
    page = (
        "<head><title>no</title></head><h2>Head</h2><p>One <b>two</b> .<ul><li>three</ul><table><p>no</table>"
    )
    assert list(html_blocks(page)) == [(True, "Head"), (False, "One two."), (False, "three")]
    wiki = "'''A''' is{{t|{{u}}}} [[b|the b]] of [[c]]{| table |}<ref>no</ref> ([[en:x]])"
    wiki += "[[File:f.png|see [[d]]]] & e"
    assert wiki_text(wiki).split() == ["A", "is", "the", "b", "of", "c", "&", "e"]
    assert wiki_text("a }} b |} c {{ d").split() == ["a", "}}", "b", "|}", "c"]


def test_dictd() -> None:
    files = dictionary(("one", "One: 1\n"), ("two", "Two: ä\n"))
    assert list(dictd(files)) == [(["one"], "One: 1\n"), (["two"], "Two: ä\n")]


def test_wiki_vital() -> None:
    article = {"title": "Pond", "extract": LONG, "description": "body of water"}
    other = {"title": "Mill", "extract": ALSO, "description": "building"}
    vague = {"title": "Lake", "extract": f"Lake may refer to: {LONG}", "description": "a page of names"}
    short = {"title": "Sea", "extract": "Too short.", "description": "too short for that"}
    content = json.dumps({str(i): each for i, each in enumerate([article, other, vague, short])})
    out = cut("wiki_vital", content)
    assert out.passages == [("Pond", LONG), ("Mill", ALSO)]
    assert out.pairs == [("body of water", LONG)]
    twice = json.dumps({"1": article, "2": {**other, "description": "body of water"}})
    assert cut("wiki_vital", twice).pairs == []


def test_wiki_gensim() -> None:
    def page(title: str, text: str) -> str:
        return f"<page><title>{title}</title><text>{text}</text></page>"

    body = f"{LONG}\n\n== Mill ==\n* {ALSO}\n== References ==\n{LONG} {ALSO}\n"
    dump = page("Pond", body) + page("Talk:Pond", ALSO * 2) + page("Pool", "#REDIRECT [[Pond]]")
    assert cut("wiki_gensim", bz2.compress(dump.encode())).passages == [("Pond", LONG), ("Pond: Mill", ALSO)]


def test_factbook() -> None:
    name = {
        "conventional long form": {"text": "none"},
        "conventional short form": {"text": "Pondia (the land)"},
    }
    figures = {f"pond {i}": {"text": f"{i} sq km of <b>water</b>"} for i in range(4)}
    country = {
        "Government": {"Country name": name},
        "Land": {"Terrain": {"text": f"<p>{LONG}</p>"}, "Area": figures},
    }
    passages = dict(cut("factbook", json.dumps(country), path="data/pn.json").passages)
    assert passages["Pondia: Terrain"] == LONG
    assert passages["Pondia: Area"].startswith("pond 0: 0 sq km of water. pond 1: 1 sq km")
    world = json.dumps({"Land": {"Terrain": {"text": LONG}}})
    assert cut("factbook", world, path="data/xx.json").passages == [("World: Terrain", LONG)]
    assert cut("factbook", world, path="data/pn.json").passages == []


def test_recipes_history_and_speeches() -> None:
    recipe = {
        "title": "Soup",
        "category": "Soups",
        "ingredients": ["water (½)", "frogs"],
        "steps": [LONG, "( )"],
    }
    ((title, text),) = cut("recipes", json.dumps({"1": recipe})).passages
    assert (title, text.split(LONG)[0]) == ("Soup (Soups)", "Ingredients: water , frogs. ")
    day = "dialog/en-us/day_5_month_3_events.dialog"
    assert cut("history", f"{LONG}\n\n", path=day).passages == [("March 5: events in history", LONG)]
    assert cut("history", LONG, path=day.replace("events", "births")).passages == []
    speech = "package/data/1790_george_washington_n.txt"
    title = "State of the Union 1790, George Washington"
    assert cut("sotu", f"{LONG}\n{ALSO}", path=speech).passages == [(title, f"{LONG} {ALSO}")]


def test_dictionaries() -> None:
    gcide = f"Pond \\Pond\\, n. [From {{pound}} [old].]\n   1. {LONG}\n      [1913 Webster]\n\n   Syn:\n"
    other = f"Mill\n   n 1: {ALSO} [WordNet 1.5]\n"
    assert cut_dictionary("gcide", ("Pond", gcide), ("Mill", other)) == [("Pond", LONG)]
    foldoc = f"pond\npool\n\n   <jargon> {{Water}} {LONG[6:]}\n\n   (1999-01-02)\n"
    assert cut_dictionary("foldoc", ("pond", foldoc)) == [("pond", LONG)]
    assert cut_dictionary("jargon", ("pond", f"pond\n   n. /pond/ {LONG}\n")) == [("pond", LONG)]
    assert cut_dictionary("elements", ("pond", f"pond\n   {LONG}\n")) == [("pond", LONG)]


def test_html_manuals() -> None:
    page = f"""<html><head><title>3.1. Ponds | Guide</title></head><body><p>Home of all</p>
    <h2>2.4 What is a pond?</h2><p>{LONG} {ALSO}</p><p>too short here</p><h3>Notes</h3><p>{ALSO} {LONG}</p>
    <h3>References</h3><p>{LONG} {LONG} see these</p><h3>Tip</h3><p>{ALSO} {ALSO}</p></body></html>"""
    out = cut("anarchism", page)
    assert out.passages == [
        ("What is a pond?", f"{LONG} {ALSO}"),
        ("Ponds: Notes", f"{ALSO} {LONG}"),
        ("Ponds", f"{ALSO} {ALSO}"),
    ]
    assert out.pairs == [("What is a pond?", f"{LONG} {ALSO}")]
    faq = cut("debian_docs", page, path="debian-faq/usr/share/doc/a.en.html")
    assert (faq.passages, faq.pairs) == (out.passages, out.pairs * 3)
    assert cut("debian_docs", page, path="debian-policy/a.html").pairs == out.pairs


def test_docbook_and_mallard() -> None:
    docbook = (
        f"<title>&kstars; &unknown;</title><para>{LONG}</para><question>Why?</question><para>{ALSO}</para>"
    )
    out = cut("kstars", docbook + "<screen><para>no</para></screen>")
    assert (out.passages, out.pairs) == ([("KStars", LONG), ("Why?", ALSO)], [("Why?", ALSO)])
    mallard = f"<info><title>no</title></info><title>Find a pond</title><p>{LONG}</p>"
    mallard += f"<title>Mills</title><p>{ALSO}</p>"
    out = cut("gnome_help", mallard)
    assert out.passages == [("Find a pond", LONG), ("Find a pond: Mills", ALSO)]
    assert out.pairs == [("Find a pond", LONG)]
    assert cut("gnome_help", mallard.replace("Find a pond", "Ponds"), "<p>no title</p>").pairs == []


def test_freeciv_and_perlfaq() -> None:
    nation = f'plural=_("?plural:Ponders")\nlegend=_("{LONG}")\n'
    assert cut("freeciv", nation, path="freeciv/nation/pond.ruleset").passages == [("Ponders", LONG)]
    rules = f'[building_pond]\nname = _("?b:Pond")\nhelptext = _("{LONG[:30]}\\\n{LONG[30:]}")\nflags = ""\n'
    assert cut("freeciv", rules, path="freeciv/classic/buildings.ruleset").passages == [("Pond", LONG)]
    pod = f"=head1 no\n\n=head2 What is C<pond>?\n\n{LONG[:-5]}I<year>.\n\n    print 1;\n\n=over\n"
    out = cut("perlfaq", pod)
    assert (out.passages, out.pairs) == ([("What is pond?", LONG)], [("What is pond?", LONG)])


def test_trivia() -> None:
    asked = "Into what do ducks and frogs gather below the hill?"
    yaml = f"AUTHOR: me\n{asked}:\n- the Pond\nWhich mountain is the highest of Asia?:\n- Pond\n"
    yaml += "What is it that has frogs?:\n- Pond\nWhere do ducks gather?:\n- Pond\n"
    yaml += "What did the one do to it?:\n- Pond\n"  # common words alone
    found = list(sources.trivia([("a.yaml", yaml.encode())], [("Pond (water)", LONG), ("Mill", ALSO)]))
    assert found == [(asked, LONG), ("What is it that has frogs?", LONG)]


@pytest.mark.parametrize(
    ("name", "path", "wanted"),
    [
        ("debian_docs", "debian-faq/usr/share/doc/debian/FAQ/a.en.html", True),
        ("debian_docs", "debian-faq/usr/share/doc/debian/FAQ/a.fr.html", False),
        ("debian_docs", "debian-policy/usr/share/doc/debian-policy/policy.html/a/b.html", False),
        ("gnome_help", "gnome-user-docs/usr/share/help/C/gnome-help/a.page", True),
        ("gnome_help", "gnome-user-docs/usr/share/help/de/gnome-help/a.page", False),
        ("history", "ovos/locale/en-us/day_1_month_2_events.dialog", True),
        ("perlfaq", "perl-doc/usr/share/perl/5.36.0/pod/perlfaq.pod", False),
    ],
)
def test_which_files_are_read(name: str, path: str, wanted: bool) -> None:
    assert bool(re.fullmatch(SOURCES[name].files, path)) is wanted
