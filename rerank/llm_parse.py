"""What a model's reply says about the order of passages, and the windows that it is asked about.

Sun et al., "Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents" (RankGPT,
EMNLP 2023). Whatever a model replies, every window comes out as a permutation of itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_BRACKETED = re.compile(r"\[\s{0,9}([0-9]{1,9})(?![0-9])")  # a reply that was cut short may lack the ]
_BARE = re.compile(r"(?<![0-9])([0-9]{1,9})(?![0-9])")


def parse_order(reply: str, n: int) -> list[int]:
    """The order that a reply such as "[2] > [1]" asks for: a permutation of 0 ... n - 1, best first.

    Numbers in brackets count; where there are none, all numbers do. Unknown and repeated ones are passed
    over, passages that are not named follow in the order they had.
    """
    found = _BRACKETED.findall(reply) or _BARE.findall(reply)
    named = dict.fromkeys(place for number in found if 0 <= (place := int(number) - 1) < n)
    return [*named, *(place for place in range(n) if place not in named)]


def windows(n: int, window: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the windows over n places, from the back to the front, which the last one reaches.

    Each begins `step` before the one ahead of it; step <= window, so that none is left out.
    """
    end = n
    while end > 0:
        start = max(0, end - window)
        yield start, end
        end = end - step if start else 0


def slide(n: int, window: int, step: int, ask: Callable[[list[int]], str]) -> list[int]:
    """A permutation of 0 ... n - 1: the order after every window has been put as `ask` replies.

    ask: the reply about the passages at these places, which it is shown as [1], [2] ...
    """
    order = list(range(n))
    for start, end in windows(n, window, step):
        part = order[start:end]
        if len(part) > 1:
            order[start:end] = [part[place] for place in parse_order(ask(part), len(part))]
    return order
