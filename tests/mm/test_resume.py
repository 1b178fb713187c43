"""A run that is killed and resumed is the run that was never killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.commands import ROOT, run

from ubn_mmdet.data.shapes import make_shapes

# RetinaNet draws nothing at random once images are not flipped: the same data in the same
# order give the same losses.
CONFIG = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_ubn_6e_shapes.py'
OPTIONS = [
    'train_dataloader.dataset.pipeline.3.prob=0.0',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
    'log_processor.window_size=1',
    'train_cfg.max_epochs=3',
    'train_cfg.val_interval=3',
    'randomness.deterministic=True',
]


def losses(work_dir):
    """Loss by step, of all parts of a run; a step done twice must say the same."""
    found = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if 'loss' in record:
                assert (
                    found.setdefault(record['step'], record['loss']) == record['loss']
                )
    return found


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(tmp_path):
    make_shapes(tmp_path / 'data/shapes', num_train=12, num_val=2, image_size=64)
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    command = [ROOT / 'tools/train.py', CONFIG, '--cfg-options', *OPTIONS]
    run(*command, '--work-dir', whole, cwd=tmp_path)
    assert len(losses(whole)) == 18

    with subprocess.Popen(
        [sys.executable, *map(str, command), '--work-dir', str(killed)],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        # Somewhere after the first epoch's checkpoint: at the next logged step.
        patience = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < patience:
            logs = list(killed.glob('*/vis_data/scalars.json'))
            if logs and max(losses_so_far(logs[0]), default=0) >= 8:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (killed / 'epoch_3.pth').exists(), 'it was too fast to be killed'

    run(*command, '--work-dir', killed, '--resume', cwd=tmp_path)
    assert losses(killed) == losses(whole)
    ours, theirs = (
        torch.load(folder / 'epoch_3.pth', weights_only=False)['state_dict']
        for folder in (killed, whole)
    )
    assert any('condensation' in key for key in theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def losses_so_far(log):
    for line in log.read_text().splitlines():
        try:
            yield json.loads(line)['step']
        except ValueError:  # being written
            return
