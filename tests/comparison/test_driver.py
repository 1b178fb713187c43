"""How a comparison divides the machine among its runs, and tells of those that fail."""

import json
import os
from types import SimpleNamespace

import pytest

from ubn_mmdet.comparison.driver import Driver, _failure
from ubn_mmdet.comparison.launchers import LocalLauncher
from ubn_mmdet.comparison.spec import Comparison
from ubn_mmdet.comparison.training import plan
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


def test_all_runs_of_a_folder_have_the_same_threads(tmp_path, monkeypatch):
    """Also when a later call asks for other runs, and for more at once."""
    entry = {'config': None, 'settings': {'norm': 'BN', 'train_images': 1}}

    def make_plan(comparison, runs, data, work_dir):
        entries = [{**entry, 'config_hash': str(run)} for run in runs]
        return {'root': '.', 'setting_hash': 's', 'runs': entries, 'notes': []}

    monkeypatch.setattr(plan, 'make_plan', make_plan)
    comparison = Comparison.read(
        {
            **{'name': 'made-up', 'data': 'data', 'detector': 'some.py'},
            **{'image_size': 64, 'epochs': 1, 'batch_size': 1},
            'groups': [{'norms': ['BN'], 'seeds': [0, 1]}],
        }
    )
    for run, threads in zip(comparison.all_runs, (3, 1), strict=True):
        started = Driver(
            *(comparison, 'data', tmp_path, tmp_path / 'r.jsonl', 'code'), runs=[run]
        )
        launcher = SimpleNamespace(threads=threads)
        started._specify(started._planned[0], launcher)
    found = sorted(tmp_path.glob('some/BN/*/run.json'))
    assert [json.loads(path.read_text())['threads'] for path in found] == [3, 3]


def test_an_error_is_that_of_the_run_and_not_of_what_started_it(tmp_path):
    log = ['Traceback (most recent call last):', 'ValueError: no such class']
    torchrun = (
        'E1130 08:00:00.1 71 torch/distributed/elastic/multiprocessing/api.py:1] '
    )
    log += [f'{torchrun}failed (exitcode: 1)', *['Traceback', 'ChildFailedError'] * 20]
    (tmp_path / 'log.txt').write_text('\n'.join(log))
    found = _failure(SimpleNamespace(folder=tmp_path), 'exit status 1')['error']
    assert found.splitlines()[-1] == 'ValueError: no such class'
