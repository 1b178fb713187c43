"""How far many runs are, and how long the rest will take."""

import time
from collections.abc import Callable
from datetime import timedelta


class Progress:
    """Of all runs of a comparison.

    Args:
        total: Number of runs.
        done: Those that were finished before.
        clock: Seconds, for tests.
    """

    def __init__(
        self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._done = total, done
        self._clock, self._start = clock, clock()
        self._parts: dict[str, float] = {}
        # What runs had done before this process began is no work of its time.
        self._first: dict[str, float] = {}

    def note(self, run: str, part: float) -> None:
        """A run is this far, in [0, 1]; at 1 it is over."""
        self._first.setdefault(run, 0.0 if part == 1 else part)
        self._parts[run] = part

    def seconds_left(self) -> float | None:
        """At the speed so far; None while there is none."""
        parts = sum(self._parts.values())
        worked = parts - sum(self._first.values())
        if worked <= 0:
            return None
        left = self._total - self._done - parts
        return left * (self._clock() - self._start) / worked

    def under_way(self) -> str:
        """How far each running run is: ``BN seed 0 40%, UBN seed 0 35%``."""
        running = {run: part for run, part in self._parts.items() if part < 1}
        return ', '.join(f'{run} {part:.0%}' for run, part in running.items())

    def head(self) -> str:
        """``[3/27 runs, 1:20:00 left]``."""
        seconds = self.seconds_left()
        over = self._done + sum(part == 1 for part in self._parts.values())
        left = 'time' if seconds is None else str(timedelta(seconds=round(seconds)))
        unknown = ' unknown' * (seconds is None)
        return f'[{over}/{self._total} runs, {left} left{unknown}]'
