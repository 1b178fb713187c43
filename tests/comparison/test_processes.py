"""Processes of runs: what they inherit, what they hold, and when they end."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.commands import ROOT
from mmengine.runner import Runner
from torch.utils.data import Dataset

from ubn_mmdet.comparison.launchers import children_outlive_the_terminal, start_run
from ubn_mmdet.comparison.training.configs import HOOKS
from ubn_mmdet.comparison.training.hooks import (
    DivergedError,
    FiniteLossHook,
    ReseedHook,
)
from ubn_mmdet.comparison.workspace import ComparisonError, claim, lock

# A run that does nothing, for as long as the process that has started it is there.
RUN = """
import sys, time
open(sys.argv[1] + '.started', 'w').close()
time.sleep(600)
"""
DRIVER = """
import fcntl, sys, time
from pathlib import Path
from ubn_mmdet.comparison.launchers import LocalLauncher
folder = Path(sys.argv[1])
lock = open(folder / '.lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
[process] = LocalLauncher(1).start([folder], lock.fileno())
print(process.pid, flush=True)
time.sleep(60)
"""


def is_locked(path):
    with open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_for(condition):
    patience = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.05)


def specify(folder, run):
    """Write a run's specification, and code that does something else."""
    code = folder / 'code/ubn_mmdet/comparison/training'
    code.mkdir(parents=True)
    for package in (code, *code.parents[:2]):
        (package / '__init__.py').touch()
    (code / 'run.py').write_text(run)
    spec = {'code': str(folder / 'code'), 'threads': 1, 'processes': 1}
    (folder / 'run.json').write_text(json.dumps(spec))


def test_a_run_holds_the_lock_and_ends_after_a_killed_driver(tmp_path):
    specify(tmp_path, RUN)
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    driver = subprocess.Popen(
        [sys.executable, '-c', DRIVER, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
    )
    run = int(driver.stdout.readline())
    wait_for((tmp_path / 'run.json.started').exists)
    os.kill(run, signal.SIGSTOP)
    driver.kill()
    driver.wait()
    assert is_locked(tmp_path / '.lock')
    os.kill(run, signal.SIGCONT)
    wait_for(lambda: not is_locked(tmp_path / '.lock'))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_what_outlives_the_terminal_is_not_ended_by_it(number):
    code = 'print("ready", flush=True); print(input())'
    with children_outlive_the_terminal():
        process = subprocess.Popen(
            [sys.executable, '-c', code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    process.stdout.readline()
    process.send_signal(number)
    assert process.communicate(b'still here')[0] == b'still here\n'


def test_a_run_is_no_part_of_a_training_around_it(monkeypatch, tmp_path):
    for name in (
        'RANK',
        'LOCAL_RANK',
        'WORLD_SIZE',
        'MASTER_ADDR',
        'TORCHELASTIC_RUN_ID',
    ):
        monkeypatch.setenv(name, '7')
    monkeypatch.setenv('KEPT', '7')
    code = 'import os; print(*sorted(k for k, v in os.environ.items() if v == "7"))'
    specify(tmp_path, code)
    assert start_run(tmp_path).wait() == 0
    assert (tmp_path / 'log.txt').read_text().split() == ['KEPT']


def test_an_interruption_before_the_record_leaves_no_foreign_folder(tmp_path):
    folder = tmp_path / 'work'
    folder.mkdir()
    (folder / 'comparison.json.tmp').touch()
    assert claim(folder, 'one') == claim(folder, 'one')
    with pytest.raises(ComparisonError, match="comparison 'one' instead of 'other'"):
        claim(folder, 'other')
    (folder / 'comparison.json').unlink()
    (folder / 'something').touch()
    with pytest.raises(
        ComparisonError, match=r'something else than runs \(.*--work-dir'
    ):
        claim(folder, 'one')


def test_a_file_is_no_folder(tmp_path):
    (file := tmp_path / 'file').touch()
    for folder in file, file / 'work':
        with pytest.raises(ComparisonError, match='file.* --work-dir'):
            claim(folder, 'one')


def test_a_second_driver_is_kept_out(tmp_path):
    with lock(tmp_path), pytest.raises(ComparisonError, match='another process works'):
        claim(tmp_path, 'one')


def test_a_run_waits_for_what_another_process_has_left_behind(tmp_path):
    with lock(tmp_path):
        with pytest.raises(ComparisonError), lock(tmp_path, patience=0.2):
            pass
    with lock(tmp_path, patience=0.2):
        pass


def end_of_step(loss):
    runner = SimpleNamespace(
        iter=4,
        epoch=1,
        message_hub=SimpleNamespace(
            get_scalar=lambda _: SimpleNamespace(current=lambda: loss)
        ),
    )
    try:
        FiniteLossHook().after_train_iter(runner, 0)
    except DivergedError as error:
        return str(error)


def test_all_ranks_agree_that_a_loss_is_not_finite(two_ranks):
    assert two_ranks.run(end_of_step, [0.5, 0.25]) == [None, None]
    assert two_ranks.run(end_of_step, [0.5, float('nan')]) == [
        "another process's loss is not finite in step 5 (epoch 2)",
        'the loss is nan in step 5 (epoch 2)',
    ]


class Draws(Dataset):
    """What augmentation may draw from."""

    def __len__(self):
        return 8

    def __getitem__(self, _):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


@pytest.mark.parametrize('workers', [0, 2])
def test_augmentation_is_that_of_seed_epoch_and_worker(workers):
    loader = Runner.build_dataloader(
        {
            'batch_size': 2,
            'num_workers': workers,
            'dataset': Draws(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'worker_init_fn': {'type': f'{HOOKS}.keep_worker_seed'},
            'collate_fn': {'type': 'default_collate'},
        },
        seed=3,
    )

    def draws(seed, epoch):
        ReseedHook(seed).before_train_epoch(SimpleNamespace(epoch=epoch))
        return torch.cat(list(loader))

    first = draws(3, 0)
    assert len(first.unique()) == 24
    torch.testing.assert_close(draws(3, 0), first, rtol=0, atol=0)
    for other in draws(3, 1), draws(4, 0):
        assert not set(other.flatten().tolist()) & set(first.flatten().tolist())
