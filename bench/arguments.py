"""Types of command-line values that benchmarks share."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number of 1 and more, for argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 and more")
    return int(text)
