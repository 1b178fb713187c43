"""How a comparison divides the machine among its runs."""

import os

import pytest

from ubn_mmdet.comparison.launchers import LocalLauncher
from ubn_mmdet.comparison.workspace import ComparisonError


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
    assert LocalLauncher(jobs, processes=processes).threads == threads


@pytest.mark.parametrize(
    ('gpus', 'processes', 'visible', 'expected'),
    [
        ((), 1, None, ['', '']),
        ((0, 1), 1, None, ['0', '1']),
        ((0, 1, 2, 3), 2, None, ['0,1', '2,3']),
        ((0, 2), 2, None, ['0,2', '0,2']),
        # What this process may see is part of a machine that others use, too.
        ((0, 1), 1, '2,3', ['2', '3']),
        ((1,), 1, 'GPU-a,GPU-b', ['GPU-b', 'GPU-b']),
    ],
)
def test_each_place_has_its_gpus(monkeypatch, gpus, processes, visible, expected):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    launcher = LocalLauncher(2, gpus, processes)
    assert [launcher.gpus_of(slot) for slot in (0, 1)] == expected


def test_a_run_never_has_a_gpu_twice():
    with pytest.raises(ComparisonError, match='8 processes, and there are 4 GPUs'):
        LocalLauncher(1, range(4), processes=8)
