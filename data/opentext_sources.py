"""How the open training text is cut out of its packages: one function a source."""

from __future__ import annotations

import bz2
import calendar
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from retrieval.data.opentext_packages import Files
from retrieval.data.opentext_text import (
    Extract,
    decode,
    dictd,
    html_blocks,
    paragraphs_of,
    split,
    squeeze,
    strip_tags,
    unlinked,
    wiki_text,
    words,
)

_NAMES = ("conventional short form", "conventional long form")
_COMMON = (
    " the of and in is was what which who this to for by on as that it are from with at an his her name did"
    " do does has have known called first one how many a "
)
# Headings that say nothing without the page's title, and those of boxes within a section.
_GENERAL = {
    "description", "notes", "parameters", "options", "examples", "example", "changes", "usage", "keywords",
}  # fmt: skip
_BOXES = {
    "note", "tip", "warning", "important", "caution", "name", "author", "synopsis", "table of contents",
}  # fmt: skip
_ENTITIES = {
    "kstars": "KStars", "kde": "KDE", "amp": "&amp;", "lt": "&lt;", "gt": "&gt;", "eg": "e.g.", "ie": "i.e.",
    "etc": "etc.",
}  # fmt: skip
_NUMBER = re.compile(r"(?i)^(?:(?:chapter|appendix|section)\s+)?[A-Z]?(?:\d+\.?|[A-Z]\.)(?:\d+\.?)*\s+")


def wiki_vital(files: Files, out: Extract) -> None:
    """Summaries by title; a short description that one article alone has is a query for its summary."""
    articles = json.loads(files[0][1])
    descriptions = Counter(article.get("description", "") for article in articles.values())
    for article in articles.values():
        text = article.get("extract", "")
        if words(text) < 10 or "may refer to" in text[:200]:
            continue
        before = len(out.passages)
        out.add(article["title"], [text])
        query = article.get("description") or ""
        if len(out.passages) > before and descriptions[query] == 1 and words(query) >= 3:
            out.pair(query, text)


def wiki_gensim(files: Files, out: Extract) -> None:
    """Articles of a MediaWiki dump, by section."""
    unread = r"see also|references|external|notes|further|bibliograph|gallery|sources|citations|footnotes"
    skipped = re.compile(rf"(?i){unread}|filmography|discography|works")
    dump = bz2.decompress(files[0][1]).decode()
    for page in re.findall(r"(?s)<page>(.*?)</page>", dump):
        named = re.search(r"<title>(.*?)</title>", page)
        text = re.search(r"(?s)<text[^>]*>(.*?)</text>", page)
        title = html.unescape(named[1]) if named else ":"
        if not text or ":" in title or re.match(r"(?i)\s*#redirect", text[1]):
            continue
        sections = re.split(r"(?m)^(={2,5}[^=\n]+={2,5})\s*$", wiki_text(html.unescape(text[1])))
        for head, section in zip(["", *sections[1::2]], sections[::2]):
            head = head.strip("= \n")
            lines = [line for line in section.split("\n") if line.strip() and line.lstrip()[0] not in "|!{}"]
            if not skipped.match(head):
                out.add(f"{title}: {head}" if head else title, split(line.lstrip("*#:; ") for line in lines))


def factbook(files: Files, out: Extract) -> None:
    """Texts by country and heading; the short figures under one heading make a passage together."""
    for file, content in files:
        country = json.loads(content)
        names = country.get("Government", {}).get("Country name", {})
        forms = [_figure(names[key]["text"]) for key in _NAMES if key in names]
        name = next((form for form in forms if form.lower() != "none"), "")
        if not name and file.endswith("xx.json"):
            name = "World"
        if name:
            _headings(re.split(r" ?[;(]| (?:etymology|note):", name)[0], "", country, out)


def _headings(country: str, heading: str, node: dict[str, Any], out: Extract) -> None:
    title = f"{country}: {heading.strip()}"
    text = node.get("text")
    if isinstance(text, str) and words(_figure(text)) >= 20:
        out.add(title, split(strip_tags(part) for part in re.split(r"(?i)(?:<br\s*/?>\s*)+|</p>", text)))
    figures = []
    for key, below in node.items():
        if isinstance(below, dict):
            if isinstance(below.get("text"), str) and words(below["text"]) < 20:
                figures.append(f"{key.strip()}: {_figure(below['text'])}.")
            _headings(country, key, below, out)
    if heading:
        out.add(title, split(figures))


def _figure(markup: str) -> str:
    return squeeze(strip_tags(re.sub(r"(?i)<br\s*/?>", " ", markup)))


def recipes(files: Files, out: Extract) -> None:
    """Ingredients and steps."""
    for recipe in json.loads(files[0][1]).values():
        steps = [re.sub(r"\(\s*\)|\(/\)", "", step) for step in recipe.get("steps") or []]
        needed = ", ".join(re.sub(r"\([^a-zA-Z0-9]*\)", "", item) for item in recipe.get("ingredients") or [])
        title = recipe["title"] + (f" ({recipe['category']})" if recipe.get("category") else "")
        out.add(title, split([f"Ingredients: {needed}.", *steps] if needed else steps))


def history(files: Files, out: Extract) -> None:
    """Events of a day of the year, a few a passage; births and deaths are bare names and stay out."""
    for name, content in files:
        if found := re.search(r"/day_(\d+)_month_(\d+)_events", name):
            title = f"{calendar.month_name[int(found[2])]} {found[1]}: events in history"
            out.add(title, split(content.decode().split("\n"), target=60, most=120))


def sotu(files: Files, out: Extract) -> None:
    """Speeches named YEAR_SPEAKER_PARTY.txt."""
    for name, content in files:
        if found := re.search(r"/data/(\d{4})_(.*)_[a-z]\.txt$", name):
            title = f"State of the Union {found[1]}, {found[2].replace('_', ' ').title()}"
            out.add(title, split(decode(content).split("\n"), least=25))


_ACCENTS = {
    "[e^]": "e", "[o^]": "o", "[a^]": "a", "[ae]": "ae", "[oe]": "oe", "['e]": "é", "[=e]": "e", "[=o]": "o",
    "[=a]": "a", '["o]': "ö", '["u]': "ü", "[`e]": "è", "[,c]": "ç", "[deg]": "°",
}  # fmt: skip


def gcide(files: Files, out: Extract) -> None:
    """Definitions without pronunciation, etymology and authorities; not the entries taken from WordNet."""
    grammar = r"^\s*(?:(?:[a-z]+\.(?: *[a-z]+\.)*|pl\.|imp\.|p\. p\.|& )[,;]?\s*)*(?:\([^)]{1,60}\)\s*)?"
    for heads, entry in dictd(files):
        if "[WordNet" in entry:  # collections made of WordNet are tested on
            continue
        spoken = re.match(r"(?s)\s*(.+?)\s+\\.*?\\,?\s*", entry)
        head, body = (spoken[1], entry[spoken.end() :]) if spoken else (heads[0], entry[len(heads[0]) :])
        for code, letter in _ACCENTS.items():
            body = body.replace(code, letter)
        for _ in range(2):  # brackets in brackets
            body = re.sub(r"\[[^\[\]]*\]", " ", body)
        body = unlinked(re.sub(grammar, "", body)).replace("--", "-")
        senses = [re.sub(r"^\s*(?:\d+\.|\(\w\))\s*", "", sense) for sense in paragraphs_of(body)]
        out.add(head, split((sense for sense in senses if squeeze(sense) != "Syn:"), least=12))


def foldoc(files: Files, out: Extract) -> None:
    """Entries of which the headwords stand at the margin and the text is indented."""
    dated = r"\(\d{4}-\d\d-\d\d\)|\(\s*https?://\S+\s*\)|\[[^\]]*\?\]"
    for heads, entry in dictd(files):
        lines = entry.split("\n")
        start = next(
            (i for i, line in enumerate(lines) if line.startswith("   ") or (i and not line.strip())), None
        )
        body = re.sub(r"<[a-z, -]+>", "", unlinked("\n".join(lines[start:] if start is not None else [])))
        senses = paragraphs_of(re.sub(dated, "", body))
        title = lines[0] if start != 0 else heads[0]
        out.add(title, split((re.sub(r"^\s*\d+\.\s*", "", sense) for sense in senses), least=12))


def jargon(files: Files, out: Extract) -> None:
    """Entries without grammar and pronunciation."""
    for _, entry in dictd(files):
        head, _, body = entry.strip().partition("\n")
        body = re.sub(r"^\s*(?:[a-z]+\.,?\s*|/[^/]*/,?\s*|\[[^\]]*\]\s*)+", "", unlinked(body))
        out.add(head, split(paragraphs_of(body), least=12))


def elements(files: Files, out: Extract) -> None:
    """Entries as they are."""
    for _, entry in dictd(files):
        head, _, body = entry.strip().partition("\n")
        out.add(head, split([unlinked(body)], least=12))


def html_pages(files: Files, out: Extract) -> None:
    """HTML manuals: the paragraphs under a heading."""
    legal = re.compile(
        r"(?i)gnu free documentation|terms and conditions|references?$|bibliography|see also|footnotes|index$"
        r"|gnu general public"
    )
    links = re.compile(
        r"(?i)(previous|next|up|prev|home)\b.{0,60}$|copyright|last changed|.{0,40}\bnavigation\b"
    )
    for _, content in files:
        markup = decode(content)
        named = re.search(r"(?is)<title>(.*?)</title>", markup)
        page = _NUMBER.sub("", squeeze(strip_tags(named[1]))) if named else ""
        page = re.split(r" \| | — | :: ", page)[0]
        title, paragraphs, wanted = page, list[str](), True
        for heading, text in html_blocks(markup):
            if heading:
                out.section(title, paragraphs, least=25)
                title, paragraphs = _NUMBER.sub("", text), []
                wanted = not legal.match(title)
                if title.lower().strip(":") in _GENERAL and wanted:
                    title = f"{page}: {title.strip(':').capitalize()}"
                elif title.lower() in _BOXES:
                    title = page
            elif wanted and words(text) >= 4 and not links.match(text):
                paragraphs.append(text)
        out.section(title, paragraphs, least=25)


def debian_docs(files: Files, out: Extract) -> None:
    """HTML manuals of Debian. The FAQ is read three times: its questions count threefold."""
    pages = [page for page in files for _ in range(3 if page[0].startswith("debian-faq/") else 1)]
    html_pages(pages, out)


def kstars(files: Files, out: Extract) -> None:
    """DocBook: the paragraphs under a title or question."""
    unread = "screen|programlisting|bookinfo|indexterm|screeninfo|mediaobject|informaltable|table"
    for _, content in files:
        markup = re.sub(rf"(?s)<({unread})\b.*?</\1>", " ", decode(content))
        markup = re.sub(r"&([A-Za-z-]+);", lambda entity: _ENTITIES.get(entity[1], ""), markup)
        title, paragraphs = "", list[str]()
        for found in re.finditer(r"(?s)<(title|para|question)\b[^>]*>(.*?)</\1>", markup):
            text = squeeze(strip_tags(found[2]))
            if found[1] == "para":
                paragraphs.append(text)
            else:
                out.section(title, paragraphs)
                title, paragraphs = text, []
        out.section(title, paragraphs)


def gnome_help(files: Files, out: Extract) -> None:
    """Mallard pages; a page's title of three words or more is a query for its first passage."""
    for _, content in files:
        markup = re.sub(r"(?s)<(info|media|code|screen)\b.*?</\1>", " ", decode(content))
        parts = re.split(r"(?s)<title>(.*?)</title>", markup)
        titles = [squeeze(strip_tags(title)) for title in parts[1::2]]
        first = ""
        for at, part in enumerate(parts[2::2]):
            texts = split(strip_tags(paragraph) for paragraph in re.findall(r"(?s)<p>(.*?)</p>", part))
            out.add(f"{titles[0]}: {titles[at]}" if at else titles[0], texts)
            first = first or (texts[0] if texts else "")
        if first and words(titles[0]) >= 3:
            out.pair(titles[0], first)


def freeciv(files: Files, out: Extract) -> None:
    """The legends of nations, then the help texts of rulesets."""
    for name, content in files:
        if "/nation/" in name:
            ruleset = decode(content)
            plural = re.search(r'plural=_\("(?:\?plural:)?([^"]+)', ruleset)
            legend = re.search(r'(?s)legend=_\("(.*?)"\)', ruleset)
            if plural and legend:
                text = squeeze(re.sub(r"\\\n", "", legend[1]).replace("\\n", " "))
                out.add(plural[1], [text] if words(text) >= 12 else [])
    for _, content in files:
        for block in re.split(r"(?m)^\[", decode(content)):
            name_of = re.search(r'(?m)^name\s*=\s*_\("(?:\?[^:"]*:)?\s*([^"]+)', block)
            help_of = re.search(r"(?sm)^(?:helptext|text)\s*=\s*(_\(.*?\))\s*\n(?:[a-z_]+\s*=|\s*$)", block)
            if name_of and help_of:
                parts = re.findall(r'(?s)_\("(.*?)(?<!\\)"\)', help_of[1])
                parts = [re.sub(r"\\\n", "", part).replace("\\n", " ").replace('\\"', '"') for part in parts]
                out.add(name_of[1], split(parts, least=15))


def perlfaq(files: Files, out: Extract) -> None:
    """POD: each question is the title of its answer and a query for the first passage of it."""
    for _, content in files:
        for part in re.split(r"(?m)^=head2 ", decode(content))[1:]:
            question, _, body = part.partition("\n")
            question = re.sub(r"[A-Z]<([^<>]*)>", r"\1", question)
            plain = [p for p in paragraphs_of(body) if p.strip() and not p.startswith((" ", "\t", "="))]
            texts = split(re.sub(r"[A-Z]<+ ?([^<>]*?) ?>+", r"\1", paragraph) for paragraph in plain)
            out.add(question, texts)
            if texts:
                out.pair(question, texts[0])


def trivia(files: Files, summaries: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(question, summary): the answer is a title, and its summary shares enough words with the question."""
    by_title: dict[str, tuple[str, str]] = {}
    for title, text in summaries:
        by_title.setdefault(_plain(title), (title, text))
    for _, content in files:
        question = ""
        for line in decode(content).split("\n"):
            asked = re.match(r"(?!AUTHOR|DESCRIPTION|CONFIG)[\"'?]?\s*([^\s#-].*?)[\"']?\s*:\s*$", line)
            answer = re.match(r"\s*-\s*[\"']?(.*?)[\"']?\s*$", line)
            if asked:
                question = asked[1]
            elif answer and words(question) >= 5 and "http" not in question:
                title, text = by_title.get(_plain(answer[1]), ("", ""))
                asking = {w for w in re.findall(r"[a-z0-9]{3,}", question.lower()) if f" {w} " not in _COMMON}
                stems = {w[:5] for w in asking} - {w[:5] for w in re.findall(r"[a-z0-9]+", title.lower())}
                shared = stems & {w[:5] for w in re.findall(r"[a-z0-9]{3,}", text.lower())}
                if text and stems and (len(shared) >= 2 or len(shared) / len(stems) >= 0.5):
                    yield squeeze(question), text
                    question = ""


def _plain(name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    ascii_name = re.sub(r"\s*\(.*?\)", "", ascii_name)
    return re.sub(r"^(the|a|an) |[^a-z0-9 ]", "", ascii_name).strip()


class Source(NamedTuple):
    """How a source is cut: the files it needs (whole NAME/path), the function, at most how many passages."""

    files: str
    extract: Callable[[Files, Extract], None]
    cap: int
    paired: bool = False  # its natural pairs are used
    shared: tuple[int, ...] = ()  # passages that share ten words in a row with a collection that is tested on


_DEBIAN = (
    r"debian-handbook/usr/share/doc/debian-handbook/html/en-US/[^/]+\.html"
    r"|debian-(faq|history)/usr/share/doc/.*\.en\.html"
    r"|debian-reference-en/usr/share/debian-reference/[^/]+\.en\.html"
    r"|developers-reference/usr/share/developers-reference/[^/]+\.html"
    r"|harden-doc/usr/share/doc/harden-doc/html/en-US/[^/]+\.html"
    r"|debian-policy/usr/share/doc/debian-policy/policy\.html/[^/]+\.html"
    r"|installation-guide-amd64/usr/share/doc/installation-guide-amd64/en/[^/]+\.html"
)
_DICT = r".*/usr/share/dictd/.*"
SOURCES = {
    "anarchism": Source(r".*/doc/anarchism/html/[^/]+\.html", html_pages, 1500, True),
    "debian_docs": Source(_DEBIAN, debian_docs, 2500, True),
    "elements": Source(_DICT, elements, 200),
    "factbook": Source(r".*/data/.*\.json", factbook, 2500, shared=(1476,)),
    "foldoc": Source(_DICT, foldoc, 5000, shared=(1067,)),
    "freeciv": Source(r".*/games/freeciv/(.*\.ruleset|helpdata\.txt)", freeciv, 500),
    "gcide": Source(_DICT, gcide, 10000, shared=(10304, 17921, 51997)),
    "gnome_help": Source(r".*/share/help/C/.*\.page", gnome_help, 900, True),
    "gnucash": Source(r".*/gnucash-docs/gnucash-(guide|help)-en/[^/]+\.html", html_pages, 800, True),
    "history": Source(r".*/en-us/day_\d+_month_\d+_events\.dialog", history, 3500, shared=(6482, 7356)),
    "jargon": Source(_DICT, jargon, 1500, shared=(182, 183)),
    "kstars": Source(r".*/HTML/en/kstars/[^/]+\.docbook", kstars, 600),
    "libreoffice_help": Source(r".*/help/en-US/text/.*\.html", html_pages, 2500, True),
    "perlfaq": Source(r".*/pod/perlfaq[1-9]\.pod", perlfaq, 450, True),
    "recipes": Source(r".*/data/recipes_en-us\.json", recipes, 2500),
    "sotu": Source(r".*/data/\d{4}_.*_[a-z]\.txt", sotu, 1500),
    "stellarium": Source(r".*/share/stellarium/.*/description\.en\.utf8", html_pages, 400),
    "wiki_gensim": Source(
        r".*/enwiki-latest-pages-articles1\.xml[^/]*shortened\.bz2",
        wiki_gensim,
        9999,
        shared=(1185, 1882, 1974, 2345, 2348, 2628),
    ),
    "wiki_vital": Source(
        r".*/data/summaries_en-us\.json",
        wiki_vital,
        99999,
        True,
        (
            *(246, 611, 720, 843, 883, 940, 1100, 1331, 1415, 1612, 1783, 1834, 1884, 2693, 2724, 2760, 2967),
            *(3264, 3616, 3977, 4209, 4333, 4658, 5869, 6053, 6450, 7685, 8416, 9360, 9456, 9514, 9522, 9617),
            *(9641, 9643, 9944),
        ),
    ),
}
TRIVIA = r".*/trivia/lists/[^/]+\.yaml"
