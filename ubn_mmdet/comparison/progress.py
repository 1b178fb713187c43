"""How far many runs are, and how long the rest will take."""

import time
from collections.abc import Callable


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
        self._total = total
        self._finished = done
        self._clock = clock
        self._start = clock()
        self._parts: dict[str, float] = {}
        # What running runs had done before this process began: no work of its time.
        self._given: dict[str, float] = {}
        self._worked = 0.0

    def note(self, run: str, part: float) -> None:
        """A run is this far, in [0, 1]."""
        self._given.setdefault(run, part)
        self._parts[run] = part

    def finish(self, run: str) -> None:
        """A run is over."""
        self._parts.pop(run, None)
        self._worked += 1 - self._given.pop(run, 0.0)
        self._finished += 1

    def seconds_left(self) -> float | None:
        """At the speed so far; None while there is none."""
        worked = self._worked + sum(
            part - self._given[run] for run, part in self._parts.items()
        )
        left = self._total - self._finished - sum(self._parts.values())
        if worked <= 0:
            return None
        return left * (self._clock() - self._start) / worked

    def under_way(self) -> str:
        """How far each running run is: ``BN seed 0 40%, UBN seed 0 35%``."""
        return ', '.join(f'{run} {part:.0%}' for run, part in self._parts.items())

    def head(self) -> str:
        """``[3/27 runs, 1 h 20 min left]``."""
        seconds = self.seconds_left()
        left = 'time left unknown' if seconds is None else f'{duration(seconds)} left'
        return f'[{self._finished}/{self._total} runs, {left}]'


def duration(seconds: float) -> str:
    """``'2 h 05 min'``, ``'12 min'`` or ``'40 s'``."""
    if seconds < 60:
        return f'{seconds:.0f} s'
    hours, minutes = divmod(round(seconds / 60), 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min'
