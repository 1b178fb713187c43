"""Time left over a whole comparison."""

import pytest

from ubn_mmdet.comparison.progress import Progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_time_left_follows_from_what_was_done_since_the_start():
    clock = Clock()
    progress = Progress(total=4, done=1, clock=clock)
    assert progress.head() == '[1/4 runs, time left unknown]'
    progress.note('a', 0.0)
    clock.now = 30
    progress.note('a', 0.5)
    progress.note('b', 0.0)
    assert progress.under_way() == 'a 50%, b 0%'
    assert progress.seconds_left() == pytest.approx(2.5 * 60)
    clock.now = 60
    progress.note('a', 1)
    assert progress.under_way() == 'b 0%'
    assert progress.seconds_left() == pytest.approx(2 * 60)
    assert progress.head() == '[2/4 runs, 0:02:00 left]'


def test_a_resumed_runs_first_half_was_not_done_now():
    clock = Clock()
    progress = Progress(total=2, clock=clock)
    progress.note('a', 0.5)
    assert progress.seconds_left() is None
    clock.now = 30
    progress.note('a', 1)
    assert progress.seconds_left() == pytest.approx(60)
