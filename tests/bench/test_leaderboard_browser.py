"""The page in a browser: its states are asked for by address, and the document that results is read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from retrieval.bench.leaderboard import write_leaderboard

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed"
)
QUOTED = {
    "quoted": "a paper, Table 7", "system": {"name": "Literature"}, "suite": "made", "task": "one",
    "split": "test", "measures": {"nDCG@10": {"mean": 0.99}},
}  # fmt: skip
HOSTILE = "</script><img src=x onerror=\"document.documentElement.dataset.error='ran'\">"


class Page:
    """A written page; opens it with a state, and reads the lines of its first table."""

    def __init__(self, folder: Path, profile: Path, rows: list[Any]) -> None:
        write_leaderboard(rows, folder / "site")
        self.address = (folder / "site" / "index.html").as_uri()
        self.profile = profile

    def open(self, **state: str) -> str:
        command = [
            BROWSER or "", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={self.profile}", "--dump-dom", f"{self.address}#{urlencode(state)}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        root = re.search(r"<html[^>]*>", done.stdout)
        assert root is not None
        assert "data-error" not in root[0], root[0]
        assert 'data-ready="1"' in root[0]
        return done.stdout


def lines(text: str) -> list[tuple[str, dict[str, str]]]:
    """(name, {column: text}) of each line of the first table, in its order; and the classes as `class`."""
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    found = []
    for attributes, line in re.findall(r"<tr([^>]*)>(.*?)</tr>", body, re.DOTALL):
        name = re.search(r'class="name"[^>]*>(.*?)</', line, re.DOTALL)
        cells = {
            unescape(key): unescape(re.sub(r"<[^>]*>", "", cell)).strip()
            for key, cell in re.findall(r'<td[^>]*data-key="([^"]*)"[^>]*>(.*?)</td>', line, re.DOTALL)
        }
        marked = re.search(r'class="([^"]*)"', attributes)
        found.append((unescape(name[1]) if name else "", {**cells, "class": marked[1] if marked else ""}))
    return found


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The browser's own folder, made once."""
    return tmp_path_factory.mktemp("profile")


@pytest.fixture
def page(rows: list[Any], tmp_path: Path, profile: Path) -> Page:
    return Page(tmp_path, profile, [*rows, QUOTED])


def names(text: str) -> str:
    return " ".join(name for name, _ in lines(text))


def test_sorted_with_what_is_not_told_last(page: Page) -> None:
    text = page.open(sort="p50", order="desc", quoted="no")
    assert names(text) == "slow good BM25 even Literature"
    heads = re.findall(r'<th[^>]*data-key="([^"]*)"[^>]*aria-sort="(?:de|a)scending"', text)
    assert heads == ["p50"]
    assert '<table class="systems ours">' in text


def test_another_baseline_changes_differences_and_marks(page: Page) -> None:
    text = page.open()
    found = lines(text)
    means = [float(cells["nDCG@10"].strip("\u2007")) for _, cells in found]
    assert means == sorted(means, reverse=True)
    assert found[0][0] == "Literature"
    assert [name for name, cells in found if "base" in cells["class"]] == ["BM25"]
    assert '<table class="systems">' in text
    assert 'hidden=""' in text.partition('<div class="panel"')[2].partition(">")[0]
    first, then = dict(found), dict(lines(page.open(baseline="good", sort="p")))
    assert first["good"]["difference"].startswith("+")
    assert first["good"]["difference"].endswith("▲")
    assert first["BM25"]["difference"] == "baseline"
    assert then["good"]["difference"] == "baseline"
    assert then["good"]["p"] == ""
    assert then["good"]["class"] == "base"
    assert then["BM25"]["difference"] == first["good"]["difference"].replace("+", "\u2212").replace("▲", "▼")
    assert then["BM25"]["p"] == first["good"]["p"]
    assert then["even"]["p"] != first["even"]["p"]
    assert then["Literature"]["difference"] == "not tested"


def test_queries_of_a_system(page: Page, rows: list[Any]) -> None:
    text = page.open(system="even")
    panel = text.partition('<div class="panel"')[2].partition("</section>")[0]
    ours, base = (np.round(rows[place]["measures"]["nDCG@10"]["values"], 5) for place in (1, 0))
    counts = f"{(ours > base).sum()} better, {(ours == base).sum()} equal, {(ours < base).sum()} worse of 40"
    assert counts in panel
    assert "4 equal" in counts
    assert sum(int(number) for number in re.findall(r'data-ids="(\d+)"', panel)) == 40
    assert len(re.findall(r'<circle[^>]*tabindex="0"', panel)) == 1
    assert f"query q7: {base[7]:.4f} with BM25, {ours[7]:.4f} with even" in unescape(panel)
    assert "retrieve verify made/one/even.json" in panel
    assert 'hidden=""' not in panel.partition(">")[0]
    assert 'aria-expanded="true"' in text


def test_two_tasks(rows: list[Any], make_row: Callable[..., Any], tmp_path: Path, profile: Path) -> None:
    second = [
        make_row(name, values, task="two") for name, values in (("BM25", [0.1, 0.2]), ("new", [0.3, 0.1]))
    ]
    page = Page(tmp_path, profile, [*rows, *second])
    text = page.open(task="made-two-test", system="new", baseline="good")
    panels = [part.partition(">")[0] for part in text.split('<div class="panel"')[1:]]
    assert ['hidden=""' in panel for panel in panels] == [True, False]
    assert "new against BM25" in text  # `good` is not there: the table keeps its own baseline


def test_the_overview_is_sorted_by_itself(
    rows: list[Any], make_row: Callable[..., Any], tmp_path: Path, profile: Path
) -> None:
    second = [make_row("BM25", [0.9, 0.9], task="two"), make_row("good", [0.3, 0.1], task="two")]
    text = Page(tmp_path, profile, [*rows, *second]).open(task="overview-0", sort="two")
    assert names(text) == "BM25 good even slow"
    heads = re.findall(r'<th[^>]*data-key="([^"]*)"[^>]*aria-sort="descending"', text)
    assert heads == ["two", "nDCG@10", "nDCG@10"]


def test_hostile_names_run_nothing(make_row: Callable[..., Any], tmp_path: Path, profile: Path) -> None:
    rows = [
        make_row(name, [0.1 * n, 0.5], p50=1.0 + n, note=HOSTILE) for n, name in enumerate((HOSTILE, "BM25"))
    ]
    for row in rows:
        row["query_ids"] = [HOSTILE, "<svg onload=alert(1)>"]
    page = Page(tmp_path, profile, rows)
    text = page.open(system=HOSTILE, baseline="BM25", sort=HOSTILE)
    assert "<img" not in text
    assert lines(text)[0][0] in (HOSTILE, "BM25")
    assert "&lt;/script&gt;&lt;img" in text
    page.open(system="<img src=x onerror=alert(1)>", baseline="nobody", task="none", order="up")


def test_clicks_and_keys(page: Page) -> None:
    """The page's own script is followed by one that does what a reader does, and keeps what it sees."""
    steps = """
      const seen = [], one = (query) => document.querySelector(query);
      const text = (node) => node.textContent;
      const order = () => [...document.querySelectorAll("tbody .name")].map(text).join(" ");
      const event = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
      const press = (key) => document.activeElement.dispatchEvent(event(key));
      one('th[data-key="p50"] button').click(); seen.push(order());
      one('th[data-key="p50"] button').click(); seen.push(order());
      const select = one("select.baseline");
      select.value = [...select.options].find((option) => option.text === "good").value;
      select.dispatchEvent(new Event("change")); seen.push(one("tr.base .name").textContent);
      const even = [...document.querySelectorAll("button.name")].find((name) => text(name) === "even");
      even.click(); seen.push(one(".panel h3").textContent);
      one('circle[tabindex="0"]').focus(); const first = one("output").textContent;
      press("ArrowRight"); seen.push(first !== one("output").textContent && first.startsWith("query q"));
      press("Escape"); seen.push(one(".panel").hidden && document.activeElement === even);
      one("input.cited").click(); seen.push(one("table.systems").className);
      document.body.append(JSON.stringify([...seen, location.hash]));
    """
    file = Path(page.address.removeprefix("file://"))
    text = re.sub(r"<meta http-equiv[^>]*>", "", file.read_text())
    file.write_text(text.replace("</body>", f"<script>{steps}</script></body>"))
    found = re.search(r'\["even BM25.*\]', page.open())
    assert found is not None
    assert json.loads(unescape(found[0])) == [
        "even BM25 good slow Literature", "slow good BM25 even Literature", "good", "even against good", True,
        True, "systems ours", "#task=made-one-test&sort=p50&order=desc&baseline=good&quoted=no",
    ]  # fmt: skip


def test_an_error_would_be_seen(page: Page) -> None:
    file = Path(page.address.removeprefix("file://"))
    file.write_text(file.read_text().replace('id="data">[', 'id="data">[,'))
    with pytest.raises(AssertionError):
        page.open()
