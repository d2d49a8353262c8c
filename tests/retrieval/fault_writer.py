"""A small writer for the fault tests to kill: `fault_writer.py create|append DIR FIRST COUNT COMMITS`.

Commits COMMITS times COUNT documents, named from FIRST on, through the Store alone; after each it prints
{"committed": N}, N live documents. Exits as the command line does.
"""

from __future__ import annotations

import os
import sys

from retrieval.artefact import Store
from retrieval.errors import RetrievalError, UserError
from retrieval.index.documents import DocumentsReader, DocumentsWriter
from retrieval.types import Document


def main(verb: str, path: str, first: int, count: int, commits: int) -> None:
    """Write; raises RetrievalError."""
    with Store.writer(path, create=verb == "create") as writer:
        for number in range(commits):
            segments = list(writer.base["segments"])
            ids = [f"d{first + number * count + each:06}" for each in range(count)]
            for segment in segments:
                if (DocumentsReader(writer.snapshot, segment["name"]).lookup_many(ids) >= 0).any():
                    raise UserError("an id is known already")
            part = writer.part()
            documents = DocumentsWriter(part)
            documents.add([Document(each, f"the text of {each} " * 9, metadata={"n": each}) for each in ids])
            documents.finish()
            writer.commit({"segments": [*segments, {"name": part.name, "docs": count}]})
            os.write(1, b'{"committed": %d}\n' % writer.base["docs"])


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], *(int(each) for each in sys.argv[3:6]))
    except RetrievalError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
