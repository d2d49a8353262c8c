"""Plain text out of HTML, wiki markup and dictd dictionaries, and its cutting into passages."""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterable, Iterator

from retrieval.data.opentext_packages import Files

_QUESTION = re.compile(
    r"(?i)^(what|why|how|who|when|where|which|is|are|do|does|did|can|could|should|would|will|isn't|aren't"
    r"|don't|doesn't|but|if|in what|to what|haven't|hasn't|wasn't|won't|has|have|was|were)\b.*\?$"
)


class Extract:
    """What a source gives: its passages (title, text), each text once, and natural pairs (query, text)."""

    def __init__(self) -> None:
        self.passages: list[tuple[str, str]] = []
        self.pairs: list[tuple[str, str]] = []
        self._seen: set[str] = set()

    def add(self, title: str, texts: Iterable[str]) -> None:
        """Passages under one title; a text that differs from an earlier one in case alone is left out."""
        for text in texts:
            text = squeeze(text)
            if text and text.lower() not in self._seen:
                self._seen.add(text.lower())
                self.passages.append((squeeze(title), text))

    def section(self, title: str, paragraphs: Iterable[str], least: int = 20) -> None:
        """A section, split; a title that is a question is a query for the first passage."""
        texts = split(paragraphs, least=least)
        self.add(title, texts)
        if texts and _QUESTION.match(title):
            self.pair(title, texts[0])

    def pair(self, query: str, text: str) -> None:
        """A text that answers a query."""
        self.pairs.append((squeeze(query), squeeze(text)))


def squeeze(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def split(paragraphs: Iterable[str], target: int = 150, most: int = 250, least: int = 20) -> list[str]:
    """Passages of about `target` words: short paragraphs are joined, those over `most` cut between sentences.

    What is left at the end with fewer than `least` words joins the passage before it.
    """
    passages: list[str] = []
    parts: list[str] = []
    size = 0
    for paragraph in map(squeeze, paragraphs):
        for part in _sentences(paragraph) if words(paragraph) > most else [paragraph] if paragraph else []:
            if parts and (size + words(part) > most or size >= target):
                passages.append(" ".join(parts))
                parts, size = [], 0
            parts.append(part)
            size += words(part)
        if size >= target * 2 // 3:
            passages.append(" ".join(parts))
            parts, size = [], 0
    if parts and size < least and passages:
        passages[-1] += " " + " ".join(parts)
    elif parts:
        passages.append(" ".join(parts))
    return [passage for passage in passages if least <= words(passage) <= 400]


def words(text: str) -> int:
    """How many words."""
    return len(text.split())


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", text)


def decode(content: bytes) -> str:
    """UTF-8; bytes that are none become U+FFFD."""
    return content.decode("utf-8", "replace")


def strip_tags(markup: str) -> str:
    """The text of HTML or XML; a tag becomes a space, code and comments vanish."""
    markup = re.sub(r"(?is)<(script|style|pre|programlisting|screen)\b.*?</\1>", " ", markup)
    markup = re.sub(r"(?s)<!--.*?-->", " ", markup)
    return html.unescape(re.sub(r"(?s)<[^>]+>", " ", markup))


def html_blocks(page: str) -> Iterator[tuple[bool, str]]:
    """Headings (True, text), paragraphs and list items (False, text) of an HTML page in order."""
    page = re.sub(r"(?is)<(script|style|pre|table|nav|head)\b.*?</\1>", " ", page)
    page = re.sub(r"(?s)<!--.*?-->", " ", page)
    block = r"(?is)<(h[1-6]|p|li|dd|dt)\b[^>]*>(.*?)(?=</\1>|<(?:h[1-6]|p|li|dd|dt|ul|ol|dl|div)\b|$)"
    for found in re.finditer(block, page):
        text = squeeze(html.unescape(re.sub(r"(?s)<[^>]+>", " ", found[2])))
        text = re.sub(r"\s+([.,;:!?)])", r"\1", text)
        if text:
            yield found[1][0] in "hH", text


def wiki_text(markup: str) -> str:
    """MediaWiki markup as text: no templates, tables, notes, files; links as what they show."""
    markup = re.sub(r"(?s)<!--.*?-->", "", markup)
    markup = re.sub(r"(?is)<ref\b[^>]*/>", "", markup)
    markup = re.sub(r"(?is)<(ref|math|gallery|timeline|source|pre|code|table)\b.*?</\1>", "", markup)
    markup = _without(_without(markup, "{{", "}}"), "{|", "|}")
    while found := re.search(r"(?i)\[\[(file|image|category|[a-z-]{2,10}):", markup):
        markup = markup[: found.start()] + markup[_closing(markup, found.start()) :]
    markup = re.sub(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]", r"\1", markup)
    markup = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", markup)
    markup = re.sub(r"<[^>]+>", "", re.sub(r"'{2,}", "", markup))
    return re.sub(r"\(\s*[;,]?\s*\)", "", html.unescape(html.unescape(markup)))


def _without(text: str, opening: str, closing: str) -> str:
    """The text outside of all `opening`...`closing`, which nest."""
    kept, depth = [], 0
    for part in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if part == opening:
            depth += 1
        elif part == closing and depth:
            depth -= 1
        elif not depth:
            kept.append(part)
    return "".join(kept)


def _closing(text: str, start: int) -> int:
    """Where the [[...]] that opens at `start` ends; links nest in the captions of files."""
    depth = 0
    for found in re.compile(r"\[\[|\]\]").finditer(text, start):
        depth += 1 if found[0] == "[[" else -1
        if not depth:
            return found.end()
    return len(text)


def dictd(files: Files) -> Iterator[tuple[list[str], str]]:
    """(headwords, entry) of a dictd dictionary: NAME.dict.dz, and NAME.index with offsets in base 64."""
    data, index = (
        next(content for name, content in files if name.endswith(end)) for end in (".dz", ".index")
    )
    digits = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
    entries: dict[tuple[int, int], list[str]] = {}
    for line in index.decode().split("\n"):
        if line and not line.startswith(("00-", "00database")):
            word, *place = line.split("\t")[:3]
            offset, length = (sum(digits[c] * 64**i for i, c in enumerate(reversed(n))) for n in place)
            entries.setdefault((offset, length), []).append(word)
    data = gzip.decompress(data)
    for (offset, length), heads in sorted(entries.items()):
        yield heads, decode(data[offset : offset + length])


def unlinked(entry: str) -> str:
    """A dictd entry without the braces of its links."""
    return re.sub(r"\{([^{}]*)\}", r"\1", entry)


def paragraphs_of(text: str) -> list[str]:
    """What stands between blank lines."""
    return re.split(r"\n\s*\n", text)
