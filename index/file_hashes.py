"""sha256 of model files, remembered by their stat: gigabytes of weights are not read again at every start."""

from __future__ import annotations

import hashlib
import os

from retrieval.diskio import disk_errors
from retrieval.verified import VerifiedFiles


def sha256_of(file: str) -> str:
    """Of the whole file, in hex. Raises StorageError where it cannot be read."""
    memory = VerifiedFiles(file)  # one memory a file: each keeps what it saw last
    memory.load()
    with disk_errors("read", file), open(file, "rb") as opened:
        status = os.fstat(opened.fileno())
        known = memory.recall(status)
        if known is not None:
            return known
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    memory.remember(status, found)
    memory.save()
    return found
