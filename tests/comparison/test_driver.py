"""How a comparison divides the machine among its runs."""

import os

import pytest

from ubn_mmdet.comparison.driver import Resources


@pytest.mark.parametrize(
    ('jobs', 'processes', 'limit', 'threads'),
    [
        (1, 1, None, 8),
        (2, 1, None, 4),
        (2, 2, None, 2),
        (3, 1, None, 2),
        (16, 1, None, 1),
        (1, 1, '1', 1),
        (1, 1, '3,1', 3),
        (2, 1, '100', 4),
        (1, 1, '', 8),
        (1, 1, '0', 8),
        (1, 1, 'many', 8),
    ],
)
def test_threads_are_shared_out_and_limited(
    monkeypatch, jobs, processes, limit, threads
):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if limit is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', limit)
    assert Resources(jobs=jobs).threads(processes) == threads
