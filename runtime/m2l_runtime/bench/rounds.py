"""A number of things to measure to the order in which they take turns, round by round.

In each round everything is measured once, so that a machine that is busy for a while hits all alike, and what was
measured in the same round may be compared. Rounds begin with different ones: nothing is always first, when a
processor is still cool, or always last.
"""

from __future__ import annotations

from collections.abc import Iterator


def turns(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """(round, thing), both from 0: in each round all things, rotated.

    >>> list(turns(2, 2))
    [(0, 0), (0, 1), (1, 1), (1, 0)]
    """
    step = max(1, count // max(1, rounds))
    for number in range(rounds):
        for place in range(count):
            yield number, (place + number * step) % count
